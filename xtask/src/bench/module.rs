//! The engine as a module for a benchmark's page: tests/bench/pkg/, which tests/bench/ours.mjs imports. Built as visitors
//! get the worker, with and without relaxed SIMD, and by the same optimiser.

use std::fs;

use anyhow::Result;

use crate::proc::{command, run};
use crate::root;
use crate::web::{self, finish};

/// What cargo calls the module.
const NAME: &str = "manyhands_bench";
/// The same with relaxed SIMD.
const RELAXED: &str = "manyhands_bench_relaxed";

pub fn build() -> Result<()> {
    let package = root().join("tests/bench/pkg");
    for (name, profile, flags) in [(NAME, "web", ""), (RELAXED, "relaxed", web::RELAXED_SIMD)] {
        let mut cargo = command("cargo", &["build", "--lib", "--package", "manyhands-bench"]);
        run(web::for_wasm(&mut cargo, profile, flags))?;
        web::bind(profile, NAME, name, &package)?;
        web::shrink(&package.join(format!("{name}_bg.wasm")))?;
    }
    let load = format!(
        "// The module that this browser takes, ready.\nexport async function load() {{\n  \
         const module = await ({} ? import(\"./{RELAXED}.js\") : import(\"./{NAME}.js\"));\n  \
         await module.default();\n  return module;\n}}\n",
        finish::HAS_RELAXED_SIMD
    );
    fs::write(package.join("load.js"), load)?;
    println!("module built: tests/bench/ours.mjs with {}", package.display());
    Ok(())
}
