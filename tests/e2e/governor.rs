//! The visitor's limits, as they are felt: processor time by the kernel's account, frames of an animation around, bytes by
//! a proxy's. Nothing here asks the governor how well it does.

use std::time::Duration;

use anyhow::{Result, ensure};
use fantoccini::key::Key;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::frames;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;
use manyhands_tests::share::{UNGOVERNED, at_work, endless, share};
use manyhands_tests::site::registered;

const LIMIT: Duration = Duration::from_secs(180);
/// What the limit is measured over in a long run.
const WINDOW: Duration = Duration::from_secs(60);
/// Long enough to tell full work from a third of it.
const GLANCE: Duration = Duration::from_secs(12);
/// Nothing comes for this long: twice the longest wait between two units.
const QUIET: Duration = Duration::from_secs(4);
/// A short run shares its machine and has no time: it tells a third from all, or from two thirds.
const ROUGHLY: std::ops::RangeInclusive<f64> = 0.18..=0.48;

fn is_long() -> bool {
    std::env::var_os("MANYHANDS_TEST_LONG").is_some()
}

/// As the page offers it.
async fn offered(visitor: &Visitor) -> Result<()> {
    visitor.press("start").await
}

#[tokio::test]
async fn thirty_percent_of_a_gpu_is_that_much_processor_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let url = format!("{}/?backend=gpu&tune=off", server.url);
    let (window, expected) = if is_long() { (WINDOW, 0.25..=0.35) } else { (GLANCE, ROUGHLY) };
    let taken = share(&url, window, offered).await?;
    assert!(expected.contains(&taken), "30 % were {taken:.3}");
    // The same measurement sees a governor that does nothing.
    let ungoverned = share(&url, GLANCE, async |visitor: &Visitor| {
        visitor.run(UNGOVERNED).await?;
        visitor.press("start").await
    })
    .await?;
    assert!(ungoverned >= 0.8, "without a governor {ungoverned:.3}");
    Ok(())
}

/// On the CPU the limit is a share of all lanes together, here one.
#[tokio::test]
async fn thirty_percent_of_the_processor_is_that_much_of_its_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 8000)?;
    let taken = share(&format!("{}/?backend=cpu", server.url), GLANCE, offered).await?;
    assert!(ROUGHLY.contains(&taken), "30 % were {taken:.3}");
    Ok(())
}

/// Two windows of one browser take no more than one may.
#[tokio::test]
async fn the_limit_holds_for_all_tabs_together() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let url = format!("{}/?backend=gpu&tune=off", server.url);
    let taken = share(&url, 2 * GLANCE, async |visitor: &Visitor| {
        visitor.press("start").await?;
        at_work(visitor).await?;
        visitor.open_window(&url).await?;
        visitor.press("start").await?;
        at_work(visitor).await?;
        visitor.wait_until("d.pace === 'shared'", LIMIT).await.map(drop)
    })
    .await?;
    // Two limits side by side would take 0.6.
    assert!(ROUGHLY.contains(&taken), "two tabs at 30 % took {taken:.3}");
    Ok(())
}

#[tokio::test]
async fn the_limit_can_be_lowered_under_way_and_not_raised() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let visitor = Visitor::open(&server.url).await?;
    let cost =
        async || Ok::<_, anyhow::Error>(text(&visitor.run("return document.getElementById('consent-cost').textContent;").await?));
    visitor.wait_until("d.jobState === 'running'", LIMIT).await?;
    assert!(cost().await?.contains("30%"));
    visitor.press_key("duty", Key::Right).await?;
    assert!(cost().await?.contains("31%"));
    visitor.press("start").await?;
    visitor.wait_until("d.duty === '31'", LIMIT).await?;
    visitor.press_key("duty", Key::Home).await?;
    visitor.wait_until("d.duty === '5'", LIMIT).await?;
    visitor.press_key("duty", Key::End).await?;
    visitor.wait_until("d.duty === '31'", LIMIT).await?;
    assert!(visitor.run("return document.getElementById('duty-note').textContent;").await?.to_string().contains("new consent"));
    // A new offer begins with what was chosen last, and goes as far as any.
    visitor.press_key("duty", Key::Left).await?;
    visitor.press_stop().await?;
    visitor.press("restart").await?;
    assert!(cost().await?.contains("30%"));
    visitor.press_start().await?;
    visitor.wait_until("d.duty === '100'", LIMIT).await?;
    Ok(())
}

