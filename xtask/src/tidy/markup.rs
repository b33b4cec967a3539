//! Ways of the page's modules to turn text into markup or script. The coordinator's policy refuses them when they are run; this
//! refuses them when they are written.

use super::{Tree, ending, has_word};

const SINKS: [&str; 9] = [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "setHTMLUnsafe",
    "createContextualFragment",
    "srcdoc",
    "eval",
    "Function",
    "importScripts",
];

pub fn check(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in ending(tree, ".js").filter(|(path, _)| path.starts_with("www/")) {
        let is_code = |line: &&str| !line.trim_start().starts_with("//") && !line.trim_start().starts_with('*');
        for sink in SINKS {
            if text.lines().filter(is_code).any(|line| has_word(line, sink)) {
                found.push(format!("{path}: {sink} makes markup or script of text"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn sinks_are_named_where_code_uses_them() {
        let with = |text: &str| check(&tree(&[("www/page/a.js", text), ("tests/b.js", "x.innerHTML = y")]));
        assert_eq!(with("// no innerHTML here\nx.textContent = y; evaluate()"), Vec::<String>::new());
        assert_eq!(with("x.innerHTML = y"), ["www/page/a.js: innerHTML makes markup or script of text"]);
        assert_eq!(with("eval(x)"), ["www/page/a.js: eval makes markup or script of text"]);
    }
}
