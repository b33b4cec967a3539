//! `manyhands job`: the job owner's and the operator's commands. They cut and check data here and talk to a coordinator;
//! they never open its store.

mod print;
mod submit;

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use manyhands_protocol::JobId;
use manyhands_protocol::view::JobView;
use reqwest::Method;
use serde_json::json;

use crate::operator::client::Client;
use crate::operator::{CommandError, Operator};

/// Arguments of `manyhands job`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    operator: Operator,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a manifest, cut its data, upload what the coordinator lacks, and create the job.
    Submit {
        /// The manifest, a JSON file.
        manifest: PathBuf,
        /// A folder with train.safetensors and test.safetensors, or with text.txt, or one safetensors file with a and b.
        #[arg(long)]
        data: PathBuf,
        /// Approve the job at once: volunteers may work on it.
        #[arg(long)]
        approve: bool,
    },
    /// List all jobs.
    List,
    /// Show one job.
    Status { id: JobId },
    /// Let volunteers work on a submitted job.
    Approve { id: JobId },
    /// Hold a job, or all work on this coordinator; volunteers stop within a heartbeat.
    Pause(Target),
    /// Go on with a paused job, or with everything.
    Resume(Target),
    /// End a job for good.
    Cancel { id: JobId },
    /// Save the product or the newest checkpoint as safetensors.
    Export {
        id: JobId,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
}

/// One job or everything.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    id: Option<JobId>,
    /// All work on this coordinator.
    #[arg(long)]
    all: bool,
}

/// Runs one command; an error is for the user to read, and ends the process with 1.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let text = execute(args).await?;
    // A closed pipe ends the reading; what was asked for is done.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Does the work and gives what is to be printed.
async fn execute(args: Args) -> Result<String, CommandError> {
    if let Command::Submit { manifest, data, approve } = &args.command {
        // All of the owner's input is checked before the coordinator hears of it.
        let prepared = submit::prepare(manifest, data)?;
        let client = args.operator.connect()?;
        let view = submit::send(&client, &prepared, *approve).await?;
        return Ok(print::job(&view, args.operator.json));
    }
    let client = args.operator.connect()?;
    match &args.command {
        Command::Submit { .. } => unreachable!("handled above"),
        Command::List => Ok(print::jobs(&client.jobs().await?, args.operator.json)),
        Command::Status { id } => Ok(print::job(&find(&client, *id).await?, args.operator.json)),
        Command::Approve { id } => act(&client, *id, "approve", args.operator.json).await,
        Command::Cancel { id } => act(&client, *id, "cancel", args.operator.json).await,
        Command::Pause(Target { id: Some(id), .. }) => act(&client, *id, "pause", args.operator.json).await,
        Command::Resume(Target { id: Some(id), .. }) => act(&client, *id, "resume", args.operator.json).await,
        Command::Pause(_) => everything(&client, true, args.operator.json).await,
        Command::Resume(_) => everything(&client, false, args.operator.json).await,
        Command::Export { id, out } => {
            let bytes = client.download(&format!("/v1/admin/jobs/{id}/export"), out).await?;
            let out = out.display().to_string();
            Ok(match args.operator.json {
                true => json!({ "job": id, "out": out, "bytes": bytes }).to_string(),
                false => format!("job {id} exported to {out} ({bytes} bytes)"),
            })
        }
    }
}

async fn find(client: &Client, id: JobId) -> Result<JobView, CommandError> {
    let response = client.call(Method::GET, &format!("/v1/admin/jobs/{id}"), None).await?;
    client.json(response).await
}

/// Changes the state of one job and shows what it is then.
async fn act(client: &Client, id: JobId, action: &str, as_json: bool) -> Result<String, CommandError> {
    let view = change(client, id, action).await?;
    Ok(if as_json { print::job(&view, true) } else { format!("job {id} is {}", view.state.name()) })
}

/// Stops all work, or lets it go on.
async fn everything(client: &Client, stop: bool, as_json: bool) -> Result<String, CommandError> {
    client.call(Method::POST, if stop { "/v1/admin/stop" } else { "/v1/admin/resume" }, None).await?;
    Ok(match (as_json, stop) {
        (true, _) => json!({ "stopped": stop }).to_string(),
        (false, true) => "all work is stopped".to_owned(),
        (false, false) => "work goes on".to_owned(),
    })
}

async fn change(client: &Client, id: JobId, action: &str) -> Result<JobView, CommandError> {
    let response = client.call(Method::POST, &format!("/v1/admin/jobs/{id}/{action}"), None).await?;
    client.json(response).await
}

#[cfg(test)]
mod tests;
