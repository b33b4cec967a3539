//! What becomes of a page with the element when things are not as they should be: two of them, a coordinator that is away, a
//! script that is blocked, storage that is refused, and attributes that change while a visitor helps.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use manyhands_protocol::JobId;
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::Server;
use manyhands_tests::site::{Site, element, registered};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);

/// A coordinator with a job that never ends.
fn endless(folder: &Path) -> Result<(Server, JobId)> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    let job = server.submit(&files.manifest, &files.data)?;
    Ok((server, job))
}

/// Goes into the frame of the element that this selects and presses Start there.
async fn start(visitor: &Visitor, selector: &str) -> Result<()> {
    visitor.run(&format!("document.querySelector('{selector}').scrollIntoView();")).await?;
    visitor.enter_frame(selector).await?;
    visitor.press_offered_start(LIMIT).await
}

/// The text of what is to be seen of an element; empty where it is hidden.
async fn seen(visitor: &Visitor, id: &str) -> Result<String> {
    let script = format!("const at = document.getElementById('{id}'); return at.checkVisibility() ? at.textContent : '';");
    Ok(text(&visitor.run(&script).await?))
}

async fn set(visitor: &Visitor, name: &str, value: &str) -> Result<()> {
    visitor.run(&format!("document.querySelector('many-hands').setAttribute('{name}', '{value}');")).await?;
    Ok(())
}

#[tokio::test]
async fn two_elements_take_a_consent_each_and_keep_one_limit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let two = |_: &str| {
        let [one, two] =
            ["one", "two"].map(|id| format!("<many-hands id={id} site=shop job={job} density=compact></many-hands>"));
        format!("{}{one}{two}", element(&server.url, "hidden"))
    };
    let site = Site::start(&server.url, two).await?;
    site.register(&server)?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.wait_for_element("all[1].state === 'idle' && all[2].state === 'idle'", LIMIT).await?;
    start(&visitor, "#one").await?;
    visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    visitor.leave_frame().await?;
    assert_eq!(visitor.run("return document.getElementById('two').state;").await?, "idle", "one press is for one element");
    start(&visitor, "#two").await?;
    // The page says so where two take turns under one limit.
    visitor.wait_until("Number(d.done) >= 1 && d.pace === 'shared'", LIMIT).await?;
    visitor.wait_until("document.documentElement.scrollHeight <= innerHeight", LIMIT).await?;
    visitor.leave_frame().await?;
    visitor.screenshot(&artefacts()?.join("embed-two.png")).await?;
    visitor.run("document.getElementById('one').stop();").await?;
    visitor.wait_for_element("all[1].state === 'stopped'", LIMIT).await?;
    visitor.enter_frame("#two").await?;
    let done = number(&visitor.state().await?, "done")?;
    visitor.wait_until(&format!("d.state === 'working' && d.pace !== 'shared' && d.done > {}", done + 1.0), LIMIT).await?;
    Ok(())
}

const ABSENT: &str = "[...document.querySelectorAll('many-hands')].map((e) => e.shadowRoot.querySelector('div'))";

