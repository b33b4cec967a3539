//! Between columns and domain types, and the few statements that several of the modules beside share.

use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::super::{BlobRow, Result, StoreError};

/// A number as the database holds it. Ids and times beyond its range come from outside only, and match no row.
pub fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that holds a count, an id or a time.
pub fn uint(row: &SqliteRow, column: &str) -> Result<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Damaged(format!("{column} is {value}")))
}

pub fn uint32(row: &SqliteRow, column: &str) -> Result<u32> {
    let value: i64 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| StoreError::Damaged(format!("{column} is {value}")))
}

pub fn bytes32(row: &SqliteRow, column: &str) -> Result<[u8; 32]> {
    let value: &[u8] = row.try_get(column)?;
    value.try_into().map_err(|_| StoreError::Damaged(format!("{column} has {} bytes", value.len())))
}

pub fn hash(row: &SqliteRow, column: &str) -> Result<BlobHash> {
    bytes32(row, column).map(BlobHash)
}

pub fn key(row: &SqliteRow, column: &str) -> Result<KeyId> {
    bytes32(row, column).map(KeyId)
}

/// Marks a change of what the job's view shows.
pub async fn touch_job(tx: &mut SqliteConnection, job: JobId) -> Result<()> {
    sqlx::query("UPDATE jobs SET version = version + 1 WHERE id = $1").bind(int(job.0)).execute(tx).await?;
    Ok(())
}

/// Re-derives a unit's counts of results, ended leases and free slots.
pub async fn refresh_unit(tx: &mut SqliteConnection, unit: UnitId) -> Result<()> {
    let row = sqlx::query(
        "SELECT min_quorum,
            (SELECT COUNT(*) FROM results WHERE unit_id = units.id AND verdict <> 'rejected') AS results,
            (SELECT MIN(received_ms) FROM results WHERE unit_id = units.id AND verdict <> 'rejected') AS first_ms,
            (SELECT COUNT(*) FROM leases WHERE unit_id = units.id AND state = 'live') AS live,
            (SELECT COUNT(*) FROM leases WHERE unit_id = units.id AND state IN ('lapsed', 'given_back')) AS ended
         FROM units WHERE id = $1",
    )
    .bind(int(unit.0))
    .fetch_one(&mut *tx)
    .await?;
    let (results, live) = (uint(&row, "results")?, uint(&row, "live")?);
    let slots = uint(&row, "min_quorum")?.saturating_sub(results + live);
    sqlx::query("UPDATE units SET results_count = $2, first_result_ms = $3, slots_free = $4, leases_ended = $5 WHERE id = $1")
        .bind(int(unit.0))
        .bind(int(results))
        .bind(row.try_get::<Option<i64>, _>("first_ms")?)
        .bind(int(slots))
        .bind(row.try_get::<i64, _>("ended")?)
        .execute(tx)
        .await?;
    Ok(())
}

pub async fn add_blob(tx: &mut SqliteConnection, hash: BlobHash, bytes: u64, now_ms: u64) -> Result<bool> {
    let done =
        sqlx::query("INSERT INTO blobs (hash, bytes, public, created_ms) VALUES ($1, $2, 0, $3) ON CONFLICT (hash) DO NOTHING")
            .bind(hash.0.as_slice())
            .bind(int(bytes))
            .bind(int(now_ms))
            .execute(tx)
            .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn publish_blob(tx: &mut SqliteConnection, hash: BlobHash) -> Result<()> {
    let done = sqlx::query("UPDATE blobs SET public = 1 WHERE hash = $1").bind(hash.0.as_slice()).execute(tx).await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Damaged(format!("blob {hash} is not recorded"))) }
}

pub async fn blob(tx: &mut SqliteConnection, hash: BlobHash) -> Result<Option<BlobRow>> {
    let row =
        sqlx::query("SELECT hash, bytes, public FROM blobs WHERE hash = $1").bind(hash.0.as_slice()).fetch_optional(tx).await?;
    row.as_ref().map(blob_row).transpose()
}

pub async fn blobs(tx: &mut SqliteConnection) -> Result<Vec<BlobRow>> {
    sqlx::query("SELECT hash, bytes, public FROM blobs ORDER BY hash").fetch_all(tx).await?.iter().map(blob_row).collect()
}

fn blob_row(row: &SqliteRow) -> Result<BlobRow> {
    Ok(BlobRow { hash: hash(row, "hash")?, bytes: uint(row, "bytes")?, public: uint(row, "public")? != 0 })
}
