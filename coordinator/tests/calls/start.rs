//! What keeps a coordinator from starting, said clearly.

use std::time::Duration;

use manyhands_coordinator::blobs::BlobError;
use manyhands_coordinator::store::StoreError;
use manyhands_coordinator::store::sqlite::SqliteStore;
use manyhands_coordinator::{App, Config, StartError};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::world::World;

fn config(folder: &std::path::Path) -> Config {
    let mut config = Config::new(folder);
    config.listen.set_port(0);
    config.database_lock_wait = Duration::from_millis(200);
    config
}

async fn refused(config: Config) -> StartError {
    App::start(config).await.err().expect("does not start")
}

/// A second connection to a stopped coordinator's database.
async fn connect(folder: &std::path::Path) -> SqlitePool {
    SqlitePool::connect_with(SqliteConnectOptions::new().filename(folder.join("manyhands.sqlite3"))).await.unwrap()
}

#[tokio::test]
async fn a_missing_folder_is_made_with_keys_and_database() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("deep/er");
    let app = App::start(config(&inner)).await.unwrap();
    for name in ["manyhands.sqlite3", "coordinator.key", "admin.token", "blobs"] {
        assert!(inner.join(name).exists(), "{name}");
    }
    let key = app.key;
    app.shutdown().await;
    let again = App::start(config(&inner)).await.unwrap();
    assert_eq!(again.key, key);
    again.shutdown().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let mut config = config(folder.path());
    config.listen = world.app().addr;
    let error = refused(config).await;
    assert!(matches!(&error, StartError::Listen { address, .. } if *address == world.app().addr), "{error}");
    assert!(error.to_string().contains(&world.app().addr.to_string()));
    world.finish().await;
}

#[tokio::test]
async fn one_folder_has_one_coordinator() {
    let world = World::start().await;
    let error = refused(config(world.folder.path())).await;
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    world.finish().await;
}

#[tokio::test]
async fn a_locked_database_is_an_error_after_a_bounded_wait() {
    let folder = tempfile::tempdir().unwrap();
    App::start(config(folder.path())).await.unwrap().shutdown().await;
    let other = connect(folder.path()).await;
    let mut held = other.acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *held).await.unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Store(StoreError::Locked { .. })), "{error}");
    assert!(error.to_string().contains("manyhands.sqlite3"), "{error}");
    sqlx::query("ROLLBACK").execute(&mut *held).await.unwrap();
    App::start(config(folder.path())).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    App::start(config(folder.path())).await.unwrap().shutdown().await;
    let other = connect(folder.path()).await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (10, 'later', 1, x'00', 0)";
    sqlx::query(newer).execute(&other).await.unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Store(StoreError::NewerSchema { version: 10, .. })), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 10").execute(&other).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").execute(&other).await.unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Store(StoreError::DamagedSchema { version: 1, .. })), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("manyhands.sqlite3"), vec![b'x'; 8192]).unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Store(StoreError::Open { .. })), "{error}");
    assert!(error.to_string().contains("manyhands.sqlite3"), "{error}");
}

#[tokio::test]
async fn folders_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let error = refused(config(&file)).await;
    assert!(matches!(&error, StartError::DataDir { path, .. } if *path == file), "{error}");
    let inner = folder.path().join("data");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("blobs"), "no folder").unwrap();
    let error = refused(config(&inner)).await;
    assert!(matches!(error, StartError::Blobs(_)), "{error}");
    assert!(error.to_string().contains("blobs"), "{error}");
}

