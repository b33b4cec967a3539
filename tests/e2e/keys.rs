//! The visitor's key and what they gave, over visits: kept in one browser, listed, forgotten, replaced, saved to a file and taken
//! from one; and what is said where that cannot be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use manyhands_protocol::KeyId;
use manyhands_tests::artefacts;
use manyhands_tests::browser::{Visitor, number, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::server::{Server, binary, finished};
use manyhands_tests::site::registered;

const LIMIT: Duration = Duration::from_secs(180);

/// A coordinator with a job that never ends.
fn start(folder: &Path) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

/// The coordinator's page, on the processor.
async fn arrive(server: &Server) -> Result<Visitor> {
    let visitor = Visitor::open(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    Ok(visitor)
}

/// A visit from Start to Stop, with an accepted unit in it; gives its key.
async fn contribute(visitor: &Visitor) -> Result<KeyId> {
    visitor.press_start().await?;
    let state = visitor.wait_until("d.phases.includes('accepted')", LIMIT).await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    Ok(text(&state["key"]).parse()?)
}

/// Waits until the text of the element with this id contains that.
async fn until_said(visitor: &Visitor, id: &str, part: &str) -> Result<String> {
    visitor.wait_until(&format!("document.getElementById('{id}')?.textContent.includes({part:?})"), LIMIT).await?;
    Ok(text(&visitor.run(&format!("return document.getElementById('{id}').textContent;")).await?))
}

async fn look(visitor: &Visitor) -> Result<()> {
    visitor.run("document.getElementById('mine').open = true;").await?;
    visitor.wait_until("document.getElementById('mine-where')?.textContent", LIMIT).await?;
    Ok(())
}

/// The list of visits, as it is told.
async fn listed(visitor: &Visitor) -> Result<Vec<String>> {
    let lines = visitor.run("return [...document.querySelectorAll('#mine-visits li')].map((line) => line.innerText);").await?;
    Ok(lines.as_array().into_iter().flatten().map(text).collect())
}

#[tokio::test]
async fn visits_are_listed_over_reloads_and_tabs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = arrive(&server).await?;
    look(&visitor).await?;
    until_said(&visitor, "mine-where", "no key of yours here yet").await?;
    assert_eq!(listed(&visitor).await?, Vec::<String>::new());
    let first = contribute(&visitor).await?;
    visitor.wait_until("document.querySelectorAll('#mine-visits li').length === 1", LIMIT).await?;
    let line = listed(&visitor).await?.remove(0);
    assert!(line.contains("A small job") && line.contains("accepted, 0 rejected") && line.contains("operations"), "{line}");
    assert!(!line.contains(" 0 operations") && !line.contains("; 0 ") && line.contains("B of data"), "{line}");

    visitor.goto(&format!("{}/?backend=cpu", server.url)).await?;
    look(&visitor).await?;
    visitor.wait_until("document.querySelectorAll('#mine-visits li').length === 1", LIMIT).await?;
    assert_eq!(listed(&visitor).await?, std::slice::from_ref(&line));
    visitor.screenshot(&artefacts()?.join("mine-visits.png")).await?;

    // The other tab's visit comes into this one's list, as it goes on.
    let page = visitor.window().await?;
    visitor.open_window(&format!("{}/?backend=cpu", server.url)).await?;
    assert_eq!(contribute(&visitor).await?, first, "one key over visits and tabs");
    visitor.switch_to(&page).await?;
    visitor.wait_until("document.querySelectorAll('#mine-visits li').length === 2", LIMIT).await?;
    assert_eq!(listed(&visitor).await?[1], line, "newest first");
    Ok(())
}

#[tokio::test]
async fn the_list_of_visits_is_bounded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = arrive(&server).await?;
    let filled = visitor
        .run_async(
            "const done = arguments[0];
            import('/page/visits.js').then(async ({ Visit, all, VISITS_COUNT_MAX }) => {
                for (let n = 0; n < VISITS_COUNT_MAX + 5; n += 1) {
                    const visit = new Visit(`job ${n}`);
                    visit.take({ job: 1, unit: n, phase: 'pending', credit_flop: 0, data_bytes: 1 });
                    visit.take({ job: 1, unit: n, phase: 'accepted', credit_flop: 7, data_bytes: 2 });
                    visit.take({ job: 1, unit: n, phase: 'accepted', credit_flop: 7, data_bytes: 2 });
                    await visit.saved;
                }
                const kept = await all();
                done([kept.length, kept[0].title, kept.at(-1).title, kept[0].accepted, kept[0].pending, kept[0].credit_flop]);
            });",
        )
        .await?;
    assert_eq!(filled.to_string(), "[100,\"job 104\",\"job 5\",1,0,7]");
    Ok(())
}

