//! The page in every language that it has words for: the visitor's own, the one that a site around wishes for, and the one
//! chosen on the page; each whole, in its own direction, and with all the plural forms of the language.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::proxy::Proxy;
use manyhands_tests::root;
use manyhands_tests::server::Server;
use manyhands_tests::site::registered;
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// Language and direction of the page, and how it says Start.
const SPOKEN: &str = "const html = document.documentElement;
    return [html.lang, html.dir, document.getElementById('start').textContent].join(' ');";

fn start(folder: &Path) -> Result<Server> {
    let server = Server::start(&folder.join("data"))?;
    let files = jobs::train(folder, SmallTrain::default())?;
    server.submit(&files.manifest, &files.data)?;
    Ok(server)
}

/// The page's languages with their words.
fn languages() -> Result<Vec<(String, Map<String, Value>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("www/words"))? {
        let path = entry?.path();
        let tag = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        found.push((tag, serde_json::from_slice(&std::fs::read(&path)?)?));
    }
    Ok(found)
}

async fn until_spoken(visitor: &Visitor, tag: &str) -> Result<String> {
    visitor.wait_until(&format!("document.documentElement.lang === '{tag}' && d.state === 'idle'"), LIMIT).await?;
    Ok(text(&visitor.run(SPOKEN).await?))
}

async fn choose(visitor: &Visitor, tag: &str) -> Result<()> {
    let script = format!(
        "const chooser = document.getElementById('language');
        chooser.value = '{tag}'; chooser.dispatchEvent(new Event('change'));"
    );
    visitor.run(&script).await?;
    Ok(())
}

/// The text of an element, once it is there and has one.
async fn until_told(visitor: &Visitor, id: &str) -> Result<String> {
    let script = format!(
        "const done = arguments[0];
        const look = () => {{
            const said = document.getElementById('{id}')?.textContent;
            if (said) done(said);
        }};
        new MutationObserver(look).observe(document.documentElement, {{ childList: true, characterData: true, subtree: true }});
        look();"
    );
    Ok(text(&visitor.run_async(&script).await?))
}

#[tokio::test]
async fn every_language_is_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = Visitor::open(&server.url).await?;
    until_spoken(&visitor, "en").await?;
    let offered =
        visitor.run("return [...document.querySelectorAll('#language option')].map((o) => o.value).sort().join(' ');").await?;
    let mut tags: Vec<String> = languages()?.into_iter().map(|(tag, _)| tag).collect();
    tags.sort();
    assert_eq!(text(&offered), tags.join(" "), "the page offers other languages than there are words for");
    for (tag, words) in languages()? {
        visitor.goto(&format!("{}/?lang={tag}", server.url)).await?;
        let spoken = until_spoken(&visitor, &tag).await?;
        assert_eq!(spoken, format!("{tag} {} {}", text(&words["direction"]), text(&words["start"])));
        // What is hidden now was said all the same.
        let page = text(&visitor.run("return document.body.textContent;").await?);
        assert!(!page.contains(['{', '}']) && !page.contains("undefined") && !page.contains("NaN"), "{tag}: {page}");
        let wide = visitor.run("return document.documentElement.scrollWidth - innerWidth;").await?;
        assert!(wide.as_i64().is_some_and(|over| over <= 0), "{tag} is {wide} px too wide");
    }
    Ok(())
}

