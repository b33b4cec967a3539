//! The page on which owners of other sites make the lines that they paste: what it makes is what the command line prints and
//! what works, its look at the offer starts nothing, and it is for everyone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use manyhands_tests::accessible::{examined, found, speak};
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;
use manyhands_tests::site::Site;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);

fn endless(folder: &Path) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

async fn ready(visitor: &Visitor) -> Result<()> {
    visitor.wait_until("d.state === 'ready'", LIMIT).await?;
    Ok(())
}

/// Fills a field in, as typing in it does.
async fn choose(visitor: &Visitor, id: &str, value: &str) -> Result<()> {
    let script = format!(
        "const field = document.getElementById('{id}'); field.value = '{value}';
        field.dispatchEvent(new Event('input', {{ bubbles: true }}));"
    );
    visitor.run(&script).await?;
    Ok(())
}

async fn made(visitor: &Visitor, id: &str) -> Result<String> {
    Ok(text(&visitor.run(&format!("return document.getElementById('{id}').textContent;")).await?))
}

/// In the frame of the look, once this holds there.
async fn in_look(visitor: &Visitor, condition: &str) -> Result<()> {
    let script = format!(
        "const [done] = arguments, frame = document.getElementById('look');
        const check = () => {{
            const root = frame.contentDocument?.documentElement, d = root?.dataset ?? {{}};
            if (root && ({condition})) done(true); else setTimeout(check, 50);
        }};
        check();"
    );
    tokio::time::timeout(LIMIT, visitor.run_async(&script)).await.with_context(|| condition.to_owned())??;
    Ok(())
}

#[tokio::test]
async fn what_it_makes_is_what_works() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = Visitor::open(&server.url).await?;
    visitor.wait_until("d.state === 'idle'", LIMIT).await?;
    visitor.press("embed").await?;
    ready(&visitor).await?;
    let told = server.run(&["site", "add", "shop", "--origin", "http://localhost:1", "--category", "demo"])?;
    choose(&visitor, "site", "shop").await?;
    // The same lines, made twice.
    for id in ["short", "pinned"] {
        let lines = made(&visitor, id).await?;
        assert!(lines.lines().count() == 2 && told.contains(&lines), "{lines}\n{told}");
    }
    for (id, value) in [("runs", "1"), ("duty", "20"), ("data", "50"), ("scheme", "dark"), ("accent", "rose"), ("tongue", "de")] {
        choose(&visitor, id, value).await?;
    }
    let element = "<many-hands site=\"shop\" job=\"1\" duty=\"20\" data=\"50\" scheme=\"dark\" accent=\"rose\" language=\"de\"></many-hands>";
    let lines = made(&visitor, "pinned").await?;
    assert!(lines.ends_with(element), "{lines}");
    choose(&visitor, "runs", "public_good").await?;
    assert!(made(&visitor, "short").await?.contains("<many-hands site=\"shop\" category=\"public_good\" duty="));
    choose(&visitor, "runs", "1").await?;
    assert_eq!(made(&visitor, "policy").await?, format!("script-src {0}; frame-src {0}", server.url));
    // What is wrong is said, and the lines stay what they were.
    for (id, wrong, right) in [("site", "My shop", "shop"), ("duty", "3", "20"), ("data", "0", "50")] {
        choose(&visitor, id, wrong).await?;
        assert_eq!(made(&visitor, "pinned").await?, lines);
        assert_eq!(visitor.run("return document.getElementById('wrong').checkVisibility();").await?, true, "{id}");
        choose(&visitor, id, right).await?;
        assert_eq!(visitor.run("return document.getElementById('wrong').checkVisibility();").await?, false, "{id}");
    }
    // In a page with such a policy.
    let site = Site::start(&server.url, |_| lines.clone()).await?;
    site.register(&server)?;
    let customer = Visitor::open(&site.origin).await?;
    customer.wait_for_element("e.state === 'idle'", LIMIT).await?;
    customer.enter_frame("many-hands").await?;
    let state = customer.wait_until("d.scheme === 'dark' && d.accent === 'rose'", LIMIT).await?;
    assert_eq!(text(&state["job"]), "1");
    Ok(())
}

