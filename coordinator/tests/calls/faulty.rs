//! A store whose writes fail when a test says so.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use manyhands_coordinator::store::*;
use manyhands_protocol::log::Hash;
use manyhands_protocol::rules::standing::Course;
use manyhands_protocol::site::{Site, SiteTotals};
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::{HeartbeatResponse, Totals};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, UnitId};

/// Which write fails, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The write with this number is not done.
    Before(u32),
    /// The write with this number is done and reported as failed.
    After(u32),
    /// Verdicts and settlements are not written, until [`Faulty::mend`].
    Verdicts,
    /// Nothing is appended to the log, until [`Faulty::mend`].
    AppendsBefore,
    /// What is appended to the log is reported as failed, until then.
    AppendsAfter,
}

/// A store with one fault.
pub struct Faulty {
    inner: Arc<dyn Store>,
    /// Writes so far.
    pub writes: AtomicU32,
    fault: Fault,
    mended: AtomicBool,
    /// Names of the calls so far.
    calls: Mutex<Vec<&'static str>>,
}

impl Faulty {
    pub fn new(inner: Arc<dyn Store>, fault: Fault) -> Faulty {
        Faulty { inner, writes: AtomicU32::new(0), fault, mended: AtomicBool::new(false), calls: Mutex::default() }
    }

    /// Names of the calls so far, of these alone.
    pub fn calls(&self, names: &[&str]) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().copied().filter(|name| names.contains(name)).collect()
    }

    /// Writes succeed from now on.
    pub fn mend(&self) {
        self.mended.store(true, Ordering::Relaxed);
    }

    async fn append<T>(&self, append: impl Future<Output = Result<T>>) -> Result<T> {
        let failed = || Err(StoreError::Damaged("a fault of the test's making".to_owned()));
        match self.fault {
            _ if self.mended.load(Ordering::Relaxed) => append.await,
            Fault::AppendsBefore => failed(),
            Fault::AppendsAfter => append.await.and_then(|_| failed()),
            _ => self.write(false, append).await,
        }
    }

    async fn write<T>(&self, verdict: bool, write: impl Future<Output = Result<T>>) -> Result<T> {
        let at = self.writes.fetch_add(1, Ordering::Relaxed);
        let failed = || StoreError::Damaged("a fault of the test's making".to_owned());
        if self.mended.load(Ordering::Relaxed) {
            return write.await;
        }
        if self.fault == Fault::Before(at) || (verdict && self.fault == Fault::Verdicts) {
            return Err(failed());
        }
        let done = write.await;
        if self.fault == Fault::After(at) { Err(failed()) } else { done }
    }
}

/// Delegates to the inner store: `read` as it is, `write` and `verdict` with the fault.
macro_rules! delegate {
    ($($kind:ident $name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        #[async_trait]
        impl Store for Faulty {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$out> {
                self.calls.lock().unwrap().push(stringify!($name));
                delegate!(@$kind self, $name, $($arg),*)
            })*
        }
    };
    (@read $self:ident, $name:ident, $($arg:ident),*) => { $self.inner.$name($($arg),*).await };
    (@write $self:ident, $name:ident, $($arg:ident),*) => { $self.write(false, $self.inner.$name($($arg),*)).await };
    (@append $self:ident, $name:ident, $($arg:ident),*) => { $self.append($self.inner.$name($($arg),*)).await };
    (@verdict $self:ident, $name:ident, $($arg:ident),*) => { $self.write(true, $self.inner.$name($($arg),*)).await };
}

