//! Work units.

use manyhands_protocol::rules::standing::Course;
use manyhands_protocol::{BlobHash, JobId, UnitId, cbor, limits};
use sqlx::{AssertSqlSafe, Row};

use super::rows::{int, uint, uint32};
use super::{Connection, DbRow};
use crate::store::{NewUnit, Result, SettledBy, StoreError, Unit};

/// Adds the units of a round and counts them.
pub async fn add(tx: &mut Connection, job: JobId, round: u32, units: &[NewUnit]) -> Result<()> {
    for (position, unit) in units.iter().enumerate() {
        sqlx::query(
            "INSERT INTO units (job_id, round, position, state, work, min_quorum, blob_bytes, flop, slots_free, quorum, check_flop)
             VALUES ($1, $2, $3, 'open', $4, $5, $6, $7, $5, $5, $8)",
        )
        .bind(int(job.0))
        .bind(i64::from(round))
        .bind(int(position as u64))
        .bind(cbor::encode(&unit.work))
        .bind(i64::from(unit.min_quorum))
        .bind(int(unit.blob_bytes))
        .bind(int(unit.flop))
        .bind(int(unit.check_flop))
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query("UPDATE jobs SET units_total = units_total + $2 WHERE id = $1")
        .bind(int(job.0))
        .bind(int(units.len() as u64))
        .execute(tx)
        .await?;
    Ok(())
}

/// Adds an opening unit, which no counter counts. Positions below zero are theirs.
pub async fn insert_opening(tx: &mut Connection, job: JobId, round: u32, unit: &NewUnit) -> Result<()> {
    sqlx::query(
        "INSERT INTO units (job_id, round, position, state, work, min_quorum, blob_bytes, flop, slots_free, opening, quorum, check_flop)
         VALUES ($1, $2, COALESCE((SELECT MIN(position) FROM units WHERE job_id = $1 AND round = $2 AND position < 0), 0) - 1, 'open', $3, $4, $5, $6, $4, 1, $4, $7)",
    )
    .bind(int(job.0))
    .bind(i64::from(round))
    .bind(cbor::encode(&unit.work))
    .bind(i64::from(unit.min_quorum))
    .bind(int(unit.blob_bytes))
    .bind(int(unit.flop))
    .bind(int(unit.check_flop))
    .execute(tx)
    .await?;
    Ok(())
}

/// A unit's columns, for [`unit_row`].
const COLUMNS: &str = "u.id, u.job_id, u.round, u.work, u.min_quorum, u.results_count, u.first_result_ms, u.leases_ended, u.flop,
    u.canonical, u.settled_by, u.course, (SELECT COUNT(*) FROM leases l WHERE l.unit_id = u.id AND l.state = 'live'
        AND NOT EXISTS (SELECT 1 FROM results r WHERE r.unit_id = u.id AND r.key_id = l.key_id)) AS live";

fn select(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM units u {rest}"))
}

pub async fn find(tx: &mut Connection, unit: UnitId) -> Result<Option<Unit>> {
    let row = sqlx::query(select("WHERE u.id = $1")).bind(int(unit.0)).fetch_optional(tx).await?;
    row.as_ref().map(unit_row).transpose()
}

pub async fn waiting(tx: &mut Connection, count_max: u32) -> Result<Vec<Unit>> {
    let mut rows = sqlx::query(select(
        "JOIN jobs j ON j.id = u.job_id
         WHERE u.state = 'open' AND u.min_quorum > 1 AND u.first_result_ms IS NOT NULL AND u.course IS NOT NULL AND j.state IN ('running', 'paused')
            AND NOT EXISTS (SELECT 1 FROM challenges c WHERE c.unit_id = u.id AND c.closed_ms IS NULL)
         ORDER BY u.first_result_ms, u.id LIMIT $1",
    ))
    .bind(i64::from(count_max))
    .fetch_all(&mut *tx)
    .await?;
    let abandoned = sqlx::query(select(
        "JOIN jobs j ON j.id = u.job_id
         WHERE u.state = 'open' AND u.results_count = 0 AND u.leases_ended >= $1 AND u.opening = 0 AND j.state IN ('running', 'paused')
         ORDER BY u.id LIMIT $2",
    ))
    .bind(i64::from(limits::LEASES_ENDED_MAX))
    .bind(i64::from(count_max) - rows.len() as i64)
    .fetch_all(&mut *tx)
    .await?;
    rows.extend(abandoned);
    // The results of a caught key were taken out; the referee has the unit all the same.
    let audits = sqlx::query(select(
        "JOIN jobs j ON j.id = u.job_id
         WHERE u.state = 'open' AND u.results_count = 0 AND u.course = 'audit' AND j.state IN ('running', 'paused')
         ORDER BY u.id LIMIT $1",
    ))
    .bind(i64::from(count_max) - rows.len() as i64)
    .fetch_all(tx)
    .await?;
    rows.extend(audits);
    rows.iter().map(unit_row).collect()
}

fn unit_row(row: &DbRow) -> Result<Unit> {
    let id = UnitId(uint(row, "id")?);
    let canonical = match row.try_get::<Option<&[u8]>, _>("canonical")? {
        Some(bytes) => Some(BlobHash(
            bytes.try_into().map_err(|_| StoreError::Damaged(format!("canonical of unit {id} has {} bytes", bytes.len())))?,
        )),
        None => None,
    };
    Ok(Unit {
        id,
        job: JobId(uint(row, "job_id")?),
        round: uint32(row, "round")?,
        work: cbor::decode_strict(row.try_get("work")?).map_err(|e| StoreError::Damaged(format!("work of unit {id}: {e}")))?,
        min_quorum: uint32(row, "min_quorum")?,
        results_count: uint32(row, "results_count")?,
        first_result_ms: row.try_get::<Option<i64>, _>("first_result_ms")?.map(|ms| ms as u64),
        live_leases_count: uint32(row, "live")?,
        leases_ended_count: uint32(row, "leases_ended")?,
        flop: uint(row, "flop")?,
        canonical,
        settled_by: named(row, "settled_by", SettledBy::parse)?,
        course: named(row, "course", Course::parse)?,
    })
}

fn named<T>(row: &DbRow, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
    let Some(name) = row.try_get::<Option<&str>, _>(column)? else { return Ok(None) };
    parse(name).map(Some).ok_or_else(|| StoreError::Damaged(format!("{column} {name} of a unit")))
}
