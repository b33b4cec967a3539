//! Our engine on the machine's GPU, natively, beside PyTorch in f32 on the same card: what the multipliers reach, every
//! variant of the product, and training steps of a wide transformer. PyTorch is whatever `python3`, or what `PYTHON` names,
//! has installed; without it ours is measured alone, and the table says so.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::compare::build_native;
use crate::proc::{command, shown};
use crate::{build_dir, root};

/// Everything; or with the transformer's time, width, layers, heads and batch its steps alone.
pub fn measure(extents: &[u32]) -> Result<Value> {
    let folder = build_dir().join("bench-gpu");
    std::fs::create_dir_all(&folder)?;
    let place = folder.display().to_string();
    let words = [vec!["gpu".to_owned(), place.clone()], extents.iter().map(u32::to_string).collect()].concat();
    let mut measured = answer(build_native()?.display().to_string(), &words)?;
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = root().join("tests/bench/torch_step.py").display().to_string();
    let torch = answer(python, &[script, place]).unwrap_or_else(|error| json!({ "skipped": format!("{error:#}") }));
    measured["step_ratio"] = json!(ratio(&measured, &torch));
    measured["torch"] = torch;
    print!("{}", table(&measured));
    Ok(measured)
}

/// What a program prints.
fn answer(program: String, words: &[String]) -> Result<Value> {
    let mut called = command(program, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let output = called.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(&called)))?;
    ensure!(output.status.success(), "`{}` failed ({})", shown(&called), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{}` printed no JSON", shown(&called)))
}

/// The middle of a sorted list.
fn median(list: &Value) -> Option<f64> {
    let list = list.as_array()?;
    list.get(list.len() / 2)?.as_f64()
}

/// How many times as long as PyTorch's our step takes.
fn ratio(ours: &Value, torch: &Value) -> Option<f64> {
    Some(median(&ours["train"]["step_ms"])? / median(&torch["step_ms"])?)
}

fn table(measured: &Value) -> String {
    let peak = median(&measured["fma_peak_gflops"]).unwrap_or(f64::NAN);
    let mut text = format!("{}: {peak:.0} GFLOP/s of multiply-adds on registers\n", measured["adapter"].as_str().unwrap_or(""));
    for product in measured["products"].as_array().into_iter().flatten() {
        let of = |name: &str| if product[name] == true { "T" } else { "N" };
        text += &format!("{}x{}x{} {}{}\n", product["m"], product["k"], product["n"], of("transposed_a"), of("transposed_b"));
        for (name, found) in product["variants"].as_object().into_iter().flatten() {
            let gflops = median(&found["gflops"]).unwrap_or(f64::NAN);
            text += &format!("  {name:<24} {gflops:>9.0} GFLOP/s {:>3.0} % of the peak", 100.0 * gflops / peak);
            // What reads f16 is compared with what has the same blocks.
            let sibling = name.strip_suffix("_f16").and_then(|name| median(&product["variants"][name]["gflops"]));
            text += &sibling.map_or("\n".to_owned(), |f32s| format!(", {:.2} times that of f32\n", gflops / f32s));
        }
    }
    let ms = |list: &Value| median(list).map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
    text += &format!("step: ours {}, PyTorch {}", ms(&measured["train"]["step_ms"]), ms(&measured["torch"]["step_ms"]));
    text += &match (measured["step_ratio"].as_f64(), measured["torch"]["skipped"].as_str()) {
        (Some(ratio), _) => format!(", {ratio:.2} times\n"),
        (None, reason) => format!(" (skipped: {})\n", reason.unwrap_or("no reason given")),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_compared_by_their_medians_and_what_is_missing_is_said() {
        let ours = json!({ "train": { "step_ms": [1.0, 3.0, 9.0] } });
        assert_eq!(ratio(&ours, &json!({ "step_ms": [1.0, 2.0, 2.5] })), Some(1.5));
        let skipped = json!({ "skipped": "PyTorch is not installed" });
        assert_eq!(ratio(&ours, &skipped), None);
        assert_eq!(ratio(&ours, &json!({ "step_ms": [] })), None);
        let text = table(&json!({ "train": ours["train"], "torch": skipped, "step_ratio": null }));
        assert!(text.contains("3.00 ms") && text.contains("skipped: PyTorch is not installed"), "{text}");
    }
}
