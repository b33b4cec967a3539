//! Starts and ends a whole coordinator in this process: `manyhands serve`, and every test that needs one.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manyhands_protocol::KeyId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use crate::blobs::{BlobError, Blobs};
use crate::config::Config;
use crate::driver::DriveError;
use crate::keys::{KeyError, Keys, random32};
use crate::service::Service;
use crate::store::{self, Store, StoreError};
use crate::{driver, http, log, server};

/// How long a shutdown waits for calls under way.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("data folder {path}: {error}")]
    DataDir { path: PathBuf, error: io::Error },
    #[error("data folder {path} is locked by another coordinator")]
    InUse { path: PathBuf },
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0:?} is no name for a witness: one word without a plus, such as its address")]
    WitnessName(String),
    #[error("looking for blobs that no row names: {0}")]
    Sweep(Box<DriveError>),
}

/// A coordinator that runs. Dropped, it stops where it stands, like a process that is killed.
pub struct App {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The coordinator's public key.
    pub key: KeyId,
    pub admin_token_path: PathBuf,
    service: Arc<Service>,
    tasks: JoinSet<()>,
    _ended: DropGuard,
    /// Keeps a second coordinator off the data folder.
    _lock: File,
}

impl App {
    /// Starts on the configured database, or the SQLite file in the data folder, and on the configured bucket, or the blob folder there.
    pub async fn start(config: Config) -> Result<App, StartError> {
        // First of all, so that a start on a taken address leaves nothing behind.
        let listener = listen(config.listen).await?;
        let lock = lock_folder(&config.data_dir)?;
        let store = store::open(config.database.as_ref(), &config.data_dir, config.database_lock_wait).await?;
        App::start_locked(config, store, listener, lock).await
    }

    /// Starts on another store; keys and blobs are where they are otherwise.
    pub async fn start_with(config: Config, store: Arc<dyn Store>) -> Result<App, StartError> {
        let listener = listen(config.listen).await?;
        let lock = lock_folder(&config.data_dir)?;
        App::start_locked(config, store, listener, lock).await
    }

    async fn start_locked(config: Config, store: Arc<dyn Store>, listener: TcpListener, lock: File) -> Result<App, StartError> {
        let addr = listener.local_addr().map_err(|error| StartError::Listen { address: config.listen, error })?;
        let keys = Keys::load_or_create(&config.data_dir)?;
        let blobs = match &config.bucket {
            Some(bucket) => Blobs::open_bucket(bucket).await?,
            None => Blobs::open_folder(&config.data_dir.join("blobs")).await?,
        };
        let (key, admin_token_path) = (keys.id(), keys.admin_token_path.clone());
        let service = Arc::new(Service::new(config, store, blobs, keys)?);
        // Their key ended with the process that made them, so they are no more than random numbers; the next key's turn comes too.
        if let Err(error) = service.store.forget_prefixes().await {
            tracing::error!(%error, "address prefixes of the last run were not forgotten");
        }
        if let Err(error) = service.store.wait_anew(service.now_ms()).await {
            tracing::error!(%error, "open challenges keep the deadlines of the last run");
        }
        let blobs_count = service.store.blobs().await?.iter().filter(|blob| blob.stored).count();
        let identity = service.store.identity(hex::encode(random32()?)).await?;
        service.blobs.claim(&identity, blobs_count).await?;
        // A bucket may be looked at by a copy of the tables that is tried out; what nothing names stays there.
        if service.config.bucket.is_none() {
            service.delete_unnamed().await.map_err(|error| StartError::Sweep(Box::new(error)))?;
        }
        let mut tasks = JoinSet::new();
        let parts = service.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = parts.shutdown.cancelled() => {}
                () = parts.events.run(&*parts.store, &*parts.config.clock) => {}
            }
        });
        tasks.spawn(driver::run(service.clone()));
        tasks.spawn(log::run(service.clone()));
        if !service.config.witnesses.is_empty() {
            tasks.spawn(log::witnesses::run(service.clone()));
        }
        let (router, connections) = (http::router(service.clone()), service.config.connections_count_max);
        tasks.spawn(server::run(listener, router, connections, service.shutdown.clone()));
        let ended = service.ended.clone().drop_guard();
        Ok(App { addr, key, admin_token_path, service, tasks, _ended: ended, _lock: lock })
    }

    /// Base address of the calls.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What must always hold and does not, in the store and between it and the blobs.
    pub async fn check_invariants(&self) -> Result<Vec<String>, StoreError> {
        let mut broken = self.service.store.check_invariants().await?;
        for blob in self.service.store.blobs().await?.into_iter().filter(|blob| blob.stored) {
            match self.service.blobs.bytes_stored(blob.hash).await {
                Ok(bytes) if bytes == blob.bytes => {}
                Ok(bytes) => broken.push(format!("blob {} has {bytes} bytes, {} are recorded", blob.hash, blob.bytes)),
                // The driver deletes unused uploads meanwhile: the record goes before the bytes.
                Err(_) if self.service.store.blob(blob.hash).await?.is_none_or(|now| !now.stored) => {}
                Err(error) => broken.push(error.to_string()),
            }
        }
        Ok(broken)
    }

    /// Returns once the driver looked for work that is due by now, in a turn that began after this call, and found none.
    pub async fn idle(&self) {
        let mut turns = self.service.turns.subscribe();
        let begun = turns.borrow_and_update().count;
        loop {
            self.service.driver.notify_one();
            // The sender is in `self`, so the channel cannot close while this waits.
            let _ = turns.changed().await;
            let now = *turns.borrow_and_update();
            if now.count >= begun + 2 && now.idle {
                return;
            }
        }
    }

    /// Appends what waits for the log now, not with the next batch.
    pub async fn append_log(&self) -> Result<(), DriveError> {
        log::sequence(&self.service).await
    }

    /// Waits for calls under way, ends the driver after its current step, appends what waits for the log, and closes.
    pub async fn shutdown(mut self) {
        self.service.shutdown.cancel();
        let ended = tokio::time::timeout(SHUTDOWN_WAIT, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("calls were still under way; they are cut off");
        }
        self.tasks.shutdown().await;
        if let Err(error) = self.append_log().await {
            tracing::error!(%error, "what waits for the log is appended at the next start");
        }
    }
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })
}

pub(crate) fn lock_folder(path: &Path) -> Result<File, StartError> {
    let failed = |error| StartError::DataDir { path: path.to_owned(), error };
    std::fs::create_dir_all(path).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(path.join("manyhands.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}
