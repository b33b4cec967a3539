//! The command line used wrongly: one clear line on standard error, exit code 1 (2 for arguments), nothing half done.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::server::{Server, binary, error_text};

/// Runs `manyhands ARGS` and gives what it wrote.
fn manyhands(args: &[&str]) -> Result<Output> {
    // The default token and data folder are relative: not the workspace's.
    let elsewhere = tempfile::tempdir()?;
    Ok(Command::new(binary()?).args(args).current_dir(elsewhere.path()).output()?)
}

/// It failed with this code and one line that contains each of `words`.
fn check(output: &Output, code: i32, words: &[&str]) {
    let text = error_text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text:?}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    if code == 1 {
        assert_eq!(text.lines().count(), 1, "more than a line: {text}");
    }
}

#[tokio::test]
async fn manifests_errors_name_the_field() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::default())?;
    let good = std::fs::read_to_string(&files.manifest)?;
    let submit = |manifest: &Path, data: &Path| -> Result<Output> {
        let (manifest, data) = (manifest.to_string_lossy(), data.to_string_lossy());
        Ok(server.command(&["job", "submit", &manifest, "--data", &data])?.output()?)
    };
    let bad = folder.path().join("bad.json");
    for (from, to, field) in [
        ("\"outputs\": 32", "\"outputs\": 0", "work.model.layers[0].outputs"),
        ("\"batch\": 16", "\"batch\": 17", "work.rows_per_shard"),
        ("\"seed\": 3", "\"sede\": 3", "work"),
        ("\"target_accuracy\": 0.95", "\"target_accuracy\": 95", "work.target_accuracy"),
        ("\"version\": 1", "\"version\": 9", "version"),
    ] {
        assert!(good.contains(from), "{from} is not in the manifest");
        std::fs::write(&bad, good.replacen(from, to, 1))?;
        check(&submit(&bad, &files.data)?, 1, &[field, "bad.json"]);
    }
    check(&submit(&files.manifest, folder.path())?, 1, &["train.safetensors"]);
    check(&submit(&folder.path().join("none.json"), &files.data)?, 1, &["none.json"]);
    assert!(server.run(&["job", "list", "--json"])?.contains("[]"), "nothing was submitted");
    Ok(())
}

#[tokio::test]
async fn jobs_that_are_not_there_or_not_ready() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let run = |args: &[&str]| -> Result<Output> { Ok(server.command(args)?.output()?) };
    check(&run(&["job", "status", "99"])?, 1, &["99"]);
    check(&run(&["job", "approve", "99"])?, 1, &["99"]);
    let files = jobs::matmul(folder.path(), [8, 8, 8], 8)?;
    let job = server.submit(&files.manifest, &files.data)?.to_string();
    let out = folder.path().join("out.safetensors");
    check(&run(&["job", "export", &job, "--out", &out.to_string_lossy()])?, 1, &[&job]);
    assert!(!out.exists(), "a failed export leaves no file");
    server.run(&["job", "cancel", &job])?;
    check(&run(&["job", "approve", &job])?, 1, &["cancelled"]);
    check(&run(&["job", "resume", &job])?, 1, &["cancelled"]);
    Ok(())
}

#[tokio::test]
async fn tokens_and_addresses() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let wrong = folder.path().join("wrong.token");
    std::fs::write(&wrong, "0".repeat(64))?;
    let list = ["job", "list", "--coordinator", server.url.as_str()];
    check(&manyhands(&[&list[..], &["--token-file", &wrong.to_string_lossy()]].concat())?, 1, &["token that was sent"]);
    check(&manyhands(&list)?, 1, &["admin.token"]);
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let closed = format!("http://{}", silent.local_addr()?);
    drop(silent);
    let away = ["--coordinator", closed.as_str()];
    check(&manyhands(&[&["job", "list", "--token-file", &wrong.to_string_lossy()], &away[..]].concat())?, 1, &[&closed]);
    let alone = manyhands(&[&["volunteer"], &away[..]].concat())?;
    check(&alone, 1, &[&closed, "does not answer"]);
    assert_eq!(String::from_utf8_lossy(&alone.stderr).matches("answer").count(), 1, "said twice: {alone:?}");
    check(&manyhands(&["volunteer", "--duty", "0"])?, 2, &["--duty"]);
    check(&manyhands(&["volunteer", "--threads", "9"])?, 2, &["--threads"]);
    check(&manyhands(&["volunteer", "--threads", "2", "--units", "1"])?, 2, &["--threads"]);
    check(&manyhands(&["job", "pause"])?, 2, &["--all"]);
    check(&manyhands(&["jobs"])?, 2, &["jobs"]);
    Ok(())
}

/// One file is the whole installation: the page is in it, not beside it.
#[tokio::test]
async fn the_binary_holds_the_page() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    for path in ["", "page/main.js"] {
        let page = reqwest::get(format!("{}/{path}", server.url)).await?.error_for_status()?.bytes().await?;
        assert!(page.len() > 1000, "{path}: {} bytes", page.len());
        let held = std::fs::read(binary()?)?;
        assert!(held.windows(page.len()).any(|part| part == page), "/{path} is not in the binary");
    }
    Ok(())
}

#[test]
fn a_coordinator_that_cannot_start_says_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let serve = |listen: &str, data_dir: &str| manyhands(&["serve", "--listen", listen, "--data-dir", data_dir]);

    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    check(&serve(&address, &path("data"))?, 1, &[&address, "in use"]);
    assert!(!folder.path().join("data").exists(), "a coordinator that never began left something behind");

    std::fs::write(folder.path().join("file"), "no folder")?;
    check(&serve("127.0.0.1:0", &path("file"))?, 1, &[&path("file")]);

    // Two coordinators on one folder.
    let _first = Server::start(&folder.path().join("shared"))?;
    check(&serve("127.0.0.1:0", &path("shared"))?, 1, &["shared", "locked"]);

    std::fs::create_dir(folder.path().join("damaged"))?;
    std::fs::write(folder.path().join("damaged/manyhands.sqlite3"), "this is no database, and long enough to be read as one")?;
    check(&serve("127.0.0.1:0", &path("damaged"))?, 1, &["manyhands.sqlite3"]);
    check(&serve("nowhere", &path("data"))?, 2, &["--listen"]);
    Ok(())
}
