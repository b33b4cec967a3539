//! Files that nothing uses: Rust files that are no module, kernels that nobody includes, page files that nobody loads.

use std::collections::BTreeSet;

use super::{Tree, ending, rust_text, words};

pub fn check(tree: &Tree) -> Vec<String> {
    let used = rust_files(tree);
    let mut complaints: Vec<String> = ending(tree, ".rs")
        .filter(|(path, _)| !used.contains(*path))
        .map(|(path, _)| format!("{path}: no module of any package"))
        .collect();
    for (path, _) in ending(tree, ".wgsl") {
        let name = path.rsplit('/').next().expect("split gives at least one part");
        // In a string, so in the text as it is; beside the kernel, or it would not be the same-stem module.
        if !ending(tree, ".rs").any(|(_, text)| text.contains(&format!("{name}\""))) {
            complaints.push(format!("{path}: included by no Rust file"));
        }
    }
    complaints.extend(page_files(tree));
    complaints
}

/// Rust files that cargo compiles: roots by place or by `path = "…"`, and their modules.
fn rust_files(tree: &Tree) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut waiting: Vec<(String, bool)> = roots(tree).into_iter().map(|path| (path, true)).collect();
    while let Some((path, is_root)) = waiting.pop() {
        let Some(text) = tree.get(&path) else { continue };
        if !used.insert(path.clone()) {
            continue;
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let stem = name.trim_end_matches(".rs");
        let own_dir = if is_root || stem == "mod" { dir.to_owned() } else { format!("{dir}/{stem}") };
        for module in modules(text) {
            match module {
                Module::Named(name) => {
                    waiting.push((format!("{own_dir}/{name}.rs"), false));
                    waiting.push((format!("{own_dir}/{name}/mod.rs"), false));
                }
                Module::At(file) => waiting.push((joined(dir, &file), false)),
            }
        }
    }
    used
}

/// Where cargo starts in each package.
fn roots(tree: &Tree) -> Vec<String> {
    let mut roots = Vec::new();
    for (manifest, text) in ending(tree, "/Cargo.toml") {
        let dir = manifest.trim_end_matches("/Cargo.toml");
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("path = \"")) {
            roots.push(joined(dir, line.trim_end().trim_end_matches('"')));
        }
        for (path, _) in ending(tree, ".rs") {
            let Some(inner) = path.strip_prefix(&format!("{dir}/")) else { continue };
            let folder = inner.rsplit_once('/').map_or("", |(folder, _)| folder);
            let by_place = matches!(inner, "src/lib.rs" | "src/main.rs" | "build.rs")
                || matches!(folder, "src/bin" | "tests" | "benches" | "examples")
                || (["tests/", "examples/"].iter().any(|place| inner.starts_with(place))
                    && inner.matches('/').count() == 2
                    && inner.ends_with("/main.rs"));
            if by_place && !(folder == "tests" && text.contains("autotests = false")) {
                roots.push(path.to_owned());
            }
        }
    }
    roots
}

enum Module {
    Named(String),
    At(String),
}

/// `mod name;`, with its `#[path = "…"]` where there is one.
fn modules(text: &str) -> Vec<Module> {
    let code = rust_text::blank(text);
    let mut found = Vec::new();
    // The original text has the paths, which are string literals.
    let mut at_path = None;
    for (line, original) in code.lines().zip(text.lines()) {
        if let Some((_, after)) = original.trim().split_once("#[path = \"") {
            at_path = after.split_once('"').map(|(path, _)| path.to_owned());
        }
        let declared = line.trim().strip_suffix(';').and_then(|line| {
            let line = line.rsplit_once(']').map_or(line, |(_, after)| after);
            let mut words = line.split_whitespace().rev();
            let name = words.next()?;
            (words.next()? == "mod").then(|| name.trim_start_matches("r#").to_owned())
        });
        if let Some(name) = declared {
            found.push(at_path.take().map_or(Module::Named(name), Module::At));
        }
    }
    found
}

/// `dir` and a relative path with `..` resolved.
fn joined(dir: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Files of the page that no other file of it names.
fn page_files(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in tree.keys().filter(|path| path.starts_with("www/")) {
        let name = path.rsplit('/').next().expect("split gives at least one part");
        // The entry, the type checker's settings, and the languages, which the build finds by itself.
        if matches!(path.as_str(), "www/index.html" | "www/tsconfig.json") || path.starts_with(words::FOLDER) {
            continue;
        }
        // Types are imported without their ending.
        let name = name.trim_end_matches(".d.ts");
        let named = tree.iter().any(|(other, text)| other != path && other.starts_with("www/") && text.contains(name));
        if !named {
            complaints.push(format!("{path}: named by no file of the page"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn modules_are_followed_and_strays_named() {
        let files = [
            ("a/Cargo.toml", "[package]\n[[test]]\nname = \"t\"\npath = \"checks/t.rs\"\n"),
            ("a/build.rs", ""),
            (
                "a/src/lib.rs",
                "mod one;\n#[cfg(test)] pub(crate) mod two;\n// mod stray;\n#[path = \"odd/three.rs\"]\nmod three;\n",
            ),
            ("a/src/one.rs", "mod inner;"),
            ("a/src/one/inner.rs", ""),
            ("a/src/two/mod.rs", "mod deep;"),
            ("a/src/two/deep.rs", ""),
            ("a/src/odd/three.rs", ""),
            ("a/src/stray.rs", ""),
            ("a/src/inner.rs", ""),
            ("a/tests/whole.rs", ""),
            ("a/tests/shared/stray.rs", ""),
            ("a/tests/folder/main.rs", "mod part;"),
            ("a/tests/folder/part.rs", ""),
            ("a/tests/many/main.rs", "mod part;"),
            ("a/tests/many/part.rs", ""),
            ("a/examples/many/main.rs", "mod part;"),
            ("a/examples/many/part.rs", ""),
            ("a/examples/none/part.rs", ""),
            ("a/checks/t.rs", ""),
        ];
        let found = check(&tree(&files));
        let expected = ["a/examples/none/part.rs", "a/src/inner.rs", "a/src/stray.rs", "a/tests/shared/stray.rs"];
        assert_eq!(found, expected.map(|path| format!("{path}: no module of any package")));
    }

    #[test]
    fn tests_without_autodiscovery_need_an_entry() {
        let files = [("a/Cargo.toml", "autotests = false\n"), ("a/src/lib.rs", ""), ("a/tests/t.rs", "")];
        assert_eq!(check(&tree(&files)), ["a/tests/t.rs: no module of any package"]);
    }

    #[test]
    fn kernels_must_be_included() {
        let with = |text: &str| {
            check(&tree(&[("s/Cargo.toml", ""), ("s/src/lib.rs", text), ("s/src/relu.wgsl", ""), ("s/src/gelu.wgsl", "")]))
        };
        assert!(with("include_str!(\"relu.wgsl\") include_str!(\"gelu.wgsl\")").is_empty());
        assert_eq!(with("include_str!(\"relu.wgsl\")"), ["s/src/gelu.wgsl: included by no Rust file"]);
    }

    #[test]
    fn page_files_must_be_loaded() {
        let with = |main: &str| {
            check(&tree(&[
                ("www/index.html", "<script src=page/main.js>"),
                ("www/page/main.js", main),
                ("www/page/chart.js", "chart.js"),
                ("www/types.d.ts", ""),
            ]))
        };
        assert!(with("import './chart.js'; import('../types')").is_empty());
        assert_eq!(with("import('../types')"), ["www/page/chart.js: named by no file of the page"]);
    }
}
