//! Jobs, their states and their views, and the operator's stop.

use manyhands_protocol::JobId;
use manyhands_protocol::manifest::{Inputs, JobWork, Submission, bits};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{JobState, JobView, RoundView, TaxView, TrainView};
use sqlx::Row;

use super::rows::{hash, int, touch_job, uint, uint32};
use super::{Connection, DbRow, blobs, log, rounds, units};
use crate::store::{Job, NewJob, Result, StoreError};

/// Most evaluations that a view lists; a longer history is thinned evenly.
const HISTORY_COUNT_MAX: u32 = 512;

pub async fn stopped(tx: &mut Connection) -> Result<bool> {
    let row = sqlx::query("SELECT value FROM settings WHERE name = 'stopped'").fetch_optional(tx).await?;
    Ok(row.is_some())
}

pub async fn set_stopped(tx: &mut Connection, stopped: bool) -> Result<()> {
    if stopped {
        sqlx::query("INSERT INTO settings (name, value) VALUES ('stopped', '1') ON CONFLICT (name) DO NOTHING")
            .execute(tx)
            .await?;
    } else {
        sqlx::query("DELETE FROM settings WHERE name = 'stopped'").execute(tx).await?;
    }
    Ok(())
}

pub async fn identity(tx: &mut Connection, fresh: &str) -> Result<String> {
    sqlx::query("INSERT INTO settings (name, value) VALUES ('identity', $1) ON CONFLICT (name) DO NOTHING")
        .bind(fresh)
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query("SELECT value FROM settings WHERE name = 'identity'").fetch_one(tx).await?.try_get("value")?)
}

pub async fn create(tx: &mut Connection, new: &NewJob) -> Result<JobId> {
    let kind = match new.submission.manifest.work {
        JobWork::Matmul(_) => "matmul",
        JobWork::Train(_) => "train",
    };
    let submission = serde_json::to_string(&new.submission).map_err(|e| StoreError::Damaged(e.to_string()))?;
    let row = sqlx::query(
        "INSERT INTO jobs (kind, state, submission, submitted_ms, category) VALUES ($1, 'submitted', $2, $3, $4) RETURNING id",
    )
    .bind(kind)
    .bind(submission)
    .bind(int(new.submitted_ms))
    .bind(new.submission.manifest.category.name())
    .fetch_one(&mut *tx)
    .await?;
    let id = JobId(uint(&row, "id")?);
    if let Some(round) = &new.round {
        rounds::add(tx, id, 0, round).await?;
    }
    units::add(tx, id, 0, &new.units).await?;
    Ok(id)
}

pub async fn find(tx: &mut Connection, job: JobId) -> Result<Option<Job>> {
    let row = sqlx::query("SELECT id, state, approved, submission, round, units_total, units_settled FROM jobs WHERE id = $1")
        .bind(int(job.0))
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(job_row).transpose()
}

pub async fn in_state(tx: &mut Connection, state: JobState) -> Result<Vec<Job>> {
    sqlx::query(
        "SELECT id, state, approved, submission, round, units_total, units_settled FROM jobs WHERE state = $1 ORDER BY id",
    )
    .bind(state.name())
    .fetch_all(tx)
    .await?
    .iter()
    .map(job_row)
    .collect()
}

fn job_row(row: &DbRow) -> Result<Job> {
    let id = JobId(uint(row, "id")?);
    let state: &str = row.try_get("state")?;
    let submission: &str = row.try_get("submission")?;
    Ok(Job {
        id,
        state: JobState::parse(state).ok_or_else(|| StoreError::Damaged(format!("state {state} of job {id}")))?,
        approved: uint(row, "approved")? != 0,
        submission: serde_json::from_str::<Submission>(submission)
            .map_err(|e| StoreError::Damaged(format!("submission of job {id}: {e}")))?,
        round: uint32(row, "round")?,
        units_total: uint(row, "units_total")?,
        units_settled: uint(row, "units_settled")?,
    })
}

pub async fn set_state(tx: &mut Connection, job: JobId, from: &[JobState], to: JobState) -> Result<()> {
    let Some(found) = find(tx, job).await? else {
        return Err(StoreError::refused(Code::UnknownJob, format!("no job {job}")));
    };
    if found.state == to {
        return Ok(());
    }
    if !from.contains(&found.state) {
        let detail = format!("job {job} is {}, so it cannot become {}", found.state.name(), to.name());
        return Err(StoreError::refused(Code::WrongJobState, detail));
    }
    if found.state == JobState::Submitted && to == JobState::Running {
        publish_inputs(tx, &found).await?;
        sqlx::query("UPDATE jobs SET approved = 1 WHERE id = $1").bind(int(job.0)).execute(&mut *tx).await?;
    }
    sqlx::query("UPDATE jobs SET state = $2 WHERE id = $1").bind(int(job.0)).bind(to.name()).execute(&mut *tx).await?;
    touch_job(tx, job).await
}

