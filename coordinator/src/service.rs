//! What the routes and the driver share. Holds no state that a restart would miss: sets of calls under way, and limits.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use manyhands_protocol::{BlobHash, KeyId, LeaseId, limits};
use tokio::sync::{Notify, RwLock, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::config::Config;
use crate::driver::DriveError;
use crate::events::Hub;
use crate::keys::{KeyError, Keys};
use crate::log::witnesses::Witnesses;
use crate::metrics::Metrics;
use crate::prefix::Prefixes;
use crate::store::Store;

/// One coordinator's parts.
pub struct Service {
    pub config: Config,
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    pub keys: Keys,
    pub events: Hub,
    /// Wakes the driver: something may have to be settled or merged.
    pub driver: Notify,
    /// What the driver did so far.
    pub turns: watch::Sender<Turns>,
    pub shutdown: CancellationToken,
    /// Cancelled when the coordinator is gone: calls that are still under way end where they stand.
    pub ended: CancellationToken,
    /// Leases with an upload under way.
    pub uploading: InFlight<LeaseId>,
    /// Uploads under way of each key, numbered below [`limits::UPLOADS_PER_KEY_MAX`].
    pub key_uploads: InFlight<(KeyId, usize)>,
    /// Results being checked.
    pub checking: InFlight<i64>,
    /// Held, shared, from a blob's publication to its record, and alone while one is deleted: so that no bytes are deleted
    /// that were just recorded again.
    pub publishing: RwLock<()>,
    pub streams: Arc<Semaphore>,
    pub uploads: Semaphore,
    pub operator_uploads: Semaphore,
    pub checks: Semaphore,
    pub checks_waiting: AtomicUsize,
    pub prefixes: Prefixes,
    pub witnesses: Witnesses,
    pub metrics: Metrics,
    /// One referee's or evaluator's computation at a time.
    pub referee: Semaphore,
}

/// Turns of the driver since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    pub count: u64,
    /// The last one found nothing that is due by now.
    pub idle: bool,
}

impl Service {
    pub fn new(config: Config, store: Arc<dyn Store>, blobs: Blobs, keys: Keys) -> Result<Service, KeyError> {
        Ok(Service {
            prefixes: Prefixes::new(config.clock.now_ms())?,
            streams: Arc::new(Semaphore::new(config.streams_count_max)),
            uploads: Semaphore::new(config.uploads_count_max),
            operator_uploads: Semaphore::new(config.operator_uploads_count_max),
            checks: Semaphore::new(config.checks_count_max),
            config,
            store,
            blobs,
            keys,
            events: Hub::default(),
            driver: Notify::new(),
            turns: watch::Sender::default(),
            witnesses: Witnesses::default(),
            metrics: Metrics::default(),
            shutdown: CancellationToken::new(),
            ended: CancellationToken::new(),
            uploading: InFlight::default(),
            key_uploads: InFlight::default(),
            checking: InFlight::default(),
            publishing: RwLock::new(()),
            checks_waiting: AtomicUsize::new(0),
            referee: Semaphore::new(1),
        })
    }

    pub fn now_ms(&self) -> u64 {
        self.config.clock.now_ms()
    }

    /// Takes one of a key's places for uploads; none is left when this is `None`.
    pub fn enter_upload(&self, key: KeyId) -> Option<Entered<'_, (KeyId, usize)>> {
        (0..limits::UPLOADS_PER_KEY_MAX).find_map(|place| self.key_uploads.enter((key, place)))
    }

    /// Stores and records a blob of the coordinator's own.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<BlobHash, DriveError> {
        let length = bytes.len() as u64;
        let _publishing = self.publishing.read().await;
        let hash = self.blobs.put(bytes).await?;
        self.store.add_blob(hash, length, self.now_ms()).await?;
        Ok(hash)
    }

    /// Deletes an upload that nothing names; false if something does by now.
    pub async fn delete_blob(&self, hash: BlobHash) -> Result<bool, DriveError> {
        let _alone = self.publishing.write().await;
        let unused = self.store.forget_blob(hash).await?;
        if unused {
            self.blobs.remove(hash).await?;
        }
        Ok(unused)
    }

    /// Deletes files that no row names: a crash, or a lease that ended while its upload came in, left them. For the start,
    /// before anything else writes.
    pub async fn delete_unnamed(&self) -> Result<(), DriveError> {
        let named: HashSet<BlobHash> =
            self.store.blobs().await?.into_iter().filter(|blob| blob.stored).map(|blob| blob.hash).collect();
        for hash in self.blobs.hashes().await? {
            if !named.contains(&hash) {
                tracing::info!(%hash, "deleted a blob that no row names");
                self.blobs.remove(hash).await?;
            }
        }
        Ok(())
    }

    /// Takes a place in the queue of checks; none is left when this is `None`.
    pub fn queue_check(self: &Arc<Self>) -> Option<QueuedCheck> {
        let queued = QueuedCheck(self.clone());
        let waiting = self.checks_waiting.fetch_add(1, Ordering::AcqRel);
        (waiting < self.config.checks_waiting_max).then_some(queued)
    }
}

/// A place in the queue of checks, given up when dropped.
pub struct QueuedCheck(Arc<Service>);

impl Drop for QueuedCheck {
    fn drop(&mut self) {
        self.0.checks_waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Ids of calls under way, each at most once.
#[derive(Debug)]
pub struct InFlight<T>(Mutex<HashSet<T>>);

impl<T> Default for InFlight<T> {
    fn default() -> InFlight<T> {
        InFlight(Mutex::new(HashSet::new()))
    }
}

impl<T: Copy + Eq + Hash> InFlight<T> {
    /// Marks `id` as under way until the guard is dropped; `None` if it is already.
    pub fn enter(&self, id: T) -> Option<Entered<'_, T>> {
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        // Made only where it entered: a guard that is dropped takes the mark of the call under way with it.
        entered.then(|| Entered { set: self, id })
    }
}

/// See [`InFlight::enter`].
pub struct Entered<'a, T: Copy + Eq + Hash> {
    set: &'a InFlight<T>,
    id: T,
}

impl<T: Copy + Eq + Hash> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        self.set.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_under_way_once_at_a_time() {
        let set = InFlight::default();
        let guard = set.enter(1).unwrap();
        for _ in 0..2 {
            assert!(set.enter(1).is_none(), "also after a refusal");
        }
        assert!(set.enter(2).is_some());
        drop(guard);
        assert!(set.enter(1).is_some());
    }
}