#[tokio::test]
async fn a_forgotten_key_is_gone_with_its_visits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let proxy = Proxy::start(server.address()?, &[("DELETE", "/v1/sessions")]).await?;
    let page = format!("{}/?backend=cpu", proxy.url);
    let visitor = Visitor::open(&page).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    let first = contribute(&visitor).await?;
    let window = visitor.window().await?;
    // Not while a tab works.
    let other = visitor.open_window(&page).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    visitor.switch_to(&window).await?;
    visitor.press("forget").await?;
    visitor.press("forget-sure").await?;
    until_said(&visitor, "mine-status", "at work with this key").await?;
    visitor.switch_to(&other).await?;
    assert_eq!(text(&visitor.state().await?["key"]), first.to_string());
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;

    visitor.switch_to(&window).await?;
    visitor.screenshot(&artefacts()?.join("mine-forget.png")).await?;
    visitor.press("forget-sure").await?;
    until_said(&visitor, "mine-status", "Forgotten.").await?;
    assert_eq!(proxy.count("/v1/sessions").total, 1, "consent is withdrawn");
    until_said(&visitor, "mine-where", "no key of yours here yet").await?;
    assert_eq!(listed(&visitor).await?, Vec::<String>::new());
    let left = visitor
        .run_async(
            "const done = arguments[0];
            indexedDB.open('manyhands').onsuccess = ({ target: { result } }) => {
                const counts = [...result.objectStoreNames].map((name) => new Promise((count) => {
                    result.transaction(name).objectStore(name).count().onsuccess = ({ target }) => count(`${name} ${target.result}`);
                }));
                Promise.all(counts).then(done);
            };",
        )
        .await?;
    assert_eq!(left.to_string(), "[\"identity 0\",\"sessions 0\"]");
    // Both tabs know, and the next visit has another key; what was credited stays where it was.
    for window in [&other, &window] {
        visitor.switch_to(window).await?;
        visitor.wait_until("d.key === '' && !document.getElementById('forget').checkVisibility()", LIMIT).await?;
    }
    visitor.press("restart").await?;
    let second = contribute(&visitor).await?;
    assert_ne!(first, second);
    assert!(server.key(first).await?.totals.accepted > 0);
    let state = visitor.state().await?;
    assert!(number(&state, "accepted")? <= server.key(second).await?.totals.accepted as f64, "credit begins anew: {state}");
    Ok(())
}

const CONSENT_MEANWHILE: &str = "const real = fetch;
globalThis.fetch = async (asked, how) => {
    const answer = await real(asked, how);
    if (how?.method !== 'DELETE') return answer;
    await new Promise((kept) => {
        indexedDB.open('manyhands').onsuccess = ({ target: { result } }) => {
            const change = result.transaction('sessions', 'readwrite');
            change.objectStore('sessions').put({ token: 'newer', expires_ms: 1 }, 'newer');
            change.oncomplete = () => kept(result.close());
        };
    });
    return answer;
};";
/// Names of the sessions that the browser keeps.
const KEPT_SESSIONS: &str = "const done = arguments[0];
indexedDB.open('manyhands').onsuccess = ({ target: { result } }) => {
    result.transaction('sessions').objectStore('sessions').getAllKeys().onsuccess = ({ target }) => done(target.result.join(' '));
};";

