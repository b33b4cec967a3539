//! What the coordinator remembers, behind one trait. No SQL here, no HTTP, no clock: times come in as arguments.
//!
//! Contracts that every implementation keeps:
//! - **Durability**: when a method that writes returns `Ok`, its effect survives the loss of power.
//! - **Atomicity**: a method's writes happen together or not at all. An `Err` may mean either: a commit can succeed and
//!   its report be lost.
//! - **Retry**: so every write is safe to repeat with the same arguments. It finds its own effect and changes nothing
//!   more, or refuses with a code that says so. Two writes are no such: `create_job` makes another job, `lease` gives more
//!   leases; the first job stays submitted until someone cancels it, and leases lapse.
//! - Counters (`keys`, `jobs`, slots of units) change in the transaction of what they count; nothing is credited twice.

mod challenges;
mod order;
pub mod postgres;
pub mod sqlite;

pub use challenges::*;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use manyhands_protocol::log::Hash;
use manyhands_protocol::log::entry::{ModelState, Statement};
use manyhands_protocol::manifest::{Category, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::standing::Course;
use manyhands_protocol::site::{Site, SiteTotals};
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::{HeartbeatResponse, Totals, Verdict};
use manyhands_protocol::work::{UnitManifest, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, UnitId};

use self::postgres::{PostgresAddress, PostgresStore};
use self::sqlite::SqliteStore;
use crate::prefix::PrefixTag;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The call is not allowed in this state; nothing was written.
    #[error("{detail}")]
    Refused { code: Code, detail: String },
    #[error("{path}: locked by another process")]
    Locked { path: String },
    #[error("{path}: made by a newer version of this program (schema {version}); use that version")]
    NewerSchema { path: String, version: i64 },
    #[error("{path}: made by an older version of this program (schema {version}), which had no public log")]
    OlderSchema { path: String, version: i64 },
    #[error("{path}: schema version {version} was changed or left half-applied; restore the file from a backup")]
    DamagedSchema { path: String, version: i64 },
    #[error("{path}: another coordinator is at work on this database")]
    InUse { path: String },
    #[error("{path}: holds table {table}, which is not ours; give the coordinator a database of its own")]
    ForeignSchema { path: String, table: String },
    #[error("{path}: holds no coordinator's data")]
    NoSchema { path: String },
    #[error("{path}: the database takes no writes: it is a replica, or was made read-only")]
    ReadOnly { path: String },
    #[error("{path}: {setting} is off there, so that a loss of power may lose what was reported as stored")]
    NotDurable { path: String, setting: &'static str },
    #[error("{path}: {error}")]
    Open { path: String, error: sqlx::Error },
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A row that this program would not have written.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    pub fn refused(code: Code, detail: impl Into<String>) -> StoreError {
        StoreError::Refused { code, detail: detail.into() }
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A recorded blob; its bytes are in the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRow {
    pub hash: BlobHash,
    pub bytes: u64,
    pub public: bool,
    /// False after its bytes were deleted as unused.
    pub stored: bool,
}

/// A consent statement that was checked, about to become a session.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub token_hash: [u8; 32],
    pub key: KeyId,
    pub nonce: Vec<u8>,
    /// The signed statement as received.
    pub consent: Vec<u8>,
    /// Of its commitment in the log.
    pub consent_salt: [u8; 32],
    pub job: Option<JobId>,
    /// The kind of jobs that the consent names.
    pub category: Option<Category>,
    /// The registered site that the consent names.
    pub site: Option<String>,
    pub opened_ms: u64,
    pub expires_ms: u64,
}

/// A rotation whose statements were checked.
#[derive(Debug, Clone)]
pub struct NewRotation {
    pub old: KeyId,
    pub new: KeyId,
    /// The signed statements as received.
    pub by_old: Vec<u8>,
    pub by_new: Vec<u8>,
    pub now_ms: u64,
}

/// An open or ended session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: i64,
    pub key: KeyId,
    /// The one job the consent names.
    pub job: Option<JobId>,
    pub expires_ms: u64,
    pub withdrawn: bool,
}

/// A job about to be stored, with everything its first round needs.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub submission: Submission,
    pub submitted_ms: u64,
    pub units: Vec<NewUnit>,
    /// Round 0 of a `train` job.
    pub round: Option<NewRound>,
}

