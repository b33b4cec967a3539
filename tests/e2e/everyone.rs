//! The page for everyone: what axe-core finds in each of its states, looks and languages (nothing), a visit by keyboard alone,
//! what a screen reader is told, motion, narrow and wide windows; and pictures of it all, to be looked at.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manyhands_tests::accessible::{LANGUAGES, SCHEMES, dress, examine, examined, found, speak};
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::Server;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);
/// Keys by WebDriver's names (its section 17.4.2).
const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';
const SPACE: char = ' ';
/// Most stops of the keyboard that the page has.
const STOPS_MAX: usize = 40;

/// A coordinator with a job that goes on for as long as a test looks.
fn endless(folder: &Path) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

#[tokio::test]
async fn axe_finds_nothing_in_any_state() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let job = server.jobs().await?[0].id;
    let visitor = examined(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    examine(&visitor, "the offer").await?;
    visitor.press("not-now").await?;
    examine(&visitor, "declined").await?;
    visitor.press("reconsider").await?;
    visitor.press_start().await?;
    visitor.wait_until("d.phases.includes('accepted') && Number(d.round) > 0", LIMIT).await?;
    visitor.run("for (const each of document.querySelectorAll('details')) each.open = true;").await?;
    examine(&visitor, "working").await?;
    visitor.press("try").await?;
    visitor.wait_until("d.answers !== undefined", LIMIT).await?;
    examine(&visitor, "answers").await?;
    visitor.press_pause().await?;
    visitor.wait_until("d.state === 'paused'", LIMIT).await?;
    examine(&visitor, "paused").await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    examine(&visitor, "stopped").await?;
    visitor.press("mine-import").await?;
    examine(&visitor, "taking a key from a file").await?;
    server.run(&["job", "pause", &job.to_string()])?;
    visitor.wait_until("d.jobState === 'paused'", LIMIT).await?;
    examine(&visitor, "the job paused").await?;
    visitor.goto(&format!("{}/?job=999", server.url)).await?;
    visitor.wait_until("d.state === 'no_jobs'", LIMIT).await?;
    examine(&visitor, "no job").await?;
    // A check that cannot find anything would be none.
    visitor
        .run("document.getElementById('notice-text').style.color = '#bbb'; document.documentElement.dataset.scheme = 'light';")
        .await?;
    assert!(found(&visitor).await?.iter().any(|line| line.starts_with("color-contrast")), "axe-core finds nothing at all");
    Ok(())
}

#[tokio::test]
async fn the_offer_is_legible_in_every_look_a_site_may_choose() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = examined(&server.url).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    dress(&visitor, "framed", "").await?;
    for density in ["", "compact"] {
        dress(&visitor, "density", density).await?;
        for accent in ["teal", "blue", "violet", "rose"] {
            dress(&visitor, "accent", accent).await?;
            for scheme in SCHEMES {
                dress(&visitor, "scheme", scheme).await?;
                assert_eq!(found(&visitor).await?, Vec::<String>::new(), "{accent}, {scheme}, {density}");
            }
        }
    }
    Ok(())
}

/// Where the keyboard is: the element's id, or its name where it has none; and how its place is marked.
async fn stop(visitor: &Visitor) -> Result<(String, f64)> {
    let at = visitor
        .run(
            "const at = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(at);
            return [at.id || at.localName, outlineStyle === 'none' ? 0 : parseFloat(outlineWidth)];",
        )
        .await?;
    Ok((text(&at[0]), at[1].as_f64().context("a width")?))
}

/// Tabs to the element with this id, past stops that all show that they are.
async fn tab_to(visitor: &Visitor, id: &str) -> Result<Vec<String>> {
    let mut passed = Vec::new();
    for _ in 0..STOPS_MAX {
        visitor.type_key(TAB).await?;
        let (at, outline) = stop(visitor).await?;
        ensure!(outline >= 2.0, "nothing shows that the keyboard is at {at}");
        passed.push(at.clone());
        if at == id {
            return Ok(passed);
        }
    }
    anyhow::bail!("the keyboard does not come to {id}: {passed:?}")
}

