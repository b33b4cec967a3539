//! The engine as a module for a benchmark's page: tests/bench/pkg/, which tests/bench/ours.mjs imports. Built as visitors
//! get the worker, and by the same optimiser.

use anyhow::{Context as _, Result};

use crate::proc::{command, run};
use crate::{build_dir, root, setup, web};

/// What cargo calls the module.
const NAME: &str = "manyhands_bench";

pub fn build() -> Result<()> {
    let how = ["--target", "wasm32-unknown-unknown", "--profile", "web"];
    run(command("cargo", &["build", "--lib", "--package", "manyhands-bench"]).args(how))?;
    let target = build_dir().parent().context("cargo's folder has a parent")?;
    let built = target.join("wasm32-unknown-unknown/web").join(NAME).with_extension("wasm");
    let package = root().join("tests/bench/pkg");
    let mut bind = command("wasm-bindgen", &["--target", "web", "--no-typescript", "--out-dir"]);
    run(bind.arg(&package).arg(&built).env("PATH", setup::path()?))?;
    web::shrink(&package.join(format!("{NAME}_bg.wasm")))?;
    println!("module built: tests/bench/ours.mjs with {}", package.display());
    Ok(())
}
