//! What committing to training states costs, for the bundled jobs, by the coordinator's own example `commit` on the native CPU
//! path. It computes nothing itself.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::proc::{command, run};
use crate::{build_dir, root};

const JOBS: [&str; 3] = ["fashion-mlp", "fashion-cnn", "austen-gpt"];

/// Units of each job, `rounds` times with and without a commitment in turn.
pub fn measure(rounds: u32) -> Result<Value> {
    run(&mut command("cargo", &["build", "--package", "manyhands-coordinator", "--example", "commit"]))?;
    println!("job           steps  every   state bytes  reveal bytes   unit ms   committed   share   replay ms");
    let mut jobs = Vec::new();
    for job in JOBS {
        let manifest = root().join(format!("demo/{job}/manifest.json"));
        let mut measured = command(build_dir().join("examples/commit"), &[]);
        let output = measured.arg(manifest).arg(rounds.to_string()).output().context("cannot start commit")?;
        ensure!(output.status.success(), "commit: {}", String::from_utf8_lossy(&output.stderr));
        let figures: Value = serde_json::from_slice(&output.stdout).context("commit printed something else than JSON")?;
        println!("{}", row(&figures)?);
        jobs.push(figures);
    }
    Ok(json!({ "bench": "commit", "backend": "native_cpu", "rounds": rounds, "jobs": jobs }))
}

fn row(figures: &Value) -> Result<String> {
    let number = |name: &str| figures[name].as_f64().with_context(|| format!("no {name}"));
    Ok(format!(
        "{:<13} {:>5} {:>6} {:>13} {:>13} {:>9.1} {:>11.1} {:>6.1}% {:>11.1}",
        figures["job"].as_str().context("no job")?,
        number("inner_steps")?,
        figures["every"].as_u64().map_or("-".to_owned(), |every| every.to_string()),
        number("state_bytes")?,
        number("reveal_bytes")?,
        number("unit_ms")?,
        number("committed_unit_ms")?,
        100.0 * number("share")?,
        number("segment_replay_ms")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        let good = json!({
            "job": "x", "inner_steps": 31, "every": null, "state_bytes": 8, "reveal_bytes": 9, "unit_ms": 1.0,
            "committed_unit_ms": 1.1, "share": 0.1, "segment_replay_ms": 2.0,
        });
        assert!(row(&good).is_ok_and(|row| row.contains("10.0%")));
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove("share");
        assert!(row(&bad).is_err());
    }
}
