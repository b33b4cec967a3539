//! A visit on the CPU with two workers, as on a computer with three cores: they work on a unit each under one key and one
//! session, without shared memory; Stop ends both; one that is killed loses its own unit, and the visit goes on.

use std::time::Duration;

use anyhow::Result;
use manyhands_protocol::JobId;
use manyhands_protocol::view::JobState;
use manyhands_tests::browser::{Visitor, number};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(180);
/// Within this the coordinator has every lease back; one that lapsed would be back later.
const GIVEN_BACK_LIMIT: Duration = Duration::from_secs(5);
/// Where a lease is ended that leads to no result.
const GIVEN_BACK: &str = "/v1/leases/";
/// Two units at once, in the page's list of the latest.
const BOTH: &str = "d.phases.split(' ').filter((phase) => phase === 'computing').length === 2";

/// Units of a second or two for 200 steps.
fn slow(inner_steps: u32, rounds_max: u32) -> SmallTrain {
    SmallTrain { width: 784, hidden: 256, inner_steps, units_per_round: 8, rounds_max, target_accuracy: 1.0, noisy_labels: true }
}

struct Visit {
    _folder: tempfile::TempDir,
    server: Server,
    job: JobId,
    proxy: Proxy,
    visitor: Visitor,
}

/// A visit in which two units are computed at this moment.
async fn visit(small: SmallTrain) -> Result<Visit> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), small)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/sessions"), ("DELETE", GIVEN_BACK)]).await?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", proxy.url)).await?;
    // However many cores this machine has.
    let lanes = "globalThis.Worker = class extends Worker {
        postMessage(message) { super.postMessage(message.type === 'start' ? { ...message, lanes: 2 } : message); }
    };";
    visitor.run(lanes).await?;
    visitor.press_start().await?;
    visitor.wait_until(BOTH, LIMIT).await?;
    Ok(Visit { _folder: folder, server, job, proxy, visitor })
}

#[tokio::test]
async fn two_workers_share_a_visit_and_stop_together() -> Result<()> {
    let visit = visit(slow(200, 1000)).await?;
    let Visit { server, proxy, visitor, job, .. } = &visit;
    let isolated = visitor.run("return [crossOriginIsolated, typeof SharedArrayBuffer];").await?;
    assert_eq!(isolated, serde_json::json!([false, "undefined"]), "the site sets no isolation headers");
    let state = visitor.wait_until("Number(d.accepted) >= 6", LIMIT).await?;
    assert_eq!((state["backend"].as_str(), number(&state, "rejected")?), (Some("wasm"), 0.0), "{state}");
    let view = server.follow(*job, LIMIT, |view| view.units_settled >= 6).await?;
    assert_eq!((view.contributors, view.results_rejected), (1, 0));
    assert_eq!(proxy.count("/v1/sessions").total, 1, "one session");

    visitor.wait_until(BOTH, LIMIT).await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", Duration::from_secs(2)).await?;
    server.follow(*job, GIVEN_BACK_LIMIT, |view| view.contributors_now == 0).await?;
    Ok(())
}

/// A unit that is held for half a minute goes back: one whose worker went on meanwhile would be handed in.
#[tokio::test]
async fn a_pause_holds_both() -> Result<()> {
    let visit = visit(slow(2000, 1000)).await?;
    visit.visitor.press_pause().await?;
    visit.visitor.wait_until("d.state === 'paused'", Duration::from_secs(2)).await?;
    let ended = "!/leased|comput/.test(d.phases)";
    let state = visit.visitor.wait_until(ended, LIMIT).await?;
    assert_eq!(state["phases"], "given_back given_back accepted", "{state}");
    Ok(())
}

/// One worker ends by `script`, run in it through the browser's own debugger. The page shows a unit that is given back only
/// until it is leased again, so what was given back is counted on its way to the coordinator.
async fn loses_one_unit(script: &str) -> Result<()> {
    let visit = visit(slow(200, 4)).await?;
    let Visit { server, visitor, proxy, job, .. } = &visit;
    let ended = visitor.run_in_workers("many-hands-lane", script).await?;
    assert_eq!(ended, 1, "one worker beside the visit's own");
    proxy.until(GIVEN_BACK, LIMIT, |seen| seen.total > 0).await?;
    visitor.wait_until(BOTH, LIMIT).await?;
    let view = server.follow(*job, LIMIT, |view| view.state == JobState::Finished).await?;
    assert_eq!((view.results_rejected, proxy.count(GIVEN_BACK).total), (0, 1));
    Ok(())
}

/// The browser tells nobody.
#[tokio::test]
async fn a_worker_that_is_gone_loses_its_unit_alone() -> Result<()> {
    loses_one_unit("close()").await
}

#[tokio::test]
async fn a_worker_that_crashes_loses_its_unit_alone() -> Result<()> {
    loses_one_unit("setTimeout(() => { throw new Error('crashed'); })").await
}
