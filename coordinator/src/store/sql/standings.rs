//! What keys have proved, what follows for the units they return, and what happens to a key that is caught. The rules are in
//! [`manyhands_protocol::rules::standing`].

use manyhands_protocol::rules::standing::{self, Course};
use manyhands_protocol::view::StandingView;
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::{JobId, KeyId, LeaseId, UnitId};
use sqlx::Row;

use super::rows::{int, key as key_column, refresh_unit, touch_job, uint};
use super::{Connection, DbRow, log, results};
use crate::store::{Judgement, Result, ResultRow, RollBack, SettledBy, Settlement, StoreError};

/// What a result of a key that was caught is told, where nobody else confirmed it.
const TAKEN_OUT: &str = "quarantined: another result of this key was proved wrong, and nobody confirmed this one";

/// A key's runs that are not zero.
pub async fn of_key(tx: &mut Connection, key: KeyId) -> Result<Vec<StandingView>> {
    sqlx::query("SELECT backend, run FROM standings WHERE key_id = $1 AND run > 0 ORDER BY backend")
        .bind(key.0.as_slice())
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok(StandingView { backend: row.try_get("backend")?, run: uint(row, "run")? }))
        .collect()
}

pub async fn run(tx: &mut Connection, key: KeyId, backend: &str) -> Result<u64> {
    let row = sqlx::query("SELECT run FROM standings WHERE key_id = $1 AND backend = $2")
        .bind(key.0.as_slice())
        .bind(backend)
        .fetch_optional(tx)
        .await?;
    row.map_or(Ok(0), |row| uint(&row, "run"))
}

