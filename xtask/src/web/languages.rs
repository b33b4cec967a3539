//! Gives every part of a build its words, so that a new language is one new file, `www/words/TAG.json`: the page keeps what is its
//! own, the page for owners of other sites gets a file with what begins with `embed_`, and the element, which is one file, a
//! table of what begins with `element_`. The tags go into both pages' `<meta name="manyhands-languages">`, and what each says to
//! browsers without JavaScript into the page's `<noscript>`. Trunk runs it as a hook, for `trunk serve` as for a whole build.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

/// The folder of the words, `TAG.json` each.
pub const WORDS: &str = "words";
/// The page for owners of other sites, its folder of words and how the keys of these begin.
const GENERATOR: &str = "embed/index.html";
const GENERATOR_WORDS: &str = "embed/words";
const OF_GENERATOR: &str = "embed_";
/// What that page says as the other does.
const SHARED: [&str; 4] = ["direction", "name", "language_", "category_"];
pub const ELEMENT: &str = "embed/many-hands.js";
const OF_ELEMENT: &str = "element_";
/// Where the element has its words.
const TABLE: &str = "const WORDS = {};\n";
/// Where a page names the languages; without this step it knows English alone.
const META: &str = "<meta name=\"manyhands-languages\" content=\"en\">";
const NOSCRIPT: &str = "<noscript></noscript>";

type Words = Map<String, Value>;

/// Rewrites what is in the folder that Trunk names to its hooks.
pub fn tell() -> Result<()> {
    let stage = std::env::var_os("TRUNK_STAGING_DIR").context("TRUNK_STAGING_DIR is not set: Trunk runs this")?;
    tell_in(&PathBuf::from(stage))
}

/// The element with its words, from a folder as `www/` is.
pub fn element(dir: &Path) -> Result<String> {
    element_with(&fs::read_to_string(dir.join(ELEMENT))?, &read(dir)?)
}

fn element_with(element: &str, languages: &[(String, Words)]) -> Result<String> {
    let mut table = Words::new();
    for (tag, words) in languages {
        let own = words.iter().filter_map(|(key, word)| Some((key.strip_prefix(OF_ELEMENT)?.to_owned(), word.clone())));
        let direction = words.get("direction").with_context(|| format!("{tag}: no direction"))?;
        table.insert(tag.clone(), own.chain([("direction".to_owned(), direction.clone())]).collect::<Words>().into());
    }
    ensure!(element.matches(TABLE).count() == 1, "{ELEMENT} must have one {TABLE}");
    Ok(element.replace(TABLE, &format!("const WORDS = {:#};\n", Value::from(table))))
}

/// By tag, in its order.
fn read(dir: &Path) -> Result<Vec<(String, Words)>> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join(WORDS))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let read = |file: PathBuf| {
        let words = serde_json::from_slice(&fs::read(&file)?).with_context(|| format!("{}", file.display()))?;
        Ok((file.file_stem().context("a file has a name")?.to_string_lossy().into_owned(), words))
    };
    files.into_iter().map(read).collect()
}

fn tell_in(dir: &Path) -> Result<()> {
    let languages = read(dir)?;
    let element = element_with(&fs::read_to_string(dir.join(ELEMENT))?, &languages)?;
    fs::write(dir.join(ELEMENT), element)?;
    fs::create_dir_all(dir.join(GENERATOR_WORDS))?;
    let mut lines = String::new();
    for (tag, words) in &languages {
        let word = |key: &str| words.get(key).and_then(Value::as_str).with_context(|| format!("{tag}: no {key}"));
        let text = word("noscript")?.replace('&', "&amp;").replace('<', "&lt;");
        lines += &format!("<p class=\"notice\" lang=\"{tag}\" dir=\"{}\">{text}</p>", word("direction")?);
        let of_generator = |key: &String| key.starts_with(OF_GENERATOR);
        let some = |wanted: &dyn Fn(&String) -> bool| -> Result<String> {
            let some: Words =
                words.iter().filter(|(key, _)| wanted(key)).map(|(key, word)| (key.clone(), word.clone())).collect();
            Ok(serde_json::to_string_pretty(&some)?)
        };
        let file = format!("{tag}.json");
        let generators = some(&|key| of_generator(key) || SHARED.iter().any(|shared| key.starts_with(shared)))?;
        fs::write(dir.join(GENERATOR_WORDS).join(&file), generators)?;
        fs::write(dir.join(WORDS).join(&file), some(&|key| !of_generator(key) && !key.starts_with(OF_ELEMENT))?)?;
    }
    let tags = languages.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join(" ");
    let noscript = format!("<noscript>{lines}</noscript>");
    let meta = META.replace("\"en\"", &format!("\"{tags}\""));
    rewrite(&dir.join("index.html"), &[(META, &meta), (NOSCRIPT, &noscript)])?;
    rewrite(&dir.join(GENERATOR), &[(META, &meta)])
}

/// Puts each text in the place that there is for it.
fn rewrite(path: &Path, texts: &[(&str, &str)]) -> Result<()> {
    let mut page = fs::read_to_string(path).with_context(|| format!("Trunk left no {}", path.display()))?;
    for (place, text) in texts {
        ensure!(page.matches(place).count() == 1, "{} must have one {place}", path.display());
        page = page.replace(place, text);
    }
    Ok(fs::write(path, page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_hears_of_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        fs::create_dir(dir.path().join(WORDS)).unwrap();
        fs::create_dir(dir.path().join("embed")).unwrap();
        write(
            "words/en.json",
            r#"{"direction": "ltr", "noscript": "<none> & more", "category_a": "A", "embed_title": "T", "element_again": "\"Again\""}"#,
        );
        write("words/ar.json", r#"{"direction": "rtl", "noscript": "لا", "element_again": "مرة"}"#);
        write("index.html", &format!("{META}\n{NOSCRIPT}"));
        write(GENERATOR, META);
        write(ELEMENT, &format!("before\n{TABLE}after\n"));
        tell_in(dir.path()).unwrap();
        assert_eq!(
            read("index.html"),
            "<meta name=\"manyhands-languages\" content=\"ar en\">\n<noscript><p class=\"notice\" lang=\"ar\" dir=\"rtl\">لا</p>\
             <p class=\"notice\" lang=\"en\" dir=\"ltr\">&lt;none> &amp; more</p></noscript>"
        );
        assert_eq!(read(GENERATOR), "<meta name=\"manyhands-languages\" content=\"ar en\">");
        let keys = |name: &str| {
            let words: Words = serde_json::from_str(&read(name)).unwrap();
            words.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys("words/en.json"), "category_a direction noscript");
        assert_eq!(keys("embed/words/en.json"), "category_a direction embed_title");
        assert_eq!(keys("embed/words/ar.json"), "direction");
        let element = read(ELEMENT);
        let table = element.strip_prefix("before\nconst WORDS = ").unwrap().strip_suffix(";\nafter\n").unwrap();
        let table: Value = serde_json::from_str(table).unwrap();
        let expected = serde_json::json!({
            "ar": { "again": "مرة", "direction": "rtl" }, "en": { "again": "\"Again\"", "direction": "ltr" }
        });
        assert_eq!(table, expected);
        assert!(tell_in(dir.path()).is_err(), "there is no second place for them");
    }
}
