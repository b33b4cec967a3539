//! Opening units: what a session of a train job leases first.

use manyhands_protocol::view::JobState;
use manyhands_protocol::{JobId, KeyId};
use sqlx::Row;

use super::rows::{int, uint};
use super::{Connection, blobs, jobs, units};
use crate::store::{Job, NewUnit, Result};

/// How long a key waits for its next one.
const OPENING_EVERY_MS: u64 = 10 * 60 * 1000;

/// Most in one round of a job, whoever asks: keys cost nothing either. They take 32 KB each.
const PER_ROUND_MAX: u32 = 1000;

/// All of the job's newest round.
const IN_ROUND: &str = "(SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.round = j.round AND u.opening = 1)";

/// Free ones of a job.
const FREE: &str =
    "(SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.opening = 1 AND u.state = 'open' AND u.slots_free > 0)";

/// Running train jobs with fewer than `least` free ones, and how many those have.
pub async fn wanted(tx: &mut Connection, least: u32) -> Result<Vec<(Job, u32)>> {
    let statement = format!(
        "SELECT j.id, {FREE} AS free FROM jobs j WHERE j.state = 'running' AND j.kind = 'train' AND {FREE} < $1 AND {IN_ROUND} < $2"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(i64::from(least))
        .bind(i64::from(PER_ROUND_MAX))
        .fetch_all(&mut *tx)
        .await?;
    let mut found = Vec::new();
    for row in &rows {
        if let Some(job) = jobs::find(tx, JobId(uint(row, "id")?)).await? {
            found.push((job, uint(row, "free")? as u32));
        }
    }
    Ok(found)
}

/// Adds units, and lets anyone read their inputs, as long as the running job has fewer than `most` free ones.
pub async fn add(tx: &mut Connection, job: JobId, new: &[NewUnit], most: u32) -> Result<()> {
    let Some(found) = jobs::find(tx, job).await?.filter(|job| job.state == JobState::Running) else { return Ok(()) };
    let statement = format!("SELECT {FREE} AS free, {IN_ROUND} AS in_round FROM jobs j WHERE j.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(int(job.0)).fetch_one(&mut *tx).await?;
    let room = u64::from(most).saturating_sub(uint(&row, "free")?);
    let room = room.min(u64::from(PER_ROUND_MAX).saturating_sub(uint(&row, "in_round")?));
    for unit in new.iter().take(room as usize) {
        units::insert_opening(tx, job, found.round, unit).await?;
        for input in unit.work.inputs() {
            blobs::publish(tx, input).await?;
        }
    }
    Ok(())
}

/// Whether the session's first lease is still to come, and its key has had no opening unit for a while: sessions cost
/// nothing, and what they give credit for must not be had as often as one likes.
pub async fn may_begin(tx: &mut Connection, session: i64, key: KeyId, now_ms: u64) -> Result<bool> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM leases WHERE session_id = $1)
            OR EXISTS (SELECT 1 FROM leases l JOIN units u ON u.id = l.unit_id
                       WHERE l.key_id = $2 AND l.issued_ms > $3 AND u.opening = 1) AS begun",
    )
    .bind(session)
    .bind(key.0.as_slice())
    .bind(int(now_ms.saturating_sub(OPENING_EVERY_MS)))
    .fetch_one(tx)
    .await?;
    Ok(!row.try_get::<bool, _>("begun")?)
}
