//! The store in one SQLite file. This module and those under it hold all SQL there is.
//!
//! One connection writes, each transaction `BEGIN IMMEDIATE`; a small pool reads snapshots. WAL with synchronous=FULL:
//! a commit that was reported is on the disk. The statements keep to what PostgreSQL also takes, but for the pragmas here.

mod blobs;
mod challenges;
mod invariants;
mod jobs;
mod leases;
mod log;
mod openings;
mod results;
mod rotations;
mod rounds;
mod rows;
mod sessions;
mod sites;
mod standings;
mod units;
mod uploads;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use manyhands_protocol::log::Hash;
use manyhands_protocol::rules::standing::Course;
use manyhands_protocol::site::{Site, SiteTotals};
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::{HeartbeatResponse, Totals};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, UnitId};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};

use self::blobs::Owner;
use super::*;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The first schema with the log's tables.
const LOG_SCHEMA: i64 = 6;
/// Connections that read at once.
const READERS_COUNT: u32 = 4;
/// How long a call waits for a connection before it fails.
const ACQUIRE_WAIT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct SqliteStore {
    writer: SqlitePool,
    reader: SqlitePool,
    /// A consent was withdrawn, and the files may still hold its salt.
    withdrawn: AtomicBool,
}

type Tx = Transaction<'static, Sqlite>;

impl SqliteStore {
    /// Opens the file, makes it if it is missing, and brings its schema up to date. Waits at most `lock_wait` for
    /// another process that holds it locked.
    pub async fn open(path: &Path, lock_wait: Duration) -> Result<SqliteStore> {
        let shown = path.display().to_string();
        let failed = |e| open_error(&shown, e);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is deleted is not left in the file.
            .pragma("secure_delete", "FAST")
            .busy_timeout(lock_wait);
        let pool =
            |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_WAIT.max(lock_wait * 2));
        let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
        // Refused while another process writes, even if there is nothing to migrate.
        let probe = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        probe.rollback().await.map_err(failed)?;
        MIGRATIONS.run(&writer).await.map_err(|e| migrate_error(&shown, e))?;
        let reader = pool(READERS_COUNT).connect_with(options.pragma("query_only", "1")).await.map_err(failed)?;
        // Of the last run it is not known.
        Ok(SqliteStore { writer, reader, withdrawn: AtomicBool::new(true) })
    }

    /// Opens the file of a coordinator, which may be at work, to read its log: changes nothing, its schema neither.
    pub async fn open_to_read(path: &Path, lock_wait: Duration) -> Result<SqliteStore> {
        let shown = path.display().to_string();
        let failed = |e| open_error(&shown, e);
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(lock_wait);
        let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_WAIT.max(lock_wait * 2));
        let reader = pool.connect_with(options).await.map_err(failed)?;
        let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations").fetch_one(&reader).await;
        let version: i64 = row.and_then(|row| row.try_get("version")).map_err(failed)?;
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        match version {
            ..LOG_SCHEMA => Err(StoreError::OlderSchema { path: shown, version }),
            _ if version > newest => Err(StoreError::NewerSchema { path: shown, version }),
            _ => Ok(SqliteStore { writer: reader.clone(), reader, withdrawn: AtomicBool::new(false) }),
        }
    }

    /// Closes all connections; later calls fail.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    async fn write(&self) -> Result<Tx> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction that sees one snapshot.
    async fn read(&self) -> Result<Tx> {
        Ok(self.reader.begin().await?)
    }
}

