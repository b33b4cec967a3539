//! Eight windows of one browser: one key, one session, one event stream between them, and all of them make progress.

use std::time::Duration;

use anyhow::Result;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;

/// More than the six connections that a browser opens to one host.
const WINDOWS: usize = 8;
const LIMIT: Duration = Duration::from_secs(240);

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
