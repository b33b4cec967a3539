//! What has to be on the machine before anything can be built, run or tested. Every step looks first and installs only
//! what is missing, so that running it again costs well under a second. It changes nothing outside Rust's own folders,
//! `node_modules/` and `target/`, except for Debian packages, and those only as root.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::proc::{command, on_path, output, run};
use crate::root;

/// Trunk 0.22 needs a newer Rust than ours.
const TRUNK_VERSION: &str = "0.21.14";
/// The driver of Firefox, which Debian does not have.
const GECKODRIVER_VERSION: &str = "0.37.1";
const WASM_TARGET: &str = "wasm32-unknown-unknown";
/// Chromium and its driver.
const BROWSER_PACKAGES: &[&str] = &["chromium", "chromium-driver"];
/// lavapipe, the software Vulkan adapter of the native tests, Python for the independent client, and PostgreSQL, of which the
/// tests start servers of their own: the one that Debian's package starts is not used.
const TEST_PACKAGES: &[&str] = &["mesa-vulkan-drivers", "libvulkan1", "python3", "python3-venv", "postgresql"];
/// Where Python packages for tests go.
const VENV: &str = "target/venv";

/// What the set-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Building the page and the worker.
    Web,
    /// And opening it in headless browsers.
    Visitors,
    /// And everything the tests need.
    Tests,
    /// And Firefox.
    LongTests,
}

/// Runs every step that `purpose` needs.
pub fn set_up(purpose: Purpose) -> Result<()> {
    wasm_target()?;
    trunk()?;
    bindgen_command()?;
    node_packages()?;
    if purpose >= Purpose::Visitors {
        debian_packages(BROWSER_PACKAGES)?;
    }
    if purpose >= Purpose::Tests {
        debian_packages(TEST_PACKAGES)?;
        python_packages()?;
    }
    if purpose >= Purpose::LongTests {
        debian_packages(&["firefox-esr"])?;
        geckodriver()?;
    }
    Ok(())
}

/// A Debian package for `fetch-data` and `make-demo-data`.
pub fn data_package(name: &str) -> Result<()> {
    debian_packages(&[name])
}

fn present(what: &str) {
    println!("set-up: {what}: present");
}

fn installing(what: &str, note: &str) {
    println!("set-up: {what}: installing{note}");
}

/// Where cargo keeps what it installs and downloads.
pub fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// PATH with what set-up installs first.
pub fn path() -> Result<OsString> {
    let cargo_bin = cargo_home().map(|home| home.join("bin"));
    // Those are scripts for Node; without it they would stand in front of programs that work.
    let node_bin = has_node().then(|| root().join("node_modules/.bin"));
    let own = [node_bin, cargo_bin].into_iter().flatten();
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.chain(std::env::split_paths(&inherited))).context("PATH cannot be extended")
}

/// The program's own word for its version, e.g. `trunk 0.21.14`.
fn has_version(program: &str, version: &str) -> bool {
    output(program, &["--version"]).is_some_and(|text| text.split_whitespace().any(|word| word == version))
}

fn wasm_target() -> Result<()> {
    let what = format!("target {WASM_TARGET}");
    // Asking the compiler works with any distribution of Rust, and at once.
    let installed =
        output("rustc", &["--print", "target-libdir", "--target", WASM_TARGET]).is_some_and(|dir| Path::new(&dir).is_dir());
    if installed {
        present(&what);
        return Ok(());
    }
    installing(&what, "");
    run(&mut command("rustup", &["target", "add", WASM_TARGET]))
}

fn trunk() -> Result<()> {
    let what = format!("trunk {TRUNK_VERSION}");
    if has_version("trunk", TRUNK_VERSION) {
        present(&what);
        return Ok(());
    }
    installing(&what, " (compiles for some minutes, once)");
    run(&mut command("cargo", &["install", "trunk", "--version", TRUNK_VERSION, "--locked", "--no-default-features"]))
}

fn geckodriver() -> Result<()> {
    let what = format!("geckodriver {GECKODRIVER_VERSION}");
    if has_version("geckodriver", GECKODRIVER_VERSION) {
        present(&what);
        return Ok(());
    }
    installing(&what, " (compiles for some minutes, once)");
    run(&mut command("cargo", &["install", "geckodriver", "--version", GECKODRIVER_VERSION, "--locked"]))
}

