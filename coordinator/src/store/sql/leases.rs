//! Leases.

use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::lease::{Candidate, may_lease};
use manyhands_protocol::wire::HeartbeatResponse;
use manyhands_protocol::work::{UnitManifest, Work};
use manyhands_protocol::{JobId, KeyId, LeaseId, UnitId, cbor, limits};
use sqlx::{AssertSqlSafe, Row};

use super::rows::{hash, int, key as key_column, refresh_unit, touch_job, touch_jobs, uint, uint32};
use super::{Connection, DbRow, dialect, jobs, openings, sessions, sites, standings};
use crate::store::{Lease, LeaseAsk, LeaseState, Result, Sign, StoreError};
use crate::{keys, scheduler};

/// Most lapsed leases that one transaction ends.
const LAPSED_PER_CALL_MAX: i64 = 256;
/// Most running jobs that one lease call looks through.
const JOBS_PER_CALL_MAX: i64 = 256;

pub async fn find(tx: &mut Connection, lease: LeaseId) -> Result<Lease> {
    let row = sqlx::query(
        "SELECT id, unit_id, job_id, key_id, state, issued_ms, deadline_ms, manifest_hash, upload_bytes_max
         FROM leases WHERE id = $1",
    )
    .bind(int(lease.0))
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Err(StoreError::refused(Code::UnknownLease, format!("no lease {lease}"))) };
    let state = match row.try_get("state")? {
        "live" => LeaseState::Live,
        "lapsed" => LeaseState::Lapsed,
        "given_back" => LeaseState::GivenBack,
        "done" => LeaseState::Done,
        other => return Err(StoreError::Damaged(format!("state {other} of lease {lease}"))),
    };
    Ok(Lease {
        id: lease,
        unit: UnitId(uint(&row, "unit_id")?),
        job: JobId(uint(&row, "job_id")?),
        key: key_column(&row, "key_id")?,
        state,
        issued_ms: uint(&row, "issued_ms")?,
        deadline_ms: uint(&row, "deadline_ms")?,
        manifest: hash(&row, "manifest_hash")?,
        upload_bytes_max: uint(&row, "upload_bytes_max")?,
    })
}

/// The lease, if it is this key's.
pub async fn find_own(tx: &mut Connection, lease: LeaseId, key: KeyId) -> Result<Lease> {
    let found = find(tx, lease).await?;
    if found.key == key {
        Ok(found)
    } else {
        Err(StoreError::refused(Code::NotYourLease, format!("lease {lease} belongs to another key")))
    }
}

/// The lease, if it is this key's and live now.
pub async fn find_live(tx: &mut Connection, lease: LeaseId, key: KeyId, now_ms: u64) -> Result<Lease> {
    let found = find_own(tx, lease, key).await?;
    if found.state == LeaseState::Live && now_ms < found.deadline_ms {
        Ok(found)
    } else {
        Err(StoreError::refused(Code::LeaseEnded, format!("lease {lease} has ended")))
    }
}