/// A checkpoint with its evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewRound {
    pub checkpoint: BlobHash,
    pub velocity: BlobHash,
    pub loss: f64,
    /// Standard error of the loss; none of few examples.
    pub loss_error: Option<f64>,
    pub accuracy: f64,
    pub at_ms: u64,
}

/// A work unit about to be stored.
#[derive(Debug, Clone)]
pub struct NewUnit {
    pub work: Work,
    pub min_quorum: u32,
    /// Largest blob it reads or returns.
    pub blob_bytes: u64,
    pub flop: u64,
    /// Of checking one of its results.
    pub check_flop: u64,
}

/// A stored job, as the driver and the operator's calls need it.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    /// The operator approved it once. Any other job is for the operator alone.
    pub approved: bool,
    pub submission: Submission,
    /// Rounds merged.
    pub round: u32,
    pub units_total: u64,
    pub units_settled: u64,
}

/// A stored unit.
#[derive(Debug, Clone)]
pub struct Unit {
    pub id: UnitId,
    pub job: JobId,
    pub round: u32,
    pub work: Work,
    pub min_quorum: u32,
    pub results_count: u32,
    pub first_result_ms: Option<u64>,
    /// Live leases of keys that have no result for it.
    pub live_leases_count: u32,
    /// Leases that lapsed or were given back.
    pub leases_ended_count: u32,
    pub flop: u64,
    pub canonical: Option<BlobHash>,
    pub settled_by: Option<SettledBy>,
    /// Drawn when the first result of a gradient unit is stored.
    pub course: Option<Course>,
}

/// Which units ask for commitments to their training states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Commits {
    /// Those where these take no more than this share of their time.
    pub share_max: f64,
    /// Whether single steps are to be shown where they can.
    pub steps_wanted: bool,
}

/// A request for leases.
#[derive(Debug, Clone, Copy)]
pub struct LeaseAsk {
    pub key: KeyId,
    pub session: i64,
    /// Only units of this job.
    pub job: Option<JobId>,
    pub units_max: u32,
    pub blob_bytes_max: u64,
    /// Name of the device class that will compute.
    pub backend: &'static str,
    /// Of the address that asks; none where it is not known.
    pub prefix: Option<PrefixTag>,
    /// Where results may be challenged.
    pub commits: Option<Commits>,
    pub now_ms: u64,
}

/// Signs a unit manifest; called inside the transaction that creates its lease.
pub type Sign<'a> = &'a (dyn Fn(&UnitManifest) -> Vec<u8> + Send + Sync);

/// A lease as stored.
#[derive(Debug, Clone)]
pub struct Lease {
    pub id: LeaseId,
    pub unit: UnitId,
    pub job: JobId,
    pub key: KeyId,
    pub state: LeaseState,
    pub issued_ms: u64,
    pub deadline_ms: u64,
    pub manifest: BlobHash,
    pub upload_bytes_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    Live,
    Lapsed,
    GivenBack,
    /// Its result was received.
    Done,
}

/// A result statement that was checked as far as it can be without the store.
#[derive(Debug, Clone)]
pub struct NewResult {
    pub job: JobId,
    pub unit: UnitId,
    pub lease: LeaseId,
    pub key: KeyId,
    /// Hash of the unit manifest that the statement names.
    pub manifest: BlobHash,
    /// The signed statement as received.
    pub statement: Vec<u8>,
    /// The details as received.
    pub details: Vec<u8>,
    pub output_name: String,
    pub output: BlobHash,
    pub output_bytes: u64,
    pub losses_count: usize,
    /// Steps between the states that the result commits to.
    pub states_every: Option<u32>,
    pub backend: &'static str,
    pub received_ms: u64,
}

