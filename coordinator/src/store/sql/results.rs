//! Results, verdicts and credit.

use manyhands_protocol::problem::Code;
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::work::Work;
use manyhands_protocol::{JobId, KeyId, LeaseId, UnitId, cbor};
use sqlx::Row;

use super::rows::{hash, int, key as key_column, refresh_unit, touch_job, uint};
use super::standings::{self, Cost};
use super::{Connection, DbRow, blobs, challenges, dialect, leases, log};
use crate::scheduler;
use crate::store::{Judgement, LeaseState, NewResult, Result, ResultRow, SettledBy, Settlement, StoreError};

pub async fn add(tx: &mut Connection, new: &NewResult) -> Result<(ResultRow, bool)> {
    let lease = leases::find_own(tx, new.lease, new.key).await?;
    if let Some((id, statement)) = of_lease(tx, new.lease).await? {
        if statement == new.statement {
            return Ok((stored(tx, id).await?, false));
        }
        return Err(StoreError::refused(Code::ResultReplayed, format!("lease {} has another result", new.lease)));
    }
    check_statement(tx, new).await?;
    if lease.unit != new.unit || lease.job != new.job || lease.manifest != new.manifest {
        let detail = format!("lease {} is for unit {} of job {}", lease.id, lease.unit, lease.job);
        return Err(StoreError::refused(Code::LeaseMismatch, format!("{detail}, by another manifest than the result names")));
    }
    if lease.state == LeaseState::GivenBack {
        return Err(StoreError::refused(Code::LeaseEnded, format!("lease {} was given back", new.lease)));
    }
    insert(tx, new).await?;
    let (id, _) = of_lease(tx, new.lease).await?.ok_or_else(|| StoreError::Damaged("a result vanished".to_owned()))?;
    leases::end(tx, new.lease, "done").await?;
    refresh_unit(tx, new.unit).await?;
    sqlx::query("UPDATE keys SET pending = pending + 1 WHERE key_id = $1").bind(new.key.0.as_slice()).execute(&mut *tx).await?;
    touch_job(tx, new.job).await?;
    Ok((stored(tx, id).await?, true))
}

async fn stored(tx: &mut Connection, id: i64) -> Result<ResultRow> {
    find(tx, id).await?.ok_or_else(|| StoreError::Damaged(format!("result {id} is gone")))
}

/// Checks what the statement says of job, unit and outputs against what is stored.
async fn check_statement(tx: &mut Connection, new: &NewResult) -> Result<()> {
    let job = sqlx::query("SELECT state FROM jobs WHERE id = $1").bind(int(new.job.0)).fetch_optional(&mut *tx).await?;
    let Some(job) = job else { return Err(StoreError::refused(Code::UnknownJob, format!("no job {}", new.job))) };
    let unit = sqlx::query("SELECT state, work FROM units WHERE id = $1").bind(int(new.unit.0)).fetch_optional(&mut *tx).await?;
    let Some(unit) = unit else { return Err(StoreError::refused(Code::UnknownUnit, format!("no unit {}", new.unit))) };
    if unit.try_get::<&str, _>("state")? == "settled" {
        return Err(StoreError::refused(Code::UnitSettled, format!("unit {} was settled without this result", new.unit)));
    }
    let state: &str = job.try_get("state")?;
    if !["running", "paused"].contains(&state) {
        return Err(StoreError::refused(Code::WrongJobState, format!("job {} is {state}", new.job)));
    }
    let work: Work =
        cbor::decode_strict(unit.try_get("work")?).map_err(|e| StoreError::Damaged(format!("work of unit {}: {e}", new.unit)))?;
    if new.output_name != work.output_name() || new.losses_count != scheduler::losses_count(&work) {
        let (name, losses) = (work.output_name(), scheduler::losses_count(&work));
        let detail = format!("unit {} has one output named {name} and {losses} losses", new.unit);
        return Err(StoreError::refused(Code::BadRequest, detail));
    }
    if new.states_every.is_some() && new.states_every != scheduler::states_every(&work) {
        return Err(StoreError::refused(Code::BadRequest, "the result commits to other states than the manifest asks for"));
    }
    let uploaded = sqlx::query("SELECT bytes FROM uploads WHERE lease_id = $1 AND hash = $2")
        .bind(int(new.lease.0))
        .bind(new.output.0.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
    match uploaded {
        Some(row) if uint(&row, "bytes")? == new.output_bytes => Ok(()),
        _ => {
            let detail =
                format!("output {} of {} bytes was not uploaded under lease {}", new.output, new.output_bytes, new.lease);
            Err(StoreError::refused(Code::OutputMissing, detail))
        }
    }
}

async fn insert(tx: &mut Connection, new: &NewResult) -> Result<()> {
    let done = sqlx::query(
        "INSERT INTO results (unit_id, lease_id, key_id, statement, details, output, backend, verdict, received_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8) ON CONFLICT (unit_id, key_id) DO NOTHING",
    )
    .bind(int(new.unit.0))
    .bind(int(new.lease.0))
    .bind(new.key.0.as_slice())
    .bind(new.statement.as_slice())
    .bind(new.details.as_slice())
    .bind(new.output.0.as_slice())
    .bind(new.backend)
    .bind(int(new.received_ms))
    .execute(tx)
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        let detail = format!("this key has a result for unit {} under another lease", new.unit);
        Err(StoreError::refused(Code::ResultReplayed, detail))
    }
}

