//! The public log of a whole run: an independent reader takes it, a model is walked back through it to the same bytes, and a
//! coordinator that rewrites its log is caught by the tab that it works for, and shown.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use manyhands_protocol::view::JobState;
use manyhands_tests::accessible::{examined, found};
use manyhands_tests::browser::text;
use manyhands_tests::jobs::SmallTrain;
use manyhands_tests::server::{Server, binary, error_text};
use manyhands_tests::{jobs, python};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(180);

fn ledger(args: &[&str]) -> Result<std::process::Output> {
    Ok(std::process::Command::new(binary()?).arg("ledger").args(args).output()?)
}

#[tokio::test]
async fn a_model_is_walked_back_through_the_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let server = Server::start(&data)?;
    let small =
        SmallTrain { rounds_max: 3, units_per_round: 2, target_accuracy: 1.0, noisy_labels: true, ..SmallTrain::default() };
    let files = jobs::train(folder.path(), small)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let _volunteers = [server.volunteer(&["--cpu"])?, server.volunteer(&["--cpu"])?];
    server.follow(job, LIMIT, |view| view.state == JobState::Finished).await?;
    let model = folder.path().join("model.safetensors");
    let model = model.to_string_lossy();
    server.run(&["job", "export", &job.to_string(), "--out", &model])?;
    let view = server.job(job).await?;
    let rounds = view.train.as_ref().context("a train job")?.rounds_merged;

    // The last statements come with the next batch.
    let begun = Instant::now();
    let verified = loop {
        ensure!(begun.elapsed() < LIMIT, "the model is not in the log");
        let output = ledger(&["verify", &model, "--coordinator", &server.url, "--json"])?;
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout)?;
        }
        let why = error_text(&output);
        ensure!(why.contains("no checkpoint in the log is this file"), "{why}");
    };
    assert_eq!((verified["job"].as_u64(), verified["rounds"].as_u64()), (Some(job.0), Some(u64::from(rounds))));
    assert_eq!(verified["units"].as_u64(), Some(view.units_total));
    assert_eq!(verified["keys"].as_array().map(Vec::len), Some(2));

    let seen = folder.path().join("seen");
    let seen = seen.to_string_lossy();
    for _ in 0..2 {
        let output = python::run("tests/interop/check_log.py", &[server.url.as_str(), "--model", &model, "--seen", &seen])?;
        ensure!(output.contains("\"step\": \"model\""), "{output}");
    }
    // Another model, one bit away.
    let mut bytes = std::fs::read(&*model)?;
    *bytes.last_mut().context("a model has bytes")? ^= 1;
    let other = folder.path().join("other.safetensors");
    std::fs::write(&other, bytes)?;
    let other = other.to_string_lossy();
    let refused = ledger(&["verify", &other, "--coordinator", &server.url])?;
    ensure!(error_text(&refused).contains("no checkpoint in the log is this file"), "{}", error_text(&refused));
    drop(server);
    let output = ledger(&["verify", &model, "--data-dir", &data.to_string_lossy(), "--json"])?;
    ensure!(output.status.success(), "{}", error_text(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["rounds"].as_u64(), Some(u64::from(rounds)));

    // An update that is another: its blob's bytes are changed under its name.
    let blobs = data.join("blobs");
    bend_all(&blobs)?;
    let output = ledger(&["verify", &model, "--data-dir", &data.to_string_lossy()])?;
    ensure!(!output.status.success() && error_text(&output).contains("blob"), "{}", error_text(&output));
    Ok(())
}

/// Changes the last byte of every file.
fn bend_all(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            bend_all(&path)?;
        } else {
            let mut bytes = std::fs::read(&path)?;
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            std::fs::write(&path, bytes)?;
        }
    }
    Ok(())
}

/// The same coordinator, by its key, with another history: what it told the visitor's tab before is gone.
#[tokio::test]
async fn a_tab_shows_a_coordinator_that_rewrites_its_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let mut server = Server::start(&data)?;
    let files = jobs::matmul(folder.path(), [64 * 16, 100, 16 * 16], 16)?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = examined(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.receipts) >= 2", LIMIT).await?;
    // Small units are done faster than the log's batches come: the list of the latest shows them once they do.
    visitor.press_pause().await?;
    let logged = "document.getElementById('recent-list').textContent.includes('in the public log as entry')";
    visitor.wait_until(logged, LIMIT).await?;
    visitor.run("document.getElementById('receipts').open = true;").await?;
    visitor.wait_until("!!document.querySelector('#receipts-list a[download]')", LIMIT).await?;
    let shown = |id: &str| format!("return document.getElementById('{id}').textContent;");
    let receipts = visitor.run(&shown("receipts-list")).await?;
    ensure!(text(&receipts).contains("Entry"), "{receipts}");
    assert_eq!(found(&visitor).await?, Vec::<String>::new());

    // A log of the same key that is longer, so that only a proof can tell.
    std::fs::create_dir(&other)?;
    for name in ["coordinator.key", "admin.token"] {
        std::fs::copy(data.join(name), other.join(name))?;
    }
    server.kill_9();
    server.replace(&other)?;
    for _ in 0..3 {
        server.submit(&files.manifest, &files.data)?;
    }
    let state = visitor.wait_until("d.end === 'distrust'", LIMIT).await?;
    ensure!(text(&state["error"]).contains("public log"), "{state}");
    let title = visitor.run(&shown("visit-state")).await?;
    ensure!(text(&title).contains("do not trust"), "{title}");
    assert_eq!(found(&visitor).await?, Vec::<String>::new());
    Ok(())
}
