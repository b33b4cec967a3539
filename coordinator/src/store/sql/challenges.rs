//! Challenges, from the draw to the end.

use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::challenge::Form;
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::{BlobHash, KeyId, LeaseId, UnitId, limits};
use sqlx::{AssertSqlSafe, Row};

use super::rows::{int, key as key_column, refresh_unit, uint, uint32};
use super::{Connection, DbRow, leases, results};
use crate::store::{
    Challenge, ChallengeAnswered, ChallengeClosed, ChallengeCounts, ChallengeStage, Judgement, NewChallenge, Result, StoreError,
};

const COLUMNS: &str =
    "result_id, unit_id, lease_id, key_id, form, stage, first_step, steps, step, segment, trace, reveal, asked_ms,
    stage_ms, deadline_ms";

fn select(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM challenges {rest}"))
}

/// A unit that a second key has begun is compared with its result, which tells more than a part that is drawn.
pub async fn open(tx: &mut Connection, new: &NewChallenge) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO challenges (result_id, unit_id, lease_id, key_id, form, stage, first_step, steps, asked_ms, stage_ms, deadline_ms)
         SELECT r.id, r.unit_id, r.lease_id, r.key_id, $6, $7, $2, $3, $4, $4, $5
         FROM results r JOIN units u ON u.id = r.unit_id
         WHERE r.id = $1 AND r.verdict = 'pending' AND u.state = 'open'
            AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.unit_id = u.id AND l.state = 'live')
            AND NOT EXISTS (SELECT 1 FROM results o WHERE o.unit_id = u.id AND o.id <> r.id AND o.verdict <> 'rejected')
         ON CONFLICT (result_id) DO NOTHING",
    )
    .bind(new.result)
    .bind(i64::from(new.first_step))
    .bind(i64::from(new.steps))
    .bind(int(new.now_ms))
    .bind(int(new.deadline_ms))
    .bind(new.form.name())
    .bind(ChallengeStage::first(new.form).name())
    .execute(&mut *tx)
    .await?;
    if let Some(challenge) = find(tx, new.result).await?.filter(|_| done.rows_affected() == 1) {
        refresh_unit(tx, challenge.unit).await?;
    }
    Ok(done.rows_affected() == 1)
}

async fn find(tx: &mut Connection, result: i64) -> Result<Option<Challenge>> {
    let row = sqlx::query(select("WHERE result_id = $1")).bind(result).fetch_optional(tx).await?;
    row.as_ref().map(challenge_row).transpose()
}

pub async fn of_lease(tx: &mut Connection, lease: LeaseId) -> Result<Option<Challenge>> {
    let row = sqlx::query(select("WHERE lease_id = $1")).bind(int(lease.0)).fetch_optional(tx).await?;
    row.as_ref().map(challenge_row).transpose()
}

/// The key's own challenge of a lease.
async fn own(tx: &mut Connection, lease: LeaseId, key: KeyId) -> Result<Challenge> {
    leases::find_own(tx, lease, key).await?;
    let found = of_lease(tx, lease).await?;
    found.ok_or_else(|| StoreError::refused(Code::UnknownChallenge, format!("the result of lease {lease} was not challenged")))
}

pub async fn answer(tx: &mut Connection, answered: &ChallengeAnswered) -> Result<Challenge> {
    let found = own(tx, answered.lease, answered.key).await?;
    let column = match answered.to_stage {
        ChallengeStage::Segment => "segment",
        ChallengeStage::Trace => "trace",
        _ => "reveal",
    };
    let earlier = match answered.to_stage {
        ChallengeStage::Segment => &found.segment,
        ChallengeStage::Trace => &found.trace,
        _ => &found.reveal,
    };
    if earlier.as_ref() == Some(&answered.statement) {
        return Ok(found);
    }
    if found.stage != answered.to_stage || answered.now_ms >= found.deadline_ms {
        let detail = format!("the challenge of lease {} is at {}", answered.lease, found.stage.name());
        return Err(StoreError::refused(Code::WrongStage, detail));
    }
    if let Some((hash, bytes)) = answered.file {
        check_file(tx, answered.lease, hash, bytes).await?;
    }
    sqlx::query(AssertSqlSafe(format!(
        "UPDATE challenges SET {column} = $2, stage = $3, step = COALESCE(step, $4), stage_ms = $5, deadline_ms = $6
         WHERE result_id = $1"
    )))
    .bind(found.result)
    .bind(answered.statement.as_slice())
    .bind(answered.next_stage().name())
    .bind(answered.step.map(i64::from))
    .bind(int(answered.now_ms))
    .bind(int(answered.deadline_ms))
    .execute(&mut *tx)
    .await?;
    own(tx, answered.lease, answered.key).await
}

async fn check_file(tx: &mut Connection, lease: LeaseId, hash: BlobHash, bytes: u64) -> Result<()> {
    let row = sqlx::query("SELECT bytes FROM uploads WHERE lease_id = $1 AND hash = $2")
        .bind(int(lease.0))
        .bind(hash.0.as_slice())
        .fetch_optional(tx)
        .await?;
    match row {
        Some(row) if uint(&row, "bytes")? == bytes => Ok(()),
        _ => {
            let detail = format!("file {hash} of {bytes} bytes was not uploaded under lease {lease}");
            Err(StoreError::refused(Code::OutputMissing, detail))
        }
    }
}

/// Whether the lease's challenge waits for a file now.
pub async fn takes_file(tx: &mut Connection, lease: LeaseId, now_ms: u64) -> Result<bool> {
    let found = of_lease(tx, lease).await?;
    Ok(found.is_some_and(|found| found.stage.takes_file() && now_ms < found.deadline_ms))
}

