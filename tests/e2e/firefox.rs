//! Firefox: a visit on the page, and one in another site's frame. Firefox and its driver are a matter of long runs
//! (`cargo xtask test --long`, or `--only firefox`), which install them.

use std::time::Duration;

use anyhow::Result;
use manyhands_tests::artefacts;
use manyhands_tests::browser::Visitor;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use manyhands_tests::site::registered;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
#[ignore = "Firefox is a matter of long runs"]
async fn a_visitor_with_firefox_contributes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::default())?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open_firefox(&server.url).await?;
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.accepted) >= 5", LIMIT).await?;
    println!("{state}");
    assert_eq!(state["rejected"], "0", "{state}");
    visitor.screenshot(&artefacts()?.join("firefox.png")).await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", Duration::from_secs(2)).await?;
    Ok(())
}

/// As in Chromium, a software adapter is taken only where it is asked for.
#[tokio::test]
#[ignore = "Firefox is a matter of long runs"]
async fn firefox_computes_in_webgpu() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::default())?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open_firefox(&format!("{}/?backend=gpu", server.url)).await?;
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.accepted) >= 5", LIMIT).await?;
    assert_eq!((state["backend"].as_str(), state["rejected"].as_str()), (Some("webgpu"), Some("0")), "{state}");
    Ok(())
}

/// In a frame Firefox parts storage by the page around, and tells nobody what covers a button.
#[tokio::test]
#[ignore = "Firefox is a matter of long runs"]
async fn a_visitor_of_another_site_contributes_with_firefox() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::default())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let site = registered(&server, &server.url, &format!("job={job}")).await?;
    let visitor = Visitor::open_firefox(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("Number(d.accepted) >= 1 && d.done > 1", LIMIT).await?;
    visitor.leave_frame().await?;
    visitor.wait_for_element("e.contribution.accepted >= 1", LIMIT).await
}