pub async fn cancel(tx: &mut Connection, job: JobId, reason: &str) -> Result<()> {
    let done = sqlx::query("UPDATE jobs SET state = 'cancelled', reason = $2 WHERE id = $1 AND state IN ('running', 'paused')")
        .bind(int(job.0))
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 1 { touch_job(tx, job).await } else { Ok(()) }
}

/// Lets anyone read what an approved job begins with, and puts it into the log.
async fn publish_inputs(tx: &mut Connection, job: &Job) -> Result<()> {
    match &job.submission.inputs {
        Inputs::Matmul { a_panels, b_panels, .. } => {
            for &panel in a_panels.iter().chain(b_panels) {
                blobs::publish(tx, panel).await?;
            }
            log::queue_job(tx, job, None).await
        }
        Inputs::Train { shards, test } => {
            for &blob in shards.iter().chain([test]) {
                blobs::publish(tx, blob).await?;
            }
            let round = rounds::find(tx, job.id, job.round).await?;
            if let Some(round) = &round {
                blobs::publish(tx, round.checkpoint).await?;
            }
            log::queue_job(tx, job, round.as_ref()).await
        }
    }
}

pub async fn view(tx: &mut Connection, job: JobId, now_ms: u64) -> Result<Option<(u64, JobView)>> {
    let row = sqlx::query(
        "SELECT id, kind, state, approved, reason, submission, round, units_total, units_settled, units_refereed, results_accepted,
            results_rejected, version, settled_flop, judged_flop, referee_flop, check_flop,
            (SELECT COUNT(*) FROM contributors WHERE job_id = jobs.id) AS contributors,
            CASE WHEN state IN ('running', 'paused') THEN
                (SELECT COUNT(DISTINCT key_id) FROM leases WHERE job_id = jobs.id AND state = 'live' AND deadline_ms > $2)
                ELSE 0 END AS contributors_now
         FROM jobs WHERE id = $1",
    )
    .bind(int(job.0))
    .bind(int(now_ms))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let stored = job_row(&row)?;
    let train = train_view(tx, &stored).await?;
    let manifest = stored.submission.manifest;
    let view = JobView {
        id: job,
        name: manifest.name,
        title: manifest.title,
        description: manifest.description,
        owner: manifest.owner,
        category: manifest.category,
        kind: row.try_get("kind")?,
        state: stored.state,
        reason: row.try_get("reason")?,
        units_total: stored.units_total,
        units_settled: stored.units_settled,
        contributors: uint(&row, "contributors")?,
        contributors_now: uint(&row, "contributors_now")?,
        results_accepted: uint(&row, "results_accepted")?,
        results_rejected: uint(&row, "results_rejected")?,
        units_refereed: uint(&row, "units_refereed")?,
        tax: TaxView::of(
            uint(&row, "settled_flop")?,
            uint(&row, "judged_flop")?,
            uint(&row, "referee_flop")?,
            uint(&row, "check_flop")?,
        ),
        train,
    };
    Ok(Some((uint(&row, "version")?, view)))
}

async fn train_view(tx: &mut Connection, job: &Job) -> Result<Option<TrainView>> {
    let (JobWork::Train(recipe), Inputs::Train { test, .. }) = (&job.submission.manifest.work, &job.submission.inputs) else {
        return Ok(None);
    };
    let stride = job.round / HISTORY_COUNT_MAX + 1;
    let history = sqlx::query(
        "SELECT round, loss, accuracy, checkpoint, at_ms FROM rounds
         WHERE job_id = $1 AND (round % $2 = 0 OR round = $3) ORDER BY round",
    )
    .bind(int(job.id.0))
    .bind(i64::from(stride))
    .bind(i64::from(job.round))
    .fetch_all(&mut *tx)
    .await?
    .iter()
    .map(|row| {
        let loss = row.try_get("loss")?;
        Ok(RoundView {
            round: uint32(row, "round")?,
            loss,
            bits_per_byte: recipe.model.vocabulary().map(|_| bits(loss)),
            accuracy: row.try_get("accuracy")?,
            checkpoint: hash(row, "checkpoint")?,
            at_ms: uint(row, "at_ms")?,
        })
    })
    .collect::<Result<Vec<_>>>()?;
    let undone = sqlx::query("SELECT CAST(COALESCE(SUM(rolled_back), 0) AS BIGINT) AS n FROM rounds WHERE job_id = $1")
        .bind(int(job.id.0))
        .fetch_one(tx)
        .await?;
    let newest = history.last().ok_or_else(|| StoreError::Damaged(format!("job {} has no checkpoint", job.id)))?;
    Ok(Some(TrainView {
        model: recipe.model.clone(),
        rounds_merged: job.round,
        merges_undone: uint32(&undone, "n")?,
        rounds_max: recipe.rounds_max,
        units_per_round: recipe.units_per_round,
        target: recipe.target(),
        checkpoint: newest.checkpoint,
        test: *test,
        history,
    }))
}
