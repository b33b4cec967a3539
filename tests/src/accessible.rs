//! What tests of pages for everyone share: axe-core in the page, and its languages.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::browser::{Visitor, text};
use crate::root;

const LIMIT: Duration = Duration::from_secs(60);
pub const LANGUAGES: [&str; 3] = ["en", "de", "ar"];
pub const SCHEMES: [&str; 2] = ["light", "dark"];

/// A visitor on whose pages axe-core may run.
pub async fn examined(url: &str) -> Result<Visitor> {
    let visitor = Visitor::open("about:blank").await?;
    let_axe_run(&visitor).await?;
    visitor.goto(url).await?;
    Ok(visitor)
}

/// Has pages from here on hold axe-core, which makes scripts of texts.
pub async fn let_axe_run(visitor: &Visitor) -> Result<()> {
    visitor.ignore_policies().await?;
    visitor.before_pages(&axe()?).await
}

fn axe() -> Result<String> {
    let path = root().join("node_modules/axe-core/axe.min.js");
    let missing = || format!("{} is missing; install it with: cargo xtask setup (it needs Node)", path.display());
    std::fs::read_to_string(&path).with_context(missing)
}

/// Brings axe-core into the frame that calls mean now, whose own policy holds: `let_axe_run` does not get to other sites' frames.
pub async fn bring_axe(visitor: &Visitor) -> Result<()> {
    visitor.run(&axe()?).await?;
    Ok(())
}

/// axe-core finds nothing on the page in the state that it is in, in every language and scheme.
///
/// # Panics
/// Where it finds something.
pub async fn examine(visitor: &Visitor, state: &str) -> Result<()> {
    for tag in LANGUAGES {
        speak(visitor, tag).await?;
        examine_as_it_speaks(visitor, &format!("{state}, {tag}")).await?;
    }
    speak(visitor, "en").await
}

/// The same in the language that the page speaks.
///
/// # Panics
/// Where it finds something.
pub async fn examine_as_it_speaks(visitor: &Visitor, state: &str) -> Result<()> {
    for scheme in SCHEMES {
        dress(visitor, "scheme", scheme).await?;
        assert_eq!(found(visitor).await?, Vec::<String>::new(), "{state}, {scheme}");
    }
    Ok(())
}

pub async fn dress(visitor: &Visitor, look: &str, value: &str) -> Result<()> {
    visitor.run(&format!("document.documentElement.dataset['{look}'] = '{value}';")).await?;
    Ok(())
}

/// What axe-core finds on the page as it is, by WCAG 2.2 AA and by its own advice.
pub async fn found(visitor: &Visitor) -> Result<Vec<String>> {
    let results = visitor
        .run_async(
            "const done = arguments[0];
            const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
            const rules = { 'target-size': { enabled: true } };
            axe.run(document, { runOnly: tags, rules }).then(
                ({ passes, violations }) => done({
                    passes: passes.length,
                    found: violations.map(({ id, nodes }) => `${id}: ${nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')}`),
                }),
                (error) => done({ passes: 0, found: [String(error)] }),
            );",
        )
        .await?;
    let list = results["found"].as_array().context("a list")?.iter().map(text).collect::<Vec<_>>();
    ensure!(!list.is_empty() || results["passes"].as_u64() > Some(10), "hardly anything was examined: {results}");
    Ok(list)
}

/// Chooses a language, as a visitor would.
pub async fn speak(visitor: &Visitor, tag: &str) -> Result<()> {
    visitor
        .run(&format!(
            "const chooser = document.getElementById('language');
            chooser.value = '{tag}'; chooser.dispatchEvent(new Event('change'));"
        ))
        .await?;
    visitor.wait_until(&format!("document.documentElement.lang === '{tag}'"), LIMIT).await?;
    Ok(())
}
