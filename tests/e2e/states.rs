//! What the page says when something is not as it should be, each brought about as it would be: no WebGPU, a software adapter,
//! a device that computes wrongly, no work, no coordinator, the data used up, a page too old, a pause, a browser that keeps nothing;
//! and that axe-core finds nothing wrong with it, alone or in another site's frame.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use manyhands_protocol::JobId;
use manyhands_tests::accessible::{bring_axe, examine, examine_as_it_speaks, examined, let_axe_run};
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use manyhands_tests::site::registered;

const LIMIT: Duration = Duration::from_secs(180);

fn start(folder: &Path, small: SmallTrain) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, small)?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

/// Units of some seconds, one at a time, of close to a megabyte each way.
fn slow() -> SmallTrain {
    SmallTrain { width: 784, hidden: 256, inner_steps: 250, units_per_round: 1, ..SmallTrain::endless() }
}

/// The text of what is to be seen of an element; empty where it is hidden.
async fn seen(visitor: &Visitor, id: &str) -> Result<String> {
    let script = format!("const at = document.getElementById('{id}'); return at.checkVisibility() ? at.textContent : '';");
    Ok(text(&visitor.run(&script).await?))
}

/// Says that a worker begins with this script.
fn workers_begin_with(script: &str) -> String {
    format!(
        "const Real = Worker;
        globalThis.Worker = class extends Real {{
            constructor(address, options) {{
                const text = `{script}\nawait import(${{JSON.stringify(String(address))}});`;
                super(URL.createObjectURL(new Blob([text], {{ type: 'text/javascript' }})), options);
            }}
        }};"
    )
}

/// A visitor whose workers begin with that script, which no policy would let in.
async fn changed(url: &str, script: &str) -> Result<Visitor> {
    let visitor = Visitor::open("about:blank").await?;
    let_axe_run(&visitor).await?;
    visitor.before_pages(&workers_begin_with(script)).await?;
    visitor.goto(url).await?;
    Ok(visitor)
}

#[tokio::test]
async fn without_webgpu_it_computes_on_the_processor_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let visitor = changed(&server.url, "delete WorkerNavigator.prototype.gpu;").await?;
    visitor.before_pages("delete Navigator.prototype.gpu;").await?;
    visitor.goto(&server.url).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    assert!(seen(&visitor, "consent-cost").await?.contains("offers no WebGPU"));
    examine(&visitor, "no WebGPU, the offer").await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 1 && d.backend === 'wasm'", LIMIT).await?;
    let adapter = seen(&visitor, "adapter").await?;
    assert!(adapter.starts_with("Processor") && adapter.contains("The graphics processor is not used: "), "{adapter}");
    examine(&visitor, "no WebGPU, working").await
}

#[tokio::test]
async fn a_software_adapter_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let visitor = examined(&server.url).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    let adapter = seen(&visitor, "adapter").await?;
    assert!(adapter.contains("The graphics processor is not used: "), "{adapter}");
    examine(&visitor, "a software adapter").await
}

/// A GPU whose numbers come back with their signs changed.
const WRONG: &str = "const real = GPUBuffer.prototype.getMappedRange;
GPUBuffer.prototype.getMappedRange = function (...given) {
    const range = real.apply(this, given);
    const signs = new Uint8Array(this.usage & GPUBufferUsage.MAP_READ ? range : 0);
    for (let at = 3; at < signs.length; at += 4) signs[at] ^= 128;
    return range;
};";

#[tokio::test]
async fn a_device_that_computes_wrongly_computes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let visitor = changed(&format!("{}/?backend=gpu", server.url), WRONG).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'failed'", LIMIT).await?;
    let error = seen(&visitor, "visit-error").await?;
    assert!(error.starts_with("This device gave a wrong answer in its self-test"), "{error}");
    assert_eq!(seen(&visitor, "mine-done").await?, "0");
    visitor.screenshot(&artefacts()?.join("state-wrong-device.png")).await?;
    examine(&visitor, "a device that computes wrongly").await
}

