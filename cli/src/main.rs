//! The `manyhands` command: serve, volunteer, key, job, ledger, witness, site. Parses arguments and sets up logging; the work is elsewhere.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod job;
mod key;
mod ledger;
mod operator;
mod serve;
mod site;
mod store;
mod volunteer;
mod witness;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Volunteer computing in the browser.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a coordinator.
    Serve(serve::Args),
    /// Contribute from a terminal.
    Volunteer(volunteer::Args),
    /// Save the volunteer's key to a file, take it from one, or have a new one take its place.
    Key(key::Args),
    /// Submit, watch and control jobs.
    Job(job::Args),
    /// Check a coordinator's public log, and where a model comes from.
    Ledger(ledger::Args),
    /// Cosign the public logs of other coordinators.
    Witness(witness::Args),
    /// Register sites that embed the page, and read their totals.
    Site(site::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people: in a file they are noise.
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let ended = match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Volunteer(args) => volunteer::run(args).await,
        Command::Key(args) => key::run(args).await,
        Command::Job(args) => job::run(args).await,
        Command::Ledger(args) => ledger::run(args).await,
        Command::Witness(args) => witness::run(args).await,
        Command::Site(args) => site::run(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it on one line; a cause that the error's own text tells already is not told twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