#[tokio::test]
async fn consent_is_withdrawn_by_one_press() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let watched = [("DELETE", "/v1/sessions"), ("POST", "/v1/sessions")];
    let proxy = Proxy::start(server.address()?, &watched).await?;
    let page = format!("{}/?backend=cpu", proxy.url);
    let visitor = Visitor::open(&page).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    visitor.press_start().await?;
    let key = text(&visitor.wait_until("d.phases.includes('accepted')", LIMIT).await?["key"]);
    let window = visitor.window().await?;
    let other = visitor.open_window(&page).await?;
    visitor.press_start().await?;
    visitor.wait_until("d.state === 'working'", LIMIT).await?;
    let opened = proxy.count("/v1/sessions").total;

    visitor.switch_to(&window).await?;
    visitor.press("withdraw").await?;
    until_said(&visitor, "mine-status", "Your consent is withdrawn").await?;
    visitor.wait_until("d.state === 'stopped' && document.getElementById('forget-sure').checkVisibility()", LIMIT).await?;
    visitor.wait_until("!document.getElementById('withdraw').checkVisibility()", LIMIT).await?;
    visitor.screenshot(&artefacts()?.join("mine-withdraw.png")).await?;
    // The other tab's work was under the same consent.
    visitor.switch_to(&other).await?;
    visitor.wait_until("d.state === 'failed' || d.state === 'stopped'", LIMIT).await?;

    // The key stays, and another visit takes another consent; where the coordinator does not hear of it, that is said.
    visitor.switch_to(&window).await?;
    visitor.press("restart").await?;
    assert_eq!(contribute(&visitor).await?.to_string(), key);
    assert!(proxy.count("/v1/sessions").total > opened, "a session of its own");
    proxy.refuse("/v1/sessions", true);
    visitor.press("withdraw").await?;
    until_said(&visitor, "mine-status", "could not be reached").await?;
    proxy.refuse("/v1/sessions", false);
    // Another tab's consent, given while this one is being withdrawn, is not forgotten with it.
    visitor.run(CONSENT_MEANWHILE).await?;
    visitor.press("withdraw").await?;
    until_said(&visitor, "mine-status", "Your consent is withdrawn").await?;
    assert_eq!(text(&visitor.run_async(KEPT_SESSIONS).await?), "newer");
    Ok(())
}