async fn of_lease(tx: &mut Connection, lease: LeaseId) -> Result<Option<(i64, Vec<u8>)>> {
    let row = sqlx::query("SELECT id, statement FROM results WHERE lease_id = $1").bind(int(lease.0)).fetch_optional(tx).await?;
    match row {
        Some(row) => Ok(Some((row.try_get("id")?, row.try_get("statement")?))),
        None => Ok(None),
    }
}

pub async fn find(tx: &mut Connection, result: i64) -> Result<Option<ResultRow>> {
    let row = sqlx::query(
        "SELECT r.id, u.job_id, r.unit_id, r.lease_id, r.key_id, r.output, r.verdict, r.reason, r.credit_flop
         FROM results r JOIN units u ON u.id = r.unit_id WHERE r.id = $1",
    )
    .bind(result)
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(result_row).transpose()
}

pub async fn statement(tx: &mut Connection, result: i64) -> Result<Option<Vec<u8>>> {
    let row = sqlx::query("SELECT statement FROM results WHERE id = $1").bind(result).fetch_optional(tx).await?;
    row.map(|row| Ok(row.try_get("statement")?)).transpose()
}

pub async fn lease_times(tx: &mut Connection, lease: LeaseId) -> Result<[u64; 2]> {
    let row = sqlx::query("SELECT l.issued_ms, r.received_ms FROM leases l JOIN results r ON r.lease_id = l.id WHERE l.id = $1")
        .bind(int(lease.0))
        .fetch_one(tx)
        .await?;
    Ok([uint(&row, "issued_ms")?, uint(&row, "received_ms")?])
}

pub async fn of_unit(tx: &mut Connection, unit: UnitId) -> Result<Vec<ResultRow>> {
    sqlx::query(
        "SELECT r.id, u.job_id, r.unit_id, r.lease_id, r.key_id, r.output, r.verdict, r.reason, r.credit_flop
         FROM results r JOIN units u ON u.id = r.unit_id WHERE r.unit_id = $1 AND r.verdict <> 'rejected'
         ORDER BY r.received_ms, r.id",
    )
    .bind(int(unit.0))
    .fetch_all(tx)
    .await?
    .iter()
    .map(result_row)
    .collect()
}

pub async fn to_check(tx: &mut Connection, count_max: u32) -> Result<Vec<ResultRow>> {
    sqlx::query(
        "SELECT r.id, u.job_id, r.unit_id, r.lease_id, r.key_id, r.output, r.verdict, r.reason, r.credit_flop
         FROM results r JOIN units u ON u.id = r.unit_id
         WHERE r.verdict = 'pending' AND (u.min_quorum = 1 OR u.state = 'settled' OR u.course IS NULL)
            AND NOT EXISTS (SELECT 1 FROM challenges c WHERE c.result_id = r.id AND c.closed_ms IS NULL) ORDER BY r.id LIMIT $1",
    )
    .bind(i64::from(count_max))
    .fetch_all(tx)
    .await?
    .iter()
    .map(result_row)
    .collect()
}

fn result_row(row: &DbRow) -> Result<ResultRow> {
    let id: i64 = row.try_get("id")?;
    let verdict = match row.try_get("verdict")? {
        "pending" => Verdict::Pending,
        "accepted" => Verdict::Accepted,
        "rejected" => Verdict::Rejected,
        other => return Err(StoreError::Damaged(format!("verdict {other} of result {id}"))),
    };
    Ok(ResultRow {
        id,
        job: JobId(uint(row, "job_id")?),
        unit: UnitId(uint(row, "unit_id")?),
        lease: LeaseId(uint(row, "lease_id")?),
        key: key_column(row, "key_id")?,
        output: hash(row, "output")?,
        verdict,
        reason: row.try_get("reason")?,
        credit_flop: uint(row, "credit_flop")?,
    })
}

pub async fn judge(tx: &mut Connection, judgement: &Judgement, now_ms: u64) -> Result<()> {
    if let Some(result) = judge_one(tx, judgement, now_ms).await?
        && judgement.caught
    {
        standings::catch(tx, result.key, now_ms).await?;
    }
    Ok(())
}