/// A stored result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRow {
    pub id: i64,
    pub job: JobId,
    pub unit: UnitId,
    pub lease: LeaseId,
    pub key: KeyId,
    pub output: BlobHash,
    pub verdict: Verdict,
    pub reason: String,
    pub credit_flop: u64,
}

/// What settles a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledBy {
    /// The product was checked by algebra.
    Algebra,
    /// As many results of different keys as the unit is to have: two that agree, or one of a trusted key.
    Quorum,
    /// The coordinator computed it.
    Referee,
}

impl SettledBy {
    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            SettledBy::Algebra => "algebra",
            SettledBy::Quorum => "quorum",
            SettledBy::Referee => "referee",
        }
    }

    /// The one with this name.
    pub fn parse(name: &str) -> Option<SettledBy> {
        [SettledBy::Algebra, SettledBy::Quorum, SettledBy::Referee].into_iter().find(|by| by.name() == name)
    }
}

/// One result's verdict; `reason` is empty for an accepted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub result: i64,
    pub accepted: bool,
    pub reason: String,
    /// Proved wrong: the key goes to quarantine.
    pub caught: bool,
}

impl Judgement {
    pub fn accept(result: i64) -> Judgement {
        Judgement { result, accepted: true, reason: String::new(), caught: false }
    }

    pub fn reject(result: i64, reason: impl Into<String>) -> Judgement {
        Judgement { result, accepted: false, reason: reason.into(), caught: false }
    }

    /// Rejects a result that was proved wrong.
    pub fn catch(result: i64, reason: impl Into<String>) -> Judgement {
        Judgement { caught: true, ..Judgement::reject(result, reason) }
    }
}

/// A unit's end: its canonical output and the verdicts known by then.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub unit: UnitId,
    pub canonical: BlobHash,
    pub by: SettledBy,
    pub judgements: Vec<Judgement>,
    pub now_ms: u64,
}

/// A settled unit of a round, as it enters the merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergedUnit {
    pub unit: UnitId,
    pub canonical: BlobHash,
    pub weight_permille: u32,
    /// By keys alone: a roll-back has the referee compute it.
    pub by_keys: bool,
}

/// A round's end: the next checkpoint and either the next round's units or the end of the job.
#[derive(Debug, Clone)]
pub struct RoundClose {
    pub job: JobId,
    /// The round that was merged; the new checkpoint is that of `round + 1`.
    pub round: u32,
    /// What was merged: refused if the round's units have been settled otherwise by now.
    pub merged: Vec<MergedUnit>,
    pub next: NewRound,
    /// How it was merged, as the log tells it.
    pub rule: String,
    /// Units of round `round + 1`; none finishes the job.
    pub units: Vec<NewUnit>,
}

/// A merge that is not kept.
#[derive(Debug, Clone)]
pub struct RollBack {
    pub job: JobId,
    pub round: u32,
    /// What the merge gave.
    pub undone: ModelState,
    /// What the job goes on from.
    pub kept: ModelState,
    pub reason: String,
}

/// A statement that waits to be put into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub id: i64,
    pub statement: Statement,
}

/// The same, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEntry {
    pub id: i64,
    pub bytes: Vec<u8>,
}

/// The log's newest checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    pub size: u64,
    /// Signed note.
    pub note: String,
}

/// Signs the checkpoint of so many entries and this root; called inside the transaction that appends them.
pub type SignCheckpoint<'a> = &'a (dyn Fn(u64, Hash) -> String + Send + Sync);

/// The SQLite file in a coordinator's folder.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("manyhands.sqlite3")
}

/// Opens a PostgreSQL database, or where there is none the file in the folder.
pub async fn open(database: Option<&PostgresAddress>, data_dir: &Path, lock_wait: Duration) -> Result<Arc<dyn Store>> {
    Ok(match database {
        Some(address) => Arc::new(PostgresStore::open(address, lock_wait).await?),
        None => Arc::new(SqliteStore::open(&file(data_dir), lock_wait).await?),
    })
}

