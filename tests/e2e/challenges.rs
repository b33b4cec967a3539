//! Every result is challenged, by a step or by a segment: honest volunteers on each backend, natively and in Chromium, pass all
//! challenges, and their units go on as if nothing had been drawn: of keys as new as these, to the referee.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use manyhands_protocol::view::{JobState, JobView};
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, JobFiles, Kind, SmallTrain};
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(2 * 60);
/// Units that are challenged on each backend.
const UNITS: u64 = 6;

/// A coordinator that challenges every result: by a step, also where committing takes long; or by segments.
fn challenging(folder: &std::path::Path, steps: bool) -> Result<Server> {
    let all = ["--challenge-rate", "1", "--step-challenges", "--commit-share", "1"];
    Server::start_with(&folder.join("data"), if steps { &all } else { &all[..2] })
}

/// A bundled job that commits to eight segments a unit.
fn pictures() -> JobFiles {
    JobFiles { manifest: manyhands_tests::root().join("demo/fashion-cnn/manifest.json"), ..jobs::demo() }
}

/// As [`check`], and each unit's challenge was the coordinator's computing of one segment: 4 steps of 31, or the last 3.
fn check_segments(view: &JobView) -> Result<()> {
    check(view)?;
    let tax = view.tax.context("no unit was settled")?;
    // Of units that are settled: of some more the segment was looked at.
    ensure!((0.09..0.3).contains(&tax.checks), "{tax:?}");
    Ok(())
}

/// No lie was found, and everybody answered.
fn check(view: &JobView) -> Result<()> {
    ensure!(view.results_rejected == 0, "{view:?}");
    ensure!(view.units_refereed == view.units_settled, "what was shown confirms nothing: {view:?}");
    Ok(())
}

async fn passes(backend: &str, files: impl Fn(&std::path::Path) -> Result<JobFiles>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = challenging(folder.path(), true)?;
    let files = files(folder.path())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let _volunteer = server.volunteer(&[backend])?;
    let done = |view: &JobView| view.units_settled >= UNITS || view.state == JobState::Finished || view.results_rejected > 0;
    check(&server.follow(job, LIMIT, done).await?)
}

#[tokio::test]
async fn native_volunteers_pass() -> Result<()> {
    for backend in ["--cpu", "--gpu"] {
        passes(backend, |folder| jobs::train(folder, SmallTrain::endless())).await?;
        passes(backend, |folder| jobs::model(folder, Kind::Images)).await?;
        passes(backend, |folder| jobs::model(folder, Kind::Text)).await?;
    }
    Ok(())
}

async fn tab_passes(query: &str, backend: &str, lanes: u32, steps: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = challenging(folder.path(), steps)?;
    let files = if steps { jobs::train(folder.path(), SmallTrain::endless())? } else { pictures() };
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&format!("{}/?{query}", server.url)).await?;
    // However many cores this machine has; and every phase that was ever shown.
    let script = format!(
        "globalThis.Worker = class extends Worker {{
            postMessage(message) {{ super.postMessage(message.type === 'start' ? {{ ...message, lanes: {lanes} }} : message); }}
        }};
        globalThis.phases = new Set();
        setInterval(() => document.querySelectorAll('[data-phase]').forEach((unit) => phases.add(unit.dataset.phase + ' ' + unit.textContent)), 20);"
    );
    visitor.run(&script).await?;
    visitor.press_start().await?;
    let view = server.follow(job, LIMIT, |view| view.units_settled >= UNITS || view.results_rejected > 0).await?;
    let state = visitor.wait_until("d.backend !== ''", LIMIT).await?;
    assert_eq!(text(&state["backend"]), backend);
    let shown = visitor.run("return [...phases].filter((phase) => phase.startsWith('challenged')).join();").await?;
    ensure!(text(&shown).contains("being checked: showing a part of it"), "{shown}");
    if steps { check(&view) } else { check_segments(&view) }
}

#[tokio::test]
async fn a_tab_shows_steps_on_webgpu() -> Result<()> {
    tab_passes("backend=gpu", "webgpu", 1, true).await
}

#[tokio::test]
async fn a_tab_shows_steps_on_wasm() -> Result<()> {
    tab_passes("backend=cpu", "wasm", 1, true).await
}

#[tokio::test]
async fn a_tab_shows_segments_on_webgpu() -> Result<()> {
    tab_passes("backend=gpu", "webgpu", 1, false).await
}

/// Its second worker keeps no states: the segment's ends are computed again.
#[tokio::test]
async fn a_tab_of_two_workers_shows_steps_and_segments() -> Result<()> {
    tab_passes("backend=cpu", "wasm", 2, true).await?;
    tab_passes("backend=cpu", "wasm", 2, false).await
}

#[tokio::test]
async fn native_volunteers_show_segments() -> Result<()> {
    for backend in ["--cpu", "--gpu"] {
        let folder = tempfile::tempdir()?;
        let (server, files) = (challenging(folder.path(), false)?, pictures());
        let job = server.submit(&files.manifest, &files.data)?;
        let _volunteer = server.volunteer(&[backend])?;
        let done = |view: &JobView| view.units_settled >= UNITS || view.results_rejected > 0;
        check_segments(&server.follow(job, LIMIT, done).await?)?;
    }
    Ok(())
}
