//! Lengths past which a file or function is no longer read at one go.

use super::{Tree, ending, rust_text};

const RUST_LINES_MAX: usize = 800;
const KERNEL_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 100;

pub fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (suffix, max) in [(".rs", RUST_LINES_MAX), (".wgsl", KERNEL_LINES_MAX)] {
        for (path, text) in ending(tree, suffix) {
            let lines = text.lines().count();
            if lines > max {
                complaints.push(format!("{path}: {lines} lines, at most {max}"));
            }
        }
    }
    for (path, text) in ending(tree, ".rs") {
        for function in functions(&rust_text::blank(text)) {
            if function.lines > FUNCTION_LINES_MAX {
                complaints.push(format!(
                    "{path}:{}: `{}` has {} lines, at most {FUNCTION_LINES_MAX}",
                    function.first_line, function.name, function.lines
                ));
            }
        }
    }
    complaints
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    first_line: usize,
    lines: usize,
}

/// Functions with a body, in text without comments and literals; from `fn` to the closing brace.
fn functions(text: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("fn ") {
        if text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let after = &text[start + 3..];
        let name: String = after.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        let Some(length) = body_end(after) else { continue };
        found.push(Function {
            name,
            first_line: 1 + text[..start].matches('\n').count(),
            lines: 1 + after[..length].matches('\n').count(),
        });
    }
    found
}

/// Where the body that follows a signature ends; `None` for a declaration without one.
fn body_end(after: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (at, c) in after.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            // A semicolon within an array type or a body ends nothing.
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn long_files_are_named() {
        let (fits, too_long) = ("//\n".repeat(RUST_LINES_MAX), "//\n".repeat(RUST_LINES_MAX + 1));
        let kernel = "//\n".repeat(KERNEL_LINES_MAX + 1);
        let found = check(&tree(&[("a/fits.rs", &fits), ("a/long.rs", &too_long), ("a/k.wgsl", &kernel), ("a.md", &too_long)]));
        assert_eq!(found, ["a/long.rs: 801 lines, at most 800", "a/k.wgsl: 401 lines, at most 400"]);
    }

    #[test]
    fn long_functions_are_named() {
        let body = |lines: usize| "    step(\"}\");\n".repeat(lines);
        let source = format!(
            "trait T {{ fn declared(a: [u8; 3]); }}\nfn fits() {{\n{}}}\n\nfn long<'a>(x: [u8; 2]) -> u8 {{\n{}}}\n",
            body(FUNCTION_LINES_MAX - 2),
            body(FUNCTION_LINES_MAX - 1)
        );
        let found = check(&tree(&[("x.rs", &source)]));
        assert_eq!(found, ["x.rs:103: `long` has 101 lines, at most 100"]);
    }
}
