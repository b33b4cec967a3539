//! `visit_times --rounds N --window SECONDS`: how long a visitor waits from Start to the first product and to the first accepted unit, on
//! WebGPU in a fresh profile each round, with a coordinator and the demo job of its own and nobody else connected. Prints
//! one JSON object per round, then, unless the window is 0, one of what a visit takes while it works: the share of the device
//! under the limit that is offered and without a governor, and the frames that the page around drops more. The page is the one that ships: its worker's messages are watched from outside.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::server::Server;
use manyhands_tests::{frames, jobs, share};
use serde_json::{Map, Value, json};

const ROUNDS_MAX: u32 = 100;
/// Pairs of looks at an animation, with and without work.
const FRAME_PAIRS: usize = 9;
const LIMIT: Duration = Duration::from_secs(120);

/// Notes when the visitor presses Start, and each message of the worker.
const WATCH: &str = r#"
    const marks = [];
    globalThis.visitMarks = marks;
    const note = (name) => marks.push([name, performance.now()]);
    document.getElementById("start").addEventListener("click", () => note("start"), { capture: true });
    globalThis.Worker = class extends Worker {
        constructor(...args) {
            note("worker");
            super(...args);
            this.addEventListener("message", ({ data }) => note([data.type, data.state, data.phase].filter(Boolean).join(" ")));
        }
    };
"#;
const FIRST_PAINT: &str = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null;";
/// How much slower than this one a slow computer is.
const SLOW: u32 = 4;
/// The page before Start.
const OFFERED: &str = "d.state === 'idle' && d.jobState === 'running'";

/// The parts of a visit's beginning, each from the end of the one before it to its own message.
const PARTS: &[(&str, &str)] = &[
    ("worker_script_ms", "worker"),
    ("worker_wasm_ms", "ready"),
    ("host_ms", "state starting"),
    ("adapter_ms", "state self_test"),
    ("self_test_ms", "adapter"),
    ("session_ms", "state waiting"),
    ("lease_ms", "unit leased"),
    ("inputs_ms", "unit computing"),
    ("product_ms", "unit computed"),
    ("upload_ms", "unit submitted"),
    ("verdict_ms", "unit accepted"),
];

#[tokio::main]
async fn main() -> Result<()> {
    let (rounds, window) = arguments(std::env::args().skip(1))?;
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::demo();
    server.submit(&files.manifest, &files.data)?;
    for _ in 0..rounds {
        println!("{}", round(&server.url).await?);
    }
    if !window.is_zero() {
        println!("{}", limits(window).await?);
    }
    Ok(())
}

/// What a visit takes under the limit that is offered, each share measured over `window`.
async fn limits(window: Duration) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let server = share::endless(folder.path(), 1000)?;
    let url = format!("{}/?backend=gpu&tune=off", server.url);
    let measured = share::share(&url, window, async |visitor: &Visitor| visitor.press("start").await).await?;
    let ungoverned = share::share(&url, window / 2, async |visitor: &Visitor| {
        visitor.run(share::UNGOVERNED).await?;
        visitor.press("start").await
    });
    let ungoverned = ungoverned.await?;
    let frames = frames::extra(&server, FRAME_PAIRS).await?;
    Ok(json!({
        "duty_target": 0.3, "duty_measured": measured, "duty_ungoverned": ungoverned,
        "frame_drop_extra": frames.median, "frame_drop_without": frames.without, "frame_drop_differences": frames.differences,
    }))
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<(u32, Duration)> {
    let (mut rounds, mut window_s) = (5, 60);
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rounds" => rounds = value.parse().context("--rounds is a number")?,
            "--window" => window_s = value.parse().context("--window is a number")?,
            _ => bail!("unknown argument {name}; usage: visit_times [--rounds N] [--window SECONDS]"),
        }
    }
    ensure!((1..=ROUNDS_MAX).contains(&rounds), "--rounds is 1 to {ROUNDS_MAX}");
    Ok((rounds, Duration::from_secs(window_s)))
}

async fn round(url: &str) -> Result<Value> {
    let visitor = Visitor::open(&format!("{url}/?backend=gpu")).await?;
    visitor.wait_until(OFFERED, LIMIT).await?;
    let first_paint = visitor.run(FIRST_PAINT).await?;
    visitor.run(WATCH).await?;
    visitor.press_start().await?;
    let state = visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    let marks = visitor.run("return globalThis.visitMarks;").await?;
    let mut times = times(&marks)?;
    times.insert("adapter".to_owned(), json!(text(&state["adapter"])));
    times.insert("first_paint_ms".to_owned(), first_paint);
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    // With nothing in its cache, as a first visit is.
    let slow = Visitor::open("about:blank").await?;
    slow.slow_down(SLOW).await?;
    slow.goto(url).await?;
    slow.wait_until(OFFERED, LIMIT).await?;
    times.insert("first_paint_slow_ms".to_owned(), slow.run(FIRST_PAINT).await?);
    Ok(Value::Object(times))
}

/// The parts and their sums, from marks in the order in which they were made.
fn times(marks: &Value) -> Result<Map<String, Value>> {
    let marks = marks.as_array().context("a list of marks")?;
    let at = |name: &str| {
        let found = marks.iter().find(|mark| mark[0] == name).and_then(|mark| mark[1].as_f64());
        found.with_context(|| format!("no {name:?} among {marks:?}"))
    };
    let start = at("start")?;
    let (mut times, mut before) = (Map::new(), start);
    for (part, mark) in PARTS {
        // Device and session are opened at once: what is over by then took no time of its own.
        let now = at(mark)?.max(before);
        times.insert((*part).to_owned(), json!(now - before));
        before = now;
    }
    times.insert("start_to_first_product_ms".to_owned(), json!(at("unit computed")? - start));
    times.insert("start_to_first_accepted_ms".to_owned(), json!(at("unit accepted")? - start));
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut marks: Vec<Value> = vec![json!(["start", 100.0])];
        marks.extend(PARTS.iter().enumerate().map(|(i, (_, mark))| json!([mark, 110.0 + 10.0 * i as f64])));
        // The session was there before the device.
        marks[6][1] = json!(90.0);
        let times = times(&json!(marks)).unwrap();
        let sum: f64 = PARTS.iter().map(|(part, _)| times[*part].as_f64().unwrap()).sum();
        assert_eq!(times["session_ms"], json!(0.0));
        assert_eq!(times["start_to_first_accepted_ms"], json!(sum));
        assert!(super::times(&json!(marks[..5])).is_err(), "a mark is missing");
    }
}
