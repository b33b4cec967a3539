//! Gives the worker's files names by content and integrity hashes, and tells the page.
//!
//! Trunk leaves `manyhands-worker.js` (wasm-bindgen's module), `…_bg.wasm` and a loader that imports the module. Here
//! module and loader become one script, which fetches the wasm with its hash; the page's
//! `<meta name="manyhands-worker" content="./…_loader.js">` gets the script's new name, and `data-integrity` its hash.
//! So the page checks the script, the script checks the wasm, and both may be cached for ever.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha384};

use super::strip;

const MODULE: &str = "manyhands-worker.js";
const LOADER: &str = "manyhands-worker_loader.js";
const WASM: &str = "manyhands-worker_bg.wasm";
/// Where the page names the worker, for `trunk serve`.
const META: &str = "<meta name=\"manyhands-worker\" content=\"./manyhands-worker_loader.js\"";
const META_START: &str = "<meta name=\"manyhands-worker\" content=\"./";
/// Where wasm-bindgen puts JavaScript of other crates; its files would need hashes of their own.
const SNIPPETS: &str = "snippets";

/// The new names.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub script: String,
    pub wasm: String,
}

/// Rewrites the staged build in `dir`, after `shrink` made the wasm file smaller.
pub fn finish(dir: &Path, shrink: impl FnOnce(&Path) -> Result<()>) -> Result<Names> {
    ensure!(!dir.join(SNIPPETS).exists(), "a dependency brings JavaScript of its own ({SNIPPETS}/), which has no integrity");
    let read = |name: &str| fs::read(dir.join(name)).with_context(|| format!("Trunk left no {name}"));
    let module = String::from_utf8(read(MODULE)?).context("the worker's module is not UTF-8")?;
    let page = String::from_utf8(read("index.html")?).context("index.html is not UTF-8")?;
    shrink(&dir.join(WASM))?;
    let wasm = read(WASM)?;

    let wasm_name = named_by_content("wasm", &wasm);
    let script = script(&strip::module(&module)?, &wasm_name, &integrity(&wasm))?;
    let script_name = named_by_content("js", script.as_bytes());
    let page = rewrite_page(&page, &script_name, &integrity(script.as_bytes()))?;

    fs::rename(dir.join(WASM), dir.join(&wasm_name))?;
    fs::write(dir.join(&script_name), script)?;
    fs::write(dir.join("index.html"), page)?;
    fs::remove_file(dir.join(MODULE))?;
    fs::remove_file(dir.join(LOADER)).with_context(|| format!("Trunk left no {LOADER}"))?;
    Ok(Names { script: script_name, wasm: wasm_name })
}

fn named_by_content(extension: &str, bytes: &[u8]) -> String {
    let hash = hex::encode(Sha256::digest(bytes));
    format!("manyhands-worker-{}.{extension}", &hash[..16])
}

/// As in the `integrity` attribute.
fn integrity(bytes: &[u8]) -> String {
    format!("sha384-{}", STANDARD.encode(Sha384::digest(bytes)))
}

/// The module followed by its own start.
fn script(module: &str, wasm_name: &str, wasm_integrity: &str) -> Result<String> {
    let init = default_export(module).context("wasm-bindgen's module has no default export")?;
    Ok(format!(
        "{module}\nawait {init}({{ module_or_path: \
         fetch(new URL(\"{wasm_name}\", import.meta.url), {{ integrity: \"{wasm_integrity}\" }}) }});\n"
    ))
}

/// The local name of the default export, from `export { initSync, __wbg_init as default };`.
fn default_export(module: &str) -> Option<&str> {
    let (before, _) = module.rsplit_once(" as default")?;
    before.rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).next().filter(|name| !name.is_empty())
}

/// Puts the script's name and hash where the page has the loader's name.
fn rewrite_page(page: &str, script_name: &str, script_integrity: &str) -> Result<String> {
    ensure!(page.matches(META).count() == 1, "index.html must have one {META}");
    Ok(page.replace(META, &format!("{META_START}{script_name}\" data-integrity=\"{script_integrity}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE_TEXT: &str = "let wasm;\nasync function __wbg_init(o) {}\nexport { initSync, __wbg_init as default };\n";
    const PAGE: &str = r#"<head><meta name="manyhands-worker" content="./manyhands-worker_loader.js"></head>"#;

    fn staged() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [(MODULE, MODULE_TEXT), (LOADER, "import"), (WASM, "\0asm"), ("index.html", PAGE)] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn page_script_and_wasm_form_a_chain() {
        let dir = staged();
        let names = finish(dir.path(), |_| Ok(())).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let script = read(&names.script);
        assert!(script.contains(&names.wasm) && script.contains(&integrity(b"\0asm")));
        assert!(script.contains("await __wbg_init("));
        let page = read("index.html");
        let expected = format!(
            r#"<head><meta name="manyhands-worker" content="./{}" data-integrity="{}"></head>"#,
            names.script,
            integrity(script.as_bytes())
        );
        assert_eq!(page, expected);
        let mut left: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = vec!["index.html".to_owned(), names.script, names.wasm];
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn names_follow_the_wasm() {
        let (one, other) = (staged(), staged());
        fs::write(other.path().join(WASM), "\0asm2").unwrap();
        let (one, other) = (finish(one.path(), |_| Ok(())).unwrap(), finish(other.path(), |_| Ok(())).unwrap());
        assert_ne!(one.wasm, other.wasm);
        assert_ne!(one.script, other.script, "the script holds the wasm's hash");
    }

    #[test]
    fn odd_builds_are_refused() {
        let check = |name: &str, text: Option<&str>| {
            let dir = staged();
            match text {
                Some(text) => fs::write(dir.path().join(name), text).unwrap(),
                None => fs::remove_file(dir.path().join(name)).unwrap(),
            }
            assert!(finish(dir.path(), |_| Ok(())).is_err(), "{name} {text:?}");
        };
        check("index.html", Some("<head></head>"));
        check("index.html", Some(&format!("{PAGE}{PAGE}")));
        check("index.html", Some(&PAGE.replace("_loader", "")));
        check(MODULE, Some("export { initSync };"));
        check(WASM, None);
        check(LOADER, None);
        check(SNIPPETS, Some(""));
    }

    #[test]
    fn integrity_is_what_browsers_expect() {
        // From the "Subresource Integrity" recommendation, section 3.2.1: the hash of "Hello, world.".
        let expected = "sha384-H8BRh8j48O9oYatfu5AZzq6A9RINhZO5H16dQZngK7T62em8MUt1FLm52t+eX6xO";
        let found = integrity(b"alert('Hello, world.');");
        assert_eq!(found, expected);
    }
}
