//! The whole product once: two visitors in headless Chromium, each with a browser of their own, press Start and train
//! the demo job to its target on WebGPU; the exported model is then checked by a program that shares no code with it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manyhands_protocol::view::JobState;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::server::Server;
use manyhands_tests::{artefacts, jobs, python};
use serde_json::Value;

/// The demo job takes about three minutes on two cores.
const TRAIN_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Worker, wasm, adapter and self-test.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Largest difference of the exported model's accuracy from the reported one: 0.2 points.
const ACCURACY_TOLERANCE: f64 = 0.002;

/// Opens the page and checks that nothing of the worker was fetched by opening it.
async fn arrive(url: &str) -> Result<Visitor> {
    let visitor = Visitor::open(url).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", START_LIMIT).await?;
    let fetched = visitor.resources().await?;
    ensure!(fetched.iter().any(|name| name.contains("page/main")), "the page's own scripts are listed: {fetched:?}");
    ensure!(!fetched.iter().any(|name| is_of_the_worker(name)), "fetched before Start: {fetched:?}");
    Ok(visitor)
}

fn is_of_the_worker(name: &str) -> bool {
    name.contains("worker") || name.contains(".wasm")
}

/// Presses Start and waits until the tab computes; gives the state then.
async fn begin(visitor: &Visitor) -> Result<Value> {
    visitor.press_start().await?;
    let state = visitor.wait_until("d.backend !== '' && Number(d.done) >= 1", START_LIMIT).await?;
    ensure!(state["backend"] == "webgpu", "not on WebGPU: {state}");
    ensure!(text(&state["adapter"]).contains("swiftshader"), "the adapter has no name: {state}");
    let fetched = visitor.resources().await?;
    ensure!(fetched.iter().any(|name| is_of_the_worker(name)), "the worker is listed once it is there: {fetched:?}");
    Ok(state)
}

#[tokio::test]
async fn two_visitors_train_the_demo_job() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::demo();
    let job = server.submit(&files.manifest, &files.data)?;
    let page = format!("{}/?backend=gpu", server.url);

    let visitors = [arrive(&page).await?, arrive(&page).await?];
    let begun = Instant::now();
    let states = [begin(&visitors[0]).await?, begin(&visitors[1]).await?];
    let view = server.follow(job, TRAIN_LIMIT, |view| view.state == JobState::Finished).await?;
    let train = view.train.as_ref().context("a train job")?;
    let last = train.history.last().context("a finished job has a history")?;
    println!("{} rounds in {:?}, accuracy {:.4}", train.rounds_merged, begun.elapsed(), last.accuracy);
    assert!(train.is_reached(), "finished at {}", last.accuracy);
    assert_eq!(view.results_rejected, 0);

    // Both keys' updates were merged: each has accepted results, and so contributed.
    let keys = [text(&states[0]["key"]), text(&states[1]["key"])];
    assert_ne!(keys[0], keys[1], "separate profiles have separate keys");
    assert_eq!(view.contributors, 2);
    for key in keys {
        let totals = server.key(key.parse()?).await?.totals;
        println!("key {key}: {totals:?}");
        assert!(totals.accepted > 0 && totals.rejected == 0 && totals.credit_flop > 0, "{totals:?}");
    }

    for (index, visitor) in visitors.iter().enumerate() {
        let state = visitor.wait_until("d.jobState === 'finished'", Duration::from_secs(60)).await?;
        assert!((number(&state, "accuracy")? - last.accuracy).abs() < 1e-9, "the page shows {state}");
        // The list of the latest units ends with verdicts.
        let state = visitor.wait_until("d.state === 'stopped'", Duration::from_secs(60)).await?;
        let phases = text(&state["phases"]);
        assert!(!phases.is_empty() && phases.split(' ').all(|phase| phase == "accepted"), "the latest units: {phases}");
        visitor.screenshot(&artefacts()?.join(format!("visit-{index}.png"))).await?;
        let severe: Vec<_> = visitor.console_log().await?.into_iter().filter(|line| line.starts_with("SEVERE")).collect();
        assert_eq!(severe, Vec::<String>::new());
    }
    try_it(&visitors[0]).await?;
    visitors[0].screenshot(&artefacts()?.join("visit-tried.png")).await?;

    let model = artefacts()?.join("visit-model.safetensors");
    let model = model.to_string_lossy();
    server.run(&["job", "export", &job.to_string(), "--out", &model])?;
    let test = files.data.join("test.safetensors");
    let checked = python::run("tests/interop/check_export.py", &[model.as_ref(), &test.to_string_lossy()])?;
    let checked: Value = serde_json::from_str(&checked)?;
    let accuracy = checked["accuracy"].as_f64().context("an accuracy")?;
    println!("reported {}, recomputed {accuracy}", last.accuracy);
    assert!((accuracy - last.accuracy).abs() <= ACCURACY_TOLERANCE, "reported {}, recomputed {accuracy}", last.accuracy);
    Ok(())
}

/// The finished model answers for held-out pictures in the tab.
async fn try_it(visitor: &Visitor) -> Result<()> {
    visitor.press("try").await?;
    let state = visitor.wait_until("Number(d.answers) > 0", Duration::from_secs(60)).await?;
    ensure!(number(&state, "answers")? >= 1.0, "{state}");
    Ok(())
}