/// Notes a verdict on a gradient result. A rejected result of any kind ends all runs of its key.
pub async fn note(tx: &mut Connection, key: KeyId, backend: &str, confirmed: bool, rejected: bool) -> Result<()> {
    if rejected {
        sqlx::query("UPDATE standings SET run = 0 WHERE key_id = $1").bind(key.0.as_slice()).execute(tx).await?;
        return Ok(());
    }
    let before = run(tx, key, backend).await?;
    let after = standing::next_run(before, confirmed, rejected);
    if after != before {
        sqlx::query(
            "INSERT INTO standings (key_id, backend, run) VALUES ($1, $2, $3)
             ON CONFLICT (key_id, backend) DO UPDATE SET run = excluded.run",
        )
        .bind(key.0.as_slice())
        .bind(backend)
        .bind(int(after))
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// A run out of the results: what [`note`] keeps up.
const DERIVED: &str = "(SELECT COUNT(*) FROM results r JOIN units u ON u.id = r.unit_id
    WHERE r.key_id = standings.key_id AND r.backend = standings.backend AND r.verdict = 'accepted' AND u.min_quorum > 1
        AND COALESCE(u.course, '') <> 'alone' AND r.judged_order > (SELECT COALESCE(MAX(x.judged_order), 0) FROM results x
            WHERE x.key_id = standings.key_id AND x.verdict = 'rejected'))";

async fn derive(tx: &mut Connection, key: KeyId) -> Result<()> {
    let statement = format!("UPDATE standings SET run = {DERIVED} WHERE key_id = $1");
    sqlx::query(sqlx::AssertSqlSafe(statement)).bind(key.0.as_slice()).execute(tx).await?;
    Ok(())
}

/// Keys whose runs are not those of their results.
pub fn broken() -> String {
    format!("SELECT key_id AS id FROM standings WHERE run <> {DERIVED}")
}

pub async fn quarantined_until(tx: &mut Connection, key: KeyId) -> Result<u64> {
    let row =
        sqlx::query("SELECT quarantined_until_ms FROM keys WHERE key_id = $1").bind(key.0.as_slice()).fetch_optional(tx).await?;
    row.map_or(Ok(0), |row| uint(&row, "quarantined_until_ms"))
}

/// Results that a unit is to have from here on, when this key takes it first: a new key's units are offered to a second key at
/// once, a trusted one's only if the draw says so later.
pub async fn first_leased(tx: &mut Connection, unit: UnitId, key: KeyId, backend: &str) -> Result<()> {
    let wanted = if standing::replication(run(tx, key, backend).await?) < 1.0 { 1 } else { i64::MAX };
    sqlx::query("UPDATE units SET quorum = CASE WHEN min_quorum < $2 THEN min_quorum ELSE $2 END WHERE id = $1")
        .bind(int(unit.0))
        .bind(wanted)
        .execute(tx)
        .await?;
    Ok(())
}

/// Decides the course of a gradient unit by its first result. The course that a unit has stays.
pub async fn decide(tx: &mut Connection, result: i64, challenged: bool, draw: f64, now_ms: u64) -> Result<Option<Course>> {
    let Some(row) = results::find(tx, result).await? else {
        return Err(StoreError::Damaged(format!("no result {result}")));
    };
    let unit = sqlx::query(
        "SELECT u.state, u.course, u.min_quorum, r.backend, EXISTS (SELECT 1 FROM leases l WHERE l.unit_id = u.id AND l.state = 'live')
            OR EXISTS (SELECT 1 FROM results o WHERE o.unit_id = u.id AND o.id <> r.id AND o.verdict <> 'rejected') AS second_key
         FROM results r JOIN units u ON u.id = r.unit_id WHERE r.id = $1",
    )
    .bind(result)
    .fetch_one(&mut *tx)
    .await?;
    if let Some(course) = unit.try_get::<Option<&str>, _>("course")? {
        return Course::parse(course).map(Some).ok_or_else(|| StoreError::Damaged(format!("course {course}")));
    }
    let open = unit.try_get::<&str, _>("state")? == "open" && uint(&unit, "min_quorum")? > 1;
    if !open || row.verdict != Verdict::Pending {
        return Ok(None);
    }
    let run = run(tx, row.key, unit.try_get("backend")?).await?;
    let course = standing::course(run, unit.try_get("second_key")?, challenged, draw);
    let (quorum, weight) = match course {
        Course::Alone => (1, standing::weight_permille(run)),
        Course::Replica | Course::Audit => (i64::MAX, standing::WEIGHT_CONFIRMED_PERMILLE),
    };
    sqlx::query("UPDATE units SET course = $2, quorum = CASE WHEN min_quorum < $3 THEN min_quorum ELSE $3 END, weight_permille = $4 WHERE id = $1")
        .bind(int(row.unit.0))
        .bind(course.name())
        .bind(quorum)
        .bind(i64::from(weight))
        .execute(&mut *tx)
        .await?;
    refresh_unit(tx, row.unit).await?;
    if course == Course::Alone {
        let judgements = vec![Judgement::accept(row.id)];
        let settlement = Settlement { unit: row.unit, canonical: row.output, by: SettledBy::Quorum, judgements, now_ms };
        results::settle(tx, &settlement).await?;
    }
    Ok(Some(course))
}

/// Puts a caught key in quarantine: its leases go back, and what it has in rounds that are still open and nobody else confirmed
/// is taken out, to be computed again.
pub async fn catch(tx: &mut Connection, key: KeyId, now_ms: u64) -> Result<()> {
    sqlx::query("UPDATE keys SET quarantined_until_ms = $2 WHERE key_id = $1")
        .bind(key.0.as_slice())
        .bind(int(now_ms.saturating_add(standing::QUARANTINE_MS)))
        .execute(&mut *tx)
        .await?;
    log::queue_quarantine(tx, key).await?;
    let leases =
        sqlx::query("UPDATE leases SET state = 'given_back' WHERE key_id = $1 AND state = 'live' RETURNING unit_id, job_id")
            .bind(key.0.as_slice())
            .fetch_all(&mut *tx)
            .await?;
    for row in &leases {
        refresh_unit(tx, UnitId(uint(row, "unit_id")?)).await?;
        touch_job(tx, JobId(uint(row, "job_id")?)).await?;
    }
    let unconfirmed = sqlx::query(
        "SELECT u.id FROM results r JOIN units u ON u.id = r.unit_id JOIN jobs j ON j.id = u.job_id
         WHERE r.key_id = $1 AND r.verdict = 'accepted' AND u.settled_by = 'quorum' AND u.round = j.round
            AND j.state IN ('running', 'paused') AND NOT EXISTS
                (SELECT 1 FROM results x JOIN keys k ON k.key_id = x.key_id
                 WHERE x.unit_id = u.id AND x.verdict = 'accepted' AND k.quarantined_until_ms <= $2)",
    )
    .bind(key.0.as_slice())
    .bind(int(now_ms))
    .fetch_all(&mut *tx)
    .await?;
    for row in &unconfirmed {
        unsettle(tx, UnitId(uint(row, "id")?), None).await?;
    }
    let pending = sqlx::query(
        "SELECT r.id FROM results r JOIN units u ON u.id = r.unit_id JOIN keys k ON k.key_id = r.key_id
         WHERE r.verdict = 'pending' AND u.state = 'open' AND u.min_quorum > 1 AND k.quarantined_until_ms > $1",
    )
    .bind(int(now_ms))
    .fetch_all(&mut *tx)
    .await?;
    for row in &pending {
        results::judge_one(tx, &Judgement::reject(row.try_get("id")?, TAKEN_OUT), now_ms).await?;
    }
    Ok(())
}

/// Opens a unit again that keys settled; what was accepted for it waits for another verdict. One that the referee settled
/// stays, as does one whose round is merged. True if it was opened.
async fn unsettle(tx: &mut Connection, unit: UnitId, course: Option<Course>) -> Result<bool> {
    let row = sqlx::query(
        "UPDATE units SET state = 'open', canonical = NULL, settled_by = NULL, settled_ms = NULL, course = $2, quorum = min_quorum,
            weight_permille = $3
         WHERE id = $1 AND settled_by = 'quorum'
            AND EXISTS (SELECT 1 FROM jobs j WHERE j.id = units.job_id AND j.round = units.round AND j.state IN ('running', 'paused'))
         RETURNING job_id, flop, check_flop",
    )
    .bind(int(unit.0))
    .bind(course.map(Course::name))
    .bind(i64::from(standing::WEIGHT_CONFIRMED_PERMILLE))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let (job, cost) = (JobId(uint(&row, "job_id")?), Cost::of(&row)?);
    sqlx::query("UPDATE jobs SET units_settled = units_settled - 1, settled_flop = settled_flop - $2 WHERE id = $1")
        .bind(int(job.0))
        .bind(int(cost.flop))
        .execute(&mut *tx)
        .await?;
    let accepted = sqlx::query(
        "UPDATE results SET verdict = 'pending', judged_ms = NULL, judged_order = NULL, credit_flop = 0
         WHERE unit_id = $1 AND verdict = 'accepted' RETURNING key_id, lease_id, statement",
    )
    .bind(int(unit.0))
    .fetch_all(&mut *tx)
    .await?;
    for row in &accepted {
        uncount(tx, key_column(row, "key_id")?, job, cost).await?;
        let lease = LeaseId(uint(row, "lease_id")?);
        log::queue_retraction(tx, job, unit, lease, row.try_get("statement")?).await?;
    }
    refresh_unit(tx, unit).await?;
    touch_job(tx, job).await?;
    Ok(true)
}

/// What one execution of a unit and one check of it take.
#[derive(Clone, Copy)]
pub struct Cost {
    pub flop: u64,
    pub check_flop: u64,
}

impl Cost {
    pub fn of(row: &DbRow) -> Result<Cost> {
        Ok(Cost { flop: uint(row, "flop")?, check_flop: uint(row, "check_flop")? })
    }
}

/// Takes one accepted result out of what counts it.
async fn uncount(tx: &mut Connection, key: KeyId, job: JobId, cost: Cost) -> Result<()> {
    sqlx::query(
        "UPDATE keys SET pending = pending + 1, accepted = accepted - 1, credit_flop = credit_flop - $2 WHERE key_id = $1",
    )
    .bind(key.0.as_slice())
    .bind(int(cost.flop))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE jobs SET results_accepted = results_accepted - 1, judged_flop = judged_flop - $2, check_flop = check_flop - $3
         WHERE id = $1",
    )
    .bind(int(job.0))
    .bind(int(cost.flop))
    .bind(int(cost.check_flop))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM contributors WHERE job_id = $1 AND key_id = $2 AND NOT EXISTS
            (SELECT 1 FROM results r JOIN units u ON u.id = r.unit_id
             WHERE u.job_id = $1 AND r.key_id = $2 AND r.verdict = 'accepted')",
    )
    .bind(int(job.0))
    .bind(key.0.as_slice())
    .execute(&mut *tx)
    .await?;
    derive(tx, key).await
}

