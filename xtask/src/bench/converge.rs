//! How well a bundled job's model learns when it is trained centrally: one volunteer, one unit after another, on the
//! native CPU path, by the coordinator's own example `converge`. This changes the manifest for that and prints what the
//! example measures; it computes nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::proc::{command, run};
use crate::{build_dir, data, root, setup};

/// A job, and what is changed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Job {
    /// The job as it is, for 3,000 steps of 12 windows.
    AustenGpt,
    /// The demo's net on all 60,000 pictures for 5 epochs, by AdamW.
    FashionMlp,
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Job::AustenGpt => "austen-gpt",
            Job::FashionMlp => "fashion-mlp",
        }
    }

    /// The folder with its data, made where it is not in the repository.
    fn data(self) -> Result<PathBuf> {
        if self == Job::AustenGpt {
            return Ok(root().join("demo/austen-gpt"));
        }
        let folder = root().join("target/data/fashion-mnist");
        if !folder.join("train.safetensors").is_file() {
            setup::data_package(data::PACKAGE)?;
            data::fetch_data()?;
        }
        Ok(folder)
    }

    /// Members of the manifest's `work` that differ from the bundled job's.
    fn changes(self) -> Value {
        // One unit a round, whose update is applied as it is: the same as steps one after another, but that the inner
        // optimiser begins anew in each.
        let outer = json!({ "type": "nesterov", "learning_rate": 1.0, "momentum": 0.0 });
        match self {
            Job::AustenGpt => json!({ "outer_optimizer": outer, "units_per_round": 1, "rounds_max": 30, "inner_steps": 100 }),
            Job::FashionMlp => json!({
                "outer_optimizer": outer,
                "units_per_round": 1,
                // Three shards of 20,000 rows are an epoch.
                "rounds_max": 15,
                "rows_per_shard": 20_000,
                "batch": 100,
                "inner_steps": 200,
                "inner_optimizer": {
                    "type": "adamw", "learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
                    "weight_decay": 0.01, "clip_norm": 0.0,
                },
            }),
        }
    }

    /// The bundled manifest with the changes.
    fn manifest(self) -> Result<Value> {
        let path = root().join(format!("demo/{}/manifest.json", self.name()));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut manifest: Value = serde_json::from_str(&text)?;
        let work = manifest["work"].as_object_mut().context("a manifest has work")?;
        if let Value::Object(changes) = self.changes() {
            work.extend(changes);
        }
        Ok(manifest)
    }
}

/// Trains and prints a line for each round; gives the JSON object.
pub fn measure(job: Job) -> Result<Value> {
    run(&mut command("cargo", &["build", "--package", "manyhands-coordinator", "--example", "converge"]))?;
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let manifest = folder.join(format!("converge-{}.json", job.name()));
    fs::write(&manifest, job.manifest()?.to_string())?;
    let mut converge = command(build_dir().join("examples/converge"), &[]);
    converge.arg(&manifest).arg(job.data()?).stdout(Stdio::piped());
    let mut process = converge.spawn().context("cannot start converge")?;
    println!("{} trained by one volunteer; changed of its manifest: {}", job.name(), job.changes());
    println!("{HEAD}");
    let mut rounds = Vec::new();
    for line in BufReader::new(process.stdout.take().expect("stdout was piped")).lines() {
        let round: Value = serde_json::from_str(&line?).context("converge printed something else than JSON")?;
        println!("{}", row(&round)?);
        rounds.push(round);
    }
    let status = process.wait()?;
    if !status.success() {
        bail!("converge ended ({status})");
    }
    ensure!(!rounds.is_empty(), "nothing was evaluated");
    Ok(json!({ "bench": "converge", "job": job.name(), "changes": job.changes(), "rounds": rounds }))
}

const HEAD: &str = "  steps   seconds   held-out rows     loss   bits per label   accuracy";

fn row(round: &Value) -> Result<String> {
    let number = |name: &str| round[name].as_f64().with_context(|| format!("a round has no {name}"));
    Ok(format!(
        "{:>7} {:>9.1} {:>15} {:>8.4} {:>16.4} {:>10.4}",
        number("steps")?,
        number("seconds")?,
        number("rows")?,
        number("loss")?,
        number("bits")?,
        number("accuracy")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_go_into_the_bundled_manifest() {
        for job in [Job::AustenGpt, Job::FashionMlp] {
            let manifest = job.manifest().unwrap();
            assert_eq!((&manifest["name"], &manifest["work"]["units_per_round"]), (&json!(job.name()), &json!(1)));
            assert!(manifest["work"]["model"]["layers"].is_array(), "the rest stays");
            let figure = |name: &str| manifest["work"][name].as_u64().unwrap();
            let steps = figure("rounds_max") * figure("inner_steps");
            match job {
                Job::AustenGpt => assert_eq!((steps, figure("batch")), (3_000, 12)),
                Job::FashionMlp => assert_eq!(steps * figure("batch"), 5 * 60_000),
            }
        }
    }

    #[test]
    fn a_line_without_a_figure_is_an_error() {
        let good = json!({ "steps": 100, "seconds": 1.5, "rows": 256, "loss": 2.0, "bits": 2.88539, "accuracy": 0.4 });
        assert_eq!(row(&good).unwrap().len(), HEAD.len());
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove("bits");
        assert!(row(&bad).is_err());
    }
}