#[tokio::test]
async fn every_language_uses_its_plural_forms() -> Result<()> {
    let visitor = Visitor::open("about:blank").await?;
    for (tag, words) in languages()? {
        let known = visitor.run(&format!("return new Intl.PluralRules('{tag}').resolvedOptions().pluralCategories;")).await?;
        let known: Vec<String> = known.as_array().context("a list")?.iter().map(text).collect();
        let plurals = words.iter().filter(|(_, sentence)| text(sentence).contains(", plural, "));
        for (key, sentence) in plurals {
            for form in &known {
                assert!(text(sentence).contains(&format!("{form} {{")), "{tag}: {key} lacks the form {form}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_page_speaks_the_visitors_language_until_they_choose_another() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = Visitor::open("about:blank").await?;
    visitor.read_languages("xx,de-AT,en").await?;
    visitor.goto(&server.url).await?;
    assert_eq!(until_spoken(&visitor, "de").await?, "de ltr Start");
    let cost = text(&visitor.run("return document.getElementById('consent-cost').textContent;").await?);
    assert!(cost.contains("1\u{a0}GB") && cost.contains("Der Strom ist Ihrer"), "{cost}");
    // A tag from outside is looked up in the list of languages, and never in a folder.
    visitor.goto(&format!("{}/?lang=..%2F..%2Fv1%2Finfo", server.url)).await?;
    assert_eq!(until_spoken(&visitor, "de").await?, "de ltr Start");
    visitor.press("language").await?;
    choose(&visitor, "ar").await?;
    assert_eq!(until_spoken(&visitor, "ar").await?, "ar rtl ابدأ");
    visitor.goto(&format!("{}/?lang=en", server.url)).await?;
    assert_eq!(until_spoken(&visitor, "ar").await?, "ar rtl ابدأ", "what was chosen is forgotten");
    Ok(())
}

#[tokio::test]
async fn a_site_around_wishes_for_a_language() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let url = &server.url;
    let site = registered(&server, url, "language=de").await?;
    let visitor = Visitor::open(&site.origin).await?;
    for (wish, spoken) in [(None, "de ltr Start"), (Some("ar"), "ar rtl ابدأ"), (Some("en-GB"), "en ltr Start")] {
        if let Some(wish) = wish {
            visitor.run(&format!("document.querySelector('many-hands').setAttribute('language', {});", json!(wish))).await?;
        }
        visitor.enter_frame("many-hands").await?;
        assert_eq!(until_spoken(&visitor, &spoken[..2]).await?, spoken);
        visitor.leave_frame().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_language_wished_for_last_is_spoken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = Visitor::open(&server.url).await?;
    until_spoken(&visitor, "en").await?;
    let spoken = visitor
        .run_async(
            "const done = arguments[arguments.length - 1], real = fetch;
            let arrive;
            globalThis.fetch = (address, options) => {
                const answer = real(address, options);
                return String(address).includes('/de.json') ? new Promise((here) => (arrive = () => here(answer))) : answer;
            };
            import('/page/text.js').then(async (text) => {
                const late = text.choose('de');
                await text.choose('ar');
                arrive();
                await late;
                done([text.language, document.documentElement.lang, document.getElementById('language').value]);
            });",
        )
        .await?;
    assert_eq!(spoken, json!(["ar", "ar", "ar"]));
    Ok(())
}

/// A job's words come from its owner.
#[tokio::test]
async fn no_name_turns_the_sentence_around_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let visitor = Visitor::open(&server.url).await?;
    until_spoken(&visitor, "en").await?;
    let said = visitor
        .run_async(
            "const done = arguments[arguments.length - 1];
            import('/page/text.js').then((text) => done(text.say('consent_whom', { owner: '\\u202eA\\u2069 B\\u2066' })));",
        )
        .await?;
    assert_eq!(said, json!("A B gets the result."));
    Ok(())
}

const LISTEN: &str = "globalThis.uncaught = [];
addEventListener('unhandledrejection', ({ reason }) => uncaught.push(String(reason)));
addEventListener('error', ({ message }) => uncaught.push(message));";

/// Its words are the coordinator's to give, and so is what the page loads once it is asked for.
#[tokio::test]
async fn a_language_that_cannot_be_had_leaves_the_page_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = start(folder.path())?;
    let visitor = Visitor::open("about:blank").await?;
    visitor.before_pages(LISTEN).await?;
    visitor.goto(&server.url).await?;
    until_spoken(&visitor, "en").await?;
    for tag in ["de", "en"] {
        choose(&visitor, tag).await?;
        until_spoken(&visitor, tag).await?;
    }
    server.kill_9();
    choose(&visitor, "ar").await?;
    assert!(until_told(&visitor, "language-note").await?.ends_with("the coordinator does not answer. It stays with this one."));
    assert_eq!(until_spoken(&visitor, "en").await?, "en ltr Start");
    assert_eq!(visitor.run("return document.getElementById('language').value;").await?, "en");
    // What was loaded before is there.
    choose(&visitor, "de").await?;
    assert_eq!(until_spoken(&visitor, "de").await?, "de ltr Start");
    assert_eq!(visitor.run("return document.getElementById('language-note').textContent;").await?, "");
    visitor.run("document.querySelector('#mine summary').click();").await?;
    assert_eq!(until_told(&visitor, "mine-body").await?, "Der Koordinator antwortet nicht.");
    assert_eq!(visitor.run("return uncaught;").await?, json!([]));

    server.restart()?;
    choose(&visitor, "ar").await?;
    assert_eq!(until_spoken(&visitor, "ar").await?, "ar rtl ابدأ");
    visitor.run("document.querySelector('#mine summary').click();").await?;
    visitor.wait_until("!document.getElementById('mine').open", LIMIT).await?;
    visitor.run("document.querySelector('#mine summary').click();").await?;
    until_told(&visitor, "mine-where").await?;
    assert_eq!(visitor.run("return uncaught;").await?, json!([]));
    Ok(())
}

#[tokio::test]
async fn a_page_whose_words_do_not_come_waits_for_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = start(folder.path())?;
    let proxy = Proxy::start(server.address()?, &[("GET", "/words/")]).await?;
    proxy.refuse("/words/", true);
    let visitor = Visitor::open("about:blank").await?;
    visitor.read_languages("de-AT,en").await?;
    visitor.before_pages(LISTEN).await?;
    visitor.goto(&proxy.url).await?;
    proxy.until("/words/", LIMIT, |count| count.total >= 2).await?;
    proxy.refuse("/words/", false);
    // Or in the language of last resort, where that one's turn had come.
    visitor.wait_until("['de', 'en'].includes(document.documentElement.lang) && d.state === 'idle'", LIMIT).await?;
    assert!(until_told(&visitor, "start").await?.starts_with("Start"));
    assert_eq!(visitor.run("return uncaught;").await?, json!([]));
    Ok(())
}
