//! The Python programs in `tests/interop`, run with the packages in its requirements.txt.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `MANYHANDS_PYTHON`, or the interpreter of the environment that `cargo xtask setup` makes.
fn interpreter() -> Result<PathBuf> {
    let path = match std::env::var_os("MANYHANDS_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => crate::root().join("target/venv/bin/python"),
    };
    ensure!(path.is_file(), "{} is not there; `cargo xtask setup` makes it", path.display());
    Ok(path)
}

/// Runs a script (a path in the workspace) and gives its standard output; an error if it fails.
pub fn run<S: AsRef<OsStr>>(script: &str, args: &[S]) -> Result<String> {
    let mut command = Command::new(interpreter()?);
    // No __pycache__ in the source tree.
    command.arg("-B").arg(crate::root().join(script)).args(args);
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{script} failed:\n{stdout}{stderr}");
    Ok(stdout.into_owned())
}