delegate! {
    write identity(fresh: String) -> String;
    read stopped() -> bool;
    write set_stopped(stopped: bool) -> ();
    write add_blob(hash: BlobHash, bytes: u64, now_ms: u64) -> bool;
    read blob(hash: BlobHash) -> Option<BlobRow>;
    read check_upload(lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> ();
    write add_upload(lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> bool;
    read unused_blobs(count_max: u32) -> Vec<BlobHash>;
    write forget_blob(hash: BlobHash) -> bool;
    write open_session(session: NewSession) -> ();
    read session(token_hash: [u8; 32]) -> Option<Session>;
    write withdraw_session(session: i64, now_ms: u64) -> Vec<JobId>;
    read scrub() -> ();
    write rotate(rotation: NewRotation) -> Vec<JobId>;
    read key(key: KeyId) -> Option<KeyView>;
    read totals(key: KeyId) -> Totals;
    write put_site(site: Site) -> bool;
    read site(name: &str) -> Option<Site>;
    read sites() -> Vec<Site>;
    write remove_site(name: &str) -> bool;
    write set_site_token(name: &str, token_hash: [u8; 32]) -> ();
    read has_site_token(name: &str, token_hash: [u8; 32]) -> bool;
    read site_totals(name: &str) -> SiteTotals;
    write create_job(job: NewJob) -> JobId;
    read job(job: JobId) -> Option<Job>;
    read jobs(states: &[JobState]) -> Vec<Job>;
    read job_view(job: JobId, now_ms: u64) -> Option<(u64, JobView)>;
    write set_job_state(job: JobId, from: &[JobState], to: JobState) -> ();
    write cancel_job(job: JobId, reason: String) -> ();
    write lease(ask: LeaseAsk, sign: Sign<'_>) -> (Vec<Vec<u8>>, Vec<JobId>);
    write heartbeat(lease: LeaseId, key: KeyId, now_ms: u64) -> HeartbeatResponse;
    write give_back(lease: LeaseId, key: KeyId) -> JobId;
    write lapse_leases(now_ms: u64) -> (Vec<JobId>, Option<u64>);
    write add_result(result: NewResult) -> (ResultRow, bool);
    read result(result: i64) -> Option<ResultRow>;
    verdict judge(judgement: Judgement, now_ms: u64) -> ();
    verdict settle(settlement: Settlement) -> ();
    write decide(result: i64, challenged: bool, draw: f64, now_ms: u64) -> Option<Course>;
    write forget_prefixes() -> ();
    write roll_back(roll_back: RollBack) -> u64;
    read result_statement(result: i64) -> Option<Vec<u8>>;
    read lease_times(lease: LeaseId) -> [u64; 2];
    write open_challenge(challenge: NewChallenge) -> bool;
    read challenge(lease: LeaseId) -> Option<Challenge>;
    write answer_challenge(answered: ChallengeAnswered) -> Challenge;
    read challenges_due(now_ms: u64, count_max: u32) -> (Vec<Challenge>, Option<u64>);
    verdict close_challenge(closed: ChallengeClosed) -> ();
    read challenge_counts(key: KeyId) -> ChallengeCounts;
    read is_present(key: KeyId, since_ms: u64, at_ms: u64) -> bool;
    write wait_anew(now_ms: u64) -> ();
    read unit(unit: UnitId) -> Option<Unit>;
    read unit_results(unit: UnitId) -> Vec<ResultRow>;
    read results_to_check(count_max: u32) -> Vec<ResultRow>;
    read units_waiting(count_max: u32) -> Vec<Unit>;
    read jobs_to_advance() -> Vec<Job>;
    read round(job: JobId, round: u32) -> Option<NewRound>;
    read round_units(job: JobId, round: u32) -> Vec<MergedUnit>;
    write close_round(close: RoundClose) -> ();
    read openings_wanted(least: u32) -> Vec<(Job, u32)>;
    write add_openings(job: JobId, units: Vec<NewUnit>, most: u32) -> ();
    read log_queue(count_max: u32) -> Vec<Queued>;
    append append_log(entries: Vec<SignedEntry>, sign: SignCheckpoint<'_>) -> ();
    read log_head() -> Option<LogHead>;
    read log_tile(level: u8, number: u64) -> Option<Vec<Hash>>;
    read log_entries(from: u64, count: u64) -> Vec<Vec<u8>>;
    read log_index(lease: LeaseId) -> Option<u64>;
    read blobs() -> Vec<BlobRow>;
    read check_invariants() -> Vec<String>;
}
