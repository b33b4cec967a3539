//! Every statement of the store, written once and compiled once for each database: [`super`] is the SQLite store or the
//! PostgreSQL store, and its `dialect` what they do differently. The statements keep to what both take: numbered placeholders,
//! `RETURNING`, `ON CONFLICT`, sums cast to BIGINT, booleans read as such and stored as 0 or 1.
//!
//! # Writes beside each other
//!
//! SQLite has one writer: while a transaction runs, no other writes. PostgreSQL has many, of this process and of others, and
//! each sees what was committed when its statement began. What a transaction read may thus have changed when it writes. So:
//!
//! - [`Order::Beside`] is for what happens most: leases, heartbeats, uploads, results, verdicts. They run beside each other, and
//!   first lock the rows that what they go by hangs on, in this order: a key's lease calls, a lease, its unit, keys in ascending
//!   order; jobs, in ascending order, are changed last of all, and blobs after them. A unit's lock stands for its leases,
//!   results and counts; a key's for its runs and what it uploaded; a lease's for its deadline, its state and its uploads; and
//!   only the lease calls of a key give it live leases. A lease call takes units that nobody has locked (`SKIP LOCKED`). Where
//!   it got none it begins anew and waits for those that others have, jobs and units in ascending order: so calls do not queue
//!   up behind each other, and now and then an older unit goes out after a younger one. Leases that somebody has locked are ended another time. One bound is not exact:
//!   an upload does not see another key's that is being recorded at the same moment, so that what all keys have waiting may
//!   pass its limit by so much.
//! - [`Order::Alone`] is for everything else: rare, or reaching over many units and keys, such as a key that is caught, a merge
//!   that is undone, a job's end. It waits until all writes under way have ended and holds up all others, as SQLite does. A new
//!   kind of write belongs here until it is shown to need better.
//! - [`Order::Log`] appends to the log. What comes into the queue beside it is not in its snapshot and stays.
//!
//! Where two wait for each other all the same, which a case that nobody thought of may bring about, the database breaks one
//! off, and it is done again from its beginning, at most [`AGAIN_COUNT_MAX`] times.

mod blobs;
mod challenges;
mod invariants;
mod jobs;
pub(super) mod leases;
mod log;
mod openings;
mod results;
mod rotations;
mod rounds;
pub(super) mod rows;
mod sessions;
mod sites;
mod standings;
mod units;
pub(super) mod uploads;

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use manyhands_protocol::log::Hash;
use manyhands_protocol::rules::standing::Course;
use manyhands_protocol::site::{Site, SiteTotals};
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::{HeartbeatResponse, Totals};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, UnitId};

use self::blobs::Owner;
use super::dialect::{self, Connection, DbRow};
use super::store::order::{Lock, Order};
use super::{TheStore, store::*};

/// How often a write that the database broke off is done again.
const AGAIN_COUNT_MAX: u32 = 10;

/// Runs a write as one transaction.
macro_rules! transact {
    ($store:ident, $order:expr, $tx:ident => $body:expr) => {{
        let mut again_count = 0;
        loop {
            let mut $tx = $store.write($order).await?;
            let done: Result<_> = async { $body }.await;
            let done = match done {
                Ok(out) => $tx.commit().await.map(|()| out).map_err(StoreError::from),
                Err(error) => Err(error),
            };
            match done {
                Err(error) if dialect::is_broken_off(&error) && again_count < AGAIN_COUNT_MAX => again_count += 1,
                done => break done,
            }
        }
    }};
}

#[async_trait]
impl Store for TheStore {
    async fn stopped(&self) -> Result<bool> {
        let mut tx = self.read().await?;
        jobs::stopped(&mut tx).await
    }

    async fn set_stopped(&self, stopped: bool) -> Result<()> {
        transact!(self, Order::Alone, tx => jobs::set_stopped(&mut tx, stopped).await)
    }

    async fn identity(&self, fresh: String) -> Result<String> {
        transact!(self, Order::Alone, tx => jobs::identity(&mut tx, &fresh).await)
    }

