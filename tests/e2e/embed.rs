//! The element in somebody else's page: a visitor contributes there, and the page around can neither start the work, nor
//! read it, nor raise what was agreed to.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ed25519_dalek::{Signer as _, SigningKey};
use manyhands_protocol::site::SiteTotals;
use manyhands_protocol::statement::Consent;
use manyhands_protocol::view::InfoView;
use manyhands_protocol::{JobId, KeyId, cbor, cose, limits};
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;
use manyhands_tests::site::{Site, element, registered};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);
/// Presses that may go by until the frame lies still.
const PRESSES_MAX: usize = 20;

/// A coordinator with a job that never ends, and a proxy that counts what a visit would call.
async fn endless(folder: &Path) -> Result<(Server, JobId, Proxy)> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/sessions"), ("GET", "/manyhands-worker")]).await?;
    Ok((server, job, proxy))
}

/// A consent that opens a session, by a key made for it.
async fn signed_consent(coordinator: &str) -> Result<Vec<u8>> {
    let answer = reqwest::get(format!("{coordinator}/v1/info")).await?.bytes().await?;
    let info: InfoView = serde_json::from_slice(&answer)?;
    let key = SigningKey::from_bytes(&[7; 32]);
    let consent = Consent {
        version: limits::PROTOCOL_VERSION,
        audience: info.key,
        nonce: hex::decode(info.nonce)?,
        origin: "native".to_owned(),
        site: String::new(),
        job: None,
        duty_percent: 100,
        data_bytes_max: 0,
        terms_version: limits::TERMS_VERSION,
        issued_ms: info.now_ms,
        expires_ms: info.now_ms + limits::SESSION_MS_MAX,
        category: None,
    };
    let id = KeyId(key.verifying_key().to_bytes());
    let unsigned = cose::prepare(cose::Kind::Consent, id, cbor::encode(&consent));
    let signature = key.sign(&unsigned.to_be_signed()).to_bytes();
    Ok(unsigned.finish(signature))
}

/// Opens the page and waits until the element has something to offer.
async fn open(site: &Site) -> Result<Visitor> {
    let visitor = Visitor::open(&site.origin).await?;
    until(&visitor, "e.state === 'idle'").await?;
    Ok(visitor)
}

/// Waits, in the page around, until a condition over the element `e` holds.
async fn until(visitor: &Visitor, condition: &str) -> Result<()> {
    visitor.wait_for_element(condition, LIMIT).await
}

const COSE: &str = "application/cose";
const FRAME: &str = "document.querySelector('many-hands').shadowRoot.querySelector('iframe')";

#[tokio::test]
async fn a_visitor_of_another_site_contributes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let site = registered(&server, &proxy.url, &format!("job={job} duty=20 accent=violet scheme=light")).await?;
    let visitor = open(&site).await?;
    assert_eq!(visitor.run(&format!("return {FRAME}.sandbox.value;")).await?, "allow-scripts allow-same-origin allow-popups");
    visitor.screenshot(&artefacts()?.join("embed-offer.png")).await?;
    assert_eq!((proxy.count("/v1/sessions").total, proxy.count("/manyhands-worker").total), (0, 0), "nothing before Start");

    visitor.enter_frame("many-hands").await?;
    let wide = "return document.getElementById('panel').offsetWidth / document.body.offsetWidth > 0.95;";
    assert_eq!(visitor.run(wide).await?, true, "the offer takes the frame's width");
    assert!(text(&visitor.run("return document.getElementById('consent-cost').textContent;").await?).contains("20%"));
    visitor.press_seen_start(LIMIT).await?;
    let working = visitor.wait_until("Number(d.accepted) >= 1 && d.done > 1", LIMIT).await?;
    visitor.screenshot(&artefacts()?.join("embed-working.png")).await?;
    visitor.leave_frame().await?;
    until(&visitor, "e.state === 'working' && e.contribution.accepted >= 1 && e.contribution.flop > 0").await?;
    assert_eq!(
        visitor.run("return JSON.stringify(e = Object.keys(document.querySelector('many-hands').contribution));").await?,
        "[\"units\",\"accepted\",\"rejected\",\"pending\",\"flop\"]",
        "sums, and no key"
    );

    visitor.run("document.querySelector('many-hands').pause();").await?;
    until(&visitor, "e.state === 'paused'").await?;
    visitor.run("document.querySelector('many-hands').stop();").await?;
    until(&visitor, "e.state === 'stopped'").await?;
    // Nor can it begin again what was stopped.
    visitor.run("document.querySelector('many-hands').start();").await?;
    visitor.enter_frame("many-hands").await?;
    assert_eq!(text(&visitor.state().await?["state"]), "stopped");

    let totals: SiteTotals = serde_json::from_str(&server.run(&["site", "totals", "shop", "--json"])?)?;
    assert!(totals.sessions == 1 && totals.results_accepted >= 1, "{totals:?}; {working}");
    Ok(())
}

