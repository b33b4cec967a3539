//! A job on a text in a tab: the page shows bits for each byte, what the model writes after each round while the visitor
//! helps, and what it makes of the visitor's own words when the job is finished.

use std::time::Duration;

use anyhow::{Result, ensure};
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::jobs::{self, Kind};
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Texts of the page's list, newest first, each as the beginning and what was written after it.
const SAMPLES: &str = "return [...document.querySelectorAll('#samples .written')]
    .map((written) => [written.firstChild.textContent, written.lastChild.textContent]);";

async fn newest(visitor: &Visitor) -> Result<(String, String)> {
    let samples = visitor.run(SAMPLES).await?;
    Ok((text(&samples[0][0]).to_owned(), text(&samples[0][1]).to_owned()))
}

fn digits_of(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'0'..b'8').contains(byte))
}

#[tokio::test]
async fn a_tab_shows_what_the_model_writes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::model(folder.path(), Kind::Text)?;
    server.submit(&files.manifest, &files.data)?;

    let visitor = Visitor::open(&server.url).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    let shown = visitor.run("return document.getElementById('tryout').hidden;").await?;
    ensure!(shown == true, "nothing is written before Start");
    visitor.press_start().await?;
    let first = visitor.wait_until("Number(d.samples) >= 1", LIMIT).await?;
    let round = number(&first, "sampleRound")?;
    assert!(round >= 1.0, "{first}");
    let (prompt, written) = newest(&visitor).await?;
    assert!(prompt.len() == 12 && digits_of(prompt.as_bytes()), "held-out text: {prompt:?}");
    assert_eq!(written.chars().count(), 400, "{written:?}");

    visitor.wait_until(&format!("Number(d.sampleRound) > {round}"), LIMIT).await?;
    assert_eq!(newest(&visitor).await?.0, prompt, "the same beginning from round to round");

    // The worker ends with the job; asked again, it comes back for the visitor's own beginning.
    let last = visitor.wait_until("d.jobState === 'finished' && d.state === 'stopped'", LIMIT).await?;
    let title = visitor.run("return document.getElementById('loss-title').textContent;").await?;
    assert_eq!(title, "Bits per byte", "{last}");
    visitor.run("document.getElementById('prompt').value = '<b>0145';").await?;
    visitor.press("try").await?;
    let before = number(&last, "samples")?;
    visitor.wait_until(&format!("Number(d.samples) > {before}"), LIMIT).await?;
    let (prompt, written) = newest(&visitor).await?;
    assert_eq!(prompt, "0145", "what the vocabulary lacks is left out");
    let status = text(&visitor.run("return document.getElementById('try-status').textContent;").await?);
    assert!(status.contains("kB downloaded"), "{status:?}");
    // Most digits follow from the one before; a model that has not learnt it would be right once in eight times.
    let follow = |pair: &[u8]| digits_of(pair) && pair[1] - b'0' == ((pair[0] - b'0') * 3 + 1) % 8;
    let follows = written.as_bytes().windows(2).filter(|pair| follow(pair)).count();
    assert!(follows > 300, "{follows} of 399 follow: {written:?}");
    visitor.screenshot(&artefacts()?.join("text.png")).await?;
    let severe: Vec<_> = visitor.console_log().await?.into_iter().filter(|line| line.starts_with("SEVERE")).collect();
    assert_eq!(severe, Vec::<String>::new());
    Ok(())
}

/// Answers asked for while a visit is paused, one after another, until one fails.
const TRY_UNTIL_REFUSED: &str = r#"const [done] = arguments;
const worker = new Worker(document.querySelector("meta[name=manyhands-worker]").content, { type: "module" });
let tried = 0;
const again = () => worker.postMessage({ type: "try", job, rows: 1, prompt: "0", seed: 1, picture: null, asked: true });
worker.onmessage = ({ data }) => {
    if (data.type === "ready" && !tried) {
        worker.postMessage(
            { type: "start", job, site: "", backend: "cpu", tune: "off", duty_percent: 100, data_bytes_max: 2e6 });
    } else if (data.type === "unit" && data.phase === "accepted" && !tried) {
        tried = 1;
        worker.postMessage({ type: "pause" });
    } else if (data.type === "state" && data.state === "paused") again();
    else if (data.type === "sample" && tried < 10000) (tried += 1), again();
    else if (data.type === "sample") done("never refused");
    else if (data.type === "error") done(data.message);
};"#;

#[tokio::test]
async fn what_the_model_writes_counts_against_the_visits_data() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::model(folder.path(), Kind::Text)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open("about:blank").await?;
    // The page's policy begins no worker but its own.
    visitor.ignore_policies().await?;
    visitor.goto(&server.url).await?;
    let said = visitor.run_async(&format!("const job = {job}; {TRY_UNTIL_REFUSED}")).await?;
    // That of the visit or that of the day, whichever comes first.
    assert!(text(&said).contains("is used up"), "{said}");
    Ok(())
}

/// Two beginnings to go on from while a visit is paused: first one that nobody asked for, then one that the visitor waits for.
/// Gives the beginnings in the order in which they were answered.
const TRY_UNASKED: &str = r#"const [done] = arguments;
const worker = new Worker(document.querySelector("meta[name=manyhands-worker]").content, { type: "module" });
const answered = [];
let paused = false;
const ask = (prompt, asked) => worker.postMessage({ type: "try", job, rows: 1, prompt, seed: 1, picture: null, asked });
worker.onmessage = ({ data }) => {
    if (data.type === "ready" && !paused) {
        worker.postMessage(
            { type: "start", job, site: "", backend: "cpu", tune: "off", duty_percent: 100, data_bytes_max: 1e9 });
    } else if (data.type === "unit" && data.phase === "accepted" && data.kind === "train" && !paused) {
        paused = true;
        worker.postMessage({ type: "pause" });
    } else if (data.type === "state" && data.state === "paused") ask("1", false), ask("2", true);
    else if (data.type === "sample") {
        answered.push(data.prompt);
        if (answered.length === 1) worker.postMessage({ type: "resume" });
        else done(answered.join(" "));
    } else if (data.type === "error") done(data.message);
};"#;

#[tokio::test]
async fn what_nobody_asked_for_keeps_to_the_visits_limits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::model(folder.path(), Kind::Text)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open("about:blank").await?;
    visitor.ignore_policies().await?;
    visitor.goto(&server.url).await?;
    let answered = visitor.run_async(&format!("const job = {job}; {TRY_UNASKED}")).await?;
    assert_eq!(answered, "2 1", "what nobody asked for waits while the visit is paused");
    Ok(())
}