/// The worker is on its way while the visitor thinks again.
#[tokio::test]
async fn a_limit_lowered_while_the_worker_loads_counts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor
        .run(
            "const real = fetch, gate = new Promise((open) => (globalThis.openGate = open));
            globalThis.fetch = async (address, options) => {
                if (String(address).includes('manyhands-worker')) await gate;
                return real(address, options);
            };",
        )
        .await?;
    visitor.wait_until("d.jobState === 'running'", LIMIT).await?;
    visitor.press("start").await?;
    visitor.wait_until("d.state === 'loading'", LIMIT).await?;
    visitor.press_key("duty", Key::Home).await?;
    visitor.run("openGate();").await?;
    visitor.wait_until("d.duty === '5'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_start_that_was_stopped_while_the_worker_loads_leaves_none_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let visitor = Visitor::open(&server.url).await?;
    visitor
        .run(
            "const real = fetch, Real = Worker, gates = [];
            globalThis.workers = 0;
            globalThis.openGates = () => gates.forEach((open) => open());
            globalThis.fetch = async (address, options) => {
                if (String(address).includes('manyhands-worker')) await new Promise((open) => gates.push(open));
                return real(address, options);
            };
            globalThis.Worker = class extends Real {
                constructor(...options) { super(...options); workers += 1; }
                terminate() { super.terminate(); workers -= 1; }
            };",
        )
        .await?;
    visitor.wait_until("d.jobState === 'running'", LIMIT).await?;
    visitor.press("start").await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    visitor.press("restart").await?;
    visitor.press("start").await?;
    visitor.wait_until("d.state === 'loading'", LIMIT).await?;
    visitor.run("openGates();").await?;
    visitor.wait_until("Number(d.done) >= 1", LIMIT).await?;
    assert_eq!(visitor.run("return workers;").await?, 1, "the first press has a worker of its own");
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    assert_eq!(visitor.run("return workers;").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_hidden_tab_goes_on_only_where_that_was_chosen() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/leases")]).await?;
    let visitor = Visitor::open(&proxy.url).await?;
    let page = visitor.window().await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.done) >= 1", LIMIT).await?;
    let beside = visitor.open_tab().await?;
    visitor.switch_to(&page).await?;
    let hidden = async |chosen: bool| -> Result<()> {
        visitor.switch_to(&beside).await?;
        let before = proxy.until("/v1/leases", LIMIT, |count| count.open == 0).await?.total;
        let asked = proxy.until("/v1/leases", QUIET, |count| count.total > before + 3).await;
        ensure!(asked.is_ok() == chosen, "chosen: {chosen}, asked: {asked:?}");
        visitor.switch_to(&page).await?;
        let done = number(&visitor.state().await?, "done")?;
        visitor.wait_until(&format!("Number(d.done) > {done}"), LIMIT).await?;
        Ok(())
    };
    hidden(false).await?;
    visitor.press("background").await?;
    hidden(true).await?;
    Ok(())
}

/// Stands in for what this machine has none of; `signs` moves it.
const SIGNS: &str = r#"
globalThis.signs = { drop: false };
globalThis.PressureObserver = class {
    constructor(look) { signs.pressure = (state) => look([{ state }]); }
    async observe() {}
    disconnect() {}
};
const battery = Object.assign(new EventTarget(), { charging: true, level: 1 });
navigator.getBattery = async () => battery;
signs.battery = (charging, level) => { Object.assign(battery, { charging, level }); battery.dispatchEvent(new Event("levelchange")); };
const connection = Object.assign(new EventTarget(), { saveData: false });
Object.defineProperty(navigator, "connection", { value: connection });
signs.saver = (on) => { connection.saveData = on; connection.dispatchEvent(new Event("change")); };
const frame = requestAnimationFrame.bind(globalThis);
let at = 0;
globalThis.requestAnimationFrame = (look) => frame(() => look((at += 1000 / (signs.drop && at % 3 < 1 ? 15 : 60))));
"#;

#[tokio::test]
async fn work_backs_off_and_the_page_says_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let visitor = Visitor::open("about:blank").await?;
    visitor.before_pages(SIGNS).await?;
    visitor.goto(&server.url).await?;
    visitor.press("start").await?;
    at_work(&visitor).await?;
    visitor.wait_until("d.duty === '30'", LIMIT).await?;
    for (sign, undo, duty, reason, said) in [
        ("signs.pressure('serious')", "signs.pressure('fair')", "15", "pressure", "busy"),
        ("signs.pressure('critical')", "signs.pressure('nominal')", "7.5", "pressure", "busy"),
        ("signs.battery(false, 0.2)", "signs.battery(true, 0.2)", "0", "battery", "battery is low"),
        ("signs.saver(true)", "signs.saver(false)", "0", "saver", "save data"),
        ("signs.drop = true", "signs.drop = false", "15", "frames", "smoothly"),
    ] {
        visitor.run(sign).await?;
        visitor.wait_until(&format!("d.duty === '{duty}' && d.pace === '{reason}'"), LIMIT).await?;
        visitor.wait_until(&format!("document.getElementById('visit-detail').textContent.includes('{said}')"), LIMIT).await?;
        if duty == "0" {
            visitor.wait_until("d.state === 'paused'", LIMIT).await?;
        }
        visitor.run(undo).await?;
        visitor.wait_until("d.duty === '30' && d.state === 'working'", LIMIT).await?;
    }
    Ok(())
}

