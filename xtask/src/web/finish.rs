//! Gives the worker's files names by content and integrity hashes, and tells the page.
//!
//! Trunk leaves the whole worker: `manyhands-worker.js` (wasm-bindgen's module), `…_bg.wasm` and a loader that imports the
//! module. Beside it stand the same two files of the whole worker for browsers with relaxed SIMD, and of the small worker
//! that a visit begins with. Here each module becomes a script that fetches its wasm with its hash; the small one's can also
//! load the whole one's that the browser takes, with its hash; and the page's
//! `<meta name="manyhands-worker" content="./…_loader.js">` gets the small one's name, and `data-integrity` its hash. So
//! the page checks the script, the script checks the wasm and the next script, and all may be cached for ever.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha384};

use super::{imports, strip};

/// The whole worker, as Trunk names it, the same with relaxed SIMD, and the small one.
pub const WHOLE: &str = "manyhands-worker";
pub const RELAXED: &str = "manyhands-worker-relaxed";
pub const OPENING: &str = "manyhands-worker-opening";
const LOADER: &str = "manyhands-worker_loader.js";
/// Where the page names the worker, for `trunk serve`.
const META: &str = "<meta name=\"manyhands-worker\" content=\"./manyhands-worker_loader.js\"";
const META_START: &str = "<meta name=\"manyhands-worker\" content=\"./";
/// Begins the whole worker's script, which begins workers of its own with itself. The coordinator's policy for workers lets
/// them make one Trusted Types policy; this one, asked by the browser itself, lets a worker begin with this script alone.
const HERE: &str = "self.manyhandsHere = import.meta.url;\nself.trustedTypes?.createPolicy(\"default\", \
     { createScriptURL: (address) => (address === import.meta.url ? address : null) });\n";
/// Where wasm-bindgen puts JavaScript of other crates; its files would need hashes of their own.
const SNIPPETS: &str = "snippets";

/// A worker's files under their final names.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub script: String,
    pub wasm: String,
    /// Of the script.
    integrity: String,
}

/// Rewrites the staged build in `dir`, after `shrink` made the wasm files smaller; gives the names of the small worker, of
/// the whole one and of that with relaxed SIMD.
pub fn finish(dir: &Path, shrink: impl Fn(&Path) -> Result<()>) -> Result<[Names; 3]> {
    ensure!(!dir.join(SNIPPETS).exists(), "a dependency brings JavaScript of its own ({SNIPPETS}/), which has no integrity");
    let page = fs::read_to_string(dir.join("index.html")).context("Trunk left no index.html")?;
    let whole = worker(dir, WHOLE, HERE, &shrink)?;
    let relaxed = worker(dir, RELAXED, HERE, &shrink)?;
    // Fetched with its hash first, for imports have none; the import then takes the same immutable bytes from the cache.
    let load = format!(
        "self.manyhandsWhole = async () => {{\nconst relaxed = {HAS_RELAXED_SIMD};\n\
         const whole = new URL(relaxed ? \"{}\" : \"{}\", import.meta.url);\n\
         await (await fetch(whole, {{ integrity: relaxed ? \"{}\" : \"{}\" }})).arrayBuffer();\n\
         await import(whole.href);\n}};\n",
        relaxed.script, whole.script, relaxed.integrity, whole.integrity
    );
    let opening = worker(dir, OPENING, &load, &shrink)?;
    fs::write(dir.join("index.html"), rewrite_page(&page, &opening)?)?;
    fs::remove_file(dir.join(LOADER)).with_context(|| format!("Trunk left no {LOADER}"))?;
    Ok([opening, whole, relaxed])
}

/// JavaScript: whether the browser takes relaxed SIMD, read off a module of one function that calls `f32x4.relaxed_madd`.
pub const HAS_RELAXED_SIMD: &str = "WebAssembly.validate(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, \
     3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 0, 253, 15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 133, 2, 11))";

/// Turns one worker's module and wasm into a script, which begins with `before`, and its wasm.
fn worker(dir: &Path, name: &str, before: &str, shrink: impl Fn(&Path) -> Result<()>) -> Result<Names> {
    let [module_path, wasm_path] = [format!("{name}.js"), format!("{name}_bg.wasm")].map(|file| dir.join(file));
    shrink(&wasm_path)?;
    let module = fs::read_to_string(&module_path).with_context(|| format!("the build left no {name}.js"))?;
    let wasm = fs::read(&wasm_path).with_context(|| format!("the build left no {name}_bg.wasm"))?;
    let (module, wasm) = imports::shorten(&strip::module(&module)?, &wasm)?;

    let wasm_name = named_by_content(name, "wasm", &wasm);
    let script = format!("{before}{}", script(&module, &wasm_name, &integrity(&wasm))?);
    let script_name = named_by_content(name, "js", script.as_bytes());
    fs::write(dir.join(&wasm_name), wasm)?;
    fs::write(dir.join(&script_name), &script)?;
    fs::remove_file(wasm_path)?;
    fs::remove_file(module_path)?;
    Ok(Names { script: script_name, wasm: wasm_name, integrity: integrity(script.as_bytes()) })
}