pub async fn due(tx: &mut Connection, now_ms: u64, count_max: u32) -> Result<(Vec<Challenge>, Option<u64>)> {
    let rows =
        sqlx::query(select("WHERE closed_ms IS NULL AND (deadline_ms <= $1 OR stage = 'check') ORDER BY deadline_ms LIMIT $2"))
            .bind(int(now_ms))
            .bind(i64::from(count_max))
            .fetch_all(&mut *tx)
            .await?;
    let next = sqlx::query("SELECT MIN(deadline_ms) AS ms FROM challenges WHERE closed_ms IS NULL AND deadline_ms > $1")
        .bind(int(now_ms))
        .fetch_one(tx)
        .await?;
    let next_ms = next.try_get::<Option<i64>, _>("ms")?.map(|ms| ms as u64);
    Ok((rows.iter().map(challenge_row).collect::<Result<_>>()?, next_ms))
}

pub async fn close(tx: &mut Connection, closed: &ChallengeClosed) -> Result<()> {
    let done = sqlx::query(
        "UPDATE challenges SET stage = $2, closed_ms = $3, check_flop = $4
         WHERE result_id = $1 AND stage = $5 AND closed_ms IS NULL",
    )
    .bind(closed.result)
    .bind(closed.outcome.name())
    .bind(int(closed.now_ms))
    .bind(int(closed.check_flop))
    .bind(closed.stage.name())
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let Some(result) = results::find(tx, closed.result).await? else {
        return Err(StoreError::Damaged(format!("no result {}", closed.result)));
    };
    sqlx::query("UPDATE jobs SET check_flop = check_flop + $2 WHERE id = $1")
        .bind(int(result.job.0))
        .bind(int(closed.check_flop))
        .execute(&mut *tx)
        .await?;
    if closed.outcome != ChallengeStage::Passed && result.verdict == Verdict::Pending {
        let reason = closed.reason.as_str();
        let caught = closed.outcome == ChallengeStage::Caught;
        let judgement = if caught { Judgement::catch(result.id, reason) } else { Judgement::reject(result.id, reason) };
        results::judge(tx, &judgement, closed.now_ms).await?;
    }
    refresh_unit(tx, result.unit).await
}

/// Ends a challenge that a verdict overtook.
pub async fn end_by_verdict(tx: &mut Connection, result: i64, now_ms: u64) -> Result<()> {
    sqlx::query("UPDATE challenges SET stage = 'moot', closed_ms = $2 WHERE result_id = $1 AND closed_ms IS NULL")
        .bind(result)
        .bind(int(now_ms))
        .execute(tx)
        .await?;
    Ok(())
}

pub async fn counts(tx: &mut Connection, key: KeyId) -> Result<ChallengeCounts> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS asked, COUNT(CASE WHEN stage = 'unanswered' THEN 1 END) AS unanswered,
            COUNT(CASE WHEN stage = 'caught' THEN 1 END) AS caught
         FROM challenges WHERE key_id = $1",
    )
    .bind(key.0.as_slice())
    .fetch_one(tx)
    .await?;
    Ok(ChallengeCounts { asked: uint(&row, "asked")?, unanswered: uint(&row, "unanswered")?, caught: uint(&row, "caught")? })
}

/// A lease from before that time kept by a heartbeat shortly before the other: who takes another may be a page that was loaded
/// again, which knows nothing of what the one before it computed.
pub async fn is_present(tx: &mut Connection, key: KeyId, since_ms: u64, at_ms: u64) -> Result<bool> {
    let row =
        sqlx::query("SELECT EXISTS (SELECT 1 FROM leases WHERE key_id = $1 AND issued_ms <= $2 AND deadline_ms > $3) AS present")
            .bind(key.0.as_slice())
            .bind(int(since_ms))
            // One heartbeat may be lost.
            .bind(int(at_ms + limits::LEASE_MS - 2 * limits::HEARTBEAT_MS))
            .fetch_one(tx)
            .await?;
    Ok(row.try_get("present")?)
}

/// Gives every challenge that waits for an answer its whole time again.
pub async fn wait_anew(tx: &mut Connection, now_ms: u64) -> Result<()> {
    sqlx::query(
        "UPDATE challenges SET deadline_ms = $1 + deadline_ms - stage_ms, stage_ms = $1 WHERE closed_ms IS NULL AND stage <> 'check'",
    )
    .bind(int(now_ms))
    .execute(tx)
    .await?;
    Ok(())
}

fn challenge_row(row: &DbRow) -> Result<Challenge> {
    let (form, stage): (&str, &str) = (row.try_get("form")?, row.try_get("stage")?);
    Ok(Challenge {
        result: row.try_get("result_id")?,
        unit: UnitId(uint(row, "unit_id")?),
        lease: LeaseId(uint(row, "lease_id")?),
        key: key_column(row, "key_id")?,
        form: Form::parse(form).ok_or_else(|| StoreError::Damaged(format!("form {form} of a challenge")))?,
        stage: ChallengeStage::named(stage).ok_or_else(|| StoreError::Damaged(format!("stage {stage} of a challenge")))?,
        first_step: uint32(row, "first_step")?,
        steps: uint32(row, "steps")?,
        step: row.try_get::<Option<i64>, _>("step")?.map(|step| step as u32),
        segment: row.try_get("segment")?,
        trace: row.try_get("trace")?,
        reveal: row.try_get("reveal")?,
        stage_ms: uint(row, "stage_ms")?,
        deadline_ms: uint(row, "deadline_ms")?,
        asked_ms: uint(row, "asked_ms")?,
    })
}