/// Judges a result and leaves its key's others alone; gives the result unless it had a verdict.
pub async fn judge_one(tx: &mut Connection, judgement: &Judgement, now_ms: u64) -> Result<Option<ResultRow>> {
    let Some(result) = find(tx, judgement.result).await? else {
        return Err(StoreError::Damaged(format!("no result {}", judgement.result)));
    };
    if result.verdict != Verdict::Pending {
        return Ok(None);
    }
    let unit = sqlx::query("SELECT state, flop, check_flop FROM units WHERE id = $1")
        .bind(int(result.unit.0))
        .fetch_one(&mut *tx)
        .await?;
    if judgement.accepted && unit.try_get::<&str, _>("state")? != "settled" {
        return Err(StoreError::Damaged(format!("result {} accepted for the open unit {}", result.id, result.unit)));
    }
    let cost = Cost::of(&unit)?;
    let (verdict, credit) = if judgement.accepted { ("accepted", cost.flop) } else { ("rejected", 0) };
    sqlx::query(
        "UPDATE results SET verdict = $2, reason = $3, judged_ms = $4, credit_flop = $5,
            judged_order = $6 WHERE id = $1",
    )
    .bind(result.id)
    .bind(verdict)
    .bind(judgement.reason.as_str())
    .bind(int(now_ms))
    .bind(int(credit))
    .bind(dialect::next_in_order_of_verdicts(tx).await?)
    .execute(&mut *tx)
    .await?;
    challenges::end_by_verdict(tx, result.id, now_ms).await?;
    count(tx, result.key, result.job, judgement.accepted, cost).await?;
    standings::judged(tx, &result, judgement.accepted).await?;
    if judgement.accepted {
        blobs::publish(tx, result.output).await?;
        log::queue_result(tx, &result).await?;
    }
    refresh_unit(tx, result.unit).await?;
    touch_job(tx, result.job).await?;
    Ok(Some(result))
}

/// Counts a verdict for its key and its job.
async fn count(tx: &mut Connection, key: KeyId, job: JobId, accepted: bool, cost: Cost) -> Result<()> {
    let credit = if accepted { cost.flop } else { 0 };
    let (accepted, rejected) = (i64::from(accepted), i64::from(!accepted));
    sqlx::query(
        "UPDATE keys SET pending = pending - 1, accepted = accepted + $2, rejected = rejected + $3,
            credit_flop = credit_flop + $4 WHERE key_id = $1",
    )
    .bind(key.0.as_slice())
    .bind(accepted)
    .bind(rejected)
    .bind(int(credit))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE jobs SET results_accepted = results_accepted + $2, results_rejected = results_rejected + $3,
            judged_flop = judged_flop + $4, check_flop = check_flop + $5 WHERE id = $1",
    )
    .bind(int(job.0))
    .bind(accepted)
    .bind(rejected)
    .bind(int(cost.flop))
    .bind(int(cost.check_flop))
    .execute(&mut *tx)
    .await?;
    if accepted == 1 {
        sqlx::query("INSERT INTO contributors (job_id, key_id) VALUES ($1, $2) ON CONFLICT (job_id, key_id) DO NOTHING")
            .bind(int(job.0))
            .bind(key.0.as_slice())
            .execute(tx)
            .await?;
    }
    Ok(())
}

pub async fn settle(tx: &mut Connection, settlement: &Settlement) -> Result<()> {
    // A key that was caught meanwhile lost its part: what is left is looked at again.
    for judgement in &settlement.judgements {
        if find(tx, judgement.result).await?.is_none_or(|result| result.verdict != Verdict::Pending) {
            return Ok(());
        }
    }
    let row = sqlx::query(
        "UPDATE units SET state = 'settled', canonical = $2, settled_by = $3, settled_ms = $4
         WHERE id = $1 AND state = 'open' RETURNING job_id, opening, flop",
    )
    .bind(int(settlement.unit.0))
    .bind(settlement.canonical.0.as_slice())
    .bind(settlement.by.name())
    .bind(int(settlement.now_ms))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let job = JobId(uint(&row, "job_id")?);
    let (flop, refereed) = (uint(&row, "flop")?, settlement.by == SettledBy::Referee);
    sqlx::query("UPDATE jobs SET settled_flop = settled_flop + $2, referee_flop = referee_flop + $3 WHERE id = $1")
        .bind(int(job.0))
        .bind(int(flop))
        .bind(if refereed { int(flop) } else { 0 })
        .execute(&mut *tx)
        .await?;
    if uint(&row, "opening")? == 0 {
        sqlx::query("UPDATE jobs SET units_settled = units_settled + 1, units_refereed = units_refereed + $2 WHERE id = $1")
            .bind(int(job.0))
            .bind(i64::from(refereed))
            .execute(&mut *tx)
            .await?;
    }
    blobs::publish(tx, settlement.canonical).await?;
    for judgement in &settlement.judgements {
        judge(tx, judgement, settlement.now_ms).await?;
    }
    touch_job(tx, job).await
}