fn named_by_content(name: &str, extension: &str, bytes: &[u8]) -> String {
    let hash = hex::encode(Sha256::digest(bytes));
    format!("{name}-{}.{extension}", &hash[..16])
}

/// As in the `integrity` attribute.
pub fn integrity(bytes: &[u8]) -> String {
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

/// Puts the small worker's name and hash where the page has the loader's name.
fn rewrite_page(page: &str, opening: &Names) -> Result<String> {
    ensure!(page.matches(META).count() == 1, "index.html must have one {META}");
    Ok(page.replace(META, &format!("{META_START}{}\" data-integrity=\"{}\"", opening.script, opening.integrity)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_IMPORTS: &str = "\0asm\x01\0\0\0";
    const MODULE_TEXT: &str =
        "let wasm, initSync;\nasync function __wbg_init(o) {}\nexport { initSync, __wbg_init as default };\n";
    const PAGE: &str = r#"<head><meta name="manyhands-worker" content="./manyhands-worker_loader.js"></head>"#;

    fn staged() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        for worker in [WHOLE, RELAXED, OPENING] {
            write(&format!("{worker}.js"), MODULE_TEXT);
            write(&format!("{worker}_bg.wasm"), NO_IMPORTS);
        }
        write(LOADER, "import");
        write("index.html", PAGE);
        dir
    }

    #[test]
    fn page_scripts_and_wasm_form_a_chain() {
        let dir = staged();
        let [opening, whole, relaxed] = finish(dir.path(), |_| Ok(())).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        for names in [&opening, &whole, &relaxed] {
            let script = read(&names.script);
            assert!(script.contains(&names.wasm) && script.contains(&integrity(NO_IMPORTS.as_bytes())));
            assert!(script.contains("await __wbg_init("));
            assert_eq!(names.integrity, integrity(script.as_bytes()));
        }
        let first = read(&opening.script);
        assert!(first.contains("manyhandsWhole") && !first.contains(HERE));
        for next in [&whole, &relaxed] {
            assert!(first.contains(&next.script) && first.contains(&next.integrity));
            assert!(!read(&next.script).contains("manyhandsWhole"), "the chain ends there");
            assert!(read(&next.script).starts_with(HERE));
        }
        let expected = format!(
            r#"<head><meta name="manyhands-worker" content="./{}" data-integrity="{}"></head>"#,
            opening.script, opening.integrity
        );
        assert_eq!(read("index.html"), expected);
        let mut left: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = vec!["index.html".to_owned(), opening.script, opening.wasm];
        expected.extend([whole.script, whole.wasm, relaxed.script, relaxed.wasm]);
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn names_follow_the_wasm() {
        let (one, other) = (staged(), staged());
        fs::write(other.path().join("manyhands-worker_bg.wasm"), format!("{NO_IMPORTS}\0\0")).unwrap();
        let ([opening, whole, relaxed], [other_opening, other_whole, other_relaxed]) =
            (finish(one.path(), |_| Ok(())).unwrap(), finish(other.path(), |_| Ok(())).unwrap());
        assert_ne!(whole.wasm, other_whole.wasm);
        assert_ne!(whole.script, other_whole.script, "the script holds the wasm's hash");
        assert_eq!((opening.wasm, relaxed), (other_opening.wasm, other_relaxed));
        assert_ne!(opening.script, other_opening.script, "the script holds the next script's hash");
    }

    /// Runs the small worker's script in Node, which fetches nothing; gives the integrity with which it asks for the next.
    fn asked_for(dir: &Path, opening: &Names, validate: &str) -> String {
        let script = dir.join(&opening.script);
        let text = format!(
            "globalThis.self = globalThis; const asked = [];
             globalThis.fetch = async (url, how) => (asked.push(how.integrity), {{ arrayBuffer() {{}} }});
             WebAssembly.validate = {validate};
             await import({:?}); asked.length = 0;
             await manyhandsWhole(); console.log(asked[0]);",
            script.to_string_lossy()
        );
        let mut node = crate::proc::command("node", &["--input-type=module", "--eval", &text]);
        let output = node.env("PATH", crate::setup::path().unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn browsers_without_relaxed_simd_get_the_plain_worker() {
        if !crate::setup::has_node() {
            return println!("skipped: Node is not installed");
        }
        let dir = staged();
        let names = finish(dir.path(), |_| Ok(())).unwrap();
        // Modules are kept as such by Node under this name.
        fs::write(dir.path().join("package.json"), r#"{"type":"module"}"#).unwrap();
        let [opening, whole, relaxed] = &names;
        assert_ne!(whole.integrity, relaxed.integrity);
        assert_eq!(asked_for(dir.path(), opening, "() => false"), whole.integrity);
        assert_eq!(asked_for(dir.path(), opening, "bytes => bytes.includes(253)"), relaxed.integrity);
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
        check("manyhands-worker-opening.js", Some("export { initSync };"));
        check("manyhands-worker_bg.wasm", None);
        check("manyhands-worker-relaxed_bg.wasm", None);
        check("manyhands-worker-opening_bg.wasm", Some("\0asm"));
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
