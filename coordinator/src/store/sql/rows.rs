//! Between columns and domain types, and the few statements that several of the modules beside share.

use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId};
use sqlx::Row;

use super::{Connection, DbRow};
use crate::store::{Result, StoreError};

/// A number as the database holds it. Ids and times beyond its range come from outside only, and match no row.
pub fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that holds a count, an id or a time.
pub fn uint(row: &DbRow, column: &str) -> Result<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Damaged(format!("{column} is {value}")))
}

pub fn uint32(row: &DbRow, column: &str) -> Result<u32> {
    let value: i64 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| StoreError::Damaged(format!("{column} is {value}")))
}

pub fn bytes32(row: &DbRow, column: &str) -> Result<[u8; 32]> {
    let value: &[u8] = row.try_get(column)?;
    value.try_into().map_err(|_| StoreError::Damaged(format!("{column} has {} bytes", value.len())))
}

pub fn hash(row: &DbRow, column: &str) -> Result<BlobHash> {
    bytes32(row, column).map(BlobHash)
}

pub fn key(row: &DbRow, column: &str) -> Result<KeyId> {
    bytes32(row, column).map(KeyId)
}

/// Marks a change of what the job's view shows.
pub async fn touch_job(tx: &mut Connection, job: JobId) -> Result<()> {
    sqlx::query("UPDATE jobs SET version = version + 1 WHERE id = $1").bind(int(job.0)).execute(tx).await?;
    Ok(())
}

/// The same of several jobs, in ascending order.
pub async fn touch_jobs(tx: &mut Connection, jobs: &[JobId]) -> Result<()> {
    for &job in jobs {
        touch_job(tx, job).await?;
    }
    Ok(())
}

/// Re-derives a unit's counts of results, ended leases and free slots.
pub async fn refresh_unit(tx: &mut Connection, unit: UnitId) -> Result<()> {
    let row = sqlx::query(
        "SELECT quorum,
            (SELECT COUNT(*) FROM results WHERE unit_id = units.id AND verdict <> 'rejected') AS results,
            (SELECT MIN(received_ms) FROM results WHERE unit_id = units.id AND verdict <> 'rejected') AS first_ms,
            (SELECT COUNT(*) FROM leases WHERE unit_id = units.id AND state = 'live') AS live,
            (SELECT COUNT(*) FROM challenges WHERE unit_id = units.id AND closed_ms IS NULL) AS challenged,
            (SELECT COUNT(*) FROM leases WHERE unit_id = units.id AND state IN ('lapsed', 'given_back')) AS ended
         FROM units WHERE id = $1",
    )
    .bind(int(unit.0))
    .fetch_one(&mut *tx)
    .await?;
    let (results, live) = (uint(&row, "results")?, uint(&row, "live")?);
    let slots = uint(&row, "quorum")?.saturating_sub(results + live + uint(&row, "challenged")?);
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
