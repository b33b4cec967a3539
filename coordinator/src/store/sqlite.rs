//! The store in one SQLite file.
//!
//! One connection writes, each transaction `BEGIN IMMEDIATE`; a small pool reads snapshots. WAL with synchronous=FULL:
//! a commit that was reported is on the disk. The statements are in [`sql`].

mod dialect;
#[path = "sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "once for each database")]
mod sql;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};

use self::store::order::Order;
use super::{self as store, Result, StoreError};

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
/// What [`sql`] calls it.
type TheStore = SqliteStore;

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

    /// No other writes beside this one, whatever its order.
    async fn write(&self, _: Order) -> Result<Tx> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction that sees one snapshot.
    async fn read(&self) -> Result<Tx> {
        Ok(self.reader.begin().await?)
    }

    /// The write-ahead log has the pages as they were before.
    async fn scrub_files(&self) -> Result<()> {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&self.writer).await?;
        // Where a reader is in the way, it is for another time, as before.
        if row.try_get::<i64, _>("busy")? != 0 {
            self.withdrawn.store(true, Ordering::Release);
        }
        Ok(())
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
