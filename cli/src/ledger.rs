//! `manyhands ledger`: checks a coordinator's public log, and a model's way back through it. The checks are the coordinator
//! crate's; this reads the log over HTTP or from a data folder, and prints.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use clap::Subcommand;
use manyhands_coordinator::blobs::Blobs;
use manyhands_coordinator::keys::Keys;
use manyhands_coordinator::ledger::{self, LedgerError, Log, Source};
use manyhands_coordinator::store::Store as _;
use manyhands_coordinator::store::sqlite::SqliteStore;
use manyhands_protocol::log::tile::{Resource, WIDTH, unbundle, width};
use manyhands_protocol::view::InfoView;
use manyhands_protocol::{BlobHash, KeyId};
use serde_json::json;

use crate::operator::client::{connection, innermost};

/// How long a data folder may be locked by a coordinator that writes.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Arguments of `manyhands ledger`.
#[derive(clap::Args)]
pub struct Args {
    /// Address of the coordinator.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8787", env = "MANYHANDS_COORDINATOR")]
    coordinator: String,
    /// Read a coordinator's data folder in place of asking it.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    /// The key that the log must be of; else the one that the coordinator names.
    #[arg(long, global = true)]
    key: Option<KeyId>,
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
    let (source, named): (Box<dyn Source>, KeyId) = match &args.data_dir {
        Some(folder) => {
            if !folder.join("coordinator.key").is_file() {
                bail!("{} is no coordinator's data folder", folder.display());
            }
            let store = SqliteStore::open(&folder.join("manyhands.sqlite3"), LOCK_WAIT).await?;
            let blobs = Blobs::open_folder(&folder.join("blobs")).await?;
            (Box::new(Folder { store, blobs }), Keys::load_or_create(folder)?.id())
        }
        None => {
            let (http, base) = connection(&args.coordinator)?;
            let web = Web { http, base };
            let info: InfoView = serde_json::from_slice(&web.get("/v1/info").await?).context("no coordinator's answer")?;
            (Box::new(web), info.key)
        }
    };
    let key = args.key.unwrap_or(named);
    let log = Log::read(&*source, key).await?;
    let mut out = std::io::stdout().lock();
    match args.command {
        Command::Credit if args.json => writeln!(out, "{}", json!({ "entries": log.size, "credit": log.credit }))?,
        Command::Credit => {
            writeln!(out, "{}", holds(&log, key))?;
            for (key, points) in &log.credit {
                writeln!(out, "{key} {points} points")?;
            }
        }
        Command::Verify { model } => {
            let bytes = std::fs::read(&model).with_context(|| model.display().to_string())?;
            let found = ledger::verify(&*source, &log, &bytes).await?;
            if args.json {
                let facts = json!({
                    "entries": log.size, "key": key, "job": found.job, "name": found.name, "rounds": found.rounds,
                    "units": found.units, "units_refereed": found.refereed, "keys": found.keys, "shards": found.shards,
                });
                writeln!(out, "{facts}")?;
                return Ok(());
            }
            let (keys, shards) = (found.keys.len(), found.shards.len());
            writeln!(out, "{}", holds(&log, key))?;
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

fn holds(log: &Log, key: KeyId) -> String {
    format!("the log of {key} holds: {} entries, every signature and the tree", log.size)
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
        if !response.status().is_success() {
            return Err(failed(response.status().to_string()));
        }
        Ok(response.bytes().await.map_err(|e| failed(e.to_string()))?.to_vec())
    }

    async fn part(&self, resource: Resource) -> Result<Vec<u8>, LedgerError> {
        self.get(&format!("/v1/log/{}", resource.path())).await
    }
}

#[async_trait]
impl Source for Web {
    async fn checkpoint(&self) -> Result<String, LedgerError> {
        let note = self.part(Resource::Checkpoint).await?;
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

/// A data folder.
struct Folder {
    store: SqliteStore,
    blobs: Blobs,
}

#[async_trait]
impl Source for Folder {
    async fn checkpoint(&self) -> Result<String, LedgerError> {
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