#[tokio::test]
async fn a_coordinator_that_is_away_is_said_and_asked_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut server, job) = endless(folder.path())?;
    let script = reqwest::get(format!("{}/embed/v1/many-hands.js", server.url)).await?.text().await?;
    let body = |_: &str| {
        let attributes = format!("site=shop job={job} coordinator={}", server.url);
        format!(
            "<script type=module src=/script.js></script><many-hands {attributes}> </many-hands>\
             <many-hands {attributes} language=ar-EG scheme=dark></many-hands>\
             <many-hands {attributes}><p id=instead>No hands here.</p></many-hands><p id=after>The end.</p>"
        )
    };
    let site = Site::with_script(&server.url, &script, body).await?;
    site.register(&server)?;
    server.kill_9();
    let visitor = Visitor::open(&site.origin).await?;
    visitor.resize(320, 900).await?;
    visitor.wait_for_element("all.every(({ state }) => state === 'unreachable')", LIMIT).await?;
    visitor.screenshot(&artefacts()?.join("embed-absent.png")).await?;
    let shown = visitor.run(&format!("return {ABSENT}.map((box) => [box.checkVisibility(), box.textContent, box.dir]);")).await?;
    let host = server.address()?.to_string();
    let [bare, arabic, own] = [&shown[0], &shown[1], &shown[2]];
    assert!(bare[0] == json!(true) && text(&bare[1]).starts_with(&format!("{host} does not answer")), "{bare}");
    assert!(arabic[0] == json!(true) && text(&arabic[1]).contains("لا يجيب") && arabic[2] == "rtl", "{arabic}");
    assert_eq!(own[0], false, "the page has words of its own");
    assert_eq!((seen(&visitor, "instead").await?, seen(&visitor, "after").await?), ("No hands here.".into(), "The end.".into()));
    let over = visitor.run("return document.documentElement.scrollWidth - innerWidth;").await?;
    assert!(over.as_i64() <= Some(0), "{over} px too wide");
    let errors: Vec<String> = visitor.console_log().await?.into_iter().filter(|line| line.starts_with("SEVERE")).collect();
    let errors: Vec<&String> = errors.iter().filter(|line| !line.contains("net::ERR")).collect();
    assert!(errors.is_empty(), "{errors:?}");

    server.restart()?;
    visitor.run(&format!("const again = {ABSENT}[0].querySelector('button'); again.focus(); again.click();")).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    let after = visitor.run(&format!("return [{ABSENT}[0].checkVisibility(), document.activeElement.localName];")).await?;
    assert_eq!(after, json!([false, "many-hands"]), "the keyboard is where the button was");
    // The others without being told.
    visitor.wait_for_element("all.every(({ state }) => state === 'idle')", LIMIT).await?;
    assert_eq!(seen(&visitor, "instead").await?, "");
    Ok(())
}

