//! The element as an npm package: the file that coordinators serve, its types as the compiler reads them off the source, and
//! what says who it is. `target/npm/many-hands-VERSION.tgz` is what `npm publish` and `npm install` take.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::proc::{command, run};
use crate::web::languages;
use crate::{release, root, setup};

const NAME: &str = "many-hands";
/// What lies beside the element and its types as it is.
const TEXTS: [&str; 3] = ["xtask/npm/README.md", "LICENSE-MIT", "LICENSE-APACHE"];

const SOURCE: &str = "www/embed/many-hands.js";

/// The element as coordinators serve it.
pub fn element() -> Result<String> {
    languages::element(&root().join("www"))
}

/// Packs it, and gives the packed file.
pub fn package() -> Result<PathBuf> {
    ensure!(setup::has_node(), "Node is not installed");
    let out = root().join("target/npm");
    let folder = out.join(NAME);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let source = root().join(SOURCE);
    let element = element()?;
    release::agrees(&element)?;
    fs::write(folder.join("many-hands.js"), element)?;
    for text in TEXTS {
        let from = root().join(text);
        fs::copy(&from, folder.join(from.file_name().context("a file has a name")?))?;
    }
    let mut types = command(root().join("node_modules/.bin/tsc"), &["--allowJs", "--declaration", "--emitDeclarationOnly"]);
    types.args(["--target", "es2022", "--module", "es2022", "--lib", "es2022,dom", "--outDir"]);
    run(types.arg(&folder).arg(&source))?;
    // That the page's own `querySelector` knows the element, which a comment in JavaScript cannot say.
    let types = folder.join("many-hands.d.ts");
    let global = fs::read_to_string(root().join("xtask/npm/global.d.ts"))?;
    fs::write(&types, fs::read_to_string(&types)? + &global)?;
    let version = env!("CARGO_PKG_VERSION");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(root().join("xtask/npm/package.json"))?)?;
    manifest["version"] = version.into();
    fs::write(folder.join("package.json"), format!("{manifest:#}\n"))?;
    let mut pack = command("npm", &["pack", "--loglevel=error", "--pack-destination"]);
    run(pack.arg(&out).current_dir(&folder))?;
    Ok(out.join(format!("{NAME}-{version}.tgz")))
}