#[tokio::test]
async fn the_page_around_cannot_start_read_or_forge() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    // More than the page itself would ask for.
    let site = registered(&server, &proxy.url, &format!("job={job} duty=500 data=999999")).await?;
    let visitor = open(&site).await?;
    // By a key of the page's own, right in every byte: only that another page sends it is wrong with it.
    let consent = signed_consent(&server.url).await?;
    let tried = visitor
        .run_async(&format!(
            "const done = arguments[arguments.length - 1], frame = {FRAME}, seen = {{}};
            const attempt = async (name, act) => {{ try {{ seen[name] = String(await act()); }} catch (e) {{ seen[name] = e.name; }} }};
            (async () => {{
                await attempt('document', () => frame.contentDocument);
                await attempt('inside', () => frame.contentWindow.document);
                await attempt('storage', () => frame.contentWindow.localStorage);
                await attempt('info', () => fetch('{url}/v1/info').then((r) => r.json()));
                const session = {{ method: 'POST', body: new Uint8Array({consent:?}) }};
                await attempt('session', () => fetch('{url}/v1/sessions', session).then((r) => r.status));
                await attempt('typed', () => fetch('{url}/v1/sessions', {{ ...session, headers: {{ 'content-type': '{COSE}' }} }}).then((r) => r.status));
                await attempt('blind', () => fetch('{url}/v1/sessions', {{ ...session, mode: 'no-cors' }}).then((r) => r.type));
                const e = document.querySelector('many-hands');
                e.start();
                for (const type of ['start', 'resume', 'press', 'state'])
                    frame.contentWindow.postMessage({{ manyHands: 1, type, state: 'working', duty: 100 }}, '*');
                postMessage({{ manyHands: 1, type: 'state', state: 'working' }}, '*');
                postMessage({{ manyHands: 1, type: 'contribution', units: 9 }}, '*');
                addEventListener('message', () => setTimeout(() => done({{ ...seen, state: e.state, units: e.contribution.units }})), {{ once: true }});
            }})();",
            url = proxy.url
        ))
        .await?;
    println!("{tried}");
    assert_eq!(tried["document"], "null");
    for name in ["inside", "storage"] {
        assert_eq!(tried[name], "SecurityError", "{name}");
    }
    for name in ["info", "session", "typed"] {
        assert_eq!(tried[name], "TypeError", "{name}");
    }
    assert_eq!(tried["blind"], "opaque", "what came of it is not told");
    assert_eq!((&tried["state"], &tried["units"]), (&json!("idle"), &json!(0)));
    assert_eq!(proxy.count("/v1/sessions").total, 2, "two were sent; of what calls for leave first, nothing was");
    visitor.enter_frame("many-hands").await?;
    assert_eq!(text(&visitor.state().await?["state"]), "idle");
    // Its nonce opens one session, and is still good: none of them opened it.
    let own = reqwest::Client::new().post(format!("{}/v1/sessions", server.url));
    let own = own.header("content-type", COSE).body(consent).send().await?;
    assert_eq!(own.status(), 201);
    let cost = text(&visitor.run("return document.getElementById('consent-cost').textContent;").await?);
    assert!(!cost.contains("500") && cost.contains("1 GB"), "{cost}");
    // A click that no person made, on a Start that a person could press.
    visitor.wait_until("d.seen === 'true' && d.unread === '0'", LIMIT).await?;
    visitor.run("document.getElementById('start').click(); document.getElementById('start').dispatchEvent(new MouseEvent('click', { bubbles: true }));").await?;
    assert_eq!(text(&visitor.state().await?["state"]), "idle");
    Ok(())
}