/// The same of a coordinator that may be at work, to read its log: changes nothing.
pub async fn open_to_read(database: Option<&PostgresAddress>, data_dir: &Path, lock_wait: Duration) -> Result<Arc<dyn Store>> {
    Ok(match database {
        Some(address) => Arc::new(PostgresStore::open_to_read(address).await?),
        None => Arc::new(SqliteStore::open_to_read(&file(data_dir), lock_wait).await?),
    })
}

/// Storage of everything but blob bytes. The module's documentation states the contracts.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What these tables are told from others by: the first that was ever given here.
    async fn identity(&self, fresh: String) -> Result<String>;
    /// Whether the operator stopped all work.
    async fn stopped(&self) -> Result<bool>;
    async fn set_stopped(&self, stopped: bool) -> Result<()>;

    /// Records a blob of the operator's or the coordinator's own whose bytes are stored durably. True if it was not known before.
    async fn add_blob(&self, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool>;
    async fn blob(&self, hash: BlobHash) -> Result<Option<BlobRow>>;
    /// Refuses unless `key` may upload this blob under its live lease now. One that is recorded under it counts once.
    async fn check_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<()>;
    /// Records an upload whose bytes are stored durably, under the same conditions. True if the blob is new.
    async fn add_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool>;

    /// Uploads that nothing names or can come to name: not public, not a pending result's output, not under a live lease or
    /// a lapsed one whose unit is open in a job that goes on. At most `count_max`.
    async fn unused_blobs(&self, count_max: u32) -> Result<Vec<BlobHash>>;
    /// Records that the bytes of such an upload are about to be deleted; false if it is in use after all.
    async fn forget_blob(&self, hash: BlobHash) -> Result<bool>;

    /// Opens a session; refuses a nonce that was used, and a key that was replaced.
    async fn open_session(&self, session: NewSession) -> Result<()>;
    async fn session(&self, token_hash: [u8; 32]) -> Result<Option<Session>>;
    /// Ends a session and gives its leases back; gives the jobs they were of.
    async fn withdraw_session(&self, session: i64, now_ms: u64) -> Result<Vec<JobId>>;
    /// Takes what withdrawals deleted out of the store's files, too; nothing to do where none came since. On SQLite no salt
    /// of a withdrawn consent is in them once this returns well; on PostgreSQL none is in a row, unless a transaction that is older still
    /// needs it.
    async fn scrub(&self) -> Result<()>;
    /// Forgets the address prefixes of all sessions: the key that they are made with is gone.
    async fn forget_prefixes(&self) -> Result<()>;
    /// Puts a key in another's place and ends the sessions of the old one; gives the jobs of its leases. Refuses a key that has
    /// another successor, a new one that has a successor or a predecessor, and chains that are too long.
    async fn rotate(&self, rotation: NewRotation) -> Result<Vec<JobId>>;
    /// With the totals of all keys whose place it took.
    async fn key(&self, key: KeyId) -> Result<Option<KeyView>>;
    /// The same totals; zero for a key that is not known.
    async fn totals(&self, key: KeyId) -> Result<Totals>;

    /// Registers a site or changes a registered one, whose token stays. True if it is new.
    async fn put_site(&self, site: Site) -> Result<bool>;
    async fn site(&self, name: &str) -> Result<Option<Site>>;
    /// By name.
    async fn sites(&self) -> Result<Vec<Site>>;
    /// Ends a site: sessions that came through it get no further lease. True if it was there.
    async fn remove_site(&self, name: &str) -> Result<bool>;
    /// Gives a site a token, in place of the one it may have.
    async fn set_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<()>;
    async fn has_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<bool>;
    async fn site_totals(&self, name: &str) -> Result<SiteTotals>;

    /// Stores a job in state `submitted` with its units and first round.
    async fn create_job(&self, job: NewJob) -> Result<JobId>;
    async fn job(&self, job: JobId) -> Result<Option<Job>>;
    /// Jobs in one of these states, oldest first.
    async fn jobs(&self, states: &[JobState]) -> Result<Vec<Job>>;
    /// The job's view and the version it shows.
    async fn job_view(&self, job: JobId, now_ms: u64) -> Result<Option<(u64, JobView)>>;
    /// Moves a job to `to` if it is in one of `from`, or there already; makes the inputs of a job that starts public.
    async fn set_job_state(&self, job: JobId, from: &[JobState], to: JobState) -> Result<()>;
    /// Cancels a running or paused job for a reason that its view shows. A job in another state stays as it is.
    async fn cancel_job(&self, job: JobId, reason: String) -> Result<()>;

    /// Leases units that [`manyhands_protocol::rules::lease`] allows, of jobs that the session's site allows, to a session that never had a lease an opening unit
    /// first, where there is one; gives the signed manifests and the jobs concerned.
    async fn lease(&self, ask: LeaseAsk, sign: Sign<'_>) -> Result<(Vec<Vec<u8>>, Vec<JobId>)>;
    /// Moves a live lease's deadline, unless its work is no longer wanted or the lease is too old.
    async fn heartbeat(&self, lease: LeaseId, key: KeyId, now_ms: u64) -> Result<HeartbeatResponse>;
    /// Ends a lease without a result. Ending an ended one changes nothing.
    async fn give_back(&self, lease: LeaseId, key: KeyId) -> Result<JobId>;
    /// Ends leases past their deadline; gives the jobs concerned and the next deadline.
    async fn lapse_leases(&self, now_ms: u64) -> Result<(Vec<JobId>, Option<u64>)>;

    /// Stores a result as pending, or gives the stored one if this very statement came before. True if it is new.
    async fn add_result(&self, result: NewResult) -> Result<(ResultRow, bool)>;
    async fn result(&self, result: i64) -> Result<Option<ResultRow>>;
    /// The signed statement as received.
    async fn result_statement(&self, result: i64) -> Result<Option<Vec<u8>>>;
    /// When a lease was issued, and when its result came.
    async fn lease_times(&self, lease: LeaseId) -> Result<[u64; 2]>;
    /// Gives a verdict on a pending result without settling its unit: a rejected one, or a late one of a settled unit.
    /// A result that has a verdict keeps it. A key that is caught loses its leases, and what it has in open rounds that nobody
    /// else confirmed; it gets no lease for `QUARANTINE_MS`.
    async fn judge(&self, judgement: Judgement, now_ms: u64) -> Result<()>;
    /// Settles an open unit and judges results, all at once. A settled unit stays as it is, and so does one with a result among
    /// these that has a verdict by now.
    async fn settle(&self, settlement: Settlement) -> Result<()>;
    /// Draws the course of a gradient unit by its first result and, if the key is trusted and the draw lets it, settles the unit
    /// with it. `draw` is uniform on 0 to 1; `challenged` as for [`standing::course`](manyhands_protocol::rules::standing::course). A unit that has a course keeps it; none is given for a settled unit or a judged result.
    async fn decide(&self, result: i64, challenged: bool, draw: f64, now_ms: u64) -> Result<Option<Course>>;
    /// Opens the units of a round again that keys settled, for the referee: its merge is not kept. How many there were.
    async fn roll_back(&self, roll_back: RollBack) -> Result<u64>;

    /// Draws a challenge for a pending result of an open unit that no second key has begun; false where there is one, or the result
    /// has no need of it.
    async fn open_challenge(&self, challenge: NewChallenge) -> Result<bool>;
    async fn challenge(&self, lease: LeaseId) -> Result<Option<Challenge>>;
    /// Takes the answer to what the key's challenge asks now. The same answer again changes nothing.
    async fn answer_challenge(&self, answered: ChallengeAnswered) -> Result<Challenge>;
    /// Open challenges that are to be checked or past their deadline, at most `count_max`, and the next deadline.
    async fn challenges_due(&self, now_ms: u64, count_max: u32) -> Result<(Vec<Challenge>, Option<u64>)>;
    /// Ends an open challenge at the stage that it was looked at in: of one that passed the result waits on, any other rejects it.
    /// One that has ended or went on meanwhile stays as it is.
    async fn close_challenge(&self, closed: ChallengeClosed) -> Result<()>;
    async fn challenge_counts(&self, key: KeyId) -> Result<ChallengeCounts>;
    /// Whether the key kept a lease from before `since_ms` by a heartbeat shortly before `at_ms`.
    async fn is_present(&self, key: KeyId, since_ms: u64, at_ms: u64) -> Result<bool>;
    /// Gives open challenges that wait for an answer their whole time again: nobody could answer while no coordinator ran.
    async fn wait_anew(&self, now_ms: u64) -> Result<()>;

    async fn unit(&self, unit: UnitId) -> Result<Option<Unit>>;
    /// A unit's results that were not rejected, oldest first.
    async fn unit_results(&self, unit: UnitId) -> Result<Vec<ResultRow>>;
    /// Pending results of units that algebra settles, that are settled already or that have no course, oldest first, at most `count_max`.
    async fn results_to_check(&self, count_max: u32) -> Result<Vec<ResultRow>>;
    /// Open units of running or paused jobs, opening units and those with an open challenge left out, at most `count_max`: gradient units with a course and a result, longest waiting first, then
    /// units of either kind without a result of which `LEASES_ENDED_MAX` leases ended, then those without a result that the
    /// referee is to compute.
    async fn units_waiting(&self, count_max: u32) -> Result<Vec<Unit>>;
    /// Running jobs without an open unit, opening units left out.
    async fn jobs_to_advance(&self) -> Result<Vec<Job>>;
    /// A round's checkpoint.
    async fn round(&self, job: JobId, round: u32) -> Result<Option<NewRound>>;
    /// Settled units of a round in ascending order.
    async fn round_units(&self, job: JobId, round: u32) -> Result<Vec<MergedUnit>>;
    /// Ends a round of a running job. A round that has ended stays as it is.
    async fn close_round(&self, close: RoundClose) -> Result<()>;

    /// Running train jobs with fewer than `least` opening units that a session could lease now, and how many those have.
    async fn openings_wanted(&self, least: u32) -> Result<Vec<(Job, u32)>>;
    /// Adds opening units to a running job while it has fewer than `most` that a session could lease, and publishes their
    /// inputs. They count neither for the job's progress nor for any round.
    async fn add_openings(&self, job: JobId, units: Vec<NewUnit>, most: u32) -> Result<()>;

    /// The statements that wait for the log, oldest first, at most `count_max`.
    async fn log_queue(&self, count_max: u32) -> Result<Vec<Queued>>;
    /// Moves statements from the head of the queue to the log, and its checkpoint to where they end, all at once. Changes
    /// nothing where they are not the first of the queue any more. The log's first checkpoint may be of no entry.
    async fn append_log(&self, entries: Vec<SignedEntry>, sign: SignCheckpoint<'_>) -> Result<()>;
    async fn log_head(&self) -> Result<Option<LogHead>>;
    /// A tile's hashes, as many as there are.
    async fn log_tile(&self, level: u8, number: u64) -> Result<Option<Vec<Hash>>>;
    /// Entries from an index on, at most `count`.
    async fn log_entries(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>>;
    /// Where the result of this lease is in the log.
    async fn log_index(&self, lease: LeaseId) -> Result<Option<u64>>;

    /// Every recorded blob, for comparing with the blob store.
    async fn blobs(&self) -> Result<Vec<BlobRow>>;
    /// Re-derives every derived value and checks what must always hold; gives what does not.
    async fn check_invariants(&self) -> Result<Vec<String>>;
}