fn bindgen_command() -> Result<()> {
    // The command must be of the same version as the crate.
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let version = locked_version(&lock, "wasm-bindgen").context("Cargo.lock names no wasm-bindgen")?;
    let what = format!("wasm-bindgen {version}");
    if has_version("wasm-bindgen", version) && has_version("wasm-bindgen-test-runner", version) {
        present(&what);
        return Ok(());
    }
    installing(&what, " (compiles for some minutes, once)");
    // Without --locked: the lock file of 0.2.130 names versions that were withdrawn.
    run(&mut command("cargo", &["install", "wasm-bindgen-cli", "--version", version]))
}

/// The version of `package` in the text of a Cargo.lock.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, after) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    after.split_once('"').map(|(version, _)| version)
}

/// wasm-opt, the type checker and the checker of accessibility, where Node is present.
fn node_packages() -> Result<()> {
    let what = "npm packages (wasm-opt, typescript, axe-core)";
    if !has_node() {
        println!("set-up: {what}: skipped, Node is not installed; the worker will be larger");
        return Ok(());
    }
    // npm ci empties node_modules first, so a stamp that is there and equal belongs to this installation.
    stamped(what, &root().join("package-lock.json"), &root().join("node_modules/.installed-lock"), || {
        run(&mut command("npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"]))
    })
}

pub fn has_node() -> bool {
    on_path("node") && on_path("npm")
}

/// The Python packages of the independent client and of the check of the exported model.
fn python_packages() -> Result<()> {
    python_environment("python packages", "tests/interop/requirements.txt", VENV).map(drop)
}

/// The interpreter that has those packages.
pub fn venv_python() -> PathBuf {
    root().join(VENV).join("bin/python")
}

/// An interpreter with what the native engine is measured against. Large, so only that measurement installs it.
pub fn native_peers() -> Result<PathBuf> {
    debian_packages(&["python3", "python3-venv"])?;
    python_environment("python packages to measure against", "tests/bench/requirements.txt", "target/venv-bench")
}

/// An environment of its own in `folder` with the packages of a list; gives its interpreter.
fn python_environment(what: &str, list: &str, folder: &str) -> Result<PathBuf> {
    let (list, python) = (root().join(list), root().join(folder).join("bin/python"));
    stamped(what, &list, &root().join(folder).join("installed.txt"), || {
        run(&mut command("python3", &["-m", "venv", "--clear", folder]))?;
        let list = list.to_string_lossy();
        run(command(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &list])
            .env("PIP_NO_INPUT", "1"))
    })?;
    Ok(python)
}

/// Runs `install` unless `stamp` holds a copy of `list`, then writes that copy.
fn stamped(what: &str, list: &Path, stamp: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    if fs::read(stamp).is_ok_and(|installed| installed == wanted) {
        present(what);
        return Ok(());
    }
    installing(what, "");
    install()?;
    fs::write(stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn debian_packages(packages: &[&str]) -> Result<()> {
    if !on_path("dpkg-query") {
        println!("set-up: not a Debian machine: these must be there already: {}", packages.join(" "));
        return Ok(());
    }
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !debian_package_present(package)).collect();
    for package in packages.iter().filter(|package| !missing.contains(package)) {
        present(&format!("package {package}"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("these Debian packages are missing. Type:\n    sudo apt-get update && sudo apt-get install -y {list}");
    }
    installing(&format!("packages {list}"), "");
    run(apt().arg("update").arg("-qq"))?;
    run(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing))
}

fn apt() -> Command {
    let mut apt = command("apt-get", &[]);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn debian_package_present(package: &str) -> bool {
    output("dpkg-query", &["-W", "-f", "${Status}", package]).is_some_and(|status| status == "install ok installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_version_is_of_that_package_only() {
        let lock = "[[package]]\nname = \"wasm-bindgen-futures\"\nversion = \"0.4.1\"\n\n\
                    [[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\nsource = \"x\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen"), Some("0.2.130"));
        assert_eq!(locked_version(lock, "wasm"), None);
    }

    #[test]
    fn a_step_runs_until_it_succeeded_for_this_list() {
        let dir = tempfile::tempdir().unwrap();
        let (list, stamp) = (dir.path().join("list"), dir.path().join("stamp"));
        fs::write(&list, "a==1").unwrap();
        assert!(stamped("x", &list, &stamp, || bail!("no network")).is_err());
        let mut runs = 0;
        let mut step = || {
            stamped("x", &list, &stamp, || {
                runs += 1;
                Ok(())
            })
            .unwrap();
        };
        step();
        step();
        fs::write(&list, "a==2").unwrap();
        step();
        assert_eq!(runs, 2);
    }

    #[test]
    fn versions_are_whole_words() {
        assert!(!has_version("no-such-program", "1"));
        assert!(!has_version("rustc", "1"));
    }
}
