//! The PostgreSQL store: what keeps a coordinator from starting on it, what it asks of the server, and that it is the same store.

use std::str::FromStr;
use std::time::Duration;

use manyhands_coordinator::store::postgres::{PostgresAddress, PostgresStore};
use manyhands_coordinator::store::{Store, StoreError};
use manyhands_coordinator::{App, Config, StartError};

use crate::cluster::{self, Cluster};
use crate::database::Database;
use crate::log::session;
use crate::world::NOW_MS;

const SHORT: Duration = Duration::from_millis(200);

async fn open(address: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(&PostgresAddress::from_str(address).unwrap(), SHORT).await
}

async fn refused(address: &str) -> StoreError {
    open(address).await.err().expect("does not open")
}

/// A new database's address.
async fn empty() -> (Database, String) {
    let database = Database::postgres().await;
    let address = database.address().unwrap();
    (database, address)
}

/// Columns and indexes of both stores, each in its own words for the same.
#[tokio::test]
async fn both_stores_have_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (sqlite, postgres) = (Database::sqlite(folder.path()), Database::postgres().await);
    sqlite.open().await;
    postgres.open().await;
    let columns = "SELECT t.name || '.' || c.name || ' ' || CASE c.type WHEN 'INTEGER' THEN 'BIGINT' WHEN 'BLOB' THEN 'BYTEA' ELSE c.type END
            || CASE c.\"notnull\" WHEN 1 THEN ' NOT NULL' ELSE '' END
        FROM sqlite_master t JOIN pragma_table_info(t.name) c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name <> '_sqlx_migrations'";
    let mut wanted = sqlite.words(columns).await;
    let indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite%'";
    wanted.extend(sqlite.words(indexes).await);
    let columns = "SELECT table_name || '.' || column_name || ' ' || UPPER(data_type)
            || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END
        FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> '_sqlx_migrations'";
    let mut found = postgres.words(columns).await;
    let indexes = "SELECT c.relname::TEXT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE c.relnamespace = current_schema()::regnamespace
            AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)";
    found.extend(postgres.words(indexes).await);
    wanted.sort();
    found.sort();
    assert!(wanted.len() > 150, "{wanted:#?}");
    assert_eq!(wanted, found);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("postgres://someone:hunter2@localhost/hands?host={}", folder.path().display());
    let error = refused(&address).await;
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    let address = PostgresAddress::from_str(&address).unwrap();
    let shown = format!("postgres://someone@{}:5432/hands", folder.path().display());
    assert!(error.to_string().starts_with(&shown), "{error}");
    for text in [error.to_string(), format!("{error:?}"), address.to_string(), format!("{address:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn what_is_no_address_is_not_repeated() {
    for wrong in [
        "",
        "someone:hunter2@db/hands",
        "mysql://someone:hunter2@db/hands",
        "postgres://a:hunter2@db",
        "postgres://a:hunter2@db:x/y",
    ] {
        let error = PostgresAddress::from_str(wrong).unwrap_err();
        assert!(error.contains("postgres://USER@HOST/DATABASE") && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_names_the_user() {
    let (Database::Postgres(database), address) = empty().await else { unreachable!() };
    cluster::order("CREATE ROLE guest LOGIN PASSWORD 'correct-horse'").await;
    cluster::order(&format!("ALTER DATABASE {} OWNER TO guest", database.name)).await;
    let with = |password: &str| address.replace("postgres@localhost", &format!("guest:{password}@localhost"));
    let error = refused(&with("battery-staple")).await;
    assert!(matches!(error, StoreError::Open { .. }) && error.to_string().contains("guest"), "{error}");
    assert!(!format!("{error} {error:?}").contains("battery-staple"), "{error:?}");
    open(&with("correct-horse")).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_of_something_else_is_left_alone() {
    let (database, address) = empty().await;
    database.execute("CREATE TABLE invoices (id BIGINT)").await;
    for error in [refused(&address).await, read_refused(&address).await] {
        assert!(matches!(&error, StoreError::ForeignSchema { table, .. } if table == "invoices"), "{error}");
    }
    assert_eq!(database.words("SELECT relname::TEXT FROM pg_class WHERE relkind = 'r' AND relname LIKE '%sqlx%'").await, [""; 0]);
    database.execute("DROP TABLE invoices").await;
    assert!(matches!(read_refused(&address).await, StoreError::NoSchema { .. }));
    open(&address).await.unwrap().close().await;
}

async fn read_refused(address: &str) -> StoreError {
    PostgresStore::open_to_read(&PostgresAddress::from_str(address).unwrap()).await.err().expect("does not open")
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_left_alone() {
    let (database, address) = empty().await;
    open(&address).await.unwrap().close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', TRUE, '', 0)";
    database.execute(newer).await;
    for error in [refused(&address).await, read_refused(&address).await] {
        assert!(matches!(error, StoreError::NewerSchema { version: 99, .. }), "{error}");
    }
    database.execute("DELETE FROM _sqlx_migrations WHERE version = 99").await;
    database.execute("UPDATE _sqlx_migrations SET checksum = '' WHERE version = 1").await;
    let error = refused(&address).await;
    assert!(matches!(error, StoreError::DamagedSchema { version: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_an_error() {
    let (Database::Postgres(database), address) = empty().await else { unreachable!() };
    cluster::order(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name)).await;
    let error = refused(&address).await;
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
}

/// Whatever the database's own setting, a commit that is reported is on the disk.
#[tokio::test]
async fn commits_wait_for_the_disk() {
    let (database, address) = empty().await;
    let store = open(&address).await.unwrap();
    store.close().await;
    let Database::Postgres(named) = &database else { unreachable!() };
    cluster::order(&format!("ALTER DATABASE {} SET synchronous_commit = off", named.name)).await;
    let look = "CREATE FUNCTION look() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$";
    for statement in [
        "CREATE TABLE seen (setting TEXT)",
        look,
        "CREATE TRIGGER look BEFORE INSERT ON settings FOR EACH ROW EXECUTE FUNCTION look()",
    ] {
        database.execute(statement).await;
    }
    database.execute("INSERT INTO settings VALUES ('other', '1')").await;
    assert_eq!(database.words("SELECT setting FROM seen").await, ["off"], "the trigger sees the setting");
    let store = open(&address).await.unwrap();
    store.set_stopped(true).await.unwrap();
    assert_eq!(database.words("SELECT setting FROM seen").await, ["off", "on"]);
}

#[tokio::test]
async fn a_server_that_syncs_nothing_is_refused() {
    let cluster = Cluster::start(&["-c", "fsync=off"]);
    let error = refused(&cluster.address("postgres")).await;
    assert!(matches!(error, StoreError::NotDurable { setting: "fsync", .. }), "{error}");
}

#[tokio::test]
async fn one_database_has_one_coordinator() {
    let database = Database::postgres().await;
    let start = async |folder: &tempfile::TempDir| {
        let mut config = Config::new(folder.path());
        config.listen.set_port(0);
        config.database_lock_wait = SHORT;
        database.configure(&mut config);
        App::start(config).await
    };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let app = start(&first).await.unwrap();
    let error = start(&second).await.err().expect("does not start");
    assert!(matches!(error, StartError::Store(StoreError::InUse { .. })), "{error}");
    assert!(error.to_string().contains("another coordinator"), "{error}");
    // Who only reads the log may, meanwhile.
    let address = database.address().unwrap().parse().unwrap();
    let reader = PostgresStore::open_to_read(&address).await.unwrap();
    assert!(reader.log_queue(1).await.unwrap().is_empty());
    assert!(reader.set_stopped(true).await.is_err(), "and nothing but reads");
    app.shutdown().await;
    start(&second).await.unwrap().shutdown().await;
}

/// A server that crashed and is there again: the store goes on, and is still the only one.
#[tokio::test]
async fn a_restarted_server_is_used_again_by_its_coordinator_alone() {
    let mut cluster = Cluster::start(&[]);
    let address = cluster.address("postgres");
    let store = open(&address).await.unwrap();
    store.set_stopped(true).await.unwrap();
    cluster.restart();
    assert!(store.stopped().await.unwrap(), "what was committed is there");
    store.set_stopped(false).await.unwrap();
    assert!(matches!(refused(&address).await, StoreError::InUse { .. }));
}

/// As far as a client of the database can see to it.
#[tokio::test]
async fn a_withdrawn_consent_leaves_no_row_with_its_salt() {
    let (database, address) = empty().await;
    database.execute("CREATE EXTENSION pageinspect").await;
    database.execute("CREATE SCHEMA inspect").await;
    database.execute("ALTER EXTENSION pageinspect SET SCHEMA inspect").await;
    let store = open(&address).await.unwrap();
    store.open_session(session(1)).await.unwrap();
    let opened = store.session(session(1).token_hash).await.unwrap().unwrap();
    store.withdraw_session(opened.id, NOW_MS).await.unwrap();
    let salt = hex::encode(session(1).consent_salt);
    let rows = async || {
        let rows = "SELECT encode(t_data, 'hex') FROM inspect.heap_page_items(inspect.get_raw_page('consent_salts', 0))
            WHERE t_data IS NOT NULL";
        database.words(rows).await.iter().any(|row| row.contains(&salt))
    };
    assert!(rows().await, "the search finds what is still there");
    store.scrub().await.unwrap();
    assert!(!rows().await);
}
