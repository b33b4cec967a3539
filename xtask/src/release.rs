//! The elements of all releases, which every later coordinator serves at `/embed/X.Y.Z/many-hands.js`: pages pin them by their
//! hashes, so that none may ever change. `integrity.json` lists those hashes; what is not released yet is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::tidy::Tree;
use crate::web::finish::integrity;
use crate::{npm, root};

const FOLDER: &str = "coordinator/elements";
const LIST: &str = "integrity.json";
const CHANGES: &str = "CHANGELOG.md";

/// Hashes by version.
type List = BTreeMap<String, String>;

/// Adds the element of this version.
pub fn release() -> Result<()> {
    add(&root().join(FOLDER), env!("CARGO_PKG_VERSION"), &npm::element()?)
}

/// Complains of an element that is another than was released.
pub fn agrees(element: &str) -> Result<()> {
    let list: List = serde_json::from_slice(&fs::read(root().join(FOLDER).join(LIST))?)?;
    same(&list, env!("CARGO_PKG_VERSION"), element)
}

fn same(list: &List, version: &str, element: &str) -> Result<()> {
    let known = list.get(version).is_none_or(|known| *known == integrity(element.as_bytes()));
    ensure!(known, "{version} is released with another element: this one needs a version of its own");
    Ok(())
}

fn add(folder: &Path, version: &str, element: &str) -> Result<()> {
    let path = folder.join(LIST);
    let mut list: List = serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("{}", path.display()))?;
    same(&list, version, element)?;
    list.insert(version.to_owned(), integrity(element.as_bytes()));
    fs::write(folder.join(format!("{version}.js")), element)?;
    Ok(fs::write(path, format!("{}\n", serde_json::to_string_pretty(&list)?))?)
}

/// What is wrong with the releases in a tree: files that are not what is listed, and versions without one.
pub fn check(tree: &Tree) -> Vec<String> {
    let list = tree.get(&format!("{FOLDER}/{LIST}")).map(String::as_str).unwrap_or_default();
    let list: List = match serde_json::from_str(list) {
        Ok(list) => list,
        Err(error) => return vec![format!("{FOLDER}/{LIST}: {error}")],
    };
    let mut complaints = Vec::new();
    for (version, hash) in &list {
        let path = format!("{FOLDER}/{version}.js");
        if tree.get(&path).is_none_or(|element| integrity(element.as_bytes()) != *hash) {
            complaints.push(format!("{path} is not the file that was released"));
        }
    }
    let changes = tree.get(CHANGES).map(String::as_str).unwrap_or_default();
    for version in changes.lines().filter_map(|line| line.strip_prefix("## ")) {
        match version.strip_suffix(" (unreleased)") {
            Some(version) if list.contains_key(version) => {
                complaints.push(format!("{CHANGES}: {version} has a released element"));
            }
            None if !list.contains_key(version) => {
                complaints.push(format!("{CHANGES}: {version} is released without its element: cargo xtask release-embed"));
            }
            _ => {}
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy;

    #[test]
    fn a_release_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(LIST), "{}").unwrap();
        add(folder.path(), "1.0.0", "one").unwrap();
        add(folder.path(), "1.0.0", "one").unwrap();
        assert!(add(folder.path(), "1.0.0", "other").is_err());
        add(folder.path(), "1.1.0", "other").unwrap();
        assert_eq!((read("1.0.0.js"), read("1.1.0.js")), ("one".to_owned(), "other".to_owned()));
        let list: List = serde_json::from_str(&read(LIST)).unwrap();
        assert_eq!(list["1.0.0"], integrity(b"one"));

        let (list, changes) = (read(LIST), "# Changelog\n\n## 2.0.0 (unreleased)\n\n## 1.1.0\n\n## 1.0.0\n");
        let complaints = |one: &str, other: &str, changes: &str| {
            let path = |name: &str| format!("{FOLDER}/{name}");
            let files =
                [(path(LIST), &list[..]), (path("1.0.0.js"), one), (path("1.1.0.js"), other), (CHANGES.to_owned(), changes)];
            check(&tidy::tree(&files.each_ref().map(|(path, text)| (&path[..], *text))))
        };
        assert_eq!(complaints("one", "other", changes), Vec::<String>::new());
        assert_eq!(complaints("one ", "other", changes).len(), 1, "a changed file");
        assert_eq!(complaints("one", "", changes).len(), 1, "a lost file");
        assert_eq!(complaints("one", "other", &changes.replace(" (unreleased)", "")).len(), 1, "a release without an element");
        assert_eq!(complaints("one", "other", &changes.replace("1.1.0", "1.1.0 (unreleased)")).len(), 1, "released too early");
    }
}