#[tokio::test]
async fn no_work_now_is_said_and_ends_by_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), slow())?;
    // A unit is settled by two keys, and one of them takes its time.
    let other = server.volunteer(&["--duty", "1", "--cpu"])?;
    server.follow(JobId(1), LIMIT, |view| view.contributors_now == 1).await?;
    let visitor = examined(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'waiting' && Number(d.done) >= 1", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-state").await?, "Waiting for work");
    assert!(seen(&visitor, "visit-detail").await?.starts_with("There is no work for this device"));
    examine(&visitor, "no work").await?;
    drop(other);
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_coordinator_that_is_gone_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = start(folder.path(), SmallTrain::endless())?;
    let visitor = examined(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.press_start().await?;
    // Past the first unit, after which the rest of the worker is loaded.
    visitor.wait_until("Number(d.accepted) >= 3", LIMIT).await?;
    server.kill_9();
    let gone = visitor.wait_until("d.state === 'unreachable' && d.link === 'offline'", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-state").await?, "No connection, trying again");
    assert!(seen(&visitor, "banner").await?.starts_with("The coordinator does not answer"));
    // Other languages' words are the coordinator's to give.
    examine_as_it_speaks(&visitor, "no coordinator").await?;
    server.restart()?;
    let accepted = text(&gone["accepted"]);
    visitor.wait_until(&format!("d.state === 'working' && d.link === 'live' && Number(d.accepted) > {accepted}"), LIMIT).await?;
    assert_eq!((seen(&visitor, "banner").await?, seen(&visitor, "visit-error").await?), (String::new(), String::new()));
    Ok(())
}

#[tokio::test]
async fn axe_finds_nothing_in_another_site_s_frame() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = start(folder.path(), SmallTrain::endless())?;
    let site = registered(&server, &server.url, "").await?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    bring_axe(&visitor).await?;
    visitor.run("for (const each of document.querySelectorAll('details')) each.open = true;").await?;
    examine(&visitor, "the offer").await?;
    visitor.press("not-now").await?;
    examine(&visitor, "declined").await?;
    visitor.press("reconsider").await?;
    visitor.press_offered_start(LIMIT).await?;
    visitor.wait_until("Number(d.accepted) >= 3 && d.receipts > 0", LIMIT).await?;
    visitor.run("for (const each of document.querySelectorAll('details')) each.open = true;").await?;
    examine(&visitor, "working").await?;
    visitor.press_pause().await?;
    visitor.wait_until("d.state === 'paused'", LIMIT).await?;
    examine(&visitor, "paused").await?;
    visitor.press_pause().await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    server.kill_9();
    visitor.wait_until("d.state === 'unreachable' && d.link === 'offline'", LIMIT).await?;
    examine_as_it_speaks(&visitor, "no coordinator").await
}

#[tokio::test]
async fn used_up_data_are_an_end_and_no_failure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), slow())?;
    let site = registered(&server, &server.url, "data=1").await?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("d.state === 'failed'", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-state").await?, "Done for now");
    // That of the visit or that of the day, whichever comes first.
    assert!(seen(&visitor, "visit-error").await?.starts_with("The amount of data you agreed to "));
    assert_eq!(seen(&visitor, "restart").await?, "Start again");
    visitor.screenshot(&artefacts()?.join("state-used-up.png")).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_says_who_paused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let site = registered(&server, &server.url, "").await?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("document.getElementById('consent-kept').checkVisibility()", LIMIT).await?;
    let kept = seen(&visitor, "consent-kept").await?;
    assert!(kept.contains("apart from any that it has for other sites"), "{kept}");
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    visitor.leave_frame().await?;
    visitor.run("document.querySelector('many-hands').pause();").await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.state === 'paused'", LIMIT).await?;
    assert!(seen(&visitor, "visit-detail").await?.starts_with("The page around paused it."));
    visitor.press_pause().await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    visitor.press_pause().await?;
    visitor.wait_until("d.state === 'paused'", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-detail").await?, "Nothing runs until you press Resume.");
    Ok(())
}

/// A coordinator that speaks a later version of the protocol than the worker.
const NEWER: &str = "const real = fetch;
globalThis.fetch = async (asked, how) => {
    const answer = await real(asked, how);
    if (!String(asked.url ?? asked).endsWith('/v1/info')) return answer;
    return new Response((await answer.text()).replace(/(.protocol_version.:)[0-9]+/, (_, name) => name + '99'), answer);
};";

#[tokio::test]
async fn a_page_too_old_says_so_and_offers_the_new_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let visitor = changed(&server.url, NEWER).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'failed'", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-state").await?, "This page is out of date");
    assert_eq!(
        (seen(&visitor, "reload").await?, seen(&visitor, "restart").await?),
        ("Load the page again".to_owned(), String::new())
    );
    visitor.screenshot(&artefacts()?.join("state-outdated.png")).await?;
    examine(&visitor, "a page too old").await?;
    visitor.press("reload").await?;
    visitor.wait_until("d.state === 'idle'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_browser_that_keeps_nothing_gets_a_key_for_the_visit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path(), SmallTrain::endless())?;
    let visitor = Visitor::open_forgetful("about:blank").await?;
    let_axe_run(&visitor).await?;
    visitor.goto(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    let kept = seen(&visitor, "consent-kept").await?;
    assert!(kept.contains("This browser keeps nothing for this page"), "{kept}");
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    let key = seen(&visitor, "my-key").await?;
    assert!(key.ends_with(", for this visit only"), "{key}");
    examine(&visitor, "a browser that keeps nothing").await
}
