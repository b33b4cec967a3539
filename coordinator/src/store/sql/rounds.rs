//! Rounds of `train` jobs, and which jobs have nothing open left.

use manyhands_protocol::problem::Code;
use manyhands_protocol::view::JobState;
use manyhands_protocol::{JobId, UnitId};
use sqlx::Row;

use super::rows::{hash, int, touch_job, uint, uint32};
use super::{Connection, blobs, jobs, log, units};
use crate::store::{Job, MergedUnit, NewRound, Result, RoundClose, StoreError};

pub async fn add(tx: &mut Connection, job: JobId, round: u32, new: &NewRound) -> Result<()> {
    sqlx::query(
        "INSERT INTO rounds (job_id, round, checkpoint, velocity, loss, accuracy, at_ms, loss_error)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(int(job.0))
    .bind(i64::from(round))
    .bind(new.checkpoint.0.as_slice())
    .bind(new.velocity.0.as_slice())
    .bind(new.loss)
    .bind(new.accuracy)
    .bind(int(new.at_ms))
    .bind(new.loss_error)
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn find(tx: &mut Connection, job: JobId, round: u32) -> Result<Option<NewRound>> {
    let row = sqlx::query(
        "SELECT checkpoint, velocity, loss, loss_error, accuracy, at_ms FROM rounds WHERE job_id = $1 AND round = $2",
    )
    .bind(int(job.0))
    .bind(i64::from(round))
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(NewRound {
        checkpoint: hash(&row, "checkpoint")?,
        velocity: hash(&row, "velocity")?,
        loss: row.try_get("loss")?,
        loss_error: row.try_get("loss_error")?,
        accuracy: row.try_get("accuracy")?,
        at_ms: uint(&row, "at_ms")?,
    }))
}

pub async fn settled_units(tx: &mut Connection, job: JobId, round: u32) -> Result<Vec<MergedUnit>> {
    sqlx::query(
        "SELECT id, canonical, weight_permille, settled_by = 'quorum' AS by_keys FROM units
         WHERE job_id = $1 AND round = $2 AND state = 'settled' AND opening = 0 ORDER BY position",
    )
    .bind(int(job.0))
    .bind(i64::from(round))
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| {
        Ok(MergedUnit {
            unit: UnitId(uint(row, "id")?),
            canonical: hash(row, "canonical")?,
            weight_permille: uint32(row, "weight_permille")?,
            by_keys: row.try_get("by_keys")?,
        })
    })
    .collect()
}

pub async fn jobs_to_advance(tx: &mut Connection) -> Result<Vec<Job>> {
    let ids = sqlx::query(
        "SELECT id FROM jobs WHERE state = 'running'
         AND NOT EXISTS (SELECT 1 FROM units u WHERE u.job_id = jobs.id AND u.state = 'open' AND u.opening = 0) ORDER BY id",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut found = Vec::with_capacity(ids.len());
    for row in &ids {
        found.extend(jobs::find(tx, JobId(uint(row, "id")?)).await?);
    }
    Ok(found)
}

pub async fn close(tx: &mut Connection, close: &RoundClose) -> Result<()> {
    let Some(job) = jobs::find(tx, close.job).await? else {
        return Err(StoreError::refused(Code::UnknownJob, format!("no job {}", close.job)));
    };
    if job.round > close.round {
        return Ok(());
    }
    let open = sqlx::query("SELECT COUNT(*) AS n FROM units WHERE job_id = $1 AND round = $2 AND state = 'open' AND opening = 0")
        .bind(int(close.job.0))
        .bind(i64::from(close.round))
        .fetch_one(&mut *tx)
        .await?;
    if job.state != JobState::Running || job.round != close.round || uint(&open, "n")? > 0 {
        let detail =
            format!("job {} is {} in round {}; round {} cannot be closed", job.id, job.state.name(), job.round, close.round);
        return Err(StoreError::refused(Code::WrongJobState, detail));
    }
    // A key may have been caught while its update was merged.
    if settled_units(tx, job.id, close.round).await? != close.merged {
        let detail = format!("round {} of job {} was merged from other results than it has now", close.round, job.id);
        return Err(StoreError::refused(Code::WrongJobState, detail));
    }
    let round = close.round + 1;
    let before = find(tx, job.id, close.round).await?;
    let before = before.ok_or_else(|| StoreError::Damaged(format!("job {} has no round {}", job.id, close.round)))?;
    add(tx, job.id, round, &close.next).await?;
    log::queue_merge(tx, &before, close).await?;
    blobs::publish(tx, close.next.checkpoint).await?;
    units::add(tx, job.id, round, &close.units).await?;
    let state = if close.units.is_empty() { JobState::Finished } else { JobState::Running };
    sqlx::query("UPDATE jobs SET round = $2, state = $3 WHERE id = $1")
        .bind(int(job.id.0))
        .bind(i64::from(round))
        .bind(state.name())
        .execute(&mut *tx)
        .await?;
    touch_job(tx, job.id).await
}