#[tokio::test]
async fn a_press_on_what_nobody_sees_starts_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let site = registered(&server, &proxy.url, &format!("job={job}")).await?;
    let visitor = open(&site).await?;
    for disguise in [
        "const over = document.createElement('div'); over.id = 'over';
         over.style.cssText = 'position: fixed; inset: 0; background: white; pointer-events: none'; document.body.append(over);",
        // Over the first line of what Start agrees to, Start itself free.
        "const over = document.createElement('div'); over.id = 'over';
         const { x, y } = document.querySelector('many-hands').getBoundingClientRect();
         over.style.cssText = `position: absolute; left: ${x + scrollX}px; top: ${y + scrollY}px; width: 300px; height: 60px; background: white`;
         document.body.append(over);",
        "document.querySelector('many-hands').style.opacity = '0.01';",
        "document.querySelector('many-hands').style.transform = 'rotate(0.5deg)';",
    ] {
        visitor.run(disguise).await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.seen === 'false'", LIMIT).await.with_context(|| disguise.to_owned())?;
        visitor.press_start().await?;
        visitor.wait_until("!document.getElementById('covered').hidden", LIMIT).await.with_context(|| disguise.to_owned())?;
        assert_eq!(text(&visitor.state().await?["state"]), "idle", "{disguise}");
        // Nor is more given than was offered.
        visitor.press("background").await?;
        assert_eq!(visitor.run("return document.getElementById('background').checked;").await?, false, "{disguise}");
        visitor.leave_frame().await?;
        visitor
            .run("document.getElementById('over')?.remove(); document.querySelector('many-hands').style.cssText = '';")
            .await?;
    }
    assert_eq!(proxy.count("/v1/sessions").total, 0);
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    Ok(())
}

/// Whether Start told why it did not count, and nothing began.
async fn until_doubted(visitor: &Visitor, why: &str) -> Result<()> {
    let answered = format!("document.getElementById('covered').dataset.why === '{why}' || d.state !== 'idle'");
    visitor.wait_until(&answered, LIMIT).await?;
    assert_eq!(text(&visitor.state().await?["state"]), "idle", "{why}");
    Ok(())
}

/// Middle of Start in the frame's own pixels.
async fn start_in_frame(visitor: &Visitor) -> Result<[f64; 2]> {
    let middle = "const box = document.getElementById('start').getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];";
    let middle = visitor.run(middle).await?;
    let part = |at: usize| middle[at].as_f64().context("a number");
    Ok([part(0)?, part(1)?])
}

const AT_REST: &str = "position: fixed; left: 0; top: 0; width: 700px";

/// From beside the frame, and from another place in it; on pages of the usual size, on one that its visitor's browser magnifies,
/// and on one that magnifies itself.
#[tokio::test]
async fn a_frame_moved_under_a_hand_starts_nothing() -> Result<()> {
    for (zoom, magnify) in [(1.0, ""), (1.5, ""), (1.0, "document.documentElement.style.zoom = '1.5';")] {
        moved_under_a_hand(zoom, magnify).await.with_context(|| format!("{zoom} {magnify}"))?;
    }
    Ok(())
}

