//! Our engine beside TensorFlow.js and jax-js in one headless Chromium, and natively beside OpenBLAS and XLA: builds and
//! installs what takes part, then lets tests/bench/run.mjs take turns with it. Needs Node, and a Chromium or Python; the
//! libraries are pinned in tests/bench/package-lock.json and tests/bench/requirements.txt.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::module;
use crate::proc::{command, on_path, run, shown};
use crate::{build_dir, root, setup};

/// What is compared, and how thoroughly.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Samples of each competitor.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long a sample should last, in milliseconds.
    #[arg(long, default_value_t = 150)]
    least_ms: u32,
    /// Backends, of webgpu, wasm and native; the last is compared with OpenBLAS or XLA.
    #[arg(long, value_delimiter = ',', default_value = "webgpu,wasm,native")]
    backends: Vec<String>,
    /// The machine's GPU instead of SwiftShader.
    #[arg(long)]
    gpu: bool,
}

/// The backend that needs no browser.
const NATIVE: &str = "native";

impl Options {
    /// Nothing on a GPU.
    pub fn wasm(rounds: u32, least_ms: u32) -> Options {
        Options { rounds, least_ms, backends: vec!["wasm".to_owned(), "native".to_owned()], gpu: false }
    }

    /// Nothing beside a page.
    pub fn wasm_alone(rounds: u32) -> Options {
        Options { backends: vec!["wasm".to_owned()], ..Options::wasm(rounds, 0) }
    }

    pub fn least_ms(&self) -> u32 {
        self.least_ms
    }
}

/// Our engine natively, as it is tested: kernels and the gemm crate fully optimised.
pub fn build_native() -> Result<PathBuf> {
    run(&mut command("cargo", &["build", "--package", "manyhands-bench", "--features", "native"]))?;
    Ok(build_dir().join("manyhands-bench-native"))
}

fn chromium() -> Result<PathBuf> {
    let given = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).map(|dir| dir.join("chromium")).find(|file| file.is_file());
    given.or_else(found).context("no chromium on PATH; CHROMIUM may name one")
}

/// Runs a suite; `more` are options of its own.
pub fn measure(suite: &str, options: &Options, more: &[(&str, Value)]) -> Result<Value> {
    ensure!(on_path("node") && on_path("npm"), "a comparison needs Node and npm on PATH");
    let folder = root().join("tests/bench");
    let mut asked = json!({
        "suite": suite, "rounds": options.rounds, "least_ms": options.least_ms, "backends": options.backends, "gpu": options.gpu
    });
    if options.backends.iter().any(|backend| backend != NATIVE) {
        setup::set_up(setup::Purpose::Visitors)?;
        if !folder.join("node_modules").is_dir() {
            run(command("npm", &["ci", "--no-audit", "--no-fund"]).current_dir(&folder))?;
        }
        module::build()?;
        asked["chromium"] = json!(chromium()?);
    }
    if options.backends.iter().any(|backend| backend == NATIVE) {
        asked["python"] = json!(setup::native_peers()?);
        asked["native"] = json!(build_native()?);
    }
    for (name, value) in more {
        asked[*name] = value.clone();
    }
    let mut node = command("node", &["run.mjs", &asked.to_string()]);
    let output = node.current_dir(&folder).stderr(Stdio::inherit()).output().context("cannot start node")?;
    ensure!(output.status.success(), "`{}` failed ({})", shown(&node), output.status);
    serde_json::from_slice(&output.stdout).context("the comparison printed no JSON")
}

/// Speed and memory of a native training step against its width and batch.
pub fn scale(least_ms: u32) -> Result<Value> {
    let mut program = command(build_native()?, &["scale", &least_ms.to_string()]);
    let output = program.stderr(Stdio::inherit()).output().context("cannot start the native program")?;
    ensure!(output.status.success(), "`{}` failed ({})", shown(&program), output.status);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).context("the program printed no JSON")?;
    println!(
        "{:>6} {:>6} {:>11} {:>9} {:>11} {:>13} {:>13} {:>13}",
        "width", "batch", "parameters", "steps/s", "examples/s", "allocated", "least", "unshared"
    );
    for row in &rows {
        let whole = |name: &str| row[name].as_u64().unwrap_or(0);
        let rate = |name: &str| row[name].as_f64().unwrap_or(0.0);
        println!(
            "{:>6} {:>6} {:>11} {:>9.1} {:>11.0} {:>13} {:>13} {:>13}",
            whole("width"),
            whole("batch"),
            whole("parameters"),
            rate("steps_per_s"),
            rate("examples_per_s"),
            whole("allocated_bytes"),
            whole("least_bytes"),
            whole("unshared_bytes")
        );
    }
    Ok(Value::Array(rows))
}

/// Extents written as `256x784x64`.
pub fn shape(text: &str) -> Result<[u32; 3], String> {
    let extents: Vec<u32> = text.split('x').map_while(|part| part.parse().ok().filter(|&extent| extent > 0)).collect();
    match (extents.as_slice(), text.split('x').count()) {
        (&[m, k, n], 3) => Ok([m, k, n]),
        _ => Err(format!("{text} is not of the form MxKxN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_three_extents() {
        assert_eq!(shape("256x784x64"), Ok([256, 784, 64]));
        for text in ["", "1x2", "1x2x3x4", "1x0x3", "1xtwox3", "1x2x-3"] {
            assert!(shape(text).is_err(), "{text}");
        }
    }
}