#[tokio::test]
async fn a_browser_that_keeps_nothing_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = Visitor::open_forgetful(&format!("{}/?backend=cpu", server.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    contribute(&visitor).await?;
    assert_eq!(visitor.run("return document.getElementById('forget').checkVisibility();").await?, false, "nothing to forget");
    look(&visitor).await?;
    until_said(&visitor, "mine-where", "keeps nothing for this page").await?;
    visitor.screenshot(&artefacts()?.join("mine-refused.png")).await?;
    Ok(())
}

const PASSPHRASE: &str = "three green sparrows";

/// Goes on with the page's key actions until the page says what came of it.
async fn sure(visitor: &Visitor, id: &str, part: &str) -> Result<()> {
    visitor.press(id).await?;
    until_said(visitor, "mine-status", part).await?;
    Ok(())
}

/// A picture of the same in another look and language, on a phone.
async fn narrow_dark_and_arabic(visitor: &Visitor, name: &str) -> Result<()> {
    let speak = async |tag: &str, scheme: &str| {
        let script = format!(
            "const chooser = document.getElementById('language');
            chooser.value = '{tag}'; chooser.dispatchEvent(new Event('change'));
            document.documentElement.dataset.scheme = '{scheme}';"
        );
        visitor.run(&script).await?;
        visitor.wait_until(&format!("document.documentElement.lang === '{tag}'"), LIMIT).await
    };
    speak("ar", "dark").await?;
    visitor.resize(390, 1100).await?;
    visitor.run("document.getElementById('mine').scrollIntoView();").await?;
    visitor.screenshot(&artefacts()?.join(name)).await?;
    visitor.resize(1200, 1600).await?;
    speak("en", "light").await?;
    Ok(())
}

/// The key that the next visit has; it begins with the one after an accepted unit.
async fn next_key(visitor: &Visitor) -> Result<KeyId> {
    visitor.press("restart").await?;
    contribute(visitor).await
}

#[tokio::test]
async fn a_replaced_key_passes_its_credit_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let proxy = Proxy::start(server.address()?, &[("POST", "/v1/rotations")]).await?;
    let visitor = Visitor::open(&format!("{}/?backend=cpu", proxy.url)).await?;
    visitor.wait_until("d.state === 'idle' && d.jobState === 'running'", LIMIT).await?;
    let old = contribute(&visitor).await?;
    look(&visitor).await?;

    // A coordinator out of reach changes nothing, and the same wish is fulfilled once it is back.
    proxy.refuse("/v1/rotations", true);
    visitor.press("mine-replace").await?;
    sure(&visitor, "replace-sure", "The coordinator does not answer.").await?;
    proxy.refuse("/v1/rotations", false);
    assert_eq!(server.key(old).await?.replaced_by, None);
    sure(&visitor, "replace-sure", "is in use here from now on").await?;
    let view = server.key(old).await?;
    let new: KeyId = text(&visitor.state().await?["key"]).parse()?;
    assert_eq!(view.replaced_by, Some(new), "the replacement that was begun");
    assert_eq!(server.key(new).await?.totals, view.totals);
    visitor.screenshot(&artefacts()?.join("mine-replaced.png")).await?;

    assert_eq!(next_key(&visitor).await?, new);
    let totals = server.key(new).await?.totals;
    assert!(totals.accepted > view.totals.accepted && totals.rejected == 0, "{totals:?}");
    // The page counts what the key has in all.
    assert!(number(&visitor.state().await?, "accepted")? > view.totals.accepted as f64);
    Ok(())
}

#[tokio::test]
async fn a_key_moves_to_another_browser_in_a_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = arrive(&server).await?;
    let first = contribute(&visitor).await?;
    look(&visitor).await?;
    visitor.press("mine-export").await?;
    visitor.screenshot(&artefacts()?.join("mine-export.png")).await?;
    sure(&visitor, "export-sure", "at least 12 characters").await?;
    visitor.type_into("passphrase", PASSPHRASE).await?;
    sure(&visitor, "export-sure", "differ").await?;
    visitor.type_into("passphrase-again", PASSPHRASE).await?;
    sure(&visitor, "export-sure", "is in use here from now on").await?;
    let file = visitor.download("key-save").await?;
    let written = std::fs::read_to_string(&file)?;
    let json: serde_json::Value = serde_json::from_str(&written)?;
    let saved: KeyId = text(&json["key"]).parse()?;
    assert_eq!(server.key(first).await?.replaced_by, Some(saved), "a fresh key went into the file");
    assert_eq!(
        file.file_name().map(|name| name.to_string_lossy().into_owned()),
        Some(format!("manyhands-key-{}.json", &text(&json["key"])[..8]))
    );

    let other = arrive(&server).await?;
    look(&other).await?;
    other.press("mine-import").await?;
    other.screenshot(&artefacts()?.join("mine-import.png")).await?;
    narrow_dark_and_arabic(&other, "mine-import-ar.png").await?;
    sure(&other, "import-sure", "Choose a file").await?;
    other.type_into("passphrase", "three green sparrow").await?;
    for (words, part) in [
        (String::from("nothing"), "not JSON"),
        (String::from("{}"), "damaged"),
        (written.replace("\"version\": 1", "\"version\": 2"), "another version"),
        (written.replace("\"salt\": \"", "\"salt\": \"0"), "damaged"),
        (format!("{written}{}", " ".repeat(16 * 1024)), "too long"),
        (written.clone(), "does not open"),
    ] {
        other.run(&format!("document.getElementById('key-text').value = {};", serde_json::Value::from(words))).await?;
        sure(&other, "import-sure", part).await?;
    }
    until_said(&other, "mine-where", "no key of yours here yet").await?;
    other.type_into("key-file", &file.to_string_lossy()).await?;
    other.type_into("passphrase", "s").await?;
    sure(&other, "import-sure", "is in use here from now on").await?;
    assert_eq!(contribute(&other).await?, saved);
    let totals = server.key(saved).await?.totals;
    assert!(totals.accepted > server.key(first).await?.totals.accepted, "{totals:?}");

    // A file that is too long is not even read.
    std::fs::write(folder.path().join("long.json"), " ".repeat(16 * 1024 + 1))?;
    look(&other).await?;
    other.press("mine-import").await?;
    other.type_into("key-file", &folder.path().join("long.json").to_string_lossy()).await?;
    sure(&other, "import-sure", "too long").await?;
    // The first browser goes on with the same key.
    assert_eq!(next_key(&visitor).await?, saved);
    for browser in [&visitor, &other] {
        let log = browser.console_log().await?;
        assert!(!log.iter().any(|line| line.contains("Content Security Policy")), "{log:#?}");
    }
    Ok(())
}

