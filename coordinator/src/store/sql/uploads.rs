//! What volunteers upload under their leases, and how much of it.

use manyhands_protocol::problem::Code;
use manyhands_protocol::{BlobHash, KeyId, LeaseId, limits};

use super::rows::{hash, int, uint};
use super::{Connection, challenges, leases};
use crate::store::{Result, StoreError};

/// Refuses an upload that the lease or the limits do not allow; one that is recorded under it already may be repeated.
pub async fn check(tx: &mut Connection, lease: LeaseId, key: KeyId, blob: BlobHash, bytes: u64, now_ms: u64) -> Result<()> {
    let found = match challenges::takes_file(tx, lease, now_ms).await? {
        true => leases::find_own(tx, lease, key).await?,
        false => leases::find_live(tx, lease, key, now_ms).await?,
    };
    let rows = sqlx::query("SELECT hash, bytes FROM uploads WHERE lease_id = $1").bind(int(lease.0)).fetch_all(&mut *tx).await?;
    let (mut used, mut count) = (0, 0);
    for row in &rows {
        let recorded = uint(row, "bytes")?;
        if hash(row, "hash")? == blob && recorded == bytes {
            return Ok(());
        }
        used += recorded;
        count += 1;
    }
    if count >= limits::OUTPUTS_COUNT_MAX {
        return Err(StoreError::refused(Code::UploadNotAllowed, format!("lease {lease} has {count} uploads already")));
    }
    if bytes > found.upload_bytes_max.saturating_sub(used) {
        let detail =
            format!("lease {lease} allows {} bytes in all, {used} are used, {bytes} more were sent", found.upload_bytes_max);
        return Err(StoreError::refused(Code::UploadNotAllowed, detail));
    }
    for (whose, key, bytes_max) in
        [("this key", Some(key), limits::UNACCEPTED_BYTES_PER_KEY_MAX), ("all keys", None, limits::UNACCEPTED_BYTES_MAX)]
    {
        let waiting = unaccepted(tx, key).await?;
        if bytes > bytes_max.saturating_sub(waiting) {
            let detail = format!("{waiting} bytes of {whose} wait to be accepted, at most {bytes_max} may; try again");
            return Err(StoreError::refused(Code::TooManyRequests, detail));
        }
    }
    Ok(())
}

/// Bytes uploaded and neither public nor deleted, of all keys.
pub const UNACCEPTED: &str = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS n FROM uploads WHERE unaccepted = 1";
/// Of one.
pub const UNACCEPTED_OF_KEY: &str =
    "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS n FROM uploads WHERE unaccepted = 1 AND key_id = $1";

async fn unaccepted(tx: &mut Connection, key: Option<KeyId>) -> Result<u64> {
    let sum = match key {
        Some(key) => sqlx::query(UNACCEPTED_OF_KEY).bind(key.0.to_vec()),
        None => sqlx::query(UNACCEPTED),
    };
    uint(&sum.fetch_one(tx).await?, "n")
}

pub async fn add(tx: &mut Connection, lease: LeaseId, blob: BlobHash, bytes: u64) -> Result<()> {
    sqlx::query(
        "INSERT INTO uploads (lease_id, hash, key_id, bytes, unaccepted)
         SELECT l.id, b.hash, l.key_id, $3, 1 - b.public FROM leases l, blobs b WHERE l.id = $1 AND b.hash = $2
         ON CONFLICT (lease_id, hash) DO NOTHING",
    )
    .bind(int(lease.0))
    .bind(blob.0.as_slice())
    .bind(int(bytes))
    .execute(tx)
    .await?;
    Ok(())
}
