//! The `manyhands` command: serve, volunteer, job. Parses arguments and sets up logging; the work is elsewhere.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod job;
mod serve;
mod volunteer;

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
    /// Submit, watch and control jobs.
    Job(job::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Volunteer(args) => volunteer::run(args).await,
        Command::Job(args) => job::run(args).await,
    }
}
