//! Builds the page and the worker into dist/: Trunk does the work, and calls back as its hook to finish the worker.
//! Nothing here knows what the page or the worker do.

pub mod compress;
mod finish;
mod strip;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::proc::{command, on_path, run};
use crate::{root, setup};

/// The folder that the coordinator embeds.
pub fn dist() -> PathBuf {
    root().join("dist")
}

/// Runs Trunk with the profile meant for visitors.
pub fn build() -> Result<()> {
    let mut trunk = command("trunk", &["build", "--release", "--cargo-profile", "web", "--dist", "dist"]);
    // Trunk takes NO_COLOR for a boolean and stops at the usual "1".
    trunk.env("PATH", setup::path()?).env_remove("NO_COLOR");
    run(&mut trunk)
}

/// Trunk's post-build hook: finishes the staged worker of a release build.
pub fn hash_assets() -> Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: Trunk calls this"));
    let staging = PathBuf::from(variable("TRUNK_STAGING_DIR")?);
    if variable("TRUNK_PROFILE")? != "release" {
        return Ok(());
    }
    shrink(&staging.join(finish::WASM))?;
    let names = finish::finish(&staging)?;
    strip::strip(&staging)?;
    let count = compress::compress_below(&staging)?;
    println!("worker: {} and {}; {count} files compressed", names.script, names.wasm);
    Ok(())
}

/// wasm-opt, in place. No feature flags: it reads them from the module, and Chromium refuses what --all-features makes.
fn shrink(wasm: &Path) -> Result<()> {
    if !on_path("wasm-opt") {
        println!("wasm-opt: skipped, it is not installed (it comes with Node's packages)");
        return Ok(());
    }
    let path = wasm.to_string_lossy();
    run(&mut command("wasm-opt", &["-Os", "--output", &path, &path]))
}
