//! The page's languages: every file says everything that English says, with the same placeholders. That a language uses all
//! the plural forms it has is checked in a browser, which knows them (tests/e2e/languages.rs).

use std::collections::{BTreeMap, BTreeSet};

use super::Tree;

/// One `TAG.json` a language.
pub const FOLDER: &str = "www/words/";
/// The language that the others are compared with.
const FIRST: &str = "en.json";

type Words = BTreeMap<String, String>;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut languages = BTreeMap::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.starts_with(FOLDER)) {
        match serde_json::from_str::<Words>(text) {
            Ok(words) => drop(languages.insert(path, words)),
            Err(e) => complaints.push(format!("{path}: {e}")),
        }
    }
    let first_path = format!("{FOLDER}{FIRST}");
    let Some(first) = languages.get(&first_path) else { return complaints };
    for (path, words) in &languages {
        if !matches!(words.get("direction").map(String::as_str), Some("ltr" | "rtl")) {
            complaints.push(format!("{path}: direction is neither ltr nor rtl"));
        }
        complaints.extend(first.keys().filter(|key| !words.contains_key(*key)).map(|key| format!("{path}: {key} is missing")));
        for (key, sentence) in words {
            match (placeholders(sentence), first.get(key).map(|sentence| placeholders(sentence))) {
                (None, _) => complaints.push(format!("{path}: {key} is no message: {sentence}")),
                (_, None) => complaints.push(format!("{path}: {key} is not in {first_path}")),
                (Some(own), Some(Some(wanted))) if own != wanted => {
                    complaints.push(format!("{path}: {key} has the placeholders {own:?}, {first_path} {wanted:?}"));
                }
                _ => {}
            }
        }
    }
    complaints
}

/// What a sentence leaves open, as `name`, `name, number, style` or `name, plural`; `None` for one that the page cannot read
/// (www/page/text.js says what it can).
fn placeholders(sentence: &str) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut rest = sentence;
    while let Some(open) = rest.find(['{', '}']) {
        let (inner, after) = braced(&rest[open..])?;
        let parts: Vec<&str> = inner.splitn(3, ", ").collect();
        if parts[0].is_empty() || !parts[0].chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return None;
        }
        match parts[..] {
            [_] => drop(found.insert(inner.to_owned())),
            [_, "number", _] => drop(found.insert(inner.to_owned())),
            [name, "plural", forms] => {
                found.insert(format!("{name}, plural"));
                found.extend(plural(forms)?);
            }
            _ => return None,
        }
        rest = after;
    }
    Some(found)
}

/// The placeholders within the forms of a plural, of which one must be `other`.
fn plural(forms: &str) -> Option<BTreeSet<String>> {
    let (mut names, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = forms.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_at(rest.find('{')?);
        let (inner, after) = braced(after)?;
        if !names.insert(name.trim()) {
            return None;
        }
        found.extend(placeholders(inner)?);
        rest = after.trim_start();
    }
    names.contains("other").then_some(found)
}

/// What the brace at the start encloses, and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[1..at], &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn languages_say_the_same() {
        let english = r#"{"direction": "ltr", "hello": "Hello {name}", "units": "{n, plural, one {# unit} other {# units}}",
            "share": "{share, number, percent}"}"#;
        let with = |german: &str| check(&tree(&[("www/words/en.json", english), ("www/words/de.json", german)]));
        let sound = r#"{"direction": "ltr", "hello": "{name}, hallo", "units": "{n, plural, other {# Teile}}",
            "share": "{share, number, percent}"}"#;
        assert_eq!(with(sound), Vec::<String>::new());
        for (from, to, complaint) in [
            ("\"ltr\"", "\"up\"", "direction is neither ltr nor rtl"),
            ("hello", "hallo", "hello is missing"),
            ("hello", "hallo", "hallo is not in www/words/en.json"),
            ("{name}", "{nome}", "hello has the placeholders {\"nome\"}, www/words/en.json {\"name\"}"),
            ("{name}", "{name", "hello is no message: {name, hallo"),
            ("{name}", "name}", "hello is no message: name}, hallo"),
            ("number, percent", "number", "share is no message: {share, number}"),
            ("other", "one", "units is no message: {n, plural, one {# Teile}}"),
            (
                "number, percent",
                "number, decimal",
                "share has the placeholders {\"share, number, decimal\"}, www/words/en.json {\"share, number, percent\"}",
            ),
        ] {
            let found = with(&sound.replacen(from, to, 1));
            assert!(found.contains(&format!("www/words/de.json: {complaint}")), "{complaint}: {found:?}");
        }
        assert!(with("{").iter().any(|line| line.starts_with("www/words/de.json: ")), "no JSON");
    }
}
