//! How fast the coordinator's public log grows, by the coordinator's own example `append`, and how long other writes take
//! meanwhile. This runs it and prints what it measures; it appends nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::proc::{command, run};
use crate::{build_dir, root};

pub fn measure() -> Result<Value> {
    run(&mut command("cargo", &["build", "--package", "manyhands-coordinator", "--example", "append"]))?;
    let folder = root().join("target/bench/log");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let output = command(build_dir().join("examples/append"), &[]).arg(&folder).output().context("cannot start append")?;
    ensure!(output.status.success(), "append failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut measured: Value = serde_json::from_slice(&output.stdout).context("append printed something else than JSON")?;
    println!("{}", table(&measured)?);
    measured["bench"] = json!("log");
    Ok(measured)
}

fn table(measured: &Value) -> Result<String> {
    let number = |pointer: &str| measured.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer}"));
    let mut lines = vec![format!(
        "{} statements appended in {:.2} s: {:.0} a second",
        number("/statements")?,
        number("/seconds")?,
        number("/statements_per_second")?
    )];
    for (name, what) in [("write_ms_alone", "alone"), ("write_ms_while_appending", "while appending")] {
        let at = |quantile: &str| number(&format!("/{name}/{quantile}"));
        lines.push(format!(
            "another write, {what}: median {:.2} ms, 99 % {:.2} ms, longest {:.2} ms",
            at("median")?,
            at("p99")?,
            at("max")?
        ));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_figure_is_an_error() {
        let waits = json!({ "median": 1.0, "p99": 2.0, "max": 3.0 });
        let mut good = json!({
            "statements": 10, "seconds": 2.0, "statements_per_second": 5.0, "write_ms_alone": waits,
            "write_ms_while_appending": waits,
        });
        assert!(table(&good).unwrap().starts_with("10 statements appended in 2.00 s: 5 a second\n"));
        good["write_ms_alone"]["p99"] = Value::Null;
        assert!(table(&good).is_err());
    }
}
