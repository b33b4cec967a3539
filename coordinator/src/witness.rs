//! A witness of other coordinators' logs (C2SP tlog-witness): signs a checkpoint where its log only grew since the one that it
//! signed last. It keeps that one for each log, in a file of its own, and nothing else; it neither reads nor holds a log.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ed25519_dalek::{Signer, SigningKey};
use manyhands_protocol::KeyId;
use manyhands_protocol::log::note::{Checkpoint, NOTE_BYTES_MAX, Note, is_name, origin};
use manyhands_protocol::log::tree::empty_root;
use manyhands_protocol::log::witness::{
    AddCheckpoint, Cosignature, REQUEST_BYTES_MAX, Refusal, WitnessKey, check_growth, cosigned,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::{StartError, listen, lock_folder};
use crate::clock::Clock;
use crate::keys::{load_or_create_secret, replace_file};
use crate::ledger::read_checkpoint;
use crate::server;

/// Port that `manyhands witness` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8788;
/// Most connections at once; more wait to be accepted.
const CONNECTIONS_COUNT_MAX: usize = 256;
/// How long a request may take to come.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// Of the answer that tells what was signed last.
const SIZE: &str = "text/x.tlog.size";

/// Settings of a witness.
pub struct Config {
    pub listen: SocketAddr,
    /// Folder of its key and of what it signed last; made if it is missing.
    pub data_dir: PathBuf,
    /// Stands beside its signatures.
    pub name: String,
    /// Keys of the coordinators whose logs it signs.
    pub logs: HashSet<KeyId>,
    pub clock: Arc<dyn Clock>,
}

/// A witness that runs. Dropped, it stops where it stands.
pub struct Running {
    pub addr: SocketAddr,
    pub key: WitnessKey,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    /// Keeps a second one off the folder: two would sign two histories.
    _lock: File,
}

impl Running {
    pub async fn start(config: Config) -> Result<Running, StartError> {
        if !is_name(&config.name) {
            return Err(StartError::WitnessName(config.name));
        }
        let listener: TcpListener = listen(config.listen).await?;
        let lock = lock_folder(&config.data_dir)?;
        let addr = listener.local_addr().map_err(|error| StartError::Listen { address: config.listen, error })?;
        let signing = SigningKey::from_bytes(&*load_or_create_secret(&config.data_dir.join("witness.key"))?);
        let key = WitnessKey { name: config.name, key: KeyId(signing.verifying_key().to_bytes()) };
        let (folder, logs, clock) = (config.data_dir, config.logs, config.clock);
        let witness = Arc::new(Witness { signing, key: key.clone(), folder, logs, clock, alone: Mutex::new(()) });
        let router = Router::new().route("/add-checkpoint", post(add_checkpoint)).with_state(witness);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server::run(listener, router, CONNECTIONS_COUNT_MAX, shutdown.clone()));
        Ok(Running { addr, key, shutdown, task, _lock: lock })
    }

    /// Answers the calls under way and ends.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Witness {
    signing: SigningKey,
    key: WitnessKey,
    folder: PathBuf,
    logs: HashSet<KeyId>,
    clock: Arc<dyn Clock>,
    /// Held from reading what was signed last until the next is kept: otherwise a slower request could take it back.
    alone: Mutex<()>,
}

/// Why nothing is signed.
enum Refused {
    Malformed,
    UnknownLog,
    Unsigned,
    /// The log's last signed size is with it: the answer to a conflict.
    Growth(Refusal, u64),
    Kept(io::Error),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Malformed => (StatusCode::BAD_REQUEST, "not a request of c2sp.org/tlog-witness\n").into_response(),
            Refused::UnknownLog => (StatusCode::NOT_FOUND, "this witness does not sign that log\n").into_response(),
            Refused::Unsigned => (StatusCode::FORBIDDEN, "the checkpoint is not signed by its log\n").into_response(),
            Refused::Growth(Refusal::Backwards, _) => {
                (StatusCode::BAD_REQUEST, "the old size is larger than the checkpoint's\n").into_response()
            }
            Refused::Growth(Refusal::Conflict, last) => {
                (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE)], format!("{last}\n")).into_response()
            }
            Refused::Growth(Refusal::Inconsistent, _) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "the proof does not prove that the log grew\n").into_response()
            }
            Refused::Kept(error) => {
                tracing::error!(%error, "what was signed last cannot be read or kept; nothing is signed");
                (StatusCode::INTERNAL_SERVER_ERROR, "the witness cannot keep what it signs\n").into_response()
            }
        }
    }
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: Body) -> Response {
    let body = match tokio::time::timeout(BODY_WAIT, to_bytes(body, REQUEST_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Refused::Malformed.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    match tokio::task::spawn_blocking(move || witness.add(&body)).await {
        Ok(Ok(line)) => line.into_response(),
        Ok(Err(refused)) => refused.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Witness {
    /// The line with the cosignature, once it is kept what it is of.
    fn add(&self, body: &[u8]) -> Result<String, Refused> {
        let ask = std::str::from_utf8(body).ok().and_then(AddCheckpoint::parse).ok_or(Refused::Malformed)?;
        let text = Note::parse(&ask.note).ok_or(Refused::Malformed)?.text;
        let claimed = Checkpoint::parse(&text).ok_or(Refused::Malformed)?;
        let log = self.logs.iter().find(|log| origin(**log) == claimed.origin).ok_or(Refused::UnknownLog)?;
        let newest = read_checkpoint(&ask.note, *log).map_err(|_| Refused::Unsigned)?;

        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder.join(format!("{log}.checkpoint"));
        let last = last_signed(&path, *log).map_err(Refused::Kept)?;
        let last = last.map_or((0, empty_root()), |last| (last.size, last.root));
        if let Err(refusal) = check_growth(last, &ask, &newest) {
            tracing::warn!(%log, last = last.0, newest = newest.size, ?refusal, "not signed");
            return Err(Refused::Growth(refusal, last.0));
        }
        if newest.size != last.0 || !path.exists() {
            replace_file(&path, ask.note.as_bytes()).map_err(Refused::Kept)?;
        }
        let time_s = self.clock.now_ms() / 1_000;
        let signature = self.signing.sign(&cosigned(&text, time_s)).to_bytes();
        Ok(self.key.line(&Cosignature { time_s, signature }))
    }
}

/// What was signed last of a log; none of one that is new. A file that is damaged is an error: whoever took it for a new log would
/// sign another history.
fn last_signed(path: &Path, log: KeyId) -> io::Result<Option<Checkpoint>> {
    let note = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        note => note?,
    };
    let damaged = || io::Error::other(format!("{} is damaged", path.display()));
    let note = (note.len() <= NOTE_BYTES_MAX).then(|| String::from_utf8(note).ok()).flatten().ok_or_else(damaged)?;
    read_checkpoint(&note, log).map(Some).map_err(|_| damaged())
}
