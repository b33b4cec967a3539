//! Eight windows of one browser: one key, one session, one event stream between them, and all of them make progress. And what
//! becomes of a session whose page goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;

/// More than the six connections that a browser opens to one host.
const WINDOWS: usize = 8;
const LIMIT: Duration = Duration::from_secs(240);
/// In which a session is gone with its page.
const GONE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn eight_windows_share_key_session_and_stream() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let endless = SmallTrain {
        units_per_round: 16,
        rounds_max: 100_000,
        target_accuracy: 1.0,
        noisy_labels: true,
        ..SmallTrain::default()
    };
    let files = jobs::train(folder.path(), endless)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("GET", "/events"), ("POST", "/v1/sessions")]).await?;

    let visitor = Visitor::open(&proxy.url).await?;
    let mut windows = vec![visitor.window().await?];
    for _ in 1..WINDOWS {
        windows.push(visitor.open_window(&proxy.url).await?);
    }
    for window in &windows {
        visitor.switch_to(window).await?;
        visitor.press_start().await?;
    }
    let mut keys = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        visitor.switch_to(window).await?;
        let state = visitor.wait_until("Number(d.done) >= 1 && d.key !== ''", LIMIT).await?;
        println!("window {index}: {state}");
        // Left to itself, the worker takes the CPU path where the only adapter is a software one.
        assert_eq!(text(&state["backend"]), "wasm", "{state}");
        // The worker for browsers that have it, as this one does.
        assert_eq!(text(&state["adapter"]), "wasm32 relaxed-simd", "{state}");
        assert!(text(&state["reason"]).contains("software adapter"), "{state}");
        keys.push(text(&state["key"]));
    }
    keys.dedup();
    assert_eq!(keys.len(), 1, "one browser profile, one key: {keys:?}");

    // Every window sees the rounds go by, whoever reads the stream.
    let round = server.job(job).await?.train.map_or(0, |train| train.rounds_merged) + 1;
    for window in &windows {
        visitor.switch_to(window).await?;
        visitor.wait_until(&format!("Number(d.round) >= {round}"), LIMIT).await?;
    }

    let (events, sessions) = (proxy.count("/events"), proxy.count("/v1/sessions"));
    println!("event streams {events:?}, sessions {sessions:?}");
    assert_eq!(sessions.total, 1, "one session");
    assert_eq!(events.open, 1, "one event stream at the end");
    // When the reader's window goes to the background another takes over; both may be open for a moment.
    assert!(events.open_max <= 2, "{events:?}");
    let view = server.job(job).await?;
    assert_eq!((view.contributors, view.results_rejected), (1, 0));
    Ok(())
}

/// Hears what the page's workers say, beside the page.
const LISTEN: &str = "globalThis.tokens = [];
const Real = Worker;
globalThis.Worker = class extends Real {
    constructor(...given) {
        super(...given);
        this.addEventListener('message', ({ data }) => data.type === 'session' && tokens.push(data.token));
    }
};";

/// Whether the coordinator still knows this session.
async fn lives(server: &Server, token: &str) -> Result<bool> {
    let lease = format!("{}/v1/leases/999999/heartbeat", server.url);
    let status = reqwest::Client::new().post(lease).bearer_auth(token).send().await?.status();
    Ok(status != reqwest::StatusCode::UNAUTHORIZED)
}

async fn until_over(server: &Server, tokens: &[String]) -> Result<()> {
    let over = async {
        for token in tokens {
            while lives(server, token).await? {
                tokio::task::yield_now().await;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(GONE, over).await.context("a session outlives its page")?
}

/// A visit of a browser that keeps nothing, by one more window of it, in the middle of a unit; and its sessions.
async fn unkept(visitor: &Visitor, server: &Server) -> Result<Vec<String>> {
    visitor.open_window("about:blank").await?;
    visitor.before_pages(LISTEN).await?;
    visitor.goto(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.unit !== '' && tokens.length === 2", LIMIT).await?;
    let tokens: Vec<String> = visitor.run("return tokens;").await?.as_array().context("a list")?.iter().map(text).collect();
    for token in &tokens {
        ensure!(lives(server, token).await?, "a session of a visit at work");
    }
    Ok(tokens)
}

/// What opens a session with a key in memory alone withdraws it, however its page goes: there is no coming back to it.
#[tokio::test]
async fn no_session_outlives_the_page_that_has_its_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    // Units that nobody finishes while this looks, after a first one that the small worker computes.
    let slow = SmallTrain { width: 784, hidden: 256, inner_steps: 2000, units_per_round: 4, ..SmallTrain::endless() };
    let files = jobs::train(folder.path(), slow)?;
    server.submit(&files.manifest, &files.data)?;
    let visitor = Visitor::open_forgetful("about:blank").await?;
    let first = visitor.window().await?;

    let tokens = unkept(&visitor, &server).await?;
    visitor.close_window().await?;
    until_over(&server, &tokens).await?;

    visitor.switch_to(&first).await?;
    let tokens = unkept(&visitor, &server).await?;
    visitor.goto("about:blank").await?;
    until_over(&server, &tokens).await?;
    // Where the browser kept the page, its visit goes on, by what was agreed to.
    visitor.back().await?;
    let state = visitor.wait_until("d.state === 'idle' || (d.unit !== '' && tokens.length > 2)", LIMIT).await?;
    println!("after coming back: {}", state["state"]);

    visitor.switch_to(&first).await?;
    let tokens = unkept(&visitor, &server).await?;
    visitor.press_stop().await?;
    until_over(&server, &tokens).await
}

/// The session of a key that is kept is there for the next page.
#[tokio::test]
async fn a_kept_session_outlives_its_page() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/sessions")]).await?;
    let visitor = Visitor::open("about:blank").await?;
    let first = visitor.window().await?;
    for _ in 0..2 {
        visitor.switch_to(&first).await?;
        visitor.open_window(&format!("{}/?backend=cpu", proxy.url)).await?;
        visitor.press_start().await?;
        visitor.wait_until("Number(d.done) >= 2", LIMIT).await?;
        visitor.close_window().await?;
    }
    assert_eq!(proxy.count("/v1/sessions").total, 1);
    Ok(())
}
