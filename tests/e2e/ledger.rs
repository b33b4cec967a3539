//! The public log of a whole run: an independent reader takes it, a model is walked back through it to the same bytes, and a
//! coordinator that rewrites its log is caught by the tab that it works for, by its witness and by who read it before.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use manyhands_protocol::view::JobState;
use manyhands_tests::accessible::{examined, found};
use manyhands_tests::browser::text;
use manyhands_tests::jobs::SmallTrain;
use manyhands_tests::process::Process;
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
    server.replace(&other, &[])?;
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

/// A witness on its own folder, at this address; what it is asked at and its key.
fn witness(folder: &Path, listen: &str, log: &str) -> Result<(Process, String, String)> {
    let mut command = std::process::Command::new(binary()?);
    command.args(["witness", "--name", "witness.example/1", "--listen", listen, "--log", log, "--data-dir"]).arg(folder);
    let mut process = Process::start(&mut command, &folder.with_extension("log"))?;
    let url = process.line_after("listening on ", LIMIT)?;
    let key = process.line_after("witness key ", LIMIT)?;
    Ok((process, url, key))
}

/// Reads the log until it is as asked for; gives how many entries it has. Meanwhile it lacks no more than this.
fn read_until(args: &[&str], lacks: &str, enough: impl Fn(u64) -> bool) -> Result<u64> {
    let begun = Instant::now();
    loop {
        let output = ledger(&[&["credit", "--json"], args].concat())?;
        let why = error_text(&output);
        ensure!(output.status.success() || why.contains(lacks), "{why}");
        if output.status.success() {
            let facts: Value = serde_json::from_slice(&output.stdout)?;
            let entries = facts["entries"].as_u64().context("a number of entries")?;
            if enough(entries) {
                return Ok(entries);
            }
        }
        ensure!(begun.elapsed() < LIMIT, "{args:?}: {why}");
    }
}

/// The same key with another history, in front of a witness that was killed and started again meanwhile.
#[tokio::test]
async fn a_rewritten_log_is_cosigned_by_nobody() -> Result<()> {
    const NOT_YET: &str = "cosignatures of witnesses yet";
    let folder = tempfile::tempdir()?;
    let (data, other, seen) = (folder.path().join("data"), folder.path().join("other"), folder.path().join("seen"));
    let memory = folder.path().join("witness");
    let mut server = Server::start(&data)?;
    let log = server.key.to_string();
    let (mut process, url, key) = witness(&memory, "127.0.0.1:0", &log)?;
    let address = format!("{key}={url}");
    server.restart_with(&["--witness", &address])?;
    let files = jobs::matmul(folder.path(), [64 * 4, 100, 16 * 4], 16)?;
    server.submit(&files.manifest, &files.data)?;
    let (seen, coordinator) = (seen.to_string_lossy(), server.url.clone());
    let cosigned = ["--coordinator", &coordinator, "--witness-key", &key];
    let first = read_until(&[&cosigned[..], &["--seen", &seen]].concat(), NOT_YET, |entries| entries > 0)?;
    let read = python::run("tests/interop/check_log.py", &[coordinator.as_str(), "--witness-key", &key])?;
    ensure!(read.contains("\"step\": \"cosigned\""), "{read}");

    // Nothing waits for a witness that is down, and one that is back goes on where it was.
    process.kill_9();
    server.submit(&files.manifest, &files.data)?;
    let plain = ["--coordinator", coordinator.as_str()];
    let second = read_until(&plain, "nothing", |entries| entries > first)?;
    let (_process, ..) = witness(&memory, url.strip_prefix("http://").context("an address")?, &log)?;
    let third = read_until(&[&cosigned[..], &["--seen", &seen]].concat(), NOT_YET, |entries| entries >= second)?;

    // Another job: the same ones would be the same entries.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let files = jobs::matmul(&elsewhere, [64 * 4, 50, 16 * 4], 16)?;
    std::fs::create_dir(&other)?;
    for name in ["coordinator.key", "admin.token"] {
        std::fs::copy(data.join(name), other.join(name))?;
    }
    server.kill_9();
    server.replace(&other, &["--witness", &address])?;
    for _ in 0..4 {
        server.submit(&files.manifest, &files.data)?;
    }
    read_until(&plain, "nothing", |entries| entries > third)?;
    let begun = Instant::now();
    while !server.log().contains("the witness did not sign") {
        ensure!(begun.elapsed() < LIMIT, "the coordinator does not know");
    }
    for (args, why) in [(&cosigned[..], NOT_YET), (&["--coordinator", &coordinator, "--seen", &seen], "the log was rewritten")] {
        let refused = ledger(&[&["credit"], args].concat())?;
        ensure!(!refused.status.success() && error_text(&refused).contains(why), "{}", error_text(&refused));
    }
    Ok(())
}

/// One clear sentence for each thing that can be wrong with what is asked.
#[tokio::test]
async fn the_command_says_what_is_wrong() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, model) = (folder.path().join("data"), folder.path().join("model"));
    let mut server = Server::start(&data)?;
    let key = server.key.to_string();
    let (data, model) = (data.to_string_lossy(), model.to_string_lossy());
    let refused = |args: &[&str], why: &str| -> Result<()> {
        let output = ledger(args)?;
        ensure!(!output.status.success() && error_text(&output).contains(why), "{args:?}: {}", error_text(&output));
        Ok(())
    };
    refused(&["verify", &model, "--coordinator", "http://127.0.0.1:1"], "No such file")?;
    std::fs::write(&*model, "")?;
    read_until(&["--coordinator", &server.url], "no checkpoint yet", |_| true)?;
    refused(&["verify", &model, "--coordinator", &server.url], "e3b0c44298fc1c149afbf4c8996fb924")?;
    refused(&["credit", "--data-dir", &data, "--coordinator", &server.url], "give one of them")?;
    for address in ["127.0.0.1:8787", "http://", "ftp://127.0.0.1"] {
        refused(&["credit", "--coordinator", address], "it must be https://HOST or http://HOST:PORT")?;
    }
    refused(&["credit", "--coordinator", &server.url, "--key", &"ab".repeat(32)], &format!("is of the log manyhands/{key}"))?;
    refused(&["credit", "--coordinator", &server.url, "--cosignatures", "1"], "name more with --witness-key")?;
    refused(&["credit", "--data-dir", &model], "is no coordinator's data folder")?;

    // A folder that is read stays as it is, also while its coordinator is at work.
    std::fs::write(Path::new(&*data).join("blobs").join("upload#1"), "under way")?;
    read_until(&["--data-dir", &data], "no checkpoint yet", |_| true)?;
    ensure!(Path::new(&*data).join("blobs").join("upload#1").exists(), "it was taken for left over");
    server.kill_9();
    std::fs::remove_file(Path::new(&*data).join("admin.token"))?;
    std::fs::rename(Path::new(&*data).join("coordinator.key"), folder.path().join("key"))?;
    refused(&["credit", "--data-dir", &data], "say with --key whose log it is")?;
    read_until(&["--data-dir", &data, "--key", &key], "nothing", |_| true)?;
    for name in ["admin.token", "coordinator.key"] {
        ensure!(!Path::new(&*data).join(name).exists(), "{name} was made");
    }
    Ok(())
}