#[tokio::test]
async fn a_coordinator_that_leaves_in_mid_visit_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut server, job) = endless(folder.path())?;
    let site = registered(&server, &server.url, &format!("job={job}")).await?;
    let visitor = Visitor::open(&site.origin).await?;
    start(&visitor, "many-hands").await?;
    visitor.wait_until("Number(d.accepted) >= 3", LIMIT).await?;
    server.kill_9();
    let gone = visitor.wait_until("d.state === 'unreachable'", LIMIT).await?;
    assert_eq!(seen(&visitor, "visit-state").await?, "No connection, trying again");
    visitor.leave_frame().await?;
    let around =
        visitor.run("return [document.querySelector('many-hands').state, document.querySelector('h1').textContent];").await?;
    assert_eq!(around, json!(["working", "Somebody else's site"]), "the visit is not over");
    assert_eq!(seen(&visitor, "instead").await?, "");
    server.restart()?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until(&format!("d.state === 'working' && Number(d.accepted) > {}", text(&gone["accepted"])), LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn where_the_script_is_blocked_the_page_has_its_own_words() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, _) = endless(folder.path())?;
    let proxy = Proxy::start(server.address()?, &[("GET", "/embed/")]).await?;
    proxy.refuse("/embed/", true);
    // By what filters requests, and by the page's own policy.
    let filtered = registered(&server, &proxy.url, "").await?;
    let forbidden = Site::start("https://other.example", |_| element(&server.url, "")).await?;
    for site in [filtered, forbidden] {
        let visitor = Visitor::open(&site.origin).await?;
        assert_eq!(visitor.run("return !!customElements.get('many-hands');").await?, false);
        assert_eq!(seen(&visitor, "instead").await?, "No hands here.");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_page_changes_in_mid_visit_is_not_forgotten() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let site = registered(&server, &server.url, &format!("job={job} duty=20 data=50 scheme=light")).await?;
    let visitor = Visitor::open(&site.origin).await?;
    start(&visitor, "many-hands").await?;
    visitor.wait_until("d.state === 'working' && d.duty !== '' && d.duty <= 20", LIMIT).await?;
    visitor.leave_frame().await?;

    // Less at once, more not at all; looks and language at once.
    for (name, value) in [("duty", "80"), ("data", "70"), ("scheme", "dark"), ("language", "de")] {
        set(&visitor, name, value).await?;
    }
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.scheme === 'dark' && document.documentElement.lang === 'de'", LIMIT).await?;
    let limits = "const { max, value } = document.getElementById('duty'); return [max, value];";
    assert_eq!(visitor.run(limits).await?, json!(["20", "20"]), "more than was agreed to");
    visitor.leave_frame().await?;
    set(&visitor, "duty", "10").await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.duty <= 10", LIMIT).await?;
    assert_eq!(visitor.run(limits).await?, json!(["10", "10"]));
    visitor.leave_frame().await?;
    set(&visitor, "duty", "60").await?;
    visitor.enter_frame("many-hands").await?;
    let done = number(&visitor.state().await?, "done")?;
    let state = visitor.wait_until(&format!("d.state === 'working' && d.done > {}", done + 1.0), LIMIT).await?;
    assert!(number(&state, "duty")? <= 10.0, "raised by script: {state}");
    assert_eq!(visitor.run(limits).await?, json!(["10", "10"]), "raised by script");

    // The next offer is what the page says by then.
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    visitor.press("restart").await?;
    visitor.leave_frame().await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.wait_until("d.state === 'idle' && d.scheme === 'dark' && document.documentElement.lang === 'de'", LIMIT).await?;
    assert_eq!(visitor.run(limits).await?, json!(["60", "30"]));
    assert!(seen(&visitor, "consent-cost").await?.contains("70 MB"), "{}", seen(&visitor, "consent-cost").await?);
    Ok(())
}

/// Neither by another offer of the same page, nor by the site's next page.
#[tokio::test]
async fn who_declined_is_not_asked_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let site = registered(&server, &server.url, &format!("job={job} duty=50")).await?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press("not-now").await?;
    visitor.leave_frame().await?;
    visitor.wait_for_element("e.state === 'declined'", LIMIT).await?;
    visitor.run("globalThis.frame = document.querySelector('many-hands').shadowRoot.querySelector('iframe');").await?;
    set(&visitor, "duty", "40").await?;
    set(&visitor, "job", &job.to_string()).await?;
    let same = "return document.querySelector('many-hands').shadowRoot.querySelector('iframe') === frame;";
    assert_eq!(visitor.run(same).await?, true, "no other offer");
    visitor.goto(&site.origin).await?;
    visitor.wait_for_element("e.state === 'declined'", LIMIT).await?;
    // Until the visitor wishes for it.
    visitor.enter_frame("many-hands").await?;
    visitor.press("reconsider").await?;
    visitor.wait_until("d.state === 'idle'", LIMIT).await?;
    visitor.leave_frame().await?;
    visitor.goto(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn the_frame_hears_nobody_but_the_page_around() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let site = registered(&server, &server.url, &format!("job={job}")).await?;
    let visitor = Visitor::open(&site.origin).await?;
    start(&visitor, "many-hands").await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    // Another window than the one around: its own.
    visitor
        .run_async(
            "const done = arguments[0];
            for (const type of ['stop', 'pause', 'lower', 'look']) postMessage({ manyHands: 1, type, duty: '5', look: { scheme: 'dark' } }, '*');
            postMessage({ manyHands: 2, type: 'stop' }, '*');
            addEventListener('message', ({ data }) => { if (data === 'last') setTimeout(done); });
            postMessage('last', '*');",
        )
        .await?;
    let done = number(&visitor.state().await?, "done")?;
    let state = visitor.wait_until(&format!("d.state === 'working' && d.done > {done}"), LIMIT).await?;
    let most = visitor.run("return document.getElementById('duty').max;").await?;
    assert_eq!((most, state.get("scheme")), (json!("30"), None));
    Ok(())
}

