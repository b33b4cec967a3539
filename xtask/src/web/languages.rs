//! Tells a page which languages there are words for, so that a new language is one new file: their tags go into the page's
//! `<meta name="manyhands-languages">`, and what each says to browsers without JavaScript into its `<noscript>`. Trunk runs it as
//! a hook, for `trunk serve` as for a whole build.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The folder of the words in a build, `TAG.json` each.
const WORDS: &str = "words";
/// Where the page names the languages; without this step it knows English alone.
const META: &str = "<meta name=\"manyhands-languages\" content=\"en\">";
const NOSCRIPT: &str = "<noscript></noscript>";

/// Rewrites the page in the folder that Trunk names to its hooks.
pub fn tell() -> Result<()> {
    let stage = std::env::var_os("TRUNK_STAGING_DIR").context("TRUNK_STAGING_DIR is not set: Trunk runs this")?;
    tell_in(&PathBuf::from(stage))
}

fn tell_in(dir: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join(WORDS))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let (mut tags, mut lines) = (Vec::new(), String::new());
    for file in files {
        let words: Value = serde_json::from_slice(&fs::read(&file)?).with_context(|| format!("{}", file.display()))?;
        let word = |key: &str| words[key].as_str().with_context(|| format!("{}: no {key}", file.display()));
        let tag = file.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        let text = word("noscript")?.replace('&', "&amp;").replace('<', "&lt;");
        lines += &format!("<p class=\"notice\" lang=\"{tag}\" dir=\"{}\">{text}</p>", word("direction")?);
        tags.push(tag);
    }
    let path = dir.join("index.html");
    let page = fs::read_to_string(&path).context("Trunk left no index.html")?;
    for place in [META, NOSCRIPT] {
        ensure!(page.matches(place).count() == 1, "index.html must have one {place}");
    }
    let page = page.replace(META, &META.replace("\"en\"", &format!("\"{}\"", tags.join(" "))));
    Ok(fs::write(&path, page.replace(NOSCRIPT, &format!("<noscript>{lines}</noscript>")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_hears_of_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join(WORDS)).unwrap();
        write("words/en.json", r#"{"direction": "ltr", "noscript": "<none> & more"}"#);
        write("words/ar.json", r#"{"direction": "rtl", "noscript": "لا"}"#);
        write("index.html", &format!("{META}\n{NOSCRIPT}"));
        tell_in(dir.path()).unwrap();
        let page = fs::read_to_string(dir.path().join("index.html")).unwrap();
        assert_eq!(
            page,
            "<meta name=\"manyhands-languages\" content=\"ar en\">\n<noscript><p class=\"notice\" lang=\"ar\" dir=\"rtl\">لا</p>\
             <p class=\"notice\" lang=\"en\" dir=\"ltr\">&lt;none> &amp; more</p></noscript>"
        );
        assert!(tell_in(dir.path()).is_err(), "there is no second place for them");
    }
}
