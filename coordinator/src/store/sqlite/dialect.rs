//! What SQLite does otherwise than PostgreSQL. One writer at a time: there is nothing to lock and nobody to wait for.

use futures::TryStreamExt;
use manyhands_protocol::JobId;
pub use sqlx::SqliteConnection as Connection;
pub use sqlx::sqlite::SqliteRow as DbRow;
use sqlx::{AssertSqlSafe, Row};

use super::sql::leases;
use super::sql::rows::int;
use super::store::order::Lock;
use super::store::{LeaseAsk, Result, StoreError};

/// The end of a statement that reads leases `l` of units `u` to end them.
pub const SKIP_LOCKED_LEASES: &str = "";

/// Nothing is locked that a lease call could pass over.
pub const PASSES_OVER_LOCKED: bool = false;

pub async fn lock(_: &mut Connection, _: Lock) -> Result<()> {
    Ok(())
}

/// Whether a transaction was broken off for another's sake.
pub fn is_broken_off(_: &StoreError) -> bool {
    false
}

/// Which units a lease call looks at: open ones of a job with a free slot, oldest first.
fn candidates_statement() -> String {
    format!(
        "{} WHERE u.job_id = $3 AND u.state = 'open' AND u.slots_free > 0 AND u.blob_bytes <= $4 AND u.opening = $5 ORDER BY u.id",
        leases::CANDIDATE
    )
}

/// Units of the job that the key may lease, oldest first: opening units, or the others.
pub async fn candidates(
    tx: &mut Connection,
    job: JobId,
    ask: LeaseAsk,
    count_max: u32,
    opening: bool,
    _: bool,
) -> Result<Vec<DbRow>> {
    let query = sqlx::query(AssertSqlSafe(candidates_statement())).bind(ask.key.0.to_vec()).bind(ask.session);
    let mut rows = query.bind(int(job.0)).bind(int(ask.blob_bytes_max)).bind(i64::from(opening)).fetch(tx);
    let mut allowed = Vec::new();
    while allowed.len() < count_max as usize
        && let Some(row) = rows.try_next().await?
    {
        if leases::is_allowed(&row)? {
            allowed.push(row);
        }
    }
    Ok(allowed)
}

/// The next place in the order of verdicts.
pub async fn next_in_order_of_verdicts(tx: &mut Connection) -> Result<i64> {
    let row = sqlx::query("SELECT COALESCE(MAX(judged_order), 0) + 1 AS place FROM results").fetch_one(tx).await?;
    Ok(row.try_get("place")?)
}

/// Rows that refer to rows which do not exist.
pub async fn lost_references(tx: &mut Connection) -> Result<usize> {
    Ok(sqlx::query("PRAGMA foreign_key_check").fetch_all(tx).await?.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::order::Order;
    use crate::store::sqlite::SqliteStore;
    use crate::store::sqlite::sql::uploads;

    async fn plan(statement: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("s.sqlite3"), Duration::from_secs(1)).await.unwrap();
        let mut tx = store.write(Order::Alone).await.unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(&mut *tx).await.unwrap();
        rows.iter().map(|row| row.try_get("detail").unwrap()).collect()
    }

    /// The cost of a lease call must not grow with the queue: it walks the index of free units in order and looks the
    /// rest up by id.
    #[tokio::test]
    async fn leasing_scans_no_table() {
        let plan = plan(&candidates_statement()).await;
        assert!(plan.iter().any(|step| step.contains("SEARCH u USING INDEX units_leasable")), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("SCAN") || step.contains("TEMP B-TREE")), "{plan:#?}");
    }

    /// Both sums are taken for each upload: they read what waits, not all there ever was.
    #[tokio::test]
    async fn what_waits_is_added_up_from_its_index() {
        for statement in [uploads::UNACCEPTED, uploads::UNACCEPTED_OF_KEY] {
            let plan = plan(statement).await;
            assert!(plan.iter().any(|step| step.contains("uploads_unaccepted")), "{plan:#?}");
        }
    }
}