/// `zoom` is the browser's, `magnify` what the page around does first.
async fn moved_under_a_hand(zoom: f64, magnify: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let body = format!(
        "<p id=bait style='position: fixed; left: 900px; top: 1000px'>Press here</p>{}",
        element(&proxy.url, &format!("job={job} style='{AT_REST}'"))
    );
    let site = Site::start(&proxy.url, |_| body).await?;
    site.register(&server)?;
    let visitor = Visitor::open_zoomed(&site.origin, zoom).await?;
    until(&visitor, "e.state === 'idle'").await?;
    assert_eq!(visitor.run("return devicePixelRatio;").await?.as_f64(), Some(zoom));
    visitor.resize(2100, 2250).await?;
    visitor.run(magnify).await?;
    for bait in ["#bait", "many-hands"] {
        visitor.run(&format!("document.querySelector('many-hands').style.cssText = '{AT_REST}';")).await?;
        visitor.hover(bait).await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.seen === 'true' && d.unread === '0'", LIMIT).await?;
        visitor.run("document.getElementById('covered').dataset.why = '';").await?;
        let [x, y] = start_in_frame(&visitor).await?;
        visitor.leave_frame().await?;
        visitor
            .run(&format!(
                "const at = document.querySelector('{bait}').getBoundingClientRect(), e = document.querySelector('many-hands');
                e.style.left = `${{(at.x + at.width / 2) / e.currentCSSZoom - {x}}}px`;
                e.style.top = `${{(at.y + at.height / 2) / e.currentCSSZoom - {y}}}px`;"
            ))
            .await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.seen === 'true'", LIMIT).await?;
        visitor.leave_frame().await?;
        visitor.click_here().await?;
        visitor.enter_frame("many-hands").await?;
        until_doubted(&visitor, "covered").await.context(bait)?;
        visitor.leave_frame().await?;
    }
    assert_eq!(proxy.count("/v1/sessions").total, 0);
    // It rests now.
    visitor.enter_frame("many-hands").await?;
    visitor.press_offered_start(LIMIT).await
}

/// Presses Start until it says that there is more to be seen: first, the mouse has only come there.
async fn press_unread_start(visitor: &Visitor) -> Result<()> {
    let why = "return document.getElementById('covered').dataset.why;";
    for _ in 0..PRESSES_MAX {
        visitor.press("start").await?;
        assert_eq!(text(&visitor.state().await?["state"]), "idle");
        if visitor.run(why).await? == "unread" {
            return Ok(());
        }
    }
    anyhow::bail!("Start says {}", visitor.run(why).await?)
}

/// Start is in sight, what it agrees to above the page's edge.
#[tokio::test]
async fn what_nobody_saw_is_not_agreed_to() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let body = element(&proxy.url, &format!("job={job} style='position: fixed; left: 0; top: -4000px; width: 700px'"));
    let site = Site::start(&proxy.url, |_| body).await?;
    site.register(&server)?;
    let visitor = open(&site).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.unread === '6'", LIMIT).await?;
    let [_, y] = start_in_frame(&visitor).await?;
    visitor.leave_frame().await?;
    visitor.run(&format!("document.querySelector('many-hands').style.top = '{}px';", 50.0 - y)).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.seen === 'true'", LIMIT).await?;
    press_unread_start(&visitor).await?;
    visitor.screenshot(&artefacts()?.join("embed-unread.png")).await?;
    visitor.leave_frame().await?;
    visitor.run("document.querySelector('many-hands').style.position = '';").await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_offered_start(LIMIT).await?;
    assert_eq!(visitor.state().await?["unread"], "0");
    Ok(())
}

/// A phone on which the offer is taller than the screen.
const SMALL: (u32, u32) = (320, 480);
/// How long a reader stays where they scrolled to, by the page's own frames.
const READING_MS: u32 = 1_200;

/// Scrolls the page around to `y` and reads there; in the frame before and after.
async fn read_at(visitor: &Visitor, y: f64) -> Result<()> {
    visitor.leave_frame().await?;
    visitor
        .run_async(&format!(
            "const done = arguments[0];
            scrollTo(0, {y});
            requestAnimationFrame(function read(now, begun = now) {{
                if (now - begun < {READING_MS}) requestAnimationFrame((next) => read(next, begun));
                else done();
            }});"
        ))
        .await?;
    visitor.enter_frame("many-hands").await
}

/// Top of an element of the frame, and its end, on the page around.
async fn place_of(visitor: &Visitor, element: &str) -> Result<[f64; 2]> {
    let inside =
        visitor.run(&format!("const {{ top, bottom }} = {element}.getBoundingClientRect(); return [top, bottom];")).await?;
    visitor.leave_frame().await?;
    let around = visitor.run("return scrollY + document.querySelector('many-hands').getBoundingClientRect().top;").await?;
    visitor.enter_frame("many-hands").await?;
    let around = around.as_f64().context("a number")?;
    let part = |at: usize| Ok::<f64, anyhow::Error>(around + inside[at].as_f64().context("a number")?);
    Ok([part(0)?, part(1)?])
}