/// With `wait`, units that somebody has locked are waited for.
pub async fn lease(tx: &mut Connection, ask: LeaseAsk, sign: Sign<'_>, wait: bool) -> Result<(Vec<Vec<u8>>, Vec<JobId>)> {
    sessions::check_open(tx, ask.session, ask.now_ms).await?;
    if jobs::stopped(tx).await? {
        return Err(StoreError::refused(Code::Stopped, "the operator stopped all work"));
    }
    let until_ms = standings::quarantined_until(tx, ask.key).await?;
    if until_ms > ask.now_ms {
        let detail = format!("a result of key {} was proved wrong; it gets no work until {until_ms}", ask.key);
        return Err(StoreError::refused(Code::Quarantined, detail));
    }
    sessions::set_prefix(tx, ask.session, ask.prefix).await?;
    let mut touched = lapse(tx, ask.now_ms).await?;
    let live = sqlx::query("SELECT COUNT(*) AS n FROM leases WHERE key_id = $1 AND state = 'live'")
        .bind(ask.key.0.as_slice())
        .fetch_one(&mut *tx)
        .await?;
    let room = limits::LIVE_LEASES_PER_KEY_MAX.saturating_sub(uint32(&live, "n")?);
    if room == 0 {
        let detail = format!("this key has {} live leases", limits::LIVE_LEASES_PER_KEY_MAX);
        return Err(StoreError::refused(Code::TooManyLeases, detail));
    }
    let allowed = sites::allowed(tx, ask.session).await?;
    let running =
        sqlx::query("SELECT id, category FROM jobs WHERE state = 'running' AND (id = $1 OR $1 IS NULL) ORDER BY id LIMIT $2")
            .bind(ask.job.map(|job| int(job.0)))
            .bind(JOBS_PER_CALL_MAX)
            .fetch_all(&mut *tx)
            .await?;
    let (mut manifests, mut left) = (Vec::new(), ask.units_max.min(room));
    let mut opening = openings::may_begin(tx, ask.session, ask.key, ask.now_ms).await?;
    for row in &running {
        let job = JobId(uint(row, "id")?);
        let category: &str = row.try_get("category")?;
        if allowed.as_ref().is_some_and(|allowed| allowed.iter().all(|allowed| allowed.name() != category)) {
            continue;
        }
        let first = if opening { dialect::candidates(tx, job, ask, 1, true, wait).await? } else { Vec::new() };
        opening &= first.is_empty();
        let others = dialect::candidates(tx, job, ask, left - first.len() as u32, false, wait).await?;
        for unit in first.into_iter().chain(others) {
            manifests.push(insert(tx, job, &unit, ask, sign).await?);
            touched.push(job);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    touched.sort_unstable();
    touched.dedup();
    touch_jobs(tx, &touched).await?;
    Ok((manifests, touched))
}

/// What [`may_lease`] goes by for a unit, the key $1 and its session $2. Which units is each dialect's `candidates`.
pub const CANDIDATE: &str = "SELECT u.id, u.work, u.state, u.min_quorum, u.quorum, u.results_count,
        (SELECT COUNT(*) FROM leases l WHERE l.unit_id = u.id AND l.state = 'live') AS live,
        EXISTS (SELECT 1 FROM leases l WHERE l.unit_id = u.id AND l.state = 'live' AND l.key_id = $1)
            OR EXISTS (SELECT 1 FROM results r WHERE r.unit_id = u.id AND r.key_id = $1) AS key_has_part,
        (SELECT COUNT(*) FROM leases l WHERE l.unit_id = u.id AND l.state IN ('lapsed', 'given_back') AND l.key_id = $1) AS key_ended,
        EXISTS (SELECT 1 FROM sessions me, leases l JOIN sessions s ON s.id = l.session_id
            WHERE me.id = $2 AND l.unit_id = u.id AND (l.state = 'live' OR EXISTS
                (SELECT 1 FROM results r WHERE r.lease_id = l.id AND r.verdict <> 'rejected'))
            AND (s.prefix = me.prefix OR s.site = me.site)) AS origin_has_part
     FROM units u";

pub fn is_allowed(row: &DbRow) -> Result<bool> {
    Ok(may_lease(Candidate {
        quorum: uint32(row, "quorum")?,
        results_count: uint32(row, "results_count")?,
        live_leases_count: uint32(row, "live")?,
        key_has_part: row.try_get("key_has_part")?,
        origin_has_part: row.try_get("origin_has_part")?,
        key_leases_ended_count: uint32(row, "key_ended")?,
        settled: row.try_get::<&str, _>("state")? == "settled",
    }))
}

async fn insert(tx: &mut Connection, job: JobId, unit: &DbRow, ask: LeaseAsk, sign: Sign<'_>) -> Result<Vec<u8>> {
    let unit_id = UnitId(uint(unit, "id")?);
    let work: Work =
        cbor::decode_strict(unit.try_get("work")?).map_err(|e| StoreError::Damaged(format!("work of unit {unit_id}: {e}")))?;
    let commits = ask.commits.filter(|commits| scheduler::commit_share(&work) <= commits.share_max);
    let form = commits.and_then(|commits| scheduler::challenge_form(&work, commits.steps_wanted));
    let states_every = form.and_then(|_| scheduler::states_every(&work));
    let shown_bytes = form.map_or(0, |form| scheduler::shown_bytes(&work, form));
    let (upload_bytes_max, deadline_ms) = (scheduler::upload_bytes_max(&work) + shown_bytes, ask.now_ms + limits::LEASE_MS);
    let row = sqlx::query(
        "INSERT INTO leases (unit_id, job_id, key_id, session_id, state, issued_ms, deadline_ms, upload_bytes_max)
         VALUES ($1, $2, $3, $4, 'live', $5, $6, $7) RETURNING id",
    )
    .bind(int(unit_id.0))
    .bind(int(job.0))
    .bind(ask.key.0.as_slice())
    .bind(ask.session)
    .bind(int(ask.now_ms))
    .bind(int(deadline_ms))
    .bind(int(upload_bytes_max))
    .fetch_one(&mut *tx)
    .await?;
    let lease = LeaseId(uint(&row, "id")?);
    let manifest = sign(&UnitManifest {
        version: limits::PROTOCOL_VERSION,
        job,
        unit: unit_id,
        lease,
        key: ask.key,
        issued_ms: ask.now_ms,
        deadline_ms,
        work,
        upload_bytes_max,
        states_every,
    });
    sqlx::query("UPDATE leases SET manifest_hash = $2 WHERE id = $1")
        .bind(int(lease.0))
        .bind(keys::sha256(&manifest).as_slice())
        .execute(&mut *tx)
        .await?;
    if uint(unit, "min_quorum")? > 1 && uint(unit, "results_count")? + uint(unit, "live")? == 0 {
        standings::first_leased(tx, unit_id, ask.key, ask.backend).await?;
    }
    refresh_unit(tx, unit_id).await?;
    Ok(manifest)
}

pub async fn heartbeat(tx: &mut Connection, lease: LeaseId, key: KeyId, now_ms: u64) -> Result<HeartbeatResponse> {
    let found = find_live(tx, lease, key, now_ms).await?;
    let wanted = sqlx::query(
        "SELECT 1 FROM units u JOIN jobs j ON j.id = u.job_id WHERE u.id = $1 AND u.state = 'open' AND j.state = 'running'",
    )
    .bind(int(found.unit.0))
    .fetch_optional(&mut *tx)
    .await?
    .is_some();
    let too_old = now_ms >= found.issued_ms.saturating_add(limits::LEASE_TOTAL_MS_MAX);
    if !wanted || too_old || jobs::stopped(tx).await? {
        return Ok(HeartbeatResponse { keep: false, deadline_ms: found.deadline_ms });
    }
    let deadline_ms = now_ms + limits::LEASE_MS;
    sqlx::query("UPDATE leases SET deadline_ms = $2 WHERE id = $1").bind(int(lease.0)).bind(int(deadline_ms)).execute(tx).await?;
    Ok(HeartbeatResponse { keep: true, deadline_ms })
}

pub async fn give_back(tx: &mut Connection, lease: LeaseId, key: KeyId) -> Result<JobId> {
    let found = find_own(tx, lease, key).await?;
    if matches!(found.state, LeaseState::Live | LeaseState::Lapsed) {
        end(tx, lease, "given_back").await?;
        refresh_unit(tx, found.unit).await?;
        touch_job(tx, found.job).await?;
    }
    Ok(found.job)
}

/// Marks a lease as ended; its unit's slots are the caller's business.
pub async fn end(tx: &mut Connection, lease: LeaseId, state: &'static str) -> Result<()> {
    sqlx::query("UPDATE leases SET state = $2 WHERE id = $1").bind(int(lease.0)).bind(state).execute(tx).await?;
    Ok(())
}

/// Ends leases past their deadline and frees their slots; gives the jobs concerned, in ascending order, which the caller touches.
pub async fn lapse(tx: &mut Connection, now_ms: u64) -> Result<Vec<JobId>> {
    let statement = format!(
        "SELECT l.id, l.unit_id, l.job_id FROM leases l JOIN units u ON u.id = l.unit_id
         WHERE l.state = 'live' AND l.deadline_ms <= $1 ORDER BY l.deadline_ms LIMIT $2 {}",
        dialect::SKIP_LOCKED_LEASES
    );
    let rows = sqlx::query(AssertSqlSafe(statement)).bind(int(now_ms)).bind(LAPSED_PER_CALL_MAX).fetch_all(&mut *tx).await?;
    let mut jobs = Vec::new();
    for row in &rows {
        end(tx, LeaseId(uint(row, "id")?), "lapsed").await?;
        refresh_unit(tx, UnitId(uint(row, "unit_id")?)).await?;
        jobs.push(JobId(uint(row, "job_id")?));
    }
    jobs.sort_unstable();
    jobs.dedup();
    Ok(jobs)
}

/// When the next live lease lapses.
pub async fn next_deadline(tx: &mut Connection) -> Result<Option<u64>> {
    let row = sqlx::query("SELECT MIN(deadline_ms) AS ms FROM leases WHERE state = 'live'").fetch_one(tx).await?;
    Ok(row.try_get::<Option<i64>, _>("ms")?.map(|ms| ms as u64))
}