/// From the page to the command line, which replaces it there, and back.
#[tokio::test]
async fn a_key_moves_between_page_and_command_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (locked, kept, again) = (at("locked.json"), at("key"), at("again.json"));
    let command = |given: &[&str]| finished(Command::new(binary()?).args(given));
    std::fs::write(at("passphrase"), format!("{PASSPHRASE}\n"))?;
    let with = ["--key-file", &kept, "--passphrase-file", &at("passphrase")];
    let visitor = arrive(&server).await?;
    let first = contribute(&visitor).await?;
    look(&visitor).await?;
    visitor.press("mine-export").await?;
    for id in ["passphrase", "passphrase-again"] {
        visitor.type_into(id, PASSPHRASE).await?;
    }
    sure(&visitor, "export-sure", "is in use here from now on").await?;
    std::fs::copy(visitor.download("key-save").await?, &locked)?;
    let saved = server.key(first).await?.replaced_by.context("a fresh key went into the file")?;

    // Nothing that fails leaves anything behind.
    std::fs::write(at("other"), "another passphrase")?;
    let [import, export] = ["import", "export"].map(|act| [&["key", act][..], &with].concat());
    let fails = |given: &[&str], words: &str| -> Result<()> {
        let error = command(given).err().context("it worked")?.to_string();
        ensure!(error.contains(words) && error.lines().count() == 1, "{words} in {error}");
        Ok(())
    };
    fails(&["key", "import", &locked, "--key-file", &kept, "--passphrase-file", &at("other")], "does not open")?;
    fails(&[&import[..], &[&at("passphrase")]].concat(), "not JSON")?;
    std::fs::write(at("other"), format!("{PASSPHRASE}\nand more\n"))?;
    fails(&["key", "import", &locked, "--key-file", &kept, "--passphrase-file", &at("other")], "more than one line")?;
    fails(&[&import[..], &[&at("none")]].concat(), "none")?;
    fails(&[&export[..], &[&again]].concat(), "key: ")?;
    ensure!(!Path::new(&kept).exists() && !Path::new(&again).exists());

    let said = command(&[&import[..], &[&locked]].concat())?;
    ensure!(said.contains(&saved.to_string()), "{said}");
    ensure!(command(&[&import[..], &[&locked]].concat())?.contains("already"), "the same key is no other one");
    server.run(&["volunteer", "--cpu", "--units", "1", "--key-file", &kept])?;
    let said = server.run(&["key", "rotate", "--key-file", &kept])?;
    let new = server.key(saved).await?.replaced_by.context("replaced")?;
    ensure!(said.contains(&new.to_string()) && server.key(new).await?.totals.accepted > 0, "{said}");
    fails(&[&import[..], &[&locked]].concat(), "another key")?;
    // The one before is kept for coordinators that do not know the new one.
    let before = format!("{kept}.{}", &saved.to_string()[..16]);
    ensure!(command(&["key", "import", &locked, "--key-file", &before])?.contains("already"));

    command(&[&export[..], &[&again]].concat())?;
    fails(&[&export[..], &[&again]].concat(), "already")?;
    visitor.press("mine-import").await?;
    visitor.type_into("key-file", &again).await?;
    visitor.type_into("passphrase", PASSPHRASE).await?;
    sure(&visitor, "import-sure", "is in use here from now on").await?;
    assert_eq!(next_key(&visitor).await?, new);
    Ok(())
}

