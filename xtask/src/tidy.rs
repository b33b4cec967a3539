//! `cargo xtask tidy`: what the compiler cannot enforce about this repository's shape. Each check takes a tree of files
//! as data and returns complaints, so that its test can feed it a bad one. It changes nothing.

mod arrows;
mod map;
mod markup;
mod reach;
mod rust_text;
mod sizes;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{release, root};

/// All text files by their path from the root, with `/` as separator. Binary files are there with an empty text.
pub type Tree = BTreeMap<String, String>;

/// Not ours, or not kept.
const IGNORED: [&str; 7] = ["target", "dist", "node_modules", "manyhands-data", "artefacts", "pkg", "__pycache__"];
/// Larger ones are data.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// Runs every check and prints what they found.
pub fn main() -> Result<()> {
    let tree = read_tree(&root())?;
    let mut complaints = Vec::new();
    complaints.extend(sizes::check(&tree));
    complaints.extend(arrows::check_sources(&tree));
    complaints.extend(arrows::check_packages(arrows::dependencies_of)?);
    complaints.extend(map::check(&tree));
    complaints.extend(reach::check(&tree));
    complaints.extend(words::check(&tree));
    complaints.extend(markup::check(&tree));
    complaints.extend(release::check(&tree));
    if complaints.is_empty() {
        println!("tidy: {} files, nothing to complain of", tree.len());
        return Ok(());
    }
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    bail!("{} complaints", complaints.len());
}

fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    read_dir(root, "", &mut tree)?;
    Ok(tree)
}

fn read_dir(dir: &Path, prefix: &str, tree: &mut Tree) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if IGNORED.contains(&name.as_str()) || (name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo")) {
            continue;
        }
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_dir(&entry.path(), &path, tree)?;
        } else if kind.is_file() {
            let small = entry.metadata()?.len() <= TEXT_BYTES_MAX;
            let text = if small { String::from_utf8(fs::read(entry.path())?).unwrap_or_default() } else { String::new() };
            tree.insert(path, text);
        }
    }
    Ok(())
}

/// Files whose name ends with `suffix`.
fn ending<'a>(tree: &'a Tree, suffix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    tree.iter().filter(move |(path, _)| path.ends_with(suffix)).map(|(path, text)| (path.as_str(), text.as_str()))
}

/// Whether `word` stands in `text` with no letter, digit or underscore on either side.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| !text[..start].ends_with(part) && !text[start + word.len()..].starts_with(part))
}

#[cfg(test)]
pub fn tree(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(has_word("use web_sys::Window;", "web_sys"));
        assert!(!has_word("wasm_bindgen_test", "wasm_bindgen"));
        assert!(!has_word("my_web_sys", "web_sys"));
        assert!(has_word("a wasm_bindgen_test, a wasm_bindgen", "wasm_bindgen"));
    }

    #[test]
    fn trees_leave_out_what_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["target", ".git", ".ci", "a"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("x"), "text").unwrap();
        }
        fs::write(dir.path().join("a/binary"), [0xff, 0xfe]).unwrap();
        let tree = read_tree(dir.path()).unwrap();
        assert_eq!(tree, super::tree(&[(".ci/x", "text"), ("a/binary", ""), ("a/x", "text")]));
    }
}
