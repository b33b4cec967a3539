//! Where a test's coordinator keeps what it remembers: in a SQLite file or in a PostgreSQL database of the test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manyhands_coordinator::Config;
use manyhands_coordinator::store::{self, Store};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::cluster;

/// Set to `postgres`: tests that do not name a store run on PostgreSQL. `cargo xtask test` runs them on both.
const VARIABLE: &str = "MANYHANDS_TEST_STORE";
const LOCK_WAIT: Duration = Duration::from_secs(5);

pub enum Database {
    Sqlite { folder: PathBuf },
    Postgres(cluster::Database),
}

impl Database {
    /// Of the kind that this run is for.
    pub async fn new(folder: &Path) -> Database {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) => Database::sqlite(folder),
            Ok("postgres") => Database::postgres().await,
            Ok(other) => panic!("{VARIABLE} is {other}"),
        }
    }

    pub fn sqlite(folder: &Path) -> Database {
        Database::Sqlite { folder: folder.to_owned() }
    }

    pub async fn postgres() -> Database {
        Database::Postgres(cluster::Database::create().await)
    }

    /// What a coordinator on it is told.
    pub fn configure(&self, config: &mut Config) {
        config.database = self.address().map(|address| address.parse().unwrap());
    }

    pub fn address(&self) -> Option<String> {
        match self {
            Database::Sqlite { .. } => None,
            Database::Postgres(database) => Some(database.address()),
        }
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        let address = self.address().map(|address| address.parse().unwrap());
        let folder = if let Database::Sqlite { folder } = self { folder.as_path() } else { Path::new("") };
        store::open(address.as_ref(), folder, LOCK_WAIT).await.unwrap()
    }

    /// Another connection's statement.
    pub async fn execute(&self, statement: &str) {
        let statement = AssertSqlSafe(statement);
        match self {
            Database::Sqlite { folder } => drop(sqlx::query(statement).execute(&mut file(folder).await).await.unwrap()),
            Database::Postgres(database) => drop(sqlx::query(statement).execute(&mut connect(database).await).await.unwrap()),
        }
    }

    /// What another connection reads: a column of numbers.
    pub async fn numbers(&self, query: &str) -> Vec<i64> {
        let query = AssertSqlSafe(query);
        match self {
            Database::Sqlite { folder } => sqlx::query_scalar(query).fetch_all(&mut file(folder).await).await.unwrap(),
            Database::Postgres(database) => sqlx::query_scalar(query).fetch_all(&mut connect(database).await).await.unwrap(),
        }
    }

    /// A column of words.
    pub async fn words(&self, query: &str) -> Vec<String> {
        let query = AssertSqlSafe(query);
        match self {
            Database::Sqlite { folder } => sqlx::query_scalar(query).fetch_all(&mut file(folder).await).await.unwrap(),
            Database::Postgres(database) => sqlx::query_scalar(query).fetch_all(&mut connect(database).await).await.unwrap(),
        }
    }

    /// A column of bytes.
    pub async fn bytes(&self, query: &str) -> Vec<Vec<u8>> {
        let query = AssertSqlSafe(query);
        match self {
            Database::Sqlite { folder } => sqlx::query_scalar(query).fetch_all(&mut file(folder).await).await.unwrap(),
            Database::Postgres(database) => sqlx::query_scalar(query).fetch_all(&mut connect(database).await).await.unwrap(),
        }
    }
}

async fn file(folder: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(store::file(folder))).await.unwrap()
}

async fn connect(database: &cluster::Database) -> PgConnection {
    PgConnection::connect(&database.address()).await.unwrap()
}