/// A page that took the coordinator's place in the frame.
#[tokio::test]
async fn the_element_hears_the_coordinator_s_origin_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let forged = "for (const state of ['working', 'stopped']) parent.postMessage({ manyHands: 1, type: 'state', state }, '*');
        parent.postMessage({ manyHands: 1, type: 'contribution', units: 9 }, '*');
        parent.postMessage('last', '*');";
    let other = Site::with_script(&server.url, forged, |_| "<script src=/script.js></script>".to_owned()).await?;
    let site = Site::start(&format!("{} {}", server.url, other.origin), |_| element(&server.url, &format!("job={job}"))).await?;
    site.register(&server)?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    let heard = visitor
        .run_async(&format!(
            "const done = arguments[0], e = document.querySelector('many-hands');
            addEventListener('message', ({{ data, origin }}) => {{
                if (data === 'last') setTimeout(() => done([origin, e.state, e.contribution.units]));
            }});
            e.shadowRoot.querySelector('iframe').src = '{}';",
            other.origin
        ))
        .await?;
    assert_eq!(heard, json!([other.origin, "idle", 0]));
    Ok(())
}

#[tokio::test]
async fn a_frame_that_may_keep_nothing_says_so_and_works() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let site = registered(&server, &server.url, &format!("job={job}")).await?;
    for visitor in [Visitor::open_forgetful(&site.origin).await?, Visitor::open_without_third_parties(&site.origin).await?] {
        visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.jobState === 'running' && d.link !== 'connecting'", LIMIT).await?;
        let kept = seen(&visitor, "consent-kept").await?;
        visitor.press_seen_start(LIMIT).await?;
        visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
        let key = seen(&visitor, "my-key").await?;
        println!("{kept} {key}");
        // What was said before Start is what happened.
        assert_eq!(
            kept.contains("This browser keeps nothing for this page"),
            key.ends_with(", for this visit only"),
            "{kept} {key}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn where_keys_cannot_be_kept_it_is_said_before_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, job) = endless(folder.path())?;
    let visitor = Visitor::open("about:blank").await?;
    visitor
        .before_pages("IDBFactory.prototype.databases = () => Promise.reject(new DOMException('no', 'SecurityError'));")
        .await?;
    visitor.goto(&format!("{}/?job={job}", server.url)).await?;
    visitor
        .wait_until(
            "d.jobState === 'running' && document.getElementById('consent-kept').textContent.includes('keeps nothing')",
            LIMIT,
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_consent_to_a_kind_goes_on_with_the_next_job() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let product = folder.path().join("product");
    std::fs::create_dir(&product)?;
    let files = jobs::matmul(&product, [256; 3], 64)?;
    let first = server.submit(&files.manifest, &files.data)?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/sessions")]).await?;
    let site = registered(&server, &proxy.url, "category=demo").await?;
    let visitor = Visitor::open(&site.origin).await?;
    start(&visitor, "many-hands").await?;
    let state = visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;
    assert_eq!(text(&state["job"]), first.to_string());
    let second = server.submit(&files.manifest, &files.data)?;
    let followed = format!("d.job === '{second}' && d.jobState === 'running' && d.state === 'working'");
    visitor.wait_until(&followed, LIMIT).await?;
    server.follow(second, LIMIT, |view| view.results_accepted > 0).await?;
    assert_eq!(proxy.count("/v1/sessions").total, 1, "one consent");
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    visitor.press("restart").await?;
    let what = seen(&visitor, "consent-what").await?;
    assert!(what.starts_with("All jobs of the kind “Demonstration”"), "{what}");
    visitor.screenshot(&artefacts()?.join("embed-category.png")).await?;
    Ok(())
}
