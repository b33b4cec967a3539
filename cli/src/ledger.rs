//! `manyhands ledger`: checks a coordinator's public log, and a model's way back through it. The checks are the coordinator
//! crate's; this reads the log over HTTP or from a data folder, and prints.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use clap::Subcommand;
use manyhands_coordinator::blobs::Blobs;
use manyhands_coordinator::keys::{Keys, replace_file};
use manyhands_coordinator::ledger::{self, LedgerError, Log, Source, Trust};
use manyhands_coordinator::store::{self, Store};
use manyhands_protocol::log::tile::{Resource, WIDTH, unbundle, width};
use manyhands_protocol::log::witness::WitnessKey;
use manyhands_protocol::problem::Problem;
use manyhands_protocol::view::InfoView;
use manyhands_protocol::{BlobHash, KeyId};
use serde_json::json;

use crate::operator::client::{connection, innermost};
use crate::store::StoreArgs;

/// How long a data folder may be locked by a coordinator that writes.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Where a coordinator is asked unless told otherwise.
const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:8787";

/// Arguments of `manyhands ledger`.
#[derive(clap::Args)]
pub struct Args {
    /// Address of the coordinator; else the variable MANYHANDS_COORDINATOR, else http://127.0.0.1:8787.
    #[arg(long, global = true)]
    coordinator: Option<String>,
    /// Read a coordinator's data folder, and its database, in place of asking it.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// The key that the log must be of; else the one that the coordinator names.
    #[arg(long, global = true)]
    key: Option<KeyId>,
    /// Keep the log's checkpoint in this file, and believe no log that does not go on from the one in it.
    #[arg(long, global = true, value_name = "FILE")]
    seen: Option<PathBuf>,
    /// A witness's key, as `manyhands witness` prints it: the log must be cosigned by it (may be given several times).
    #[arg(long = "witness-key", global = true, value_name = "KEY")]
    witness_keys: Vec<WitnessKey>,
    /// How many of these witnesses are enough; else all.
    #[arg(long, global = true, value_name = "COUNT")]
    cosignatures: Option<usize>,
    /// Print JSON for scripts.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the whole log, walk from a model back to its job, and do its merges again.
    Verify {
        /// A checkpoint or an export of a training job.
        model: PathBuf,
    },
    /// Check the whole log, and print every key's credit in points.
    Credit,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    // First of all: nobody waits for a log to be read before they are told that their file is not there.
    let model = match &args.command {
        Command::Verify { model } => Some((model, std::fs::read(model).with_context(|| model.display().to_string())?)),
        Command::Credit => None,
    };
    let (source, named) = source(&args).await?;
    let key = args.key.unwrap_or(named);
    let trust = trust(&args, key)?;
    let log = Log::read(&*source, &trust).await?;
    if let Some(seen) = &args.seen {
        replace_file(seen, log.note.as_bytes()).with_context(|| seen.display().to_string())?;
    }
    let mut out = std::io::stdout().lock();
    match model {
        None if args.json => writeln!(out, "{}", json!({ "entries": log.size, "credit": log.credit }))?,
        None => {
            writeln!(out, "{}", holds(&log, &trust))?;
            for (key, points) in &log.credit {
                writeln!(out, "{key} {points} points")?;
            }
        }
        Some((model, bytes)) => {
            let found = ledger::verify(&*source, &log, &bytes).await.with_context(|| model.display().to_string())?;
            if args.json {
                let facts = json!({
                    "entries": log.size, "key": key, "job": found.job, "name": found.name, "rounds": found.rounds,
                    "units": found.units, "units_refereed": found.refereed, "keys": found.keys, "shards": found.shards,
                });
                writeln!(out, "{facts}")?;
                return Ok(());
            }
            let (keys, shards) = (found.keys.len(), found.shards.len());
            writeln!(out, "{}", holds(&log, &trust))?;
            writeln!(out, "job {} ({}): {} rounds merged again, to the same bytes", found.job, found.name, found.rounds)?;
            writeln!(
                out,
                "{} units by {keys} keys on {shards} shards; {} by the coordinator alone",
                found.units, found.refereed
            )?;
            for key in &found.keys {
                writeln!(out, "  key {key}")?;
            }
        }
    }
    Ok(())
}