/// A replacement whose answer did not come goes on with the same key.
#[tokio::test]
async fn a_replacement_that_was_begun_is_finished() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let kept = folder.path().join("key");
    let name = kept.to_string_lossy();
    server.run(&["volunteer", "--cpu", "--units", "1", "--key-file", &name])?;
    let old = std::fs::read_to_string(&kept)?;
    let away = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let rotate = |coordinator: &str| {
        finished(Command::new(binary()?).args(["key", "rotate", "--key-file", &name, "--coordinator", coordinator]))
    };
    let error = rotate(&format!("http://{away}")).err().context("nobody is there")?.to_string();
    ensure!(error.contains("is not known") && std::fs::read_to_string(&kept)? == old, "{error}");
    let next = std::fs::read_to_string(folder.path().join("key.next"))?;
    rotate(&server.url)?;
    ensure!(std::fs::read_to_string(&kept)? == next && !folder.path().join("key.next").exists());
    // One that was replaced already is refused, and the key in use stays.
    std::fs::write(&kept, &old)?;
    let error = rotate(&server.url).err().context("it has a successor")?.to_string();
    ensure!(error.contains("was not replaced") && std::fs::read_to_string(&kept)? == old, "{error}");
    ensure!(!folder.path().join("key.next").exists());
    // What an earlier command began may be in force at another coordinator: it is put aside.
    let aside = |of: &str| -> Result<String> {
        let key = SigningKey::from_bytes(hex::decode(of.trim())?.as_slice().try_into()?).verifying_key();
        Ok(std::fs::read_to_string(folder.path().join(format!("key.{}", &hex::encode(key.to_bytes())[..16])))?)
    };
    let put = |name: &str, text: &str| -> Result<()> {
        std::fs::copy(&kept, folder.path().join(name))?;
        Ok(std::fs::write(folder.path().join(name), text)?)
    };
    let begun = format!("{}\n", "07".repeat(32));
    put("key.next", &begun)?;
    let error = rotate(&server.url).err().context("it has a successor")?.to_string();
    ensure!(error.contains("begun before") && std::fs::read_to_string(&kept)? == old, "{error}");
    ensure!(aside(&begun)? == begun && !folder.path().join("key.next").exists());
    // A key of which the coordinator never heard gives its place at home alone.
    let unheard = format!("{}\n", "08".repeat(32));
    std::fs::write(&kept, &unheard)?;
    let said = rotate(&server.url)?;
    ensure!(said.contains("nothing was replaced") && !said.contains("takes the place"), "{said}");
    ensure!(std::fs::read_to_string(&kept)? != unheard && aside(&unheard)? == unheard);
    // One that took another's place takes no second one.
    server.run(&["volunteer", "--cpu", "--units", "1", "--key-file", &name])?;
    let other = std::fs::read_to_string(&kept)?;
    put("key.next", &next)?;
    let error = rotate(&server.url).err().context("it took another's place")?.to_string();
    ensure!(error.contains("was not replaced") && std::fs::read_to_string(&kept)? == other, "{error}");
    ensure!(aside(&next)? == next && !folder.path().join("key.next").exists());
    Ok(())
}

