//! What the commands share that command a coordinator: how they reach it, why they fail, and what they print alike.

pub mod client;
pub mod print;

use std::path::PathBuf;

use client::Client;

/// What every command of an operator's takes.
#[derive(clap::Args)]
pub struct Operator {
    /// Address of the coordinator.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8787", env = "MANYHANDS_COORDINATOR")]
    pub coordinator: String,
    /// File that holds the operator's token; else the variable MANYHANDS_ADMIN_TOKEN, else ./manyhands-data/admin.token.
    #[arg(long, global = true)]
    token_file: Option<PathBuf>,
    /// Print JSON for scripts.
    #[arg(long, global = true)]
    pub json: bool,
}

impl Operator {
    /// The coordinator, and the right to command it.
    pub fn connect(&self) -> Result<Client, CommandError> {
        let token = client::token(self.token_file.as_deref(), std::env::var("MANYHANDS_ADMIN_TOKEN").ok())?;
        Client::new(&self.coordinator, token)
    }
}

/// Why a command failed; its text is what the user sees.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    /// `field` is the path in the manifest.
    #[error("{path}: {field}: {reason}")]
    Manifest { path: String, field: String, reason: String },
    #[error("{path}: {source}")]
    Cut { path: String, source: manyhands_coordinator::cut::CutError },
    #[error("no operator's token: {0}; give --token-file or set MANYHANDS_ADMIN_TOKEN")]
    Token(String),
    #[error("{0} is not a coordinator's address: it must be https://HOST or http://HOST:PORT")]
    Address(String),
    #[error("{url} does not answer: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{}", print::problem(.0))]
    Problem(Box<manyhands_protocol::problem::Problem>),
    #[error("{url} answered {status} without saying why; is it a coordinator?")]
    Status { url: String, status: u16 },
    #[error("{url} answered something that is not what was asked for: {reason}")]
    Answer { url: String, reason: String },
}
