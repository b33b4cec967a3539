//! How long a visitor waits from Start to the first product and to the first accepted unit, and what a visit takes while it
//! works: `visit_times` makes the visits, in headless Chromium. Times are medians, with the parts they are made of.

use std::fmt::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::build_dir;
use crate::proc::{command, run};

/// What a visit takes while it works, as shares of the device and of frames; null where it was not measured.
const SHARES: &[(&str, &str)] = &[
    ("duty_target", "of the device is the limit"),
    ("duty_measured", "of it was taken"),
    ("duty_ungoverned", "without a governor"),
    ("frame_drop_extra", "of the frames of the page around dropped more than without work, median"),
];

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
    ("first_paint_slow_ms", "the same where the page's processor time takes four times as long"),
];

#[derive(Debug)]
pub struct Report {
    adapter: String,
    rounds: usize,
    medians: Vec<(&'static str, &'static str, f64)>,
    shares: Value,
}

/// Builds the command and its browser's driver, and makes the visits.
pub fn measure(rounds: u32, window_s: u32) -> Result<Report> {
    run(&mut command("cargo", &["build", "--package", "manyhands-cli"]))?;
    run(&mut command("cargo", &["build", "--package", "manyhands-tests", "--bin", "visit_times"]))?;
    let mut visits =
        command(build_dir().join("visit_times"), &["--rounds", &rounds.to_string(), "--window", &window_s.to_string()]);
    let output = visits.stderr(Stdio::inherit()).output().context("cannot start visit_times")?;
    ensure!(output.status.success(), "visit_times ended with {}", output.status);
    let lines = String::from_utf8(output.stdout).context("visit_times prints text")?;
    let printed = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let printed = printed.context("visit_times prints JSON")?;
    let (rounds, shares) = printed.split_at(printed.len().min(rounds as usize));
    report(rounds, shares.first().cloned().unwrap_or_default())
}

fn report(rounds: &[Value], shares: Value) -> Result<Report> {
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
    Ok(Report { adapter, rounds: rounds.len(), medians, shares })
}

impl Report {
    pub fn table(&self) -> String {
        let mut text = format!("{} visits on {}, medians:\n", self.rounds, self.adapter);
        for (_, what, median) in &self.medians {
            let _ = writeln!(text, "{median:>9.1} ms  {what}");
        }
        for (key, what) in SHARES {
            if let Some(share) = self.shares[*key].as_f64() {
                let _ = writeln!(text, "{:>9.1} %   {what}", share * 100.0);
            }
        }
        text
    }

    pub fn json(&self) -> Value {
        let mut members: Map<String, Value> =
            self.medians.iter().map(|(key, _, median)| ((*key).to_owned(), json!((median * 10.0).round() / 10.0))).collect();
        members.extend(SHARES.iter().map(|(key, _)| ((*key).to_owned(), self.shares[*key].clone())));
        members.extend(self.shares.as_object().cloned().unwrap_or_default());
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
        let shares = json!({ "duty_measured": 0.31, "frame_drop_extra": 0.004 });
        let report = super::report(&[round(3.0), round(1.0), round(2.26)], shares).unwrap();
        assert_eq!((&report.json()["duty_measured"], &report.json()["duty_target"]), (&json!(0.31), &Value::Null));
        assert!(report.table().contains("31.0 %   of it was taken"));
        assert_eq!(report.json()["start_to_first_product_ms"], json!(2.3));
        assert_eq!(super::report(&[round(1.0), round(2.0)], Value::Null).unwrap().json()["lease_ms"], json!(1.5));
        assert!(report.table().contains("2.3 ms  Start to the first product"));
        let mut broken = round(1.0);
        broken["lease_ms"] = Value::Null;
        assert!(super::report(&[round(1.0), broken], Value::Null).is_err());
        assert!(super::report(&[], Value::Null).is_err());
    }
}
