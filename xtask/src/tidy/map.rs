//! ARCHITECTURE.md is a map of all of the repository: every member and everything at the top is on it.

use std::collections::BTreeSet;

use super::Tree;

const MAP: &str = "ARCHITECTURE.md";

pub fn check(tree: &Tree) -> Vec<String> {
    let Some(map) = tree.get(MAP) else { return vec![format!("{MAP} is missing")] };
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for path in tree.keys().filter(|path| *path != MAP) {
        wanted.insert(match path.split_once('/') {
            Some((dir, _)) => format!("`{dir}/`"),
            None => format!("`{path}`"),
        });
    }
    let members = tree.get("Cargo.toml").map(|text| members(text)).unwrap_or_default();
    wanted.extend(members.iter().map(|member| format!("`{member}/`")));
    wanted.iter().filter(|name| !map.contains(name.as_str())).map(|name| format!("{MAP} does not mention {name}")).collect()
}

/// `members = ["a", "b"]` of a workspace.
fn members(manifest: &str) -> Vec<String> {
    let list = manifest.split_once("\nmembers = [").and_then(|(_, after)| after.split_once(']')).map_or("", |(list, _)| list);
    list.split(',').map(|member| member.trim().trim_matches('"').to_owned()).filter(|member| !member.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn what_is_not_on_the_map_is_named() {
        let manifest = "[workspace]\nmembers = [\"a\", \"deep/b\"]\n";
        let check = |map: &str, expected: &[&str]| {
            let files = [("ARCHITECTURE.md", map), ("Cargo.toml", manifest), ("a/x.rs", ""), ("deep/b/y.rs", "")];
            assert_eq!(check(&tree(&files)), expected);
        };
        check("`a/` `deep/` `deep/b/` `Cargo.toml`", &[]);
        check("`a/` `deep/` `Cargo.toml`", &["ARCHITECTURE.md does not mention `deep/b/`"]);
        check("`deep/` `deep/b/` a", &["ARCHITECTURE.md does not mention `Cargo.toml`", "ARCHITECTURE.md does not mention `a/`"]);
        assert_eq!(super::check(&tree(&[("a/x", "")])), ["ARCHITECTURE.md is missing"]);
    }
}