#[tokio::test]
async fn a_visit_takes_no_more_than_a_keyboard() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    assert_eq!(tab_to(&visitor, "start").await?, ["a", "a", "summary", "language", "duty", "background", "start"]);
    tab_to(&visitor, "not-now").await?;
    visitor.type_key(ENTER).await?;
    visitor.wait_until("d.state === 'declined'", LIMIT).await?;
    assert_eq!(stop(&visitor).await?.0, "declined-title");
    tab_to(&visitor, "reconsider").await?;
    visitor.type_key(SPACE).await?;
    visitor.wait_until("d.state === 'idle'", LIMIT).await?;
    assert_eq!(stop(&visitor).await?.0, "start", "back at what was declined");
    visitor.type_key(ENTER).await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    assert_eq!(stop(&visitor).await?.0, "visit-title");
    tab_to(&visitor, "pause").await?;
    visitor.type_key(SPACE).await?;
    visitor.wait_until("d.state === 'paused'", LIMIT).await?;
    assert_eq!(stop(&visitor).await?.0, "pause", "the same button goes on with it");
    tab_to(&visitor, "stop").await?;
    visitor.type_key(ENTER).await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    assert_eq!(stop(&visitor).await?.0, "visit-title", "the button is gone, the keyboard is not");
    tab_to(&visitor, "restart").await?;
    visitor.type_key(ENTER).await?;
    visitor.wait_until("d.state === 'idle'", LIMIT).await?;
    ensure!(stop(&visitor).await?.0 != "body", "the keyboard is thrown out of the page");
    Ok(())
}

/// A screen reader is told of each change of state once, and of units and rounds nothing.
#[tokio::test]
async fn live_regions_tell_states_and_do_not_chatter() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    visitor
        .run(
            "globalThis.told = [];
            for (const region of document.querySelectorAll('[role=status], [role=alert], [aria-live]')) {
                const note = () => { if (region.textContent) told.push(region.textContent); };
                new MutationObserver(note).observe(region, { childList: true, characterData: true, subtree: true });
            }",
        )
        .await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 6 && Number(d.round) > 1", LIMIT).await?;
    let told: Vec<String> = visitor.run("return told;").await?.as_array().context("a list")?.iter().map(text).collect();
    println!("{told:?}");
    let mut once = told.clone();
    once.sort();
    once.dedup();
    assert!(told.last().is_some_and(|last| last == "Working") && once.len() == told.len() && told.len() <= 8, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_moves_where_the_visitor_asks_for_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    let moving = "return document.getAnimations().length;";
    assert!(visitor.run(moving).await?.as_u64() > Some(0));
    visitor.reduce_motion(true).await?;
    assert_eq!(visitor.run(moving).await?, json!(0));
    Ok(())
}

/// What reaches out of the window.
const TOO_WIDE: &str = "return [...document.querySelectorAll('body *')]
    .filter((each) => { const { left, right } = each.getBoundingClientRect(); return left < -1 || right > innerWidth + 1; })
    .map((each) => [each.localName, each.id, each.className].filter(Boolean).join(' '));";

/// 320 CSS pixels are a desktop at 400 % (WCAG 1.4.10).
#[tokio::test]
async fn nothing_is_cut_off_in_narrow_or_wide_windows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.phases.includes('accepted') && Number(d.round) > 0", LIMIT).await?;
    visitor.run("for (const each of document.querySelectorAll('details')) each.open = true;").await?;
    for tag in LANGUAGES {
        speak(&visitor, tag).await?;
        for width in [320, 360, 560, 768, 899, 900, 1280, 2560] {
            visitor.resize(width, 900).await?;
            let over: Value = visitor.run("return document.documentElement.scrollWidth - innerWidth;").await?;
            assert!(over.as_i64() <= Some(0), "{tag} at {width}: {over} px too wide: {}", visitor.run(TOO_WIDE).await?);
        }
    }
    Ok(())
}

#[tokio::test]
async fn pictures_to_be_looked_at() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    pictures(&visitor, "offer").await?;
    visitor.press_start().await?;
    visitor.wait_until("Number(d.accepted) >= 3 && Number(d.round) > 2", LIMIT).await?;
    visitor.press("try").await?;
    visitor.wait_until("d.answers !== undefined", LIMIT).await?;
    pictures(&visitor, "working").await
}

async fn pictures(visitor: &Visitor, state: &str) -> Result<()> {
    for tag in LANGUAGES {
        speak(visitor, tag).await?;
        for scheme in SCHEMES {
            dress(visitor, "scheme", scheme).await?;
            for (device, width, height) in [("phone", 390, 2600), ("desktop", 1280, 1400)] {
                visitor.resize(width, height).await?;
                visitor.screenshot(&artefacts()?.join(format!("page-{state}-{tag}-{scheme}-{device}.png"))).await?;
            }
        }
    }
    speak(visitor, "en").await
}
