//! What the page does beside computing: pausing, falling back to polling, closing its stream when nobody looks, and
//! saying plainly when it can do nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use manyhands_protocol::JobId;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(180);
/// No request comes for this long: twice what a page that polls waits at most at first.
const QUIET: Duration = Duration::from_secs(4);

/// A coordinator with a job that never ends, behind a proxy.
async fn endless(folder: &Path) -> Result<(Server, JobId, Proxy)> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("GET", "/events"), ("GET", "/v1/"), ("POST", "/v1/leases")]).await?;
    Ok((server, job, proxy))
}

#[tokio::test]
async fn pause_holds_the_work_and_resume_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_server, _, proxy) = endless(folder.path()).await?;
    let visitor = Visitor::open(&proxy.url).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.done) >= 1", LIMIT).await?;
    visitor.press_pause().await?;
    let paused = visitor.wait_until("d.state === 'paused' && d.unit === ''", LIMIT).await?;
    let asked = proxy.count("/v1/leases").total;
    let more = proxy.until("/v1/leases", QUIET, |count| count.total > asked).await;
    assert!(more.is_err(), "leased while paused: {more:?}");
    visitor.press_pause().await?;
    let done = number(&paused, "done")?;
    visitor.wait_until(&format!("Number(d.done) > {done}"), LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn without_a_stream_the_page_polls_and_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    proxy.refuse("/events", true);
    let visitor = Visitor::open(&proxy.url).await?;
    visitor.wait_until("d.link === 'polling'", LIMIT).await?;
    server.run(&["job", "pause", &job.to_string()])?;
    visitor.wait_until("d.jobState === 'paused'", LIMIT).await?;
    proxy.refuse("/events", false);
    visitor.wait_until("d.link === 'live'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_hidden_page_closes_its_stream() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_server, _, proxy) = endless(folder.path()).await?;
    let visitor = Visitor::open(&proxy.url).await?;
    visitor.wait_until("d.link === 'live'", LIMIT).await?;
    proxy.until("/events", LIMIT, |count| count.open == 1).await?;
    let page = visitor.window().await?;
    visitor.open_tab().await?;
    proxy.until("/events", LIMIT, |count| count.open == 0).await?;
    visitor.switch_to(&page).await?;
    proxy.until("/events", LIMIT, |count| count.open == 1).await?;
    Ok(())
}

/// Browsers open six connections to a host: a stream for every job that is looked at would leave none to work over.
#[tokio::test]
async fn windows_on_different_jobs_share_one_stream() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, first, proxy) = endless(folder.path()).await?;
    let files = jobs::matmul(folder.path(), [64, 64, 64], 32)?;
    let second = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&format!("{}/?job={first}", proxy.url)).await?;
    visitor.wait_until("d.link === 'live'", LIMIT).await?;
    let one = visitor.window().await?;
    let two = visitor.open_window(&format!("{}/?job={second}", proxy.url)).await?;
    visitor.wait_until("d.link === 'polling' || d.link === 'live'", LIMIT).await?;
    server.run(&["job", "pause", &first.to_string()])?;
    server.run(&["job", "pause", &second.to_string()])?;
    for window in [&one, &two] {
        visitor.switch_to(window).await?;
        visitor.wait_until("d.jobState === 'paused'", LIMIT).await?;
    }
    let events = proxy.count("/events");
    assert!(events.open_max <= 1, "{events:?}");
    Ok(())
}

#[tokio::test]
async fn the_page_says_why_it_does_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, _, proxy) = endless(folder.path()).await?;
    let visitor = Visitor::open(&format!("http://untrusted.test:{}/", server.address()?.port())).await?;
    visitor.wait_until("d.state === 'insecure'", LIMIT).await?;
    assert_eq!(visitor.run("return document.getElementById('start').checkVisibility();").await?, false);
    proxy.refuse("/v1/", true);
    visitor.goto(&proxy.url).await?;
    visitor.wait_until("d.state === 'no_coordinator'", LIMIT).await?;
    proxy.refuse("/v1/", false);
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_net_for_pictures_is_offered_and_trained() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::model(folder.path(), jobs::Kind::Images)?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor.wait_until("d.jobState === 'running'", LIMIT).await?;
    let said = visitor.run("return document.getElementById('job-model').textContent;").await?;
    assert_eq!(said, "5 layers, 300 parameters");
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    assert_eq!(state["rejected"], "0", "{state}");
    Ok(())
}

#[tokio::test]
async fn nothing_of_the_worker_comes_before_the_visitor_asks() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_server, _, proxy) = endless(folder.path()).await?;
    let visitor = Visitor::open(&proxy.url).await?;
    visitor.wait_until("d.state === 'idle' && d.link === 'live'", LIMIT).await?;
    let offered = "return document.getElementById('try').checkVisibility();";
    assert_eq!(visitor.run(offered).await?, false, "the model is offered before Start");
    visitor.press_start().await?;
    visitor.wait_until("Number(d.done) >= 1 && document.getElementById('try').checkVisibility()", LIMIT).await?;
    Ok(())
}

/// Stands in for a browser whose WebCrypto lacks Ed25519: no switch of Chromium takes it away. The worker begins in a script
/// of the test's, which then loads the real one.
const WITHOUT_ED25519: &str = r#"
const Real = Worker;
globalThis.Worker = class extends Real {
    constructor(address, options) {
        const text = `for (const name of ["generateKey", "importKey"]) {
            const real = crypto.subtle[name].bind(crypto.subtle);
            crypto.subtle[name] = async (...given) => {
                if (JSON.stringify(given).includes("Ed25519")) throw new DOMException("no such name", "NotSupportedError");
                return real(...given);
            };
        }
        await import(${JSON.stringify(String(address))});`;
        super(URL.createObjectURL(new Blob([text], { type: "text/javascript" })), options);
    }
};"#;

/// The small worker has no Ed25519 of its own, and hands over to the whole one, which has.
#[tokio::test]
async fn a_browser_without_ed25519_contributes_all_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::default())?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open("about:blank").await?;
    visitor.ignore_policies().await?;
    visitor.before_pages(WITHOUT_ED25519).await?;
    visitor.goto(&server.url).await?;
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.done) >= 2 && d.phases.includes('accepted')", LIMIT).await?;
    println!("{state}");
    let kept = visitor
        .run_async(
            "const done = arguments[0];
            indexedDB.open('manyhands').onsuccess = ({ target }) => {
                const get = target.result.transaction('identity').objectStore('identity').get('key');
                get.onsuccess = () => done(Object.keys(get.result).sort().join(' '));
            };",
        )
        .await?;
    assert_eq!(text(&kept), "iv sealed wrap", "the key is not of the whole worker's own Ed25519");
    Ok(())
}
