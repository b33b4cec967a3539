//! The store in one PostgreSQL database.
//!
//! A pool of connections reads and writes; `sql/mod.rs` has the statements and says how writes keep out of each other's way. Every
//! session has synchronous_commit=on at least, and a server without fsync is refused: a commit that was reported is on the
//! disk. Reads see one snapshot each. No password is ever part of an error or a log line: [`PostgresAddress`] shows none.
//!
//! For the time being one coordinator works on a database: it holds an advisory lock for as long as it lives, and a second is
//! refused. The writes do not depend on that.

mod dialect;
#[path = "sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "once for each database")]
mod sql;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres, Row, Transaction};
use tokio::sync::Mutex;

use self::store::order::Order;
use super::{self as store, Result, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Connections at once, beside the one that holds the lock.
const CONNECTIONS_COUNT: u32 = 16;
/// How long a call waits for a connection before it fails.
const ACQUIRE_WAIT: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock before it fails, in the database's words.
const LOCK_WAIT: &str = "10s";
/// How long a transaction may do nothing, as that of a coordinator which the network cut off does: it has locks.
const IDLE_WAIT: &str = "60s";
/// More than there are statements, so that each is prepared once.
const STATEMENTS_COUNT: usize = 512;

/// What an address may have after a question mark, or nothing.
const PARAMETERS: [&str; 7] = ["", "host", "hostaddr", "port", "dbname", "user", "password"];
/// How long the connection with the lock may be silent.
const PING_WAIT: Duration = Duration::from_secs(5);
/// So that the server soon finds out that a coordinator's machine is gone, and another may come; and ends no lock for being idle.
const LOCK_SETTINGS: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET idle_session_timeout = 0";

// Advisory locks are of one database, and these numbers are ours in it.
/// Held by the coordinator for as long as it lives.
const COORDINATOR_LOCK: i64 = 1;
/// Held shared by writes beside each other, and alone by those that go alone.
const WRITE_LOCK: i64 = 2;

/// Where a database is, and who comes; shows no password.
#[derive(Clone)]
pub struct PostgresAddress {
    options: PgConnectOptions,
    shown: String,
}

impl FromStr for PostgresAddress {
    type Err = String;

    /// `postgres://USER@HOST/DATABASE`. Without a password in it, one is taken from PGPASSWORD or from the file of passwords
    /// that PostgreSQL's own programs read. What is wrong is told without repeating the address.
    fn from_str(text: &str) -> Result<PostgresAddress, String> {
        let wrong = || "the store's address is not of the form postgres://USER@HOST/DATABASE".to_owned();
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err(wrong());
        }
        // Others are logged as they are where they are not understood, and a password may be among them.
        let query = text.split_once('?').map_or("", |(_, query)| query);
        if query.split('&').any(|pair| !PARAMETERS.contains(&pair.split('=').next().unwrap_or_default())) {
            return Err(format!("after ? the store's address may have {} alone", PARAMETERS[1..].join(", ")));
        }
        let options = PgConnectOptions::from_str(text).map_err(|_| wrong())?;
        let database = options.get_database().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
        let host = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let shown = format!("postgres://{}@{host}:{}/{database}", options.get_username(), options.get_port());
        let options = options.application_name("manyhands").statement_cache_capacity(STATEMENTS_COUNT);
        Ok(PostgresAddress { options, shown })
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// See the module's documentation.
pub struct PostgresStore {
    pool: PgPool,
    /// None where it only reads.
    guard: Option<Arc<Guard>>,
    /// A consent was withdrawn, and its salt may still be in a row that no transaction sees.
    withdrawn: AtomicBool,
}

type Tx = Transaction<'static, Postgres>;
/// What [`sql`] calls it.
type TheStore = PostgresStore;

impl PostgresStore {
    /// Connects, brings the schema up to date and keeps other coordinators away. Waits at most `lock_wait` for one that
    /// has the database, such as one that was just killed.
    pub async fn open(address: &PostgresAddress, lock_wait: Duration) -> Result<PostgresStore> {
        let failed = |error| open_error(address, error);
        let mut first = PgConnection::connect_with(&address.options).await.map_err(failed)?;
        check_server(&mut first, address).await?;
        hold(&mut first, lock_wait).await.map_err(failed)?;
        check_empty_or_ours(&mut first, address).await?;
        MIGRATIONS.run(&mut first).await.map_err(|e| migrate_error(address, e))?;
        let guard = Arc::new(Guard { options: address.options.clone(), lock_wait, connection: Mutex::new(Some(first)) });
        let guarded = guard.clone();
        let pool = pool(CONNECTIONS_COUNT).after_connect(move |connection, _| {
            let guard = guarded.clone();
            Box::pin(async move {
                guard.check().await?;
                prepare(connection).await
            })
        });
        let pool = pool.connect_with(address.options.clone()).await.map_err(failed)?;
        // Of the last run it is not known.
        Ok(PostgresStore { pool, guard: Some(guard), withdrawn: AtomicBool::new(true) })
    }

    /// Connects to a coordinator's database, which may be at work, to read its log: changes nothing, its schema neither.
    pub async fn open_to_read(address: &PostgresAddress) -> Result<PostgresStore> {
        let failed = |error| open_error(address, error);
        let pool = pool(1).after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::query("SET default_transaction_read_only = on").execute(connection).await?;
                Ok(())
            })
        });
        let pool = pool.connect_with(address.options.clone()).await.map_err(failed)?;
        let mut connection = pool.acquire().await.map_err(failed)?;
        if !check_empty_or_ours(&mut connection, address).await? {
            return Err(StoreError::NoSchema { path: address.to_string() });
        }
        let row =
            sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations").fetch_one(&mut *connection).await;
        let version: i64 = row.and_then(|row| row.try_get("version")).map_err(failed)?;
        let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        if version > newest {
            return Err(StoreError::NewerSchema { path: address.to_string(), version });
        }
        drop(connection);
        Ok(PostgresStore { pool, guard: None, withdrawn: AtomicBool::new(false) })
    }

    /// Closes all connections; later calls fail.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Some(guard) = &self.guard {
            guard.close().await;
        }
    }

    async fn write(&self, order: Order) -> Result<Tx> {
        let level = match order {
            Order::Beside | Order::Alone => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Order::Log => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        };
        let mut tx = self.pool.begin_with(level).await?;
        let lock = match order {
            Order::Beside => format!("SELECT pg_advisory_xact_lock_shared({WRITE_LOCK})"),
            Order::Alone => format!("SELECT pg_advisory_xact_lock({WRITE_LOCK})"),
            // Before anything is read, so that the snapshot is of what the last append left.
            Order::Log => "LOCK TABLE log_head IN SHARE ROW EXCLUSIVE MODE".to_owned(),
        };
        sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// A transaction that sees one snapshot.
    async fn read(&self) -> Result<Tx> {
        Ok(self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    /// Takes away rows that no transaction sees any more. Their bytes are left where the database has not used the place
    /// again, in its write-ahead log, and wherever that was copied to: further than this no client can reach.
    async fn scrub_files(&self) -> Result<()> {
        sqlx::query("VACUUM consent_salts").execute(&self.pool).await?;
        Ok(())
    }
}

fn pool(connections_count: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections_count).acquire_timeout(ACQUIRE_WAIT)
}

/// The connection that holds the coordinator's lock. A server that restarts ends it with all others, and lets the lock go: so
/// each new connection looks whether it is still there, and takes the lock again if nobody else has it.
struct Guard {
    options: PgConnectOptions,
    lock_wait: Duration,
    /// None once it was closed.
    connection: Mutex<Option<PgConnection>>,
}

impl Guard {
    async fn check(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.connection.lock().await;
        let Some(held) = connection.as_mut() else { return Err(sqlx::Error::PoolClosed) };
        if matches!(tokio::time::timeout(PING_WAIT, held.ping()).await, Ok(Ok(()))) {
            return Ok(());
        }
        let mut again = PgConnection::connect_with(&self.options).await?;
        hold(&mut again, self.lock_wait).await.map_err(|error| match is_locked(&error) {
            true => sqlx::Error::Protocol("another coordinator took the database meanwhile".to_owned()),
            false => error,
        })?;
        *connection = Some(again);
        Ok(())
    }

    async fn close(&self) {
        if let Some(held) = self.connection.lock().await.take() {
            // It ends either way.
            let _ = held.close().await;
        }
    }
}

/// Takes the coordinator's lock for the life of a connection.
async fn hold(connection: &mut PgConnection, lock_wait: Duration) -> Result<(), sqlx::Error> {
    let wait = format!("SET lock_timeout = {}", lock_wait.as_millis().max(1));
    sqlx::query(AssertSqlSafe(wait)).execute(&mut *connection).await?;
    sqlx::raw_sql(LOCK_SETTINGS).execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(COORDINATOR_LOCK).execute(&mut *connection).await?;
    sqlx::query("SET lock_timeout = 0").execute(connection).await?;
    Ok(())
}

/// What a session that writes is to be like.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // A setting that promises more stays.
    let durable = "SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";
    sqlx::query(durable).execute(&mut *connection).await?;
    for (setting, value) in [("lock_timeout", LOCK_WAIT), ("idle_in_transaction_session_timeout", IDLE_WAIT)] {
        sqlx::query("SELECT set_config($1, $2, false)").bind(setting).bind(value).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn check_server(connection: &mut PgConnection, address: &PostgresAddress) -> Result<()> {
    let settings = "SELECT current_setting('transaction_read_only') AS read_only, current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes";
    let row = sqlx::query(settings).fetch_one(connection).await.map_err(|e| open_error(address, e))?;
    let is_on = |setting| row.try_get::<&str, _>(setting).map(|value| value == "on").map_err(|e| open_error(address, e));
    if is_on("read_only")? {
        return Err(StoreError::ReadOnly { path: address.to_string() });
    }
    for setting in ["fsync", "full_page_writes"] {
        if !is_on(setting)? {
            return Err(StoreError::NotDurable { path: address.to_string(), setting });
        }
    }
    Ok(())
}

/// Refuses a database that holds something else; false if it is empty.
async fn check_empty_or_ours(connection: &mut PgConnection, address: &PostgresAddress) -> Result<bool> {
    let names = "SELECT c.relname::TEXT AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname";
    let rows = sqlx::query(names).fetch_all(connection).await.map_err(|e| open_error(address, e))?;
    let names = rows.iter().map(|row| row.try_get("name")).collect::<Result<Vec<String>, _>>()?;
    let has = |name: &str| names.iter().any(|other| other == name);
    match names.iter().find(|name| *name != "_sqlx_migrations") {
        Some(table) if !(has("_sqlx_migrations") && has("log_head")) => {
            Err(StoreError::ForeignSchema { path: address.to_string(), table: table.clone() })
        }
        found => Ok(found.is_some()),
    }
}

fn open_error(address: &PostgresAddress, error: sqlx::Error) -> StoreError {
    let path = address.to_string();
    if is_locked(&error) { StoreError::InUse { path } } else { StoreError::Open { path, error } }
}

/// lock_not_available (https://www.postgresql.org/docs/15/errcodes-appendix.html).
fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("55P03")
}

fn migrate_error(address: &PostgresAddress, error: MigrateError) -> StoreError {
    let path = address.to_string();
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            StoreError::NewerSchema { path, version }
        }
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => StoreError::DamagedSchema { path, version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => open_error(address, source),
        other => StoreError::Open { path, error: sqlx::Error::Migrate(Box::new(other)) },
    }
}
