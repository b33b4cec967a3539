//! What the coordinator lets its page, the page in a frame, the worker and the workers of that one do: a whole visit breaks no
//! policy and asks nobody else for anything, and what a script that got into one of them would try is refused.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use manyhands_tests::browser::Visitor;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use manyhands_tests::site::{Site, element};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);
/// The browser tells of what it refused within this.
const TOLD_LIMIT: Duration = Duration::from_secs(20);
/// Another site; nothing answers there.
const ELSEWHERE: &str = "http://untrusted.test:9/";
/// However many cores this machine has, a second worker computes beside the visit's own.
const TWO_LANES: &str = "globalThis.Worker = class extends Worker {
    postMessage(message) { super.postMessage(message.type === 'start' ? { ...message, lanes: 2 } : message); }
};";

/// Jobs whose units go on for as long as a test looks.
fn endless(folder: &Path) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

/// What the browser says of broken policies since the last call: it tells of pages, frames and workers in one place.
async fn broken(visitor: &Visitor) -> Result<Vec<String>> {
    let mut lines = visitor.console_log().await?;
    lines.retain(|line| {
        ["Content Security Policy", "TrustedScript", "TrustedHTML", "trusted-types"].iter().any(|word| line.contains(word))
    });
    Ok(lines)
}

async fn until_broken(visitor: &Visitor, what: &str) -> Result<()> {
    let begun = Instant::now();
    while broken(visitor).await?.is_empty() {
        ensure!(begun.elapsed() < TOLD_LIMIT, "the browser lets it happen, or does not tell: {what}");
    }
    Ok(())
}

/// A call to somebody else, from each worker of this name.
async fn call_elsewhere(visitor: &Visitor, name: &str) -> Result<()> {
    let call = format!("fetch('{ELSEWHERE}').catch(() => {{}})");
    let count = visitor.run_in_workers(name, &call).await?;
    ensure!(count > 0, "there is no worker {name}");
    until_broken(visitor, name).await
}

async fn only_from(visitor: &Visitor, origin: &str) -> Result<()> {
    let others: Vec<String> = visitor.resources().await?.into_iter().filter(|url| !url.starts_with(origin)).collect();
    ensure!(others.is_empty(), "from third parties: {others:?}");
    Ok(())
}

#[tokio::test]
async fn a_visit_breaks_no_policy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.run(TWO_LANES).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 4", LIMIT).await?;
    visitor.press("try").await?;
    visitor.wait_until("d.answers !== undefined", LIMIT).await?;
    only_from(&visitor, &server.url).await?;
    assert_eq!(broken(&visitor).await?, Vec::<String>::new());
    // Each of them would have been heard.
    for worker in ["many-hands", "many-hands-lane"] {
        call_elsewhere(&visitor, worker).await?;
    }
    visitor.run(&format!("fetch('{ELSEWHERE}').catch(() => {{}});")).await?;
    until_broken(&visitor, "the page").await
}

#[tokio::test]
async fn a_visit_in_a_frame_breaks_no_policy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let url = &server.url;
    let site = Site::start(url, |_| element(url, "")).await?;
    // Another origin of the same host: the browser tells of its frames in the same place.
    let origin = site.origin.replace("localhost", "127.0.0.1");
    server.run(&["site", "add", "shop", "--origin", &origin, "--category", "demo"])?;
    let visitor = Visitor::open(&origin).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("Number(d.accepted) >= 2", LIMIT).await?;
    only_from(&visitor, url).await?;
    assert_eq!(broken(&visitor).await?, Vec::<String>::new());
    visitor.run(&format!("fetch('{ELSEWHERE}').catch(() => {{}});")).await?;
    until_broken(&visitor, "the frame").await
}

/// What somebody who can change the page's document would do to run a script of theirs.
#[tokio::test]
async fn no_other_script_gets_in() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.run(TWO_LANES).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 4", LIMIT).await?;
    assert_eq!(broken(&visitor).await?, Vec::<String>::new());
    let refused = [
        "document.body.innerHTML = '<img src=x onerror=stolen()>'",
        "document.createElement('script').text = 'stolen()'",
        "document.createElement('script').src = '/page/main.js'",
        "document.createElement('iframe').srcdoc = '<script>stolen()</script>'",
        "new Worker('/page/main.js')",
        "new Worker(URL.createObjectURL(new Blob(['stolen()'])))",
        "eval('0')",
        "new Function('return 0')()",
        "trustedTypes.createPolicy('mine', { createScriptURL: (address) => address })",
        "trustedTypes.createPolicy('manyhands-worker', { createScriptURL: (address) => address })",
    ];
    for attempt in refused {
        // Later: what the debugger runs at once may use eval.
        let script = format!(
            "const done = arguments[0]; setTimeout(() => {{ try {{ {attempt}; done('done'); }} catch (e) {{ done(e.name); }} }});"
        );
        let outcome = visitor.run_async(&script).await?;
        assert!(outcome == json!("TypeError") || outcome == json!("EvalError"), "{attempt}: {outcome}");
        until_broken(&visitor, attempt).await?;
    }
    // The page's policy itself, told of another address by a page that was changed before Start.
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    for address in [ELSEWHERE, "/page/main.js", "//untrusted.test/manyhands-worker-opening-0123456789abcdef.js"] {
        visitor
            .run(&format!(
                "const meta = document.querySelector('meta[name=manyhands-worker]');
                meta.content = '{address}';
                delete meta.dataset.integrity;"
            ))
            .await?;
        visitor.press("restart").await?;
        visitor.press_start().await?;
        let state = visitor.wait_until("d.state === 'failed'", LIMIT).await?;
        assert!(state["error"].as_str().is_some_and(|error| error.contains("no worker")), "{address}: {state}");
    }
    Ok(())
}

/// The same in the workers, which the coordinator sends a policy of their own: the second one too, which the first begins.
#[tokio::test]
async fn no_other_script_gets_into_a_worker() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.run(TWO_LANES).await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 4", LIMIT).await?;
    for worker in ["many-hands", "many-hands-lane"] {
        for attempt in ["new Worker('/page/main.js')", "eval('1')", "trustedTypes.createPolicy('mine', {})"] {
            assert_eq!(broken(&visitor).await?, Vec::<String>::new(), "before {attempt}");
            assert!(
                visitor.run_in_workers(worker, &format!("setTimeout(() => {{ try {{ {attempt} }} catch {{}} }})")).await? > 0,
                "no {worker}"
            );
            until_broken(&visitor, &format!("{worker}: {attempt}")).await?;
        }
    }
    Ok(())
}