/// Where the log is read, and whose it claims to be.
async fn source(args: &Args) -> anyhow::Result<(Box<dyn Source>, KeyId)> {
    let Some(folder) = &args.data_dir else {
        let address = args.coordinator.clone().or_else(|| std::env::var("MANYHANDS_COORDINATOR").ok());
        let (http, base) = connection(address.as_deref().unwrap_or(DEFAULT_COORDINATOR))?;
        let web = Web { http, base };
        let info: InfoView = serde_json::from_slice(&web.get("/v1/info").await?)
            .with_context(|| format!("{} answers, but not as a coordinator", web.base))?;
        return Ok((Box::new(web), info.key));
    };
    if args.coordinator.is_some() {
        bail!("--coordinator asks a coordinator and --data-dir reads a folder: give one of them");
    }
    if !args.witness_keys.is_empty() {
        bail!("a data folder has no cosignatures: with --witness-key ask the coordinator, not --data-dir");
    }
    let (address, file, blobs) = (args.store.address()?, store::file(folder), folder.join("blobs"));
    let parts = [Some(folder), address.is_none().then_some(&file), Some(&blobs)];
    for part in parts.into_iter().flatten() {
        if !part.exists() {
            bail!("{} is not there: {} is no coordinator's data folder", part.display(), folder.display());
        }
    }
    let named = args.key.map_or_else(|| Keys::read_id(folder), |key| Ok(Some(key)))?;
    let named = named.with_context(|| {
        let missing = folder.join("coordinator.key");
        format!("{} is not there: say with --key whose log it is", missing.display())
    })?;
    let store = store::open_to_read(address.as_ref(), folder, LOCK_WAIT).await?;
    Ok((Box::new(Folder { store, blobs: Blobs::read_folder(&blobs)? }), named))
}

/// What the log must be to be believed.
fn trust(args: &Args, key: KeyId) -> anyhow::Result<Trust> {
    let mut witnesses: Vec<WitnessKey> = Vec::new();
    for witness in &args.witness_keys {
        if !witnesses.iter().any(|other| other.key == witness.key) {
            witnesses.push(witness.clone());
        }
    }
    let cosignatures_count = args.cosignatures.unwrap_or(witnesses.len());
    if cosignatures_count > witnesses.len() {
        bail!("--cosignatures {cosignatures_count}, of {} witnesses: name more with --witness-key", witnesses.len());
    }
    let seen = match &args.seen {
        Some(file) if file.exists() => {
            let shown = || file.display().to_string();
            let note = std::fs::read_to_string(file).with_context(shown)?;
            Some(ledger::read_checkpoint(&note, key).with_context(shown)?)
        }
        _ => None,
    };
    Ok(Trust { key, seen, witnesses, cosignatures_count })
}

fn holds(log: &Log, trust: &Trust) -> String {
    let (size, key) = (log.size, trust.key);
    let grown = trust.seen.as_ref().map(|seen| format!(", which go on from the {} seen before", seen.size)).unwrap_or_default();
    let cosigned = match trust.cosignatures_count {
        0 => String::new(),
        count => format!("; {count} or more of {} witnesses cosigned it", trust.witnesses.len()),
    };
    format!("the log of {key} holds: {size} entries, every signature and the tree{grown}{cosigned}")
}

/// A coordinator that is asked.
struct Web {
    http: reqwest::Client,
    base: String,
}

impl Web {
    async fn get(&self, path: &str) -> Result<Vec<u8>, LedgerError> {
        let failed = |reason: String| LedgerError::Source(format!("{}{path}: {reason}", self.base));
        let unanswered = |e| LedgerError::Source(format!("{} does not answer: {}", self.base, innermost(&e)));
        let response = self.http.get(format!("{}{path}", self.base)).send().await.map_err(unanswered)?;
        let status = response.status();
        if !status.is_success() {
            let why = response.bytes().await.ok().and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
            return Err(failed(why.map_or_else(|| status.to_string(), |problem| problem.detail)));
        }
        Ok(response.bytes().await.map_err(|e| failed(e.to_string()))?.to_vec())
    }

    async fn part(&self, resource: Resource) -> Result<Vec<u8>, LedgerError> {
        self.get(&format!("/v1/log/{}", resource.path())).await
    }
}

#[async_trait]
impl Source for Web {
    async fn checkpoint(&self, cosignatures_count: usize) -> Result<String, LedgerError> {
        let note = self.get(&format!("/v1/log/checkpoint?cosignatures={cosignatures_count}")).await?;
        String::from_utf8(note).map_err(|_| LedgerError::Source("the checkpoint is no text".to_owned()))
    }

    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let mut entries = Vec::new();
        for number in 0..size.div_ceil(WIDTH) {
            let bundle = self.part(Resource::Entries { number, width: width(0, number, size) }).await?;
            let bundle = unbundle(&bundle).ok_or_else(|| LedgerError::Source(format!("bundle {number} is none")))?;
            entries.extend(bundle.into_iter().map(<[u8]>::to_vec));
        }
        Ok(entries)
    }

    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError> {
        self.get(&format!("/v1/blobs/{hash}")).await
    }
}

/// A data folder, with its database.
struct Folder {
    store: Arc<dyn Store>,
    blobs: Blobs,
}

#[async_trait]
impl Source for Folder {
    async fn checkpoint(&self, _: usize) -> Result<String, LedgerError> {
        let head = self.store.log_head().await.map_err(|e| LedgerError::Source(e.to_string()))?;
        head.map(|head| head.note).ok_or_else(|| LedgerError::Source("the log has no checkpoint yet".to_owned()))
    }

    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.store.log_entries(0, size).await.map_err(|e| LedgerError::Source(e.to_string()))
    }

    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError> {
        Ok(self.blobs.read(hash).await.map_err(|e| LedgerError::Source(e.to_string()))?.to_vec())
    }
}
