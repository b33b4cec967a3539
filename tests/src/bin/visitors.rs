//! `visitors --url U --count N`: opens N headless browsers with separate profiles, presses Start in each and prints one
//! JSON line per change of a page's state, until it is told to end. It takes its browsers with it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use manyhands_tests::browser::Visitor;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// A page that shows nothing new for so long is looked at again, for its browser may have gone.
const QUIET_MAX: Duration = Duration::from_secs(60);
const COUNT_MAX: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let (url, count) = arguments(std::env::args().skip(1))?;
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut visits = tokio::task::JoinSet::new();
    for index in 0..count {
        let url = url.clone();
        visits.spawn(async move { visit(index, &url).await.with_context(|| format!("visitor {index}")) });
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
        // A visit ends by an error alone.
        ended = visits.join_next() => if let Some(ended) = ended { ended?? },
    }
    visits.shutdown().await;
    Ok(())
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<(String, usize)> {
    let (mut url, mut count) = (None, 1);
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--url" => url = Some(value),
            "--count" => count = value.parse().context("--count is a number")?,
            _ => bail!("unknown argument {name}; usage: visitors --url URL [--count N]"),
        }
    }
    ensure!((1..=COUNT_MAX).contains(&count), "--count is 1 to {COUNT_MAX}");
    Ok((url.context("--url is missing")?, count))
}

async fn visit(index: usize, url: &str) -> Result<()> {
    let visitor = Visitor::open(url).await?;
    visitor.press_start().await?;
    let mut last = visitor.state().await?;
    loop {
        println!("{}", json!({ "visitor": index, "state": last }));
        let before = last.to_string();
        // Compared as text: members may come and go.
        let condition =
            format!("JSON.stringify(Object.entries({{...d}}).sort()) !== JSON.stringify(Object.entries({before}).sort())");
        last = loop {
            match visitor.wait_until(&condition, QUIET_MAX).await {
                Ok(state) => break state,
                Err(_) => drop(visitor.state().await?),
            }
        };
    }
}
