//! Opening units: what a session of a train job leases first.

use manyhands_protocol::JobId;
use manyhands_protocol::view::JobState;
use sqlx::{Row, SqliteConnection};

use super::super::{Job, NewUnit, Result};
use super::rows::{int, uint};
use super::{blobs, jobs, units};

/// Free ones of a job.
const FREE: &str =
    "(SELECT COUNT(*) FROM units u WHERE u.job_id = j.id AND u.opening = 1 AND u.state = 'open' AND u.slots_free > 0)";

/// Running train jobs with fewer than `least` free ones, and how many those have.
pub async fn wanted(tx: &mut SqliteConnection, least: u32) -> Result<Vec<(Job, u32)>> {
    let statement =
        format!("SELECT j.id, {FREE} AS free FROM jobs j WHERE j.state = 'running' AND j.kind = 'train' AND {FREE} < $1");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(i64::from(least)).fetch_all(&mut *tx).await?;
    let mut found = Vec::new();
    for row in &rows {
        if let Some(job) = jobs::find(tx, JobId(uint(row, "id")?)).await? {
            found.push((job, uint(row, "free")? as u32));
        }
    }
    Ok(found)
}

/// Adds units, and lets anyone read their inputs, as long as the running job has fewer than `most` free ones.
pub async fn add(tx: &mut SqliteConnection, job: JobId, new: &[NewUnit], most: u32) -> Result<()> {
    let Some(found) = jobs::find(tx, job).await?.filter(|job| job.state == JobState::Running) else { return Ok(()) };
    let statement = format!("SELECT {FREE} AS free FROM jobs j WHERE j.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(int(job.0)).fetch_one(&mut *tx).await?;
    let room = u64::from(most).saturating_sub(uint(&row, "free")?);
    for unit in new.iter().take(room as usize) {
        units::insert_opening(tx, job, found.round, unit).await?;
        for input in unit.work.inputs() {
            blobs::publish(tx, input).await?;
        }
    }
    Ok(())
}

/// Whether a session has had a lease, whatever became of it.
pub async fn session_has_begun(tx: &mut SqliteConnection, session: i64) -> Result<bool> {
    let row =
        sqlx::query("SELECT EXISTS (SELECT 1 FROM leases WHERE session_id = $1) AS begun").bind(session).fetch_one(tx).await?;
    Ok(row.try_get::<i64, _>("begun")? != 0)
}