#[tokio::test]
async fn the_look_follows_the_choices_and_starts_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/sessions"), ("GET", "/manyhands-worker")]).await?;
    let visitor = Visitor::open(&format!("{}/embed/", proxy.url)).await?;
    ready(&visitor).await?;
    in_look(&visitor, "d.state === 'idle' && d.framed === ''").await?;
    for (id, value) in
        [("scheme", "dark"), ("accent", "violet"), ("radius", "none"), ("density", "compact"), ("tongue", "ar"), ("duty", "10")]
    {
        choose(&visitor, id, value).await?;
    }
    in_look(
        &visitor,
        "d.state === 'idle' && d.scheme === 'dark' && d.accent === 'violet' && d.radius === 'none' && root.lang === 'ar' && root.scrollHeight <= root.clientHeight",
    )
    .await?;
    let seen = visitor
        .run(
            "const at = document.getElementById('look').contentDocument, start = at.getElementById('start');
            start.click();
            return [start.disabled, at.getElementById('preview').checkVisibility(), at.getElementById('duty').max, document.documentElement.lang];",
        )
        .await?;
    assert_eq!(seen, json!([true, true, "10", "en"]));
    assert_eq!((proxy.count("/v1/sessions").total, proxy.count("/manyhands-worker").total), (0, 0));
    let broken: Vec<String> = visitor
        .console_log()
        .await?
        .into_iter()
        .filter(|line| line.contains("Content Security Policy") || line.contains("SEVERE"))
        .collect();
    assert_eq!(broken, Vec::<String>::new());
    // No other page may frame it so, not even that of a registered site.
    let site =
        Site::start(&proxy.url, |_| format!("<iframe id=frame src='{0}/?preview=&site=shop'></iframe>", proxy.url)).await?;
    site.register(&server)?;
    let visitor = Visitor::open(&site.origin).await?;
    let log = visitor.console_log().await?.join("\n");
    assert!(log.contains("frame-ancestors"), "{log}");
    Ok(())
}

#[tokio::test]
async fn it_is_for_everyone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = endless(folder.path())?;
    let visitor = examined(&format!("{}/embed/", server.url)).await?;
    ready(&visitor).await?;
    for tag in ["en", "de", "ar"] {
        speak(&visitor, tag).await?;
        for scheme in ["light", "dark"] {
            visitor.run(&format!("document.documentElement.dataset.scheme = '{scheme}';")).await?;
            for width in [320, 390, 900, 1280] {
                visitor.resize(width, 1400).await?;
                let over = visitor.run("return document.documentElement.scrollWidth - innerWidth;").await?;
                assert!(over.as_i64() <= Some(0), "{tag} at {width}: {over} px too wide");
            }
            assert_eq!(found(&visitor).await?, Vec::<String>::new(), "{tag}, {scheme}");
            visitor.screenshot(&artefacts()?.join(format!("generator-{tag}-{scheme}-desktop.png"))).await?;
            visitor.resize(390, 2600).await?;
            visitor.screenshot(&artefacts()?.join(format!("generator-{tag}-{scheme}-phone.png"))).await?;
        }
    }
    // By keyboard: each field and button is a stop, in the order of the page, and shows that it is.
    let mut stops = Vec::new();
    visitor.run("document.activeElement.blur();").await?;
    for _ in 0..40 {
        visitor.type_key('\u{e004}').await?;
        let at = visitor
            .run(
                "const at = document.activeElement, { outlineStyle } = getComputedStyle(at);
                return [at.id || at.dataset.copies || at.localName, at.localName === 'iframe' || outlineStyle !== 'none'];",
            )
            .await?;
        // Past the last one.
        if at[0] == "body" {
            break;
        }
        assert_eq!(at[1], true, "nothing shows that the keyboard is at {at}");
        stops.push(text(&at[0]));
    }
    for id in [
        "language", "site", "runs", "tongue", "scheme", "accent", "radius", "density", "duty", "data", "look", "short", "pinned",
        "policy",
    ] {
        assert!(stops.iter().any(|stop| stop == id), "no stop at {id}: {stops:?}");
    }
    Ok(())
}
