//! What checking one revealed step costs beside the step, per bundled job, and how soon fabricated steps are found: both
//! printed by the coordinator's own example `step_check`. This computes nothing.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::proc::{command, output, run};
use crate::{build_dir, root};

/// Bundled jobs, and the folder with their data.
const JOBS: [(&str, &str); 3] = [("fashion-mlp", "fashion-mlp"), ("fashion-cnn", "fashion-mlp"), ("austen-gpt", "austen-gpt")];

fn example(args: &[&str]) -> Result<Value> {
    let program = build_dir().join("examples/step_check");
    let printed = output(&program.to_string_lossy(), args).context("step_check failed")?;
    serde_json::from_str(printed.trim()).context("step_check printed something else than JSON")
}

fn build() -> Result<()> {
    run(&mut command("cargo", &["build", "--package", "manyhands-coordinator", "--example", "step_check"]))
}

pub fn measure() -> Result<Value> {
    build()?;
    println!(
        "job            step ms  check ms  check/step  check/unit  flop/flop   gradient room  update room  output room  error room  reveal KB  moved by push"
    );
    let mut models = serde_json::Map::new();
    for (job, data) in JOBS {
        let path = |of: &str| root().join("demo").join(of);
        let (manifest, folder) = (path(job).join("manifest.json"), path(data));
        let measured = example(&[&manifest.to_string_lossy(), &folder.to_string_lossy()])?;
        let number = |name: &str| measured[name].as_f64().with_context(|| format!("no {name}"));
        println!(
            "{job:<12} {:>9.2} {:>9.2} {:>11.2} {:>11.4} {:>10.2} {:>15.1e} {:>12.1e} {:>12.1e} {:>11.1e} {:>10.0} {:>14.1e}",
            number("step_ms")?,
            number("check_ms")?,
            number("check_per_step")?,
            number("check_per_unit")?,
            number("check_flop")? / number("step_flop")?,
            number("gradient_room")?,
            number("update_room")?,
            number("largest_output_room")?,
            number("largest_error_room")?,
            number("reveal_bytes")? / 1e3,
            number("update_moved_by_push")?,
        );
        models.insert(job.to_owned(), measured);
    }
    println!("\nlargest share of a tolerance that an honest step used");
    for (job, measured) in &models {
        for (kind, share) in measured["tolerance_used"].as_object().context("no shares")? {
            println!("{job:<12} {kind:<30} {:.4}", share.as_f64().context("a share")?);
        }
    }
    Ok(json!({ "bench": "step-check", "models": models }))
}

pub fn detection() -> Result<Value> {
    build()?;
    let mut measured = example(&["detection"])?;
    println!("fabricated   challenged   caught within 10    100   1000 units   units until caught");
    for point in measured["curve"].as_array().context("no curve")? {
        let number = |name: &str| point[name].as_f64().with_context(|| format!("no {name}"));
        println!(
            "{:>10.2} {:>12.4} {:>18.4} {:>6.4} {:>6.4} {:>26.1}",
            number("fabricated")?,
            number("rate")?,
            number("caught_within_10")?,
            number("caught_within_100")?,
            number("caught_within_1000")?,
            number("units_expected")?,
        );
    }
    println!("\nfalse segments of eight   challenged   caught within 100 units   with repetitions   with audits alone");
    for point in measured["segments"].as_array().context("no segments")? {
        let number = |name: &str| point[name].as_f64().with_context(|| format!("no {name}"));
        println!(
            "{:>23} {:>12.4} {:>25.4} {:>18.4} {:>19.4}",
            number("segments_of_eight")?,
            number("rate")?,
            number("caught_within_100")?,
            number("with_repetitions")?,
            number("with_audits_alone")?,
        );
    }
    measured["bench"] = json!("detection");
    Ok(measured)
}