fn open_error(path: &str, error: sqlx::Error) -> StoreError {
    let code = match &error {
        sqlx::Error::Database(e) => e.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    // The low byte is the primary result code: SQLITE_BUSY and SQLITE_LOCKED (https://sqlite.org/rescode.html).
    match code.map(|code| code & 0xff) {
        Some(5 | 6) => StoreError::Locked { path: path.to_owned() },
        _ => StoreError::Open { path: path.to_owned(), error },
    }
}

fn migrate_error(path: &str, error: MigrateError) -> StoreError {
    let path = path.to_owned();
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            StoreError::NewerSchema { path, version }
        }
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => StoreError::DamagedSchema { path, version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => open_error(&path, source),
        other => StoreError::Open { path, error: sqlx::Error::Migrate(Box::new(other)) },
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn stopped(&self) -> Result<bool> {
        let mut tx = self.read().await?;
        jobs::stopped(&mut tx).await
    }

    async fn set_stopped(&self, stopped: bool) -> Result<()> {
        let mut tx = self.write().await?;
        jobs::set_stopped(&mut tx, stopped).await?;
        Ok(tx.commit().await?)
    }

    async fn add_blob(&self, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool> {
        let mut tx = self.write().await?;
        let new = blobs::add(&mut tx, hash, bytes, Owner::Coordinator, now_ms).await?;
        tx.commit().await?;
        Ok(new)
    }

    async fn unused_blobs(&self, count_max: u32) -> Result<Vec<BlobHash>> {
        blobs::unused(&mut *self.read().await?, count_max).await
    }

    async fn forget_blob(&self, hash: BlobHash) -> Result<bool> {
        let mut tx = self.write().await?;
        let forgotten = blobs::forget(&mut tx, hash).await?;
        tx.commit().await?;
        Ok(forgotten)
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<BlobRow>> {
        blobs::find(&mut *self.read().await?, hash).await
    }

    async fn check_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<()> {
        uploads::check(&mut *self.read().await?, lease, key, hash, bytes, now_ms).await
    }

    async fn add_upload(&self, lease: LeaseId, key: KeyId, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool> {
        let mut tx = self.write().await?;
        uploads::check(&mut tx, lease, key, hash, bytes, now_ms).await?;
        let new = blobs::add(&mut tx, hash, bytes, Owner::Volunteer, now_ms).await?;
        uploads::add(&mut tx, lease, hash, bytes).await?;
        tx.commit().await?;
        Ok(new)
    }

    async fn open_session(&self, session: NewSession) -> Result<()> {
        let mut tx = self.write().await?;
        sessions::open(&mut tx, session).await?;
        Ok(tx.commit().await?)
    }

    async fn session(&self, token_hash: [u8; 32]) -> Result<Option<Session>> {
        sessions::find(&mut *self.read().await?, token_hash).await
    }

    async fn withdraw_session(&self, session: i64, now_ms: u64) -> Result<Vec<JobId>> {
        let mut tx = self.write().await?;
        let jobs = sessions::withdraw(&mut tx, session, now_ms).await?;
        tx.commit().await?;
        self.withdrawn.store(true, Ordering::Release);
        Ok(jobs)
    }

    async fn scrub(&self) -> Result<()> {
        if !self.withdrawn.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // The write-ahead log has the pages as they were before.
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&self.writer).await;
        let is_done = checkpoint.and_then(|row| row.try_get::<i64, _>("busy")).map(|busy| busy == 0);
        if !matches!(is_done, Ok(true)) {
            self.withdrawn.store(true, Ordering::Release);
        }
        is_done.map(drop).map_err(StoreError::from)
    }

    async fn rotate(&self, rotation: NewRotation) -> Result<Vec<JobId>> {
        let mut tx = self.write().await?;
        let jobs = rotations::add(&mut tx, rotation).await?;
        tx.commit().await?;
        Ok(jobs)
    }

    async fn key(&self, key: KeyId) -> Result<Option<KeyView>> {
        rotations::find(&mut *self.read().await?, key).await
    }

    async fn totals(&self, key: KeyId) -> Result<Totals> {
        Ok(self.key(key).await?.map(|view| view.totals).unwrap_or_default())
    }

    async fn put_site(&self, site: Site) -> Result<bool> {
        let mut tx = self.write().await?;
        let new = sites::put(&mut tx, &site).await?;
        tx.commit().await?;
        Ok(new)
    }

    async fn site(&self, name: &str) -> Result<Option<Site>> {
        sites::find(&mut *self.read().await?, name).await
    }

    async fn sites(&self) -> Result<Vec<Site>> {
        sites::all(&mut *self.read().await?).await
    }

    async fn remove_site(&self, name: &str) -> Result<bool> {
        let mut tx = self.write().await?;
        let removed = sites::remove(&mut tx, name).await?;
        tx.commit().await?;
        Ok(removed)
    }

    async fn set_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<()> {
        let mut tx = self.write().await?;
        sites::set_token(&mut tx, name, token_hash).await?;
        Ok(tx.commit().await?)
    }

    async fn has_site_token(&self, name: &str, token_hash: [u8; 32]) -> Result<bool> {
        sites::has_token(&mut *self.read().await?, name, token_hash).await
    }

    async fn site_totals(&self, name: &str) -> Result<SiteTotals> {
        sites::totals(&mut *self.read().await?, name).await
    }

    async fn create_job(&self, job: NewJob) -> Result<JobId> {
        let mut tx = self.write().await?;
        let id = jobs::create(&mut tx, job).await?;
        tx.commit().await?;
        Ok(id)
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
        let mut tx = self.write().await?;
        jobs::set_state(&mut tx, job, from, to).await?;
        Ok(tx.commit().await?)
    }

    async fn cancel_job(&self, job: JobId, reason: String) -> Result<()> {
        let mut tx = self.write().await?;
        jobs::cancel(&mut tx, job, &reason).await?;
        Ok(tx.commit().await?)
    }

    async fn lease(&self, ask: LeaseAsk, sign: Sign<'_>) -> Result<(Vec<Vec<u8>>, Vec<JobId>)> {
        let mut tx = self.write().await?;
        let given = leases::lease(&mut tx, ask, sign).await?;
        tx.commit().await?;
        Ok(given)
    }

    async fn heartbeat(&self, lease: LeaseId, key: KeyId, now_ms: u64) -> Result<HeartbeatResponse> {
        let mut tx = self.write().await?;
        let answer = leases::heartbeat(&mut tx, lease, key, now_ms).await?;
        tx.commit().await?;
        Ok(answer)
    }

    async fn give_back(&self, lease: LeaseId, key: KeyId) -> Result<JobId> {
        let mut tx = self.write().await?;
        let job = leases::give_back(&mut tx, lease, key).await?;
        tx.commit().await?;
        Ok(job)
    }

    async fn lapse_leases(&self, now_ms: u64) -> Result<(Vec<JobId>, Option<u64>)> {
        let next = leases::next_deadline(&mut *self.read().await?).await?;
        if next.is_none_or(|deadline| deadline > now_ms) {
            return Ok((Vec::new(), next));
        }
        let mut tx = self.write().await?;
        let jobs = leases::lapse(&mut tx, now_ms).await?;
        let next = leases::next_deadline(&mut tx).await?;
        tx.commit().await?;
        Ok((jobs, next))
    }

    async fn add_result(&self, result: NewResult) -> Result<(ResultRow, bool)> {
        let mut tx = self.write().await?;
        let row = results::add(&mut tx, result).await?;
        tx.commit().await?;
        Ok(row)
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
        let mut tx = self.write().await?;
        results::judge(&mut tx, &judgement, now_ms).await?;
        Ok(tx.commit().await?)
    }

    async fn settle(&self, settlement: Settlement) -> Result<()> {
        let mut tx = self.write().await?;
        results::settle(&mut tx, settlement).await?;
        Ok(tx.commit().await?)
    }

    async fn decide(&self, result: i64, challenged: bool, draw: f64, now_ms: u64) -> Result<Option<Course>> {
        let mut tx = self.write().await?;
        let course = standings::decide(&mut tx, result, challenged, draw, now_ms).await?;
        tx.commit().await?;
        Ok(course)
    }

    async fn forget_prefixes(&self) -> Result<()> {
        let mut tx = self.write().await?;
        sessions::forget_prefixes(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    async fn roll_back(&self, roll_back: RollBack) -> Result<u64> {
        let mut tx = self.write().await?;
        let opened = standings::roll_back(&mut tx, &roll_back).await?;
        tx.commit().await?;
        Ok(opened)
    }

    async fn open_challenge(&self, challenge: NewChallenge) -> Result<bool> {
        let mut tx = self.write().await?;
        let opened = challenges::open(&mut tx, &challenge).await?;
        tx.commit().await?;
        Ok(opened)
    }

    async fn challenge(&self, lease: LeaseId) -> Result<Option<Challenge>> {
        challenges::of_lease(&mut *self.read().await?, lease).await
    }

    async fn answer_challenge(&self, answered: ChallengeAnswered) -> Result<Challenge> {
        let mut tx = self.write().await?;
        let challenge = challenges::answer(&mut tx, &answered).await?;
        tx.commit().await?;
        Ok(challenge)
    }

    async fn challenges_due(&self, now_ms: u64, count_max: u32) -> Result<(Vec<Challenge>, Option<u64>)> {
        challenges::due(&mut *self.read().await?, now_ms, count_max).await
    }

    async fn close_challenge(&self, closed: ChallengeClosed) -> Result<()> {
        let mut tx = self.write().await?;
        challenges::close(&mut tx, &closed).await?;
        Ok(tx.commit().await?)
    }

    async fn challenge_counts(&self, key: KeyId) -> Result<ChallengeCounts> {
        challenges::counts(&mut *self.read().await?, key).await
    }

    async fn is_present(&self, key: KeyId, since_ms: u64, at_ms: u64) -> Result<bool> {
        challenges::is_present(&mut *self.read().await?, key, since_ms, at_ms).await
    }

    async fn wait_anew(&self, now_ms: u64) -> Result<()> {
        let mut tx = self.write().await?;
        challenges::wait_anew(&mut tx, now_ms).await?;
        Ok(tx.commit().await?)
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
        let mut tx = self.write().await?;
        rounds::close(&mut tx, close).await?;
        Ok(tx.commit().await?)
    }

    async fn openings_wanted(&self, least: u32) -> Result<Vec<(Job, u32)>> {
        openings::wanted(&mut *self.read().await?, least).await
    }

    async fn add_openings(&self, job: JobId, units: Vec<NewUnit>, most: u32) -> Result<()> {
        let mut tx = self.write().await?;
        openings::add(&mut tx, job, &units, most).await?;
        Ok(tx.commit().await?)
    }

    async fn log_queue(&self, count_max: u32) -> Result<Vec<Queued>> {
        log::queued(&mut *self.read().await?, count_max).await
    }

    async fn append_log(&self, entries: Vec<SignedEntry>, sign: SignCheckpoint<'_>) -> Result<()> {
        let mut tx = self.write().await?;
        log::append(&mut tx, &entries, sign).await?;
        Ok(tx.commit().await?)
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