#[tokio::test]
async fn a_key_that_was_replaced_elsewhere_is_told_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = arrive(&server).await?;
    let key = include_str!("../vectors/key-file.json");
    let other = arrive(&server).await?;
    for browser in [&visitor, &other] {
        look(browser).await?;
        browser.press("mine-import").await?;
        browser.run(&format!("document.getElementById('key-text').value = {};", serde_json::Value::from(key))).await?;
        browser.type_into("passphrase", "correct horse battery staple").await?;
        sure(browser, "import-sure", "8a88e3dd").await?;
    }
    assert!(contribute(&visitor).await?.to_string().starts_with("8a88e3dd"));
    visitor.press("mine-replace").await?;
    sure(&visitor, "replace-sure", "is in use here from now on").await?;
    other.press_start().await?;
    other.wait_until("d.state === 'failed'", LIMIT).await?;
    until_said(&other, "visit-error", "Another key took the place of this one").await?;
    other.press("mine-replace").await?;
    sure(&other, "replace-sure", "Another key took the place of this one").await?;
    Ok(())
}

#[tokio::test]
async fn a_frame_keeps_its_own_and_takes_a_key_by_hand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = arrive(&server).await?;
    let own = contribute(&visitor).await?;
    let site = registered(&server, &server.url, "").await?;
    visitor.goto(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    let state = visitor.wait_until("d.phases.includes('accepted')", LIMIT).await?;
    visitor.press_stop().await?;
    visitor.wait_until("d.state === 'stopped'", LIMIT).await?;
    assert_ne!(text(&state["key"]), own.to_string(), "never linked by themselves");
    look(&visitor).await?;
    until_said(&visitor, "mine-body", "those of this site alone").await?;
    visitor.wait_until("document.querySelectorAll('#mine-visits li').length > 0", LIMIT).await?;
    assert_eq!(listed(&visitor).await?.len(), 1, "the visit in the frame, and not the one on the page");

    // A sandboxed frame saves no files: the text is shown, and taken again as text.
    visitor.press("mine-export").await?;
    for id in ["passphrase", "passphrase-again"] {
        visitor.type_into(id, PASSPHRASE).await?;
    }
    // What nobody can see is not pressed by the one whose key it is.
    let fade = async |opacity: &str| {
        visitor.leave_frame().await?;
        visitor.run(&format!("document.querySelector('many-hands').style.opacity = '{opacity}';")).await?;
        visitor.enter_frame("many-hands").await
    };
    let seen = |seen: bool| format!("document.getElementById('export-sure').dataset.seen === '{seen}'");
    fade("0.01").await?;
    visitor.run("document.getElementById('export-sure').scrollIntoView({ block: 'center' });").await?;
    visitor.wait_until(&seen(false), LIMIT).await?;
    sure(&visitor, "export-sure", "not in full sight").await?;
    fade("").await?;
    visitor.wait_until(&seen(true), LIMIT).await?;
    sure(&visitor, "export-sure", "is in use here from now on").await?;
    let copy = text(&visitor.run("return document.getElementById('key-copy').value;").await?);
    let json: serde_json::Value = serde_json::from_str(&copy)?;
    assert_eq!(visitor.run("return document.getElementById('key-save') === null;").await?, true);
    visitor.screenshot(&artefacts()?.join("mine-frame.png")).await?;
    let saved: KeyId = text(&json["key"]).parse()?;

    visitor.goto(&format!("{}/?backend=cpu", server.url)).await?;
    look(&visitor).await?;
    assert_eq!(listed(&visitor).await?.len(), 1, "the list is the page's own");
    visitor.press("mine-import").await?;
    visitor.run(&format!("document.getElementById('key-text').value = {};", serde_json::Value::from(copy))).await?;
    visitor.type_into("passphrase", PASSPHRASE).await?;
    sure(&visitor, "import-sure", "is in use here from now on").await?;
    assert_eq!(contribute(&visitor).await?, saved);
    Ok(())
}
