//! What breaks in the middle: a tab, the coordinator, a visitor's or the operator's patience. The job finishes or stops
//! as it should, and the store's invariants hold afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manyhands_coordinator::store::Store;
use manyhands_coordinator::store::sqlite::SqliteStore;
use manyhands_protocol::limits;
use manyhands_protocol::rules::standing::RUN_TRUSTED;
use manyhands_protocol::view::JobState;
use manyhands_tests::browser::{Visitor, number};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;

/// A unit leased to a killed tab is free again after [`limits::LEASE_MS`]; the rest is work.
const FINISH_LIMIT: Duration = Duration::from_secs(5 * 60);
const START_LIMIT: Duration = Duration::from_secs(180);
/// Over a busy machine's own delays.
const SLACK: Duration = Duration::from_secs(3);

/// Re-derives what the store has derived, after the coordinator has gone.
async fn check_store(data_dir: &Path) -> Result<()> {
    let store = SqliteStore::open(&data_dir.join("manyhands.sqlite3"), Duration::from_secs(10)).await?;
    let broken = store.check_invariants().await?;
    ensure!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

/// Units that take a second or so each, so that there is a middle to break.
fn slow() -> SmallTrain {
    SmallTrain {
        width: 784,
        hidden: 256,
        inner_steps: 200,
        rounds_max: 6,
        target_accuracy: 1.0,
        noisy_labels: true,
        ..SmallTrain::default()
    }
}

#[tokio::test]
async fn a_killed_tab_and_a_killed_coordinator_lose_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("data");
    let mut server = Server::start(&data_dir)?;
    let files = jobs::train(folder.path(), slow())?;
    let job = server.submit(&files.manifest, &files.data)?;

    let mut doomed = Visitor::open(&server.url).await?;
    doomed.press_start().await?;
    doomed.wait_until("d.unit !== ''", START_LIMIT).await?;
    doomed.kill();
    println!("killed a tab in mid-unit");

    let visitor = Visitor::open(&server.url).await?;
    visitor.press_start().await?;
    let settled = |view: &manyhands_protocol::view::JobView| view.units_settled;
    server.follow(job, FINISH_LIMIT, |view| settled(view) >= 1 && settled(view) % 4 != 0).await?;
    visitor.wait_until("d.unit !== ''", START_LIMIT).await?;
    server.kill_9();
    check_store(&data_dir).await.context("right after the kill")?;
    let before = settled_units(&data_dir, job).await?;
    server.restart()?;
    let after = server.job(job).await?;
    println!("killed the coordinator with {before} units settled; {} after the restart", after.units_settled);
    assert!(after.units_settled >= before, "{before} settled before, {} after", after.units_settled);

    let view = server.follow(job, FINISH_LIMIT, |view| view.state == JobState::Finished).await?;
    let train = view.train.context("a train job")?;
    assert_eq!(train.history.len() as u32, train.rounds_merged + 1, "no round is missing");
    assert_eq!(view.results_rejected, 0);
    visitor.wait_until("d.jobState === 'finished'", Duration::from_secs(60)).await?;
    server.kill_9();
    check_store(&data_dir).await
}

async fn settled_units(data_dir: &Path, job: manyhands_protocol::JobId) -> Result<u64> {
    let store = SqliteStore::open(&data_dir.join("manyhands.sqlite3"), Duration::from_secs(10)).await?;
    Ok(store.job(job).await?.context("the job is there")?.units_settled)
}

#[tokio::test]
async fn one_native_volunteer_alone_finishes_a_job() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("data");
    let mut server = Server::start(&data_dir)?;
    let files = jobs::train(folder.path(), SmallTrain { target_accuracy: 0.9, rounds_max: 10, ..SmallTrain::default() })?;
    let job = server.submit(&files.manifest, &files.data)?;
    let _volunteer = server.volunteer(&["--cpu", "--threads", "2"])?;
    let view = server.follow(job, FINISH_LIMIT, |view| view.state == JobState::Finished).await?;
    println!("{} units, {} refereed", view.units_settled, view.units_refereed);
    assert_eq!((view.contributors, view.results_rejected), (1, 0));
    let least = view.units_settled.min(RUN_TRUSTED);
    assert!(view.units_refereed >= least, "with one key, the referee is the second for every unit until it is trusted");
    server.kill_9();
    check_store(&data_dir).await
}

