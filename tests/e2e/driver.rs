//! The browser driver itself, on a page of three lines: that its waits can fail, and that a killed browser is gone.

use std::time::Duration;

use anyhow::Result;
use manyhands_tests::browser::{Visitor, number};

const PAGE: &str = "data:text/html,<html data-state='idle'><input type='range' id='duty'><button id='start' disabled>Start</button><script>\
    const d = document.documentElement.dataset, b = document.getElementById('start');\
    setTimeout(() => { b.disabled = false; }, 300);\
    b.onclick = () => { console.log('pressed'); d.state = 'working'; setTimeout(() => { d.accepted = '3'; }, 300); };\
    </script>";

#[tokio::test]
async fn presses_waits_and_kills() -> Result<()> {
    let mut visitor = Visitor::open(PAGE).await?;
    assert_eq!(visitor.state().await?["state"], "idle");
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.accepted) >= 3", Duration::from_secs(30)).await?;
    assert_eq!((state["state"].as_str(), number(&state, "accepted")?), (Some("working"), 3.0));
    assert!(number(&state, "rejected").is_err());

    let missed = visitor.wait_until("d.state === 'finished'", Duration::from_millis(200)).await;
    let message = format!("{:#}", missed.expect_err("the page never gets there"));
    assert!(message.contains("\"state\":\"working\"") && message.contains("pressed"), "{message}");
    assert!(visitor.wait_until("this is no JavaScript", Duration::from_secs(5)).await.is_err());

    visitor.kill();
    assert!(visitor.state().await.is_err(), "a killed browser answers nothing");
    Ok(())
}

#[tokio::test]
async fn a_button_that_is_not_there_is_an_error() -> Result<()> {
    let visitor = Visitor::open("data:text/html,<html>").await?;
    let first = visitor.run("return document.getElementById('start');").await?;
    assert!(first.is_null());
    assert!(visitor.run("return nothing.here;").await.is_err());
    Ok(())
}
