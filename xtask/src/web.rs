//! Builds the page and the worker into dist/: Trunk does the work, cargo builds the worker with relaxed SIMD and the small
//! one that a visit begins with, then all get their final names, and everything is made small. Nothing here knows what the page or the worker do.

pub mod compress;
pub mod finish;
mod imports;
pub mod languages;
mod strip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::proc::{command, on_path, run};
use crate::{build_dir, root, setup};

/// Where Trunk writes.
const STAGE: &str = "target/web-stage";
/// What a build for browsers with relaxed SIMD adds.
pub const RELAXED_SIMD: &str = "-Ctarget-feature=+relaxed-simd";

/// The folder that the coordinator embeds.
pub fn dist() -> PathBuf {
    root().join("dist")
}

/// Builds beside dist/ and puts the result in its place, so that a coordinator never serves half a build.
pub fn build() -> Result<()> {
    let stage = root().join(STAGE);
    let mut trunk = command("trunk", &["build", "--release", "--cargo-profile", "web", "--dist", STAGE]);
    // Trunk takes NO_COLOR for a boolean and stops at the usual "1".
    trunk.env("PATH", setup::path()?).env_remove("NO_COLOR");
    // Panic messages hold source paths: those of the machine that built are nobody's business and differ everywhere.
    trunk.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", remapped_paths()?);
    run(&mut trunk)?;
    build_worker(&stage, finish::RELAXED, "relaxed", &format!("{} {RELAXED_SIMD}", remapped_paths()?), &[])?;
    build_worker(&stage, finish::OPENING, "opening", &remapped_paths()?, &["--no-default-features"])?;

    let workers = finish::finish(&stage, shrink)?;
    strip::strip(&stage)?;
    let count = compress::compress_below(&stage)?;
    for names in workers {
        println!("worker built: {} and {}", names.script, names.wasm);
    }
    println!("page built: {count} files compressed");
    replace(&stage, &dist())
}

/// Another build of the worker, beside what Trunk left.
fn build_worker(stage: &Path, name: &str, profile: &str, flags: &str, features: &[&str]) -> Result<()> {
    let mut cargo = command("cargo", &["build", "--package", finish::WHOLE]);
    run(for_wasm(&mut cargo, profile, flags).args(features))?;
    bind(profile, finish::WHOLE, name, stage)
}

/// Makes cargo build for wasm, with flags beside those of .cargo/config.toml.
pub fn for_wasm<'a>(cargo: &'a mut Command, profile: &str, flags: &str) -> &'a mut Command {
    cargo.args(["--target", "wasm32-unknown-unknown", "--profile", profile]);
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags)
}

/// The module `name` in `folder` around what cargo built as `built`.
pub fn bind(profile: &str, built: &str, name: &str, folder: &Path) -> Result<()> {
    let target = build_dir().parent().context("cargo's folder has a parent")?;
    let built = target.join("wasm32-unknown-unknown").join(profile).join(built).with_extension("wasm");
    let mut bind = command("wasm-bindgen", &["--target", "web", "--no-typescript", "--out-name", name, "--out-dir"]);
    run(bind.arg(folder).arg(&built).env("PATH", setup::path()?))
}

/// Moves `new` to where `old` is. A crash in between leaves no dist/, which the next build repairs.
fn replace(new: &Path, old: &Path) -> Result<()> {
    if old.exists() {
        fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    fs::rename(new, old).with_context(|| format!("cannot move {} to {}", new.display(), old.display()))
}

fn remapped_paths() -> Result<String> {
    let registry = setup::cargo_home().context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let flags = [format!("--remap-path-prefix={}=", registry.display()), format!("--remap-path-prefix={}=", root().display())];
    ensure!(flags.iter().all(|flag| !flag.contains(' ')), "a folder with a space in its name: {}", flags.join(" "));
    Ok(flags.join(" "))
}

/// wasm-opt, in place, where it is. No feature flags: it reads them from the module, and Chromium refuses what --all-features makes.
pub fn shrink(wasm: &Path) -> Result<()> {
    // Set-up installed it where Node is; any other on PATH is as good.
    if !setup::has_node() && !on_path("wasm-opt") {
        println!("wasm-opt: skipped, it is not installed (set-up gets it where Node is)");
        return Ok(());
    }
    let path = wasm.to_string_lossy();
    // A second round, with what is known of the values that a function can get by then, takes half a percent more.
    let rounds = ["-Os", "--gufa-optimizing", "-Os"];
    let strip = ["--strip-producers", "--strip-target-features"];
    run(command("wasm-opt", &rounds).args(strip).args(["--output", &path, &path]).env("PATH", setup::path()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where Trunk is told to run wasm-opt and finds none, it tries to download one.
    #[test]
    fn trunk_is_told_to_leave_wasm_opt_alone() {
        let page = fs::read_to_string(root().join("www/index.html")).unwrap();
        assert_eq!(page.matches("data-wasm-opt=\"0\"").count(), 1);
    }

    #[test]
    fn a_new_build_takes_the_place_of_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        for round in ["first", "second"] {
            fs::create_dir(&new).unwrap();
            fs::write(new.join(round), round).unwrap();
            replace(&new, &old).unwrap();
            let left: Vec<_> = fs::read_dir(&old).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(left == [round] && !new.exists());
        }
        assert!(replace(&new, &old).is_err(), "nothing was built");
    }
}