#[tokio::test]
async fn a_native_volunteer_computes_a_product() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(&folder.path().join("data"))?;
    let files = jobs::matmul(folder.path(), [100, 300, 70], 32)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let mut volunteer = server.volunteer(&["--cpu", "--units", "12"])?;
    let view = server.follow(job, FINISH_LIMIT, |view| view.state == JobState::Finished).await?;
    assert_eq!((view.units_total, view.results_accepted, view.results_rejected), (12, 12, 0));
    assert!(volunteer.wait(Duration::from_secs(60))?, "it ends well after its units");
    let out = folder.path().join("c.safetensors");
    server.run(&["job", "export", &job.to_string(), "--out", &out.to_string_lossy()])?;
    jobs::check_product(&files.data, &out, [100, 300, 70])?;
    server.kill_9();
    check_store(&folder.path().join("data")).await
}

#[tokio::test]
async fn stop_ends_work_within_a_second_and_gives_leases_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain { rounds_max: 1000, ..slow() })?;
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor.press_start().await?;
    // In the middle of a unit that trains: the opening unit is over by now.
    visitor.wait_until("d.phases.includes('accepted') && d.phases.startsWith('computing')", START_LIMIT).await?;
    server.follow(job, START_LIMIT, |view| view.contributors_now == 1).await?;
    // The page's own clock: from the click to the state that says so.
    visitor
        .run(
            "const d = document.documentElement.dataset;
            document.getElementById('stop').addEventListener('click', () => {
                const pressed = performance.now();
                new MutationObserver((_, watch) => {
                    if (d.state !== 'stopped') return;
                    d.stopMs = String(performance.now() - pressed);
                    watch.disconnect();
                }).observe(document.documentElement, { attributes: true });
            }, { capture: true });",
        )
        .await?;
    visitor.press_stop().await?;
    let pressed = Instant::now();
    let state = visitor.wait_until("d.stopMs !== undefined", Duration::from_secs(30)).await?;
    let stop_ms = number(&state, "stopMs")?;
    println!("stopped after {stop_ms} ms");
    assert!(stop_ms <= 1_100.0, "stopped after {stop_ms} ms");
    server.follow(job, SLACK, |view| view.contributors_now == 0).await?;
    assert!(pressed.elapsed() < Duration::from_millis(limits::LEASE_MS) / 2, "given back, not lapsed");
    Ok(())
}

#[tokio::test]
async fn pause_all_stops_every_tab_within_a_heartbeat() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("data");
    let mut server = Server::start(&data_dir)?;
    let files = jobs::train(folder.path(), slow())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor.press_start().await?;
    let _native = server.volunteer(&["--cpu"])?;
    visitor.wait_until("d.unit !== ''", START_LIMIT).await?;
    server.follow(job, START_LIMIT, |view| view.contributors_now == 2).await?;

    server.run(&["job", "pause", "--all"])?;
    let paused = Instant::now();
    let limit = Duration::from_millis(limits::HEARTBEAT_MS) + SLACK;
    visitor.wait_until("d.unit === ''", limit).await?;
    let view = server.follow(job, limit, |view| view.contributors_now == 0).await?;
    println!("all stopped after {:?}", paused.elapsed());
    assert!(paused.elapsed() <= limit, "all stopped after {:?}", paused.elapsed());
    assert!(server.info().await?.stopped);
    let settled = view.units_settled;

    server.run(&["job", "resume", "--all"])?;
    let view = server.follow(job, FINISH_LIMIT, |view| view.state == JobState::Finished).await?;
    assert!(view.units_settled > settled, "the work went on");
    server.kill_9();
    check_store(&data_dir).await
}
