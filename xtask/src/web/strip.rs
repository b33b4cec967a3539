//! Takes comments and indentation out of the page's own modules and of index.html in a finished build: a third of what a
//! visitor would download before Start. Works by whole lines and touches nothing within a line; it is no minifier.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The folder of the page's modules in a build.
const MODULES: &str = "page";
const PAGE: &str = "index.html";

/// Rewrites the staged build in `dir`; gives the count of files.
pub fn strip(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir.join(MODULES)).with_context(|| format!("no {MODULES}/ in {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "js") {
            rewrite(&path, module)?;
            count += 1;
        }
    }
    rewrite(&dir.join(PAGE), |text| without_comments(text, "<!--", "-->", None))?;
    Ok(count + 1)
}

/// A module's text without comments that fill whole lines, and without indentation.
pub fn module(text: &str) -> Result<String> {
    without_comments(text, "/*", "*/", Some("//"))
}

fn rewrite(path: &Path, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let small = change(&text).with_context(|| format!("in {}", path.display()))?;
    fs::write(path, small).with_context(|| format!("cannot write {}", path.display()))
}

/// Drops empty lines, comments that fill whole lines, and indentation.
fn without_comments(text: &str, open: &str, close: &str, line: Option<&str>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut in_comment = false;
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let code = raw.trim();
        // Where the first end of a comment in this line is: `None`, at the line's end, or before more code.
        let end = code.find(close).map(|at| at + close.len());
        let ends_line = end == Some(code.len());
        if in_comment || (code.starts_with(open) && (end.is_none() || ends_line)) {
            ensure!(end.is_none() || ends_line, "line {number}: code after the end of a long comment");
            in_comment = end.is_none();
            continue;
        }
        if code.is_empty() || line.is_some_and(|start| code.starts_with(start)) {
            continue;
        }
        // Its further lines would lose their indentation, and might look like comments.
        ensure!(code.matches('`').count() % 2 == 0, "line {number}: a template literal goes over several lines");
        out.push_str(code);
        out.push('\n');
    }
    ensure!(!in_comment, "a comment does not end");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn js(text: &str) -> Option<String> {
        module(text).ok()
    }

    #[test]
    fn whole_lines_go_and_code_stays() {
        let check = |text: &str, expected: &str| assert_eq!(js(text).as_deref(), Some(expected), "{text}");
        check("// @ts-check\n  const a = 1; // stays\n\n", "const a = 1; // stays\n");
        check("/** @type {X} */\nlet x;\n/**\n * long\n */\nlet y;", "let x;\nlet y;\n");
        check("  /** @type {X} */ (y).z();", "/** @type {X} */ (y).z();\n");
        check("/* a */ b(); /* c */", "/* a */ b(); /* c */\n");
        check("const url = \"https://example.org/*\";", "const url = \"https://example.org/*\";\n");
        check("return `a${b}c`;", "return `a${b}c`;\n");
    }

    #[test]
    fn what_it_cannot_tell_is_refused() {
        for text in ["const a = `one\n  // two`;", "/* never ends", "/*\n*/ code()"] {
            assert_eq!(js(text), None, "{text}");
        }
    }

    #[test]
    fn a_build_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(strip(dir.path()).is_err(), "a build without modules");
        fs::create_dir(dir.path().join(MODULES)).unwrap();
        fs::write(dir.path().join("page/main.js"), "// why\nrun();\n").unwrap();
        fs::write(dir.path().join(PAGE), "<!--\n  what\n-->\n<p>\n  <b>hands</b>\n</p>\n").unwrap();
        assert_eq!(strip(dir.path()).unwrap(), 2);
        assert_eq!(fs::read_to_string(dir.path().join("page/main.js")).unwrap(), "run();\n");
        assert_eq!(fs::read_to_string(dir.path().join(PAGE)).unwrap(), "<p>\n<b>hands</b>\n</p>\n");
    }
}
