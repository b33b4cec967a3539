//! Live progress: whole views of jobs, the newest to each listener. A slow listener skips views and never a change for
//! good; nothing is queued for anyone.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use manyhands_protocol::JobId;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// Shortest time between two views of one job: changes in between are shown together.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// A job's view as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// The view's version: the event's id.
    pub version: u64,
    /// `JobView` as JSON.
    pub json: String,
}

/// Reads a job's newest view.
pub async fn read_event(store: &dyn Store, job: JobId, now_ms: u64) -> Result<Option<JobEvent>, StoreError> {
    let Some((version, view)) = store.job_view(job, now_ms).await? else { return Ok(None) };
    let json = serde_json::to_string(&view).map_err(|e| StoreError::Damaged(format!("view of job {job}: {e}")))?;
    Ok(Some(JobEvent { version, json }))
}

type Newest = Option<Arc<JobEvent>>;

/// Who listens to which job, and which jobs changed.
#[derive(Default)]
pub struct Hub {
    listeners: Mutex<HashMap<JobId, watch::Sender<Newest>>>,
    changed: Mutex<BTreeSet<JobId>>,
    wake: Notify,
}

/// A poisoned lock is taken all the same: every critical section here leaves its map consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Says that a job's view may have changed.
    pub fn touch(&self, job: JobId) {
        lock(&self.changed).insert(job);
        self.wake.notify_one();
    }

    /// Listens to a job's views from now on.
    pub fn subscribe(&self, job: JobId) -> watch::Receiver<Newest> {
        lock(&self.listeners).entry(job).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Publishes changes for ever.
    pub async fn run(&self, store: &dyn Store, clock: &dyn Clock) {
        loop {
            self.wake.notified().await;
            let changed = std::mem::take(&mut *lock(&self.changed));
            for job in changed {
                if !self.has_listeners(job) {
                    continue;
                }
                match read_event(store, job, clock.now_ms()).await {
                    Ok(Some(event)) => {
                        if let Some(sender) = lock(&self.listeners).get(&job) {
                            sender.send_replace(Some(Arc::new(event)));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%job, %error, "could not read a job's view; its listeners wait for the next change");
                    }
                }
            }
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
    }

    /// Whether anyone listens; forgets the job if not.
    fn has_listeners(&self, job: JobId) -> bool {
        let mut listeners = lock(&self.listeners);
        let any = listeners.get(&job).is_some_and(|sender| sender.receiver_count() > 0);
        if !any {
            listeners.remove(&job);
        }
        any
    }
}
