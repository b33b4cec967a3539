//! What Lighthouse says of the page before Start, in the system's browser and without a network beyond this machine: prints
//! its scores, 0 to 1, as a line of JSON, and keeps its report. Fails where one of them was not given.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use manyhands_tests::server::Server;
use manyhands_tests::{artefacts, browser, jobs, root};
use serde_json::{Map, Value};

const RUNS_MAX: usize = 3;
const CATEGORIES: [&str; 4] = ["performance", "accessibility", "best-practices", "seo"];

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::demo();
    server.submit(&files.manifest, &files.data)?;
    // Lighthouse takes them as one text, and opens a profile of its own.
    let switches: Vec<&str> = browser::SWITCHES.iter().copied().filter(|switch| !switch.contains(' ')).collect();
    let mut run = Command::new(root().join("tests/lighthouse/node_modules/.bin/lighthouse"));
    run.args([&server.url, "--quiet", "--output=json", "--no-enable-error-reporting"])
        .args([format!("--only-categories={}", CATEGORIES.join(",")), format!("--chrome-flags={}", switches.join(" "))])
        .env("CHROME_PATH", browser::program("chromium")?)
        .stderr(Stdio::inherit());
    let mut said = run.output().context("cannot start lighthouse")?;
    // Now and then a trace lacks its beginning (NO_NAVSTART), and it asks to be run again.
    for _ in 1..RUNS_MAX {
        if !said.status.success() {
            said = run.output()?;
        }
    }
    ensure!(said.status.success(), "lighthouse ended with {}", said.status);
    std::fs::write(artefacts()?.join("lighthouse.json"), &said.stdout)?;
    let report: Value = serde_json::from_slice(&said.stdout).context("lighthouse prints JSON")?;
    let mut scores = Map::new();
    for category in CATEGORIES {
        let score = &report["categories"][category]["score"];
        ensure!(score.is_number(), "lighthouse gives no score for {category}: {}", report["runtimeError"]);
        scores.insert(category.to_owned(), score.clone());
    }
    for (name, audit) in report["audits"].as_object().into_iter().flatten() {
        if audit["score"].as_f64().is_some_and(|score| score < 0.9) {
            eprintln!("{name}: {} ({})", audit["title"], audit["score"]);
        }
    }
    println!("{}", Value::Object(scores));
    Ok(())
}
