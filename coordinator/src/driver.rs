//! One background task that moves jobs on: it ends lapsed leases, checks what a crash left unchecked, ends challenges, settles gradient
//! units, merges rounds, finishes jobs and deletes uploads that nothing names.
//!
//! It remembers nothing between turns: each turn derives what to do from the store, and every step is safe to repeat. So a
//! kill at any moment costs at most the step under way.

pub mod challenge;
pub mod check;
pub mod opening;
pub mod round;
mod settle;

use std::sync::Arc;

use manyhands::EngineError;
use manyhands_protocol::JobId;
use manyhands_protocol::rules::settle::{Step, Waiting, Waits, next_step};
use manyhands_protocol::rules::standing::Course;

use crate::blobs::BlobError;
use crate::keys::KeyError;
use crate::referee::RefereeError;
use crate::service::{Service, Turns};
use crate::store::StoreError;

/// How long the driver waits after a failure before it tries again.
const RETRY_MS: u64 = 2_000;
/// Most units, or results, that one turn looks at.
const BATCH_COUNT: u32 = 256;

/// A step that failed. None of these is a volunteer's fault, and each step is tried again.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
    #[error(transparent)]
    Referee(#[from] RefereeError),
    #[error(transparent)]
    Random(#[from] KeyError),
    #[error("input blob: {0}")]
    Input(#[from] manyhands::TensorError),
    #[error("a computation ended early: {0}")]
    Ended(#[from] tokio::task::JoinError),
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

impl DriveError {
    /// Whether the computation itself leaves the finite numbers: then no repetition helps, here or at a volunteer's.
    pub fn is_divergence(&self) -> bool {
        matches!(self, DriveError::Referee(RefereeError::Engine(EngineError::NotFinite(_))))
    }
}

/// Cancels the job that `what` is of if the step failed by divergence.
async fn or_cancel(service: &Service, job: JobId, what: String, done: Result<(), DriveError>) -> Result<(), DriveError> {
    match done {
        Err(error) if error.is_divergence() => cancel(service, job, format!("{what}: {error}")).await,
        done => done,
    }
}

/// Ends a job that cannot go on.
async fn cancel(service: &Service, job: JobId, reason: String) -> Result<(), DriveError> {
    tracing::error!(%job, reason, "job cancelled");
    service.store.cancel_job(job, reason).await?;
    service.events.touch(job);
    Ok(())
}

/// Drives all jobs until the shutdown.
pub async fn run(service: Arc<Service>) {
    loop {
        let wake_ms = turn(&service).await;
        let idle = wake_ms > service.now_ms();
        service.turns.send_modify(|turns| *turns = Turns { count: turns.count + 1, idle });
        tokio::select! {
            () = service.shutdown.cancelled() => return,
            () = service.driver.notified() => {}
            () = service.config.clock.wait_until(wake_ms) => {}
        }
    }
}

/// What one turn found.
struct Turn {
    /// When something is due next.
    wake_ms: u64,
    /// Something changed, so something else may be due at once.
    worked: bool,
}

impl Turn {
    fn note<T>(&mut self, now_ms: u64, what: &str, done: Result<T, DriveError>) -> Option<T> {
        match done {
            Ok(value) => {
                self.worked = true;
                Some(value)
            }
            Err(error) => {
                tracing::error!(%error, "{what} failed; it is tried again");
                self.wake_ms = self.wake_ms.min(now_ms.saturating_add(RETRY_MS));
                None
            }
        }
    }
}

/// Does what is due, and gives the time at which more will be.
async fn turn(service: &Arc<Service>) -> u64 {
    let now_ms = service.now_ms();
    let mut turn = Turn { wake_ms: u64::MAX, worked: false };
    replace_prefix_key(service, now_ms, &mut turn).await;
    lapse_leases(service, now_ms, &mut turn).await;
    check_results(service, now_ms, &mut turn).await;
    challenge::turn(service, now_ms, &mut turn).await;
    settle_units(service, now_ms, &mut turn).await;
    opening::restock(service, now_ms, &mut turn).await;
    match service.store.jobs_to_advance().await {
        Ok(jobs) => {
            for job in jobs {
                let done = round::advance(service, &job).await;
                let done = or_cancel(service, job.id, format!("merging round {}", job.round), done).await;
                turn.note(now_ms, "merging a round", done);
                service.events.touch(job.id);
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for finished rounds", Err(error.into()));
        }
    }
    delete_unused(service, now_ms, &mut turn).await;
    if turn.worked { now_ms } else { turn.wake_ms }
}

/// Deletes what volunteers uploaded and nothing can name any more. The work above makes more of it, so it comes last.
async fn delete_unused(service: &Service, now_ms: u64, turn: &mut Turn) {
    match service.store.unused_blobs(BATCH_COUNT).await {
        Ok(unused) => {
            for hash in unused {
                turn.note(now_ms, "deleting an unused upload", service.delete_blob(hash).await);
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for unused uploads", Err(error.into()));
        }
    }
}

/// Tags first: one that is made in between is compared with nothing, and gone with the next key.
async fn replace_prefix_key(service: &Service, now_ms: u64, turn: &mut Turn) {
    if now_ms >= service.prefixes.due_ms() {
        let replaced = async {
            service.store.forget_prefixes().await?;
            Ok(service.prefixes.replace(now_ms)?)
        };
        turn.note(now_ms, "forgetting address prefixes", replaced.await);
    }
    turn.wake_ms = turn.wake_ms.min(service.prefixes.due_ms());
}

async fn lapse_leases(service: &Service, now_ms: u64, turn: &mut Turn) {
    match service.store.lapse_leases(now_ms).await {
        Ok((jobs, next_ms)) => {
            turn.wake_ms = turn.wake_ms.min(next_ms.unwrap_or(u64::MAX));
            turn.worked |= !jobs.is_empty();
            jobs.into_iter().for_each(|job| service.events.touch(job));
        }
        Err(error) => {
            turn.note::<()>(now_ms, "ending lapsed leases", Err(error.into()));
        }
    }
}

/// Checks results that no call is checking: a crash, or a failure of storage, left them.
async fn check_results(service: &Arc<Service>, now_ms: u64, turn: &mut Turn) {
    match service.store.results_to_check(BATCH_COUNT).await {
        Ok(results) => {
            for result in results {
                if let Some(_entered) = service.checking.enter(result.id) {
                    turn.note(now_ms, "checking a result", check::check_result(service, &result).await);
                }
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for unchecked results", Err(error.into()));
        }
    }
}

async fn settle_units(service: &Arc<Service>, now_ms: u64, turn: &mut Turn) {
    let units = match service.store.units_waiting(BATCH_COUNT).await {
        Ok(units) => units,
        Err(error) => {
            turn.note::<()>(now_ms, "looking for units to settle", Err(error.into()));
            return;
        }
    };
    let waits = Waits { replica_ms: service.config.replica_wait_ms, leased_ms: service.config.replica_leased_wait_ms };
    let mut for_referee = Vec::new();
    for unit in units {
        let waiting = Waiting {
            results_count: unit.results_count,
            first_result_ms: unit.first_result_ms.unwrap_or(u64::MAX),
            live_leases_count: unit.live_leases_count,
            leases_ended_count: unit.leases_ended_count,
            audit: unit.course == Some(Course::Audit),
        };
        match next_step(waiting, now_ms, waits) {
            Step::Wait { until_ms } => turn.wake_ms = turn.wake_ms.min(until_ms),
            Step::Compare => {
                let done = settle::compare(service, &unit).await;
                let done = or_cancel(service, unit.job, format!("unit {}", unit.id), done).await;
                turn.note(now_ms, "comparing results", done);
            }
            // After the comparisons: it takes much longer.
            Step::Referee => for_referee.push(unit),
        }
    }
    for unit in for_referee {
        if service.shutdown.is_cancelled() {
            return;
        }
        let done = settle::referee(service, &unit).await;
        let done = or_cancel(service, unit.job, format!("unit {}", unit.id), done).await;
        // One a turn: comparisons, merges and lapsed leases, of other jobs too, do not wait for all of them. One that fails
        // holds up none of the others.
        if turn.note(now_ms, "refereeing a unit", done).is_some() {
            return;
        }
    }
}
