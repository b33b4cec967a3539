//! The element as site owners take it who want no change that they did not choose: pinned by its hash, and as an npm package,
//! which is packed, installed from the packed file, read by the type checker, and put to work on a page of another origin.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manyhands_tests::browser::Visitor;
use manyhands_tests::jobs::SmallTrain;
use manyhands_tests::server::Server;
use manyhands_tests::site::Site;
use manyhands_tests::{jobs, root};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs to the end and gives what it printed.
fn run(folder: &Path, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(program).args(arguments).current_dir(folder).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// The package, installed in a folder of its own as from a registry.
fn installed(folder: &Path) -> Result<()> {
    let (packed, text) = run(&root(), "cargo", &["xtask", "package-npm"])?;
    ensure!(packed, "{text}");
    let file = text.lines().find_map(|line| line.strip_prefix("packed: ")).unwrap_or_default();
    fs::write(folder.join("package.json"), r#"{ "name": "shop", "private": true, "type": "module" }"#)?;
    let (done, text) = run(folder, "npm", &["install", "--offline", "--no-audit", "--no-fund", file])?;
    ensure!(done, "{text}");
    Ok(())
}

/// What the type checker says of a script of the site's.
fn checked(folder: &Path, script: &str) -> Result<(bool, String)> {
    fs::write(folder.join("shop.ts"), script)?;
    let options =
        ["--strict", "--noEmit", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "shop.ts"];
    run(folder, root().join("node_modules/.bin/tsc"), &options)
}

#[tokio::test]
async fn the_package_installs_checks_and_works() -> Result<()> {
    let folder = tempfile::tempdir()?;
    installed(folder.path())?;

    let script = "import \"many-hands\";\n\
        const hands = document.querySelector(\"many-hands\");\n\
        hands?.addEventListener(\"statechange\", () => console.log(hands.state === \"working\", hands.contribution.accepted + 1));\n\
        hands?.pause();\n";
    let (right, text) = checked(folder.path(), script)?;
    assert!(right, "{text}");
    for wrong in ["hands?.consent();", "hands!.state = \"working\";", "hands!.state === \"running\";"] {
        let (right, text) = checked(folder.path(), &format!("{script}{wrong}\n"))?;
        assert!(!right && text.contains("shop.ts(5,"), "{wrong}: {text}");
    }

    let element = fs::read_to_string(folder.path().join("node_modules/many-hands/many-hands.js"))?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::matmul(folder.path(), [256; 3], 64)?;
    server.submit(&files.manifest, &files.data)?;
    let body = |attributes: &str| {
        format!("<script type=module src=/script.js></script><many-hands site=shop {attributes}></many-hands>")
    };
    let named = format!("coordinator={}", server.url);
    let site = Site::with_script(&server.url, &element, |_| body(&named)).await?;
    server.run(&["site", "add", "shop", "--origin", &site.origin, "--category", "demo"])?;
    let visitor = Visitor::open(&site.origin).await?;
    visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
    visitor.enter_frame("many-hands").await?;
    visitor.press_seen_start(LIMIT).await?;
    visitor.wait_until("Number(d.accepted) >= 1", LIMIT).await?;

    // Without the attribute it would be a frame of the page's own origin, which it never is.
    let forgetful = Site::with_script(&server.url, &element, |_| body("")).await?;
    let visitor = Visitor::open(&forgetful.origin).await?;
    visitor.wait_for_element("e.state === 'failed'", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn a_pinned_element_is_the_one_that_was_pinned() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let told = server.run(&["site", "add", "shop", "--origin", "http://localhost:1", "--category", "demo"])?;
    let script = told.lines().find(|line| line.contains("integrity=\"sha384-")).context("a pinned script")?;
    let other = script.replace("sha384-", "sha384-A");
    for (script, defined) in [(script, true), (&other, false)] {
        let site = Site::start(&server.url, |_| format!("{script}<many-hands site=shop></many-hands>")).await?;
        let visitor = Visitor::open(&site.origin).await?;
        // A page has loaded once its module scripts ran, or could not.
        let got = visitor.run("return document.readyState === 'complete' && !!customElements.get('many-hands');").await?;
        assert_eq!(got, defined, "{script}");
    }
    Ok(())
}

/// Elements that pages pinned, and one from before the first release, each with the frame as it is now.
#[tokio::test]
async fn older_elements_work_with_the_frame_of_now() -> Result<()> {
    let mut found = Vec::new();
    for folder in ["tests/vectors/elements", "coordinator/elements"] {
        for entry in fs::read_dir(root().join(folder))? {
            found.push(entry?.path());
        }
    }
    found.retain(|path| path.extension().is_some_and(|kind| kind == "js"));
    ensure!(!found.is_empty(), "nothing to try");
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    server.submit(&files.manifest, &files.data)?;
    let body = format!(
        "<script type=module src=/script.js></script><many-hands site=shop duty=50 coordinator={}></many-hands>",
        server.url
    );
    for path in found {
        println!("{}", path.display());
        let site = Site::with_script(&server.url, &fs::read_to_string(&path)?, |_| body.clone()).await?;
        server.run(&["site", "add", "shop", "--origin", &site.origin, "--category", "demo"])?;
        let visitor = Visitor::open(&site.origin).await?;
        let call = async |what: &str| visitor.run(&format!("document.querySelector('many-hands').{what};")).await;
        visitor.wait_for_element("e.state === 'idle'", LIMIT).await?;
        call("start()").await?;
        call("setAttribute('scheme', 'dark')").await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("d.scheme === 'dark'", LIMIT).await?;
        visitor.press_seen_start(LIMIT).await?;
        visitor.leave_frame().await?;
        visitor.wait_for_element("e.state === 'working' && e.contribution.accepted >= 1", LIMIT).await?;
        call("setAttribute('duty', '20')").await?;
        visitor.enter_frame("many-hands").await?;
        visitor.wait_until("document.getElementById('duty').max === '20'", LIMIT).await?;
        visitor.leave_frame().await?;
        call("pause()").await?;
        visitor.wait_for_element("e.state === 'paused'", LIMIT).await?;
        call("stop()").await?;
        visitor.wait_for_element("e.state === 'stopped'", LIMIT).await?;
    }
    Ok(())
}