    async fn add_blob(&self, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool> {
        transact!(self, Order::Beside, tx => blobs::add(&mut tx, hash, bytes, Owner::Coordinator, now_ms).await)
    }

    async fn unused_blobs(&self, count_max: u32) -> Result<Vec<BlobHash>> {
        blobs::unused(&mut *self.read().await?, count_max).await
    }

    async fn forget_blob(&self, hash: BlobHash) -> Result<bool> {
        transact!(self, Order::Alone, tx => blobs::forget(&mut tx, hash).await)
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<BlobRow>> {
        blobs::find(&mut *self.read().await?, hash).await
    }

    async fn check_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<()> {
        uploads::check(&mut *self.read().await?, lease, key, hash, bytes, now_ms).await
    }

    async fn add_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool> {
        transact!(self, Order::Beside, tx => {
            dialect::lock(&mut tx, Lock::Lease(lease)).await?;
            dialect::lock(&mut tx, Lock::Key(key)).await?;
            uploads::check(&mut tx, lease, key, hash, bytes, now_ms).await?;
            let new = blobs::add(&mut tx, hash, bytes, Owner::Volunteer, now_ms).await?;
            uploads::add(&mut tx, lease, hash, bytes).await?;
            Ok(new)
        })
    }

    async fn open_session(&self, session: NewSession) -> Result<()> {
        transact!(self, Order::Beside, tx => sessions::open(&mut tx, &session).await)
    }

    async fn session(&self, token_hash: [u8; 32]) -> Result<Option<Session>> {
        sessions::find(&mut *self.read().await?, token_hash).await
    }

    async fn withdraw_session(&self, session: i64, now_ms: u64) -> Result<Vec<JobId>> {
        let jobs = transact!(self, Order::Alone, tx => sessions::withdraw(&mut tx, session, now_ms).await)?;
        self.withdrawn.store(true, Ordering::Release);
        Ok(jobs)
    }

    async fn scrub(&self) -> Result<()> {
        if !self.withdrawn.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let scrubbed = self.scrub_files().await;
        if scrubbed.is_err() {
            self.withdrawn.store(true, Ordering::Release);
        }
        scrubbed
    }

    async fn rotate(&self, rotation: NewRotation) -> Result<Vec<JobId>> {
        let jobs = transact!(self, Order::Alone, tx => rotations::add(&mut tx, &rotation).await)?;
        // Its sessions were withdrawn.
        self.withdrawn.store(true, Ordering::Release);
        Ok(jobs)
    }

    async fn key(&self, key: KeyId) -> Result<Option<KeyView>> {
        rotations::find(&mut *self.read().await?, key).await
    }

    async fn totals(&self, key: KeyId) -> Result<Totals> {
        Ok(self.key(key).await?.map(|view| view.totals).unwrap_or_default())
    }

    async fn put_site(&self, site: Site) -> Result<bool> {
        transact!(self, Order::Alone, tx => sites::put(&mut tx, &site).await)
    }

    async fn site(&self, name: &str) -> Result<Option<Site>> {
        sites::find(&mut *self.read().await?, name).await
    }

    async fn sites(&self) -> Result<Vec<Site>> {
        sites::all(&mut *self.read().await?).await
    }

    async fn remove_site(&self, name: &str) -> Result<bool> {
        transact!(self, Order::Alone, tx => sites::remove(&mut tx, name).await)
    }

    async fn set_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<()> {
        transact!(self, Order::Alone, tx => sites::set_token(&mut tx, name, token_hash).await)
    }

    async fn has_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<bool> {
        sites::has_token(&mut *self.read().await?, name, token_hash).await
    }

    async fn site_totals(&self, name: &str) -> Result<SiteTotals> {
        sites::totals(&mut *self.read().await?, name).await
    }

    async fn create_job(&self, job: NewJob) -> Result<JobId> {
        transact!(self, Order::Alone, tx => jobs::create(&mut tx, &job).await)
    }

    async fn job(&self, job: JobId) -> Result<Option<Job>> {
        jobs::find(&mut *self.read().await?, job).await
    }

    async fn jobs(&self, states: &[JobState]) -> Result<Vec<Job>> {
        let mut tx = self.read().await?;
        let mut found = Vec::new();
        for state in states {
            found.extend(jobs::in_state(&mut tx, *state).await?);
        }
        found.sort_by_key(|job| job.id);
        Ok(found)
    }

    async fn job_view(&self, job: JobId, now_ms: u64) -> Result<Option<(u64, JobView)>> {
        jobs::view(&mut *self.read().await?, job, now_ms).await
    }

    async fn set_job_state(&self, job: JobId, from: &[JobState], to: JobState) -> Result<()> {
        transact!(self, Order::Alone, tx => jobs::set_state(&mut tx, job, from, to).await)
    }

    async fn cancel_job(&self, job: JobId, reason: String) -> Result<()> {
        transact!(self, Order::Alone, tx => jobs::cancel(&mut tx, job, &reason).await)
    }

    async fn lease(&self, ask: LeaseAsk, sign: Sign<'_>) -> Result<(Vec<Vec<u8>>, Vec<JobId>)> {
        let lease = async |wait| {
            transact!(self, Order::Beside, tx => {
                dialect::lock(&mut tx, Lock::LeaseCalls(ask.key)).await?;
                leases::lease(&mut tx, ask, sign, wait).await
            })
        };
        let (manifests, mut touched) = lease(false).await?;
        if !dialect::PASSES_OVER_LOCKED || !manifests.is_empty() {
            return Ok((manifests, touched));
        }
        let (manifests, more) = lease(true).await?;
        touched.extend(more);
        touched.sort_unstable();
        touched.dedup();
        Ok((manifests, touched))
    }

    async fn heartbeat(&self, lease: LeaseId, key: KeyId, now_ms: u64) -> Result<HeartbeatResponse> {
        transact!(self, Order::Beside, tx => {
            dialect::lock(&mut tx, Lock::Lease(lease)).await?;
            leases::heartbeat(&mut tx, lease, key, now_ms).await
        })
    }

    async fn give_back(&self, lease: LeaseId, key: KeyId) -> Result<JobId> {
        transact!(self, Order::Beside, tx => {
            dialect::lock(&mut tx, Lock::LeaseAndUnit(lease)).await?;
            leases::give_back(&mut tx, lease, key).await
        })
    }

    async fn lapse_leases(&self, now_ms: u64) -> Result<(Vec<JobId>, Option<u64>)> {
        let next = leases::next_deadline(&mut *self.read().await?).await?;
        if next.is_none_or(|deadline| deadline > now_ms) {
            return Ok((Vec::new(), next));
        }
        transact!(self, Order::Beside, tx => {
            let jobs = leases::lapse(&mut tx, now_ms).await?;
            rows::touch_jobs(&mut tx, &jobs).await?;
            Ok((jobs, leases::next_deadline(&mut tx).await?))
        })
    }

    async fn add_result(&self, result: NewResult) -> Result<(ResultRow, bool)> {
        transact!(self, Order::Beside, tx => {
            dialect::lock(&mut tx, Lock::LeaseAndUnit(result.lease)).await?;
            dialect::lock(&mut tx, Lock::Key(result.key)).await?;
            results::add(&mut tx, &result).await
        })
    }

    async fn result(&self, result: i64) -> Result<Option<ResultRow>> {
        results::find(&mut *self.read().await?, result).await
    }

    async fn result_statement(&self, result: i64) -> Result<Option<Vec<u8>>> {
        results::statement(&mut *self.read().await?, result).await
    }

    async fn lease_times(&self, lease: LeaseId) -> Result<[u64; 2]> {
        results::lease_times(&mut *self.read().await?, lease).await
    }

    async fn judge(&self, judgement: Judgement, now_ms: u64) -> Result<()> {
        transact!(self, Order::of(std::slice::from_ref(&judgement)), tx => {
            dialect::lock(&mut tx, Lock::UnitOfResult(judgement.result)).await?;
            results::judge(&mut tx, &judgement, now_ms).await
        })
    }

    async fn settle(&self, settlement: Settlement) -> Result<()> {
        transact!(self, Order::of(&settlement.judgements), tx => {
            dialect::lock(&mut tx, Lock::Unit(settlement.unit)).await?;
            results::settle(&mut tx, &settlement).await
        })
    }

    async fn decide(&self, result: i64, challenged: bool, draw: f64, now_ms: u64) -> Result<Option<Course>> {
        transact!(self, Order::Beside, tx => {
            dialect::lock(&mut tx, Lock::UnitOfResult(result)).await?;
            standings::decide(&mut tx, result, challenged, draw, now_ms).await
        })
    }

    async fn forget_prefixes(&self) -> Result<()> {
        transact!(self, Order::Alone, tx => sessions::forget_prefixes(&mut tx).await)
    }

    async fn roll_back(&self, roll_back: RollBack) -> Result<u64> {
        transact!(self, Order::Alone, tx => standings::roll_back(&mut tx, &roll_back).await)
    }

    async fn open_challenge(&self, challenge: NewChallenge) -> Result<bool> {
        transact!(self, Order::Alone, tx => challenges::open(&mut tx, &challenge).await)
    }

    async fn challenge(&self, lease: LeaseId) -> Result<Option<Challenge>> {
        challenges::of_lease(&mut *self.read().await?, lease).await
    }

    async fn answer_challenge(&self, answered: ChallengeAnswered) -> Result<Challenge> {
        transact!(self, Order::Alone, tx => challenges::answer(&mut tx, &answered).await)
    }

    async fn challenges_due(&self, now_ms: u64, count_max: u32) -> Result<(Vec<Challenge>, Option<u64>)> {
        challenges::due(&mut *self.read().await?, now_ms, count_max).await
    }

    async fn close_challenge(&self, closed: ChallengeClosed) -> Result<()> {
        transact!(self, Order::Alone, tx => challenges::close(&mut tx, &closed).await)
    }

    async fn challenge_counts(&self, key: KeyId) -> Result<ChallengeCounts> {
        challenges::counts(&mut *self.read().await?, key).await
    }

    async fn is_present(&self, key: KeyId, since_ms: u64, at_ms: u64) -> Result<bool> {
        challenges::is_present(&mut *self.read().await?, key, since_ms, at_ms).await
    }

    async fn wait_anew(&self, now_ms: u64) -> Result<()> {
        transact!(self, Order::Alone, tx => challenges::wait_anew(&mut tx, now_ms).await)
    }

    async fn unit(&self, unit: UnitId) -> Result<Option<Unit>> {
        units::find(&mut *self.read().await?, unit).await
    }

    async fn unit_results(&self, unit: UnitId) -> Result<Vec<ResultRow>> {
        results::of_unit(&mut *self.read().await?, unit).await
    }

    async fn results_to_check(&self, count_max: u32) -> Result<Vec<ResultRow>> {
        results::to_check(&mut *self.read().await?, count_max).await
    }

    async fn units_waiting(&self, count_max: u32) -> Result<Vec<Unit>> {
        units::waiting(&mut *self.read().await?, count_max).await
    }

    async fn jobs_to_advance(&self) -> Result<Vec<Job>> {
        rounds::jobs_to_advance(&mut *self.read().await?).await
    }

    async fn round(&self, job: JobId, round: u32) -> Result<Option<NewRound>> {
        rounds::find(&mut *self.read().await?, job, round).await
    }

    async fn round_units(&self, job: JobId, round: u32) -> Result<Vec<MergedUnit>> {
        rounds::settled_units(&mut *self.read().await?, job, round).await
    }

    async fn close_round(&self, close: RoundClose) -> Result<()> {
        transact!(self, Order::Alone, tx => rounds::close(&mut tx, &close).await)
    }

    async fn openings_wanted(&self, least: u32) -> Result<Vec<(Job, u32)>> {
        openings::wanted(&mut *self.read().await?, least).await
    }

    async fn add_openings(&self, job: JobId, units: Vec<NewUnit>, most: u32) -> Result<()> {
        transact!(self, Order::Alone, tx => openings::add(&mut tx, job, &units, most).await)
    }

    async fn log_queue(&self, count_max: u32) -> Result<Vec<Queued>> {
        log::queued(&mut *self.read().await?, count_max).await
    }

    async fn append_log(&self, entries: Vec<SignedEntry>, sign: SignCheckpoint<'_>) -> Result<()> {
        transact!(self, Order::Log, tx => log::append(&mut tx, &entries, sign).await)
    }

    async fn log_head(&self) -> Result<Option<LogHead>> {
        log::head(&mut *self.read().await?).await
    }

    async fn log_tile(&self, level: u8, number: u64) -> Result<Option<Vec<Hash>>> {
        log::tile(&mut *self.read().await?, level, number).await
    }

    async fn log_entries(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>> {
        log::entries(&mut *self.read().await?, from, count).await
    }

    async fn log_index(&self, lease: LeaseId) -> Result<Option<u64>> {
        log::index_of_lease(&mut *self.read().await?, lease).await
    }

    async fn blobs(&self) -> Result<Vec<BlobRow>> {
        blobs::all(&mut *self.read().await?).await
    }

    async fn check_invariants(&self) -> Result<Vec<String>> {
        invariants::check(&mut *self.read().await?).await
    }
}