/// Somebody who opened the page on a small screen.
async fn on_a_small_screen(site: &Site) -> Result<Visitor> {
    let visitor = Visitor::open("about:blank").await?;
    visitor.resize(SMALL.0, SMALL.1).await?;
    visitor.goto(&site.origin).await?;
    until(&visitor, "e.state === 'idle'").await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.unread !== undefined", LIMIT).await?;
    Ok(visitor)
}

/// Reads from the top of the page to where the screen ends at `end`, in steps of half a screen.
async fn read_down_to(visitor: &Visitor, end: f64) -> Result<()> {
    let (mut y, last) = (0.0, end - f64::from(SMALL.1));
    while y < last {
        read_at(visitor, y).await?;
        y += f64::from(SMALL.1) / 2.0;
    }
    read_at(visitor, last.max(0.0)).await
}

#[tokio::test]
async fn what_has_no_room_on_the_screen_is_seen_in_parts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let site = registered(&server, &proxy.url, &format!("job={job}")).await?;
    let term = |at: usize| format!("document.querySelectorAll('#consent dd')[{at}]");
    let start = "document.getElementById('start')";

    // Who scrolls through all of it can start at once.
    let visitor = on_a_small_screen(&site).await?;
    let [top, _] = place_of(&visitor, &term(0)).await?;
    let [_, end] = place_of(&visitor, start).await?;
    assert!(end - top > 1.5 * f64::from(SMALL.1), "the offer is {} px high", end - top);
    read_down_to(&visitor, end + 20.0).await?;
    assert_eq!(text(&visitor.state().await?["unread"]), "0");
    visitor.press_offered_start(LIMIT).await?;

    // Who passes over half of one term cannot, until they saw it.
    let visitor = on_a_small_screen(&site).await?;
    let [top, bottom] = place_of(&visitor, &term(4)).await?;
    read_down_to(&visitor, (top + bottom) / 2.0).await?;
    let [next, _] = place_of(&visitor, &term(5)).await?;
    read_at(&visitor, next - 1.0).await?;
    let state = visitor.wait_until("d.seen === 'true'", LIMIT).await?;
    assert_eq!(text(&state["unread"]), "1", "{state}");
    press_unread_start(&visitor).await?;
    // What was passed over is in sight now.
    visitor.wait_until("d.unread === '0'", LIMIT).await?;
    visitor.press_offered_start(LIMIT).await
}

#[tokio::test]
async fn a_removed_element_ends_its_work() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    let site = registered(&server, &proxy.url, &format!("job={job}")).await?;
    let visitor = open(&site).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("d.unit !== ''", LIMIT).await?;
    server.follow(job, LIMIT, |view| view.contributors_now == 1).await?;
    visitor.leave_frame().await?;
    visitor.run("document.querySelector('many-hands').remove();").await?;
    // The lease is given back, or lapses within a minute where the browser ended the frame first.
    server.follow(job, LIMIT, |view| view.contributors_now == 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_page_that_may_not_shows_its_own_words() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    server.run(&["site", "add", "shop", "--origin", "https://shop.example", "--category", "demo"])?;
    let stranger = Site::start(&proxy.url, |_| element(&proxy.url, &format!("job={job}"))).await?;
    let visitor = Visitor::open(&stranger.origin).await?;
    until(&visitor, "e.state === 'unreachable'").await?;
    assert_eq!(visitor.run("return document.getElementById('instead').checkVisibility();").await?, true);
    assert_eq!(visitor.run(&format!("return {FRAME}.checkVisibility();")).await?, false);
    Ok(())
}

#[tokio::test]
async fn limits_that_are_no_numbers_are_the_least() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job, proxy) = endless(folder.path()).await?;
    for attributes in ["duty=none data=none", "duty=0 data=0", "duty=-3 data=0.5"] {
        let site = registered(&server, &proxy.url, &format!("job={job} {attributes}")).await?;
        let visitor = open(&site).await?;
        visitor.enter_frame("many-hands").await?;
        let cost = text(&visitor.run("return document.getElementById('consent-cost').textContent;").await?);
        assert!(cost.starts_with("Up to 5%") && cost.contains("at most 1 MB a day"), "{attributes}: {cost}");
    }
    Ok(())
}