/// Opens all units of a round again that keys settled, for the referee; counts the roll-back. How many there were.
pub async fn roll_back(tx: &mut Connection, roll_back: &RollBack) -> Result<u64> {
    let (job, round) = (roll_back.job, roll_back.round);
    let rows = sqlx::query("SELECT id FROM units WHERE job_id = $1 AND round = $2 AND settled_by = 'quorum' ORDER BY id")
        .bind(int(job.0))
        .bind(i64::from(round))
        .fetch_all(&mut *tx)
        .await?;
    let mut opened = 0;
    for row in &rows {
        opened += u64::from(unsettle(tx, UnitId(uint(row, "id")?), Some(Course::Audit)).await?);
    }
    if opened > 0 {
        sqlx::query("UPDATE rounds SET rolled_back = rolled_back + 1 WHERE job_id = $1 AND round = $2")
            .bind(int(job.0))
            .bind(i64::from(round))
            .execute(&mut *tx)
            .await?;
        log::queue_roll_back(tx, roll_back).await?;
    }
    Ok(opened)
}

/// The result with its key's part of what [`note`] needs.
pub async fn judged(tx: &mut Connection, result: &ResultRow, accepted: bool) -> Result<()> {
    let row = sqlx::query(
        "SELECT r.backend, u.min_quorum > 1 AND COALESCE(u.course, '') <> 'alone' AS confirmed
         FROM results r JOIN units u ON u.id = r.unit_id WHERE r.id = $1",
    )
    .bind(result.id)
    .fetch_one(&mut *tx)
    .await?;
    let confirmed = accepted && row.try_get::<bool, _>("confirmed")?;
    note(tx, result.key, row.try_get("backend")?, confirmed, !accepted).await
}
