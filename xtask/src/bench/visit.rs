//! How long a visitor waits from Start to the first product and to the first accepted unit: medians of visits that
//! `visit_times` makes in headless Chromium, with the parts they are made of.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::build_dir;
use crate::proc::{command, run};

/// What a visit costs while it works is not measured here.
const NOT_MEASURED: [&str; 4] = ["duty_target", "duty_measured", "duty_ungoverned", "frame_drop_extra"];

/// The rows of the table: keys of a round, and what they are.
const ROWS: &[(&str, &str)] = &[
    ("worker_script_ms", "worker's script fetched and checked"),
    ("worker_wasm_ms", "worker's wasm fetched, compiled and begun"),
    ("host_ms", "key and storage opened"),
    ("adapter_ms", "adapter and device opened"),
    ("self_test_ms", "self-test of the product, compilation included"),
    ("session_ms", "session, as far as it took longer than the device"),
    ("lease_ms", "lease"),
    ("inputs_ms", "inputs fetched and checked"),
    ("product_ms", "product"),
    ("upload_ms", "upload and signature"),
    ("verdict_ms", "verdict"),
    ("start_to_first_product_ms", "Start to the first product"),
    ("start_to_first_accepted_ms", "Start to the first accepted unit"),
    ("first_paint_ms", "first paint of the page, before Start"),
];

#[derive(Debug)]
pub struct Report {
    adapter: String,
    rounds: usize,
    medians: Vec<(&'static str, &'static str, f64)>,
}

/// Builds the command and its browser's driver, and makes the visits.
pub fn measure(rounds: u32) -> Result<Report> {
    run(&mut command("cargo", &["build", "--package", "manyhands-cli"]))?;
    run(&mut command("cargo", &["build", "--package", "manyhands-tests", "--bin", "visit_times"]))?;
    let mut visits = command(build_dir().join("visit_times"), &["--rounds", &rounds.to_string()]);
    let output = visits.stderr(Stdio::inherit()).output().context("cannot start visit_times")?;
    ensure!(output.status.success(), "visit_times ended with {}", output.status);
    let lines = String::from_utf8(output.stdout).context("visit_times prints text")?;
    let rounds = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    report(&rounds.context("visit_times prints JSON")?)
}

fn report(rounds: &[Value]) -> Result<Report> {
    let first = rounds.first().context("at least one round")?;
    let mut medians = Vec::new();
    for (key, what) in ROWS {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| round[*key].as_f64()).collect();
        ensure!(values.len() == rounds.len(), "a round has no {key}");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        medians.push((*key, *what, median));
    }
    let adapter = first["adapter"].as_str().context("a round names its adapter")?.to_owned();
    Ok(Report { adapter, rounds: rounds.len(), medians })
}

impl Report {
    pub fn table(&self) -> String {
        let mut text = format!("{} visits on {}, medians:\n", self.rounds, self.adapter);
        for (_, what, median) in &self.medians {
            let _ = writeln!(text, "{median:>9.1} ms  {what}");
        }
        text
    }

    pub fn json(&self) -> Value {
        let mut members: Map<String, Value> =
            self.medians.iter().map(|(key, _, median)| ((*key).to_owned(), json!((median * 10.0).round() / 10.0))).collect();
        members.extend(NOT_MEASURED.map(|key| (key.to_owned(), Value::Null)));
        members.insert("adapter".to_owned(), json!(self.adapter));
        members.insert("rounds".to_owned(), json!(self.rounds));
        Value::Object(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_need_every_round() {
        let round = |ms: f64| {
            let mut round: Map<String, Value> = ROWS.iter().map(|(key, _)| ((*key).to_owned(), json!(ms))).collect();
            round.insert("adapter".to_owned(), json!("a"));
            Value::Object(round)
        };
        let report = super::report(&[round(3.0), round(1.0), round(2.26)]).unwrap();
        assert_eq!(report.json()["start_to_first_product_ms"], json!(2.3));
        assert_eq!(super::report(&[round(1.0), round(2.0)]).unwrap().json()["lease_ms"], json!(1.5));
        assert!(report.table().contains("2.3 ms  Start to the first product"));
        let mut broken = round(1.0);
        broken["lease_ms"] = Value::Null;
        assert!(super::report(&[round(1.0), broken]).is_err());
        assert!(super::report(&[]).is_err());
    }
}
