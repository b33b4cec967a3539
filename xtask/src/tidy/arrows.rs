//! Which package may use which: the arrows of ARCHITECTURE.md. Per package, for a build of the whole workspace unifies
//! features and hides a forbidden one.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::{Tree, ending, has_word, rust_text};
use crate::proc::output;

/// What waits, talks or draws: neither wire types nor kernels do.
const IO: &[&str] = &[
    "async-std",
    "axum",
    "getrandom",
    "hyper",
    "js-sys",
    "mio",
    "object_store",
    "rand",
    "reqwest",
    "sqlx",
    "tokio",
    "web-sys",
    "wgpu",
];
const BROWSER: &[&str] = &["js-sys", "wasm-bindgen", "web-sys"];

/// A package, the features it is looked at with, and what must not be below it.
struct Rule {
    package: &'static str,
    features: &'static [&'static str],
    never: &'static [&'static [&'static str]],
}

const RULES: &[Rule] = &[
    Rule { package: "manyhands-protocol", features: &["--all-features"], never: &[IO, &["manyhands-shaders", "manyhands"]] },
    Rule { package: "manyhands-shaders", features: &["--all-features"], never: &[IO, &["manyhands-protocol", "manyhands"]] },
    Rule { package: "manyhands-programs", features: &["--all-features"], never: &[IO, &["manyhands-protocol", "manyhands"]] },
    Rule {
        package: "manyhands",
        features: &["--features", "cpu,gpu"],
        never: &[BROWSER, &["axum", "manyhands-coordinator", "manyhands-cli", "sqlx", "tokio"]],
    },
    Rule {
        package: "manyhands-coordinator",
        features: &[],
        never: &[BROWSER, &["manyhands-cli", "naga", "wgpu", "wgpu-core", "wgpu-hal"]],
    },
    Rule { package: "manyhands-cli", features: &[], never: &[BROWSER, &["manyhands-tests", "manyhands-worker"]] },
    Rule {
        package: "manyhands-worker",
        features: &["--target", "wasm32-unknown-unknown"],
        never: &[&["axum", "manyhands-coordinator", "manyhands-cli", "naga", "sqlx", "tokio", "wgpu-core"]],
    },
];

/// `list` gives the names of all packages below one, itself included.
pub fn check_packages(list: impl Fn(&str, &[&str]) -> Result<BTreeSet<String>>) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for rule in RULES {
        let below = list(rule.package, rule.features)?;
        for never in rule.never.iter().flat_map(|list| list.iter()) {
            if below.contains(*never) {
                complaints.push(format!(
                    "{} must not depend on {never}; see `cargo tree -p {} -e normal {} -i {never}`",
                    rule.package,
                    rule.package,
                    rule.features.join(" ")
                ));
            }
        }
    }
    Ok(complaints)
}

/// What cargo says.
pub fn dependencies_of(package: &str, features: &[&str]) -> Result<BTreeSet<String>> {
    let fixed = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let text = output("cargo", &[&fixed, features].concat()).with_context(|| format!("`cargo tree -p {package}` failed"))?;
    Ok(names(&text))
}

/// The first word of each line, `name v1.2.3 (path)`.
fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Names that only some files may use, in code.
pub fn check_sources(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in ending(tree, ".rs") {
        let code = rust_text::blank(text);
        let browser_side =
            ["crate/src/web", "crate/tests/", "tests/bench/", "worker/"].iter().any(|place| path.starts_with(place));
        if !browser_side {
            for name in ["web_sys", "js_sys", "gloo", "wasm_bindgen", "wasm_bindgen_futures"] {
                if has_word(&code, name) {
                    complaints.push(format!("{path}: names {name}; only crate/src/web/, worker/ and browser tests may"));
                }
            }
        }
        if path.starts_with("protocol/src/") || path.starts_with("shaders/src/") {
            for name in ["SystemTime", "Instant", "async", "await"] {
                if has_word(&code, name) {
                    complaints.push(format!("{path}: uses {name}; this package never reads a clock or waits"));
                }
            }
            for name in ["std::fs", "std::net", "std::env", "std::thread"] {
                if code.contains(name) {
                    complaints.push(format!("{path}: uses {name}; this package never does IO"));
                }
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn fake(package: &str, extra: &str) -> BTreeSet<String> {
        names(&format!("{package} v0.1.0 (/x)\nserde v1.0.0\n{extra} v1.0.0 (*)\n"))
    }

    #[test]
    fn forbidden_packages_are_named() {
        let with = |package: &'static str, extra: &'static str| {
            check_packages(|asked, _| Ok(fake(asked, if asked == package { extra } else { "hex" }))).unwrap()
        };
        assert!(with("", "").is_empty());
        for (package, extra) in [
            ("manyhands-protocol", "manyhands-shaders"),
            ("manyhands-shaders", "manyhands-protocol"),
            ("manyhands-protocol", "tokio"),
            ("manyhands-shaders", "wgpu"),
            ("manyhands", "manyhands-coordinator"),
            ("manyhands-coordinator", "wgpu"),
            ("manyhands-worker", "tokio"),
        ] {
            let found = with(package, extra);
            assert!(found.len() == 1 && found[0].starts_with(&format!("{package} must not depend on {extra};")), "{found:?}");
        }
        assert!(check_packages(|_, _| anyhow::bail!("no cargo")).is_err());
    }

    #[test]
    fn browser_names_stay_where_they_belong() {
        let allowed = [
            ("crate/src/web/fetch.rs", "use web_sys::Request;"),
            ("worker/src/main.rs", "use wasm_bindgen::prelude::*;"),
            ("crate/src/engine.rs", "// web_sys\nlet x = \"js_sys\";"),
            ("crate/tests/web.rs", "use js_sys::Date;"),
        ];
        assert!(check_sources(&tree(&allowed)).is_empty());
        for text in ["use web_sys::Window;", "js_sys::Date::now()", "gloo::timers", "#[wasm_bindgen]"] {
            assert_eq!(check_sources(&tree(&[("crate/src/engine.rs", text)])).len(), 1, "{text}");
        }
    }

    #[test]
    fn pure_packages_stay_pure() {
        for text in ["use std::fs;", "let t = Instant::now();", "pub async fn f() {}", "std::time::SystemTime::now()"] {
            for path in ["protocol/src/a.rs", "shaders/src/a.rs"] {
                assert_eq!(check_sources(&tree(&[(path, text)])).len(), 1, "{path}: {text}");
            }
            assert!(check_sources(&tree(&[("coordinator/src/a.rs", text)])).is_empty());
        }
        assert!(check_sources(&tree(&[("protocol/src/a.rs", "/// Never async; no Instant.\nfn f() {}")])).is_empty());
    }
}
