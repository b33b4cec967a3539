//! What PostgreSQL does otherwise than SQLite: several transactions write at once, so rows are locked.

use manyhands_protocol::JobId;
pub use sqlx::PgConnection as Connection;
pub use sqlx::postgres::PgRow as DbRow;
use sqlx::{AssertSqlSafe, Row};

use super::sql::leases;
use super::sql::rows::int;
use super::store::order::Lock;
use super::store::{LeaseAsk, Result, StoreError};

/// The end of a statement that reads leases `l` of units `u` to end them. Those that somebody has in hand are for another time.
pub const SKIP_LOCKED_LEASES: &str = "FOR NO KEY UPDATE OF l, u SKIP LOCKED";

/// Units whose parts a lease call looks up at a time, once the oldest were not enough.
const CANDIDATES_PER_PAGE: u32 = 64;

/// Locks rows until the transaction ends. Rows that only refer to them can be written all the same.
pub async fn lock(tx: &mut Connection, lock: Lock) -> Result<()> {
    let query = match lock {
        Lock::Key(key) => sqlx::query("SELECT 1 FROM keys WHERE key_id = $1 FOR NO KEY UPDATE").bind(key.0.to_vec()),
        // Two numbers: these are other locks than those with one. Keys whose beginnings are alike wait for each other, no more.
        Lock::LeaseCalls(key) => {
            let [a, b, c, d, e, f, g, h, ..] = key.0;
            let (first, second) = (i32::from_be_bytes([a, b, c, d]), i32::from_be_bytes([e, f, g, h]));
            sqlx::query("SELECT pg_advisory_xact_lock($1, $2)").bind(first).bind(second)
        }
        Lock::Lease(lease) => sqlx::query("SELECT 1 FROM leases WHERE id = $1 FOR NO KEY UPDATE").bind(int(lease.0)),
        Lock::LeaseAndUnit(lease) => {
            sqlx::query("SELECT 1 FROM leases l JOIN units u ON u.id = l.unit_id WHERE l.id = $1 FOR NO KEY UPDATE OF l, u")
                .bind(int(lease.0))
        }
        Lock::Unit(unit) => return lock_unit(tx, int(unit.0)).await,
        Lock::UnitOfResult(result) => {
            let row = sqlx::query("SELECT unit_id FROM results WHERE id = $1").bind(result).fetch_optional(&mut *tx).await?;
            // What has no row is refused later.
            let Some(row) = row else { return Ok(()) };
            return lock_unit(tx, row.try_get("unit_id")?).await;
        }
    };
    query.execute(tx).await?;
    Ok(())
}

/// A unit, then the keys of its results: no result comes while the unit is locked.
async fn lock_unit(tx: &mut Connection, unit: i64) -> Result<()> {
    sqlx::query("SELECT 1 FROM units WHERE id = $1 FOR NO KEY UPDATE").bind(unit).execute(&mut *tx).await?;
    sqlx::query(
        "SELECT 1 FROM keys WHERE key_id IN (SELECT key_id FROM results WHERE unit_id = $1) ORDER BY key_id FOR NO KEY UPDATE",
    )
    .bind(unit)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a transaction was broken off for another's sake: it could not be put into an order, or two waited for each other.
pub fn is_broken_off(error: &StoreError) -> bool {
    let StoreError::Database(sqlx::Error::Database(error)) = error else { return false };
    matches!(error.code().as_deref(), Some("40001" | "40P01"))
}

/// A lease call looks again where it found nothing, and then waits for units that others had in hand.
pub const PASSES_OVER_LOCKED: bool = true;

/// Units of the job that the key may lease, oldest first: opening units, or the others. They are locked before what they are
/// judged by is read; those that another call has locked are passed over or, if `wait`, waited for.
pub async fn candidates(
    tx: &mut Connection,
    job: JobId,
    ask: LeaseAsk,
    count_max: u32,
    opening: bool,
    wait: bool,
) -> Result<Vec<DbRow>> {
    let free = format!(
        "SELECT id FROM units WHERE job_id = $1 AND state = 'open' AND slots_free > 0 AND blob_bytes <= $2 AND opening = $3
            AND id > $4 ORDER BY id LIMIT $5 FOR NO KEY UPDATE {}",
        if wait { "" } else { "SKIP LOCKED" }
    );
    let facts = format!("{} WHERE u.id = ANY($3) ORDER BY u.id", leases::CANDIDATE);
    let (mut allowed, mut after, mut page) = (Vec::new(), 0, count_max);
    while allowed.len() < count_max as usize {
        let query = sqlx::query(AssertSqlSafe(free.as_str())).bind(int(job.0)).bind(int(ask.blob_bytes_max));
        let query = query.bind(i64::from(opening)).bind(after).bind(i64::from(page));
        let locked = query.fetch_all(&mut *tx).await?;
        let ids = locked.iter().map(|row| row.try_get("id")).collect::<Result<Vec<i64>, _>>()?;
        let Some(&last) = ids.last() else { break };
        let is_last_page = ids.len() < page as usize;
        let query = sqlx::query(AssertSqlSafe(facts.as_str())).bind(ask.key.0.to_vec()).bind(ask.session).bind(ids);
        for row in query.fetch_all(&mut *tx).await? {
            if allowed.len() < count_max as usize && leases::is_allowed(&row)? {
                allowed.push(row);
            }
        }
        if is_last_page {
            break;
        }
        (after, page) = (last, CANDIDATES_PER_PAGE);
    }
    Ok(allowed)
}

/// The next place in the order of verdicts.
pub async fn next_in_order_of_verdicts(tx: &mut Connection) -> Result<i64> {
    let row = sqlx::query("SELECT nextval('results_judged_order') AS place").fetch_one(tx).await?;
    Ok(row.try_get("place")?)
}

/// Rows that refer to rows which do not exist: the database lets none be.
pub async fn lost_references(_: &mut Connection) -> Result<usize> {
    Ok(0)
}
