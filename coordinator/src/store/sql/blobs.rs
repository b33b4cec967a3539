//! Which blobs there are, whose they are and who may read them.

use manyhands_protocol::BlobHash;
use sqlx::AssertSqlSafe;

use super::rows::{hash, int, uint};
use super::{Connection, DbRow};
use crate::store::{BlobRow, Result, StoreError};

/// Who put a blob: a volunteer's may be deleted when nothing can name it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Coordinator,
    Volunteer,
}

/// Records a blob, or that its bytes are there again; true if they were not.
pub async fn add(tx: &mut Connection, hash: BlobHash, bytes: u64, owner: Owner, now_ms: u64) -> Result<bool> {
    let known = find(tx, hash).await?.is_some_and(|blob| blob.stored);
    sqlx::query(
        "INSERT INTO blobs (hash, bytes, public, kept, stored, created_ms) VALUES ($1, $2, 0, $3, 1, $4)
         ON CONFLICT (hash) DO UPDATE SET stored = 1, kept = CASE WHEN excluded.kept = 1 THEN 1 ELSE blobs.kept END",
    )
    .bind(hash.0.as_slice())
    .bind(int(bytes))
    .bind(i64::from(owner == Owner::Coordinator))
    .bind(int(now_ms))
    .execute(tx)
    .await?;
    Ok(!known)
}

/// Lets anyone read a blob.
pub async fn publish(tx: &mut Connection, hash: BlobHash) -> Result<()> {
    let done = sqlx::query("UPDATE blobs SET public = 1 WHERE hash = $1 AND stored = 1")
        .bind(hash.0.as_slice())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Damaged(format!("blob {hash} is not recorded")));
    }
    accept_uploads(tx, hash).await
}

/// Its uploads count as unaccepted no more.
async fn accept_uploads(tx: &mut Connection, hash: BlobHash) -> Result<()> {
    sqlx::query("UPDATE uploads SET unaccepted = 0 WHERE hash = $1").bind(hash.0.as_slice()).execute(tx).await?;
    Ok(())
}

pub async fn find(tx: &mut Connection, hash: BlobHash) -> Result<Option<BlobRow>> {
    let row = sqlx::query("SELECT hash, bytes, public, stored FROM blobs WHERE hash = $1")
        .bind(hash.0.as_slice())
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(blob_row).transpose()
}

pub async fn all(tx: &mut Connection) -> Result<Vec<BlobRow>> {
    sqlx::query("SELECT hash, bytes, public, stored FROM blobs ORDER BY hash").fetch_all(tx).await?.iter().map(blob_row).collect()
}

fn blob_row(row: &DbRow) -> Result<BlobRow> {
    let flag = |column| uint(row, column).map(|value| value != 0);
    Ok(BlobRow { hash: hash(row, "hash")?, bytes: uint(row, "bytes")?, public: flag("public")?, stored: flag("stored")? })
}

/// What nothing names or can come to name: a result may still name uploads of its own lease while that is live, or has
/// lapsed and the unit is open in a job that goes on. What an open challenge shows is in use, too.
const UNUSED: &str = "public = 0 AND kept = 0 AND stored = 1
    AND NOT EXISTS (SELECT 1 FROM results r WHERE r.output = blobs.hash AND r.verdict = 'pending')
    AND NOT EXISTS (SELECT 1 FROM uploads p JOIN challenges c ON c.lease_id = p.lease_id
        WHERE p.hash = blobs.hash AND c.closed_ms IS NULL)
    AND NOT EXISTS (SELECT 1 FROM uploads p JOIN leases l ON l.id = p.lease_id JOIN units u ON u.id = l.unit_id
        JOIN jobs j ON j.id = u.job_id WHERE p.hash = blobs.hash AND (l.state = 'live'
            OR (l.state = 'lapsed' AND u.state = 'open' AND j.state IN ('running', 'paused'))))";

pub async fn unused(tx: &mut Connection, count_max: u32) -> Result<Vec<BlobHash>> {
    sqlx::query(AssertSqlSafe(format!("SELECT hash FROM blobs WHERE {UNUSED} LIMIT $1")))
        .bind(i64::from(count_max))
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| hash(row, "hash"))
        .collect()
}

pub async fn forget(tx: &mut Connection, hash: BlobHash) -> Result<bool> {
    let done = sqlx::query(AssertSqlSafe(format!("UPDATE blobs SET stored = 0 WHERE hash = $1 AND {UNUSED}")))
        .bind(hash.0.as_slice())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    accept_uploads(tx, hash).await?;
    Ok(true)
}