/// Tables that are not those of the blobs would have them all deleted.
#[tokio::test]
async fn blobs_are_of_the_tables_that_they_were_of() {
    let folder = tempfile::tempdir().unwrap();
    let (database, blobs) = (folder.path().join("manyhands.sqlite3"), folder.path().join("blobs"));
    App::start(config(folder.path())).await.unwrap().shutdown().await;
    let blob = blobs.join("ab").join("ab".repeat(32));
    std::fs::create_dir(blobs.join("ab")).unwrap();
    std::fs::write(&blob, "of no row").unwrap();
    let moved = folder.path().join("moved.sqlite3");
    std::fs::rename(&database, &moved).unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(&error, StartError::Blobs(BlobError::OtherTables(place)) if place.ends_with("blobs")), "{error}");
    std::fs::remove_file(blobs.join("store")).unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Blobs(BlobError::UnknownBlobs(_))), "{error}");
    assert!(blob.exists(), "nothing was deleted");
    std::fs::remove_file(&blob).unwrap();
    App::start(config(folder.path())).await.unwrap().shutdown().await;
    std::fs::remove_file(&database).unwrap();
    std::fs::rename(&moved, &database).unwrap();
    let error = refused(config(folder.path())).await;
    assert!(matches!(error, StartError::Blobs(BlobError::OtherTables(_))), "{error}");
}

#[tokio::test]
async fn invariants_see_what_is_wrong() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    volunteer.submit(&lease, output).await;
    world.check().await;
    for (damage, repair) in [
        ("UPDATE keys SET credit_flop = credit_flop + 1", "UPDATE keys SET credit_flop = credit_flop - 1"),
        ("UPDATE jobs SET units_settled = units_settled + 1", "UPDATE jobs SET units_settled = units_settled - 1"),
        (
            "UPDATE units SET slots_free = slots_free + 1 WHERE state = 'open'",
            "UPDATE units SET slots_free = slots_free - 1 WHERE state = 'open'",
        ),
        ("UPDATE results SET credit_flop = 0", "UPDATE results SET credit_flop = (SELECT flop FROM units WHERE id = unit_id)"),
        ("UPDATE leases SET state = 'lapsed' WHERE state = 'done'", "UPDATE leases SET state = 'done' WHERE state = 'lapsed'"),
        ("UPDATE blobs SET bytes = bytes + 1", "UPDATE blobs SET bytes = bytes - 1"),
    ] {
        world.database().execute(damage).await;
        assert!(!world.app().check_invariants().await.unwrap().is_empty(), "{damage}");
        world.database().execute(repair).await;
        world.check().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_closed_store_reports_failure() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("s.sqlite3"), Duration::from_secs(1)).await.unwrap();
    store.close().await;
    assert!(manyhands_coordinator::store::Store::stopped(&store).await.is_err());
}

/// A challenge that was open when the coordinator was stopped for its new version, and one that had ended.
#[tokio::test]
async fn challenges_of_an_earlier_version_go_on() {
    let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(false);
    let memory = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&memory).await.unwrap();
    for file in &files {
        if file.file_name().unwrap().to_str().unwrap().starts_with("0009") {
            let columns =
                "result_id, unit_id, lease_id, key_id, stage, first_step, steps, step, segment, trace, reveal, asked_ms,
                stage_ms, deadline_ms, closed_ms";
            run(format!(
                "INSERT INTO challenges ({columns}) VALUES (1, 2, 3, x'04', 'trace', 8, 4, 9, x'05', NULL, NULL, 6, 7, 8, NULL),
                    (11, 12, 13, x'14', 'passed', 0, 4, 3, x'15', x'16', x'17', 18, 19, 20, 21)"
            ))
            .await;
        }
        run(std::fs::read_to_string(file).unwrap()).await;
    }
    type Row = (i64, String, String, i64, Option<i64>, Option<Vec<u8>>, i64, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT result_id, form, stage, steps, step, reveal, deadline_ms, closed_ms FROM challenges ORDER BY result_id",
    )
    .fetch_all(&memory)
    .await
    .unwrap();
    let text = str::to_owned;
    assert_eq!(rows[0], (1, text("step"), text("trace"), 4, Some(9), None, 8, None));
    assert_eq!(rows[1], (11, text("step"), text("passed"), 4, Some(3), Some(vec![0x17]), 20, Some(21)));
    assert_eq!(rows.len(), 2);
}