/// Two windows of one browser, at one site that allows them four megabytes a day.
#[tokio::test]
async fn a_day_s_data_is_that_of_all_tabs_together() -> Result<()> {
    // More than the first tab moves before the second has begun: its own limit must not be what ends it.
    const MOST: u64 = 16_000_000;
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 20)?;
    let kinds = [("GET", "/v1/blobs/"), ("PUT", "/v1/blobs/")];
    let proxy = Proxy::start(server.address()?, &kinds).await?;
    let site = registered(&server, &proxy.url, "data=16").await?;
    let visitor = Visitor::open(&site.origin).await?;
    let first = visitor.window().await?;
    let second = visitor.open_window(&site.origin).await?;
    for window in [&first, &second] {
        visitor.switch_to(window).await?;
        visitor.enter_frame("many-hands").await?;
        visitor.press_seen_start(LIMIT).await?;
    }
    for window in [&first, &second] {
        visitor.switch_to(window).await?;
        visitor.enter_frame("many-hands").await?;
        let state = visitor.wait_until("d.state === 'failed'", LIMIT).await?;
        assert!(text(&state["error"]).contains("for a day is used up"), "{state}");
    }
    let moved = kinds.map(|(method, part)| proxy.bytes(method, part));
    println!("{moved:?} bytes");
    // Heads of requests and answers are no part of it, nor what is under way when the last byte is used up.
    let all: u64 = moved.iter().sum();
    assert!((MOST / 4..MOST + 400_000).contains(&all), "{all} bytes");
    Ok(())
}

/// An event stream with four megabytes of comment behind each of its parts, during a visit.
const LONG_STREAM: &str = r#"
const real = fetch;
const comment = new TextEncoder().encode(`:${"x".repeat(4e6)}\n`);
globalThis.fetch = async (asked, how) => {
    const answer = await real(asked, how);
    if (!String(asked).endsWith("/events")) return answer;
    const transform = (part, out) => {
        out.enqueue(part);
        if (document.documentElement.dataset.state === "working") out.enqueue(comment);
    };
    return new Response(answer.body.pipeThrough(new TransformStream({ transform })), answer);
};
"#;
/// What the page loads over and over during a visit.
const LOADED_AGAIN: &str = r#"
setInterval(async () => {
    const { state, job } = document.documentElement.dataset;
    if (state !== "working") return;
    const { train } = await (await fetch(`/v1/jobs/${job}`)).json();
    await (await fetch(`/v1/blobs/${train.test}`, { cache: "no-store" })).arrayBuffer();
}, 20);
"#;
/// What was counted: for the day, and for the visit.
const COUNTED: &str = r#"
const done = arguments[0];
const kept = (name, read) => new Promise((found) => {
    indexedDB.open(name).onsuccess = ({ target: { result } }) => {
        const store = result.objectStoreNames[0];
        read(result.transaction(store).objectStore(store)).onsuccess = ({ target }) => found(target.result);
    };
});
Promise.all([kept("manyhands-day", (day) => day.get("moved")), kept("manyhands-visits", (visits) => visits.getAll())])
    .then(([day, visits]) => done([day.bytes, visits[0].data_bytes]));
"#;

/// A visit whose units move next to nothing is used up by what its page moves.
#[tokio::test]
async fn what_the_page_moves_is_a_part_of_its_visit_s_data() -> Result<()> {
    const MOST: f64 = 20e6;
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    for script in [LONG_STREAM, LOADED_AGAIN] {
        let site = registered(&server, &server.url, "data=20").await?;
        let visitor = Visitor::open(&site.origin).await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.state === 'idle' && d.link === 'live'", LIMIT).await?;
        visitor.run(script).await?;
        // The stream that there is was begun before.
        server.kill_9();
        visitor.wait_until("d.link !== 'live'", LIMIT).await?;
        server.restart()?;
        visitor.wait_until("d.link === 'live'", LIMIT).await?;
        visitor.press_seen_start(LIMIT).await?;
        let state = visitor.wait_until("d.state === 'failed'", LIMIT).await?;
        assert_eq!(text(&state["end"]), "used_up", "{state}");
        let counted = visitor.run_async(COUNTED).await?;
        println!("{counted}, {} units", state["done"]);
        let [day, visit] = [0, 1].map(|at| counted[at].as_f64().unwrap_or_default());
        assert!((MOST * 0.9..=MOST * 1.1).contains(&day) && visit > MOST * 0.5, "{counted}");
        // On its own it would have taken hundreds of units.
        assert!(number(&state, "done")? < 100.0, "{state}");
    }
    Ok(())
}

/// An animation in the page around drops hardly more frames with the element at work than without.
#[tokio::test]
async fn the_page_around_stays_smooth() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path(), 1000)?;
    let (pairs, most) = if is_long() { (15, 0.02) } else { (3, 0.1) };
    let extra = frames::extra(&server, pairs).await?;
    println!("{extra:?}");
    assert!(extra.median < most, "{extra:?}");
    Ok(())
}
