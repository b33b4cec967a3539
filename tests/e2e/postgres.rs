//! The command on PostgreSQL: a whole run with a crash in it, and passwords that nobody is told.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use manyhands_protocol::view::JobState;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::process::Process;
use manyhands_tests::server::{Server, binary, error_text};

#[path = "../../coordinator/tests/calls/cluster.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the coordinator's tests need all of it")]
mod cluster;

const LIMIT: Duration = Duration::from_secs(180);
const PASSWORD: &str = "correct-horse";

#[tokio::test]
async fn a_job_runs_to_its_end_and_its_log_is_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, database) = (folder.path().join("data"), cluster::Database::create().await);
    let store = ["--store", &database.address()];
    let mut server = Server::start_with(&data, &store)?;
    let small =
        SmallTrain { rounds_max: 3, units_per_round: 2, target_accuracy: 1.0, noisy_labels: true, ..SmallTrain::default() };
    let files = jobs::train(folder.path(), small)?;
    let job = server.submit(&files.manifest, &files.data)?;
    {
        let _volunteers = [server.volunteer(&["--cpu"])?, server.volunteer(&["--cpu"])?];
        server.follow(job, LIMIT, |view| view.units_settled >= 2).await?;
        server.restart_with(&store)?;
        server.follow(job, LIMIT, |view| view.state == JobState::Finished).await?;
    }
    ensure!(!data.join("manyhands.sqlite3").exists(), "a SQLite file beside the database");
    let credit = |folder: &Path| -> Result<_> {
        let mut command = Command::new(binary()?);
        Ok(command.args(["ledger", "credit", "--data-dir"]).arg(folder).args(store).output()?)
    };
    let read = credit(&data)?;
    ensure!(read.status.success() && String::from_utf8_lossy(&read.stdout).contains("points"), "{}", error_text(&read));
    // A second coordinator, on a folder of its own.
    let other = folder.path().join("other");
    let second =
        Command::new(binary()?).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&other).args(store).output()?;
    ensure!(second.status.code() == Some(1) && error_text(&second).contains("another coordinator"), "{}", error_text(&second));
    Ok(())
}

#[tokio::test]
async fn a_password_is_in_no_log_and_no_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = cluster::Database::create().await;
    cluster::order(&format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")).await;
    cluster::order(&format!("ALTER DATABASE {} OWNER TO guest", database.name)).await;
    let with = |password: &str| database.address().replace("postgres@localhost", &format!("guest:{password}@localhost"));
    let serve = |address: &str| -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("data"));
        command.env("MANYHANDS_STORE", address).env("RUST_LOG", "trace");
        Ok(command)
    };
    let log = folder.path().join("log");
    let mut running = Process::start(&mut serve(&with(PASSWORD))?, &log)?;
    running.line_after("coordinator key ", LIMIT)?;
    running.kill_9();
    let logged = std::fs::read_to_string(&log)?;
    ensure!(logged.contains("sqlx") && !logged.contains(PASSWORD), "{logged}");
    let wrong = "battery-staple";
    for address in
        [with(wrong), with(wrong).replace("postgres://", "postgress://"), with(wrong).replace("@localhost/", "@localhost:none/")]
    {
        let refused = serve(&address)?.output()?;
        let text = [&refused.stdout[..], &refused.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(refused.status.code() == Some(1) && !text.contains(wrong), "{text}");
    }
    let help = Command::new(binary()?).args(["serve", "--help"]).env("MANYHANDS_STORE", with(PASSWORD)).output()?;
    let help = String::from_utf8(help.stdout).context("help is text")?;
    ensure!(help.contains("MANYHANDS_STORE") && !help.contains(PASSWORD), "{help}");
    Ok(())
}
