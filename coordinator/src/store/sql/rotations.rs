//! Keys, and which took which other's place.

use manyhands_protocol::problem::Code;
use manyhands_protocol::view::KeyView;
use manyhands_protocol::wire::Totals;
use manyhands_protocol::{JobId, KeyId, limits};
use sqlx::Row;

use super::rows::{int, key as key_column, uint, uint32};
use super::{Connection, log, sessions, standings};
use crate::store::{NewRotation, Result, StoreError};

pub async fn add(tx: &mut Connection, new: &NewRotation) -> Result<Vec<JobId>> {
    match successor(tx, new.old).await? {
        Some(known) if known == new.new => return Ok(Vec::new()),
        Some(known) => return Err(replaced(new.old, known)),
        None => {}
    }
    if find(tx, new.old).await?.is_none() {
        return Err(StoreError::refused(Code::UnknownKey, format!("no session was ever opened with {}", new.old)));
    }
    if let Some(known) = successor(tx, new.new).await? {
        return Err(replaced(new.new, known));
    }
    let bad = |detail: String| Err(StoreError::refused(Code::BadRotation, detail));
    if depth(tx, new.new).await? > 0 {
        return bad(format!("{} took another key's place before", new.new));
    }
    let depth = depth(tx, new.old).await? + 1;
    if depth > limits::KEY_ROTATIONS_MAX {
        return bad(format!("{} is the last of {} rotations", new.old, limits::KEY_ROTATIONS_MAX));
    }
    insert(tx, new, depth).await?;
    log::queue_rotation(tx, new.old, new.new).await?;
    end_sessions(tx, new.old, new.now_ms).await
}

async fn insert(tx: &mut Connection, new: &NewRotation, depth: u32) -> Result<()> {
    sqlx::query("INSERT INTO keys (key_id, first_seen_ms) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING")
        .bind(new.new.0.as_slice())
        .bind(int(new.now_ms))
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO rotations (old_key, new_key, depth, by_old, by_new, rotated_ms) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(new.old.0.as_slice())
        .bind(new.new.0.as_slice())
        .bind(i64::from(depth))
        .bind(new.by_old.as_slice())
        .bind(new.by_new.as_slice())
        .bind(int(new.now_ms))
        .execute(tx)
        .await?;
    Ok(())
}

/// Withdraws all of a key's sessions; gives the jobs of its leases.
async fn end_sessions(tx: &mut Connection, key: KeyId, now_ms: u64) -> Result<Vec<JobId>> {
    let rows = sqlx::query("SELECT id FROM sessions WHERE key_id = $1 AND withdrawn_ms IS NULL")
        .bind(key.0.as_slice())
        .fetch_all(&mut *tx)
        .await?;
    let mut jobs = Vec::new();
    for row in &rows {
        jobs.extend(sessions::withdraw(tx, row.try_get("id")?, now_ms).await?);
    }
    jobs.sort_unstable();
    jobs.dedup();
    Ok(jobs)
}

/// The key that took this one's place.
pub async fn successor(tx: &mut Connection, key: KeyId) -> Result<Option<KeyId>> {
    let row = sqlx::query("SELECT new_key FROM rotations WHERE old_key = $1").bind(key.0.as_slice()).fetch_optional(tx).await?;
    row.as_ref().map(|row| key_column(row, "new_key")).transpose()
}

pub fn replaced(key: KeyId, successor: KeyId) -> StoreError {
    StoreError::refused(Code::KeyReplaced, format!("{successor} took the place of {key}"))
}

/// How many keys came before this one.
async fn depth(tx: &mut Connection, key: KeyId) -> Result<u32> {
    let row = sqlx::query("SELECT depth FROM rotations WHERE new_key = $1").bind(key.0.as_slice()).fetch_optional(tx).await?;
    row.map_or(Ok(0), |row| uint32(&row, "depth"))
}

pub async fn find(tx: &mut Connection, key: KeyId) -> Result<Option<KeyView>> {
    // At most `KEY_ROTATIONS_MAX` steps.
    let row = sqlx::query(
        "WITH RECURSIVE chain (key_id) AS (
            SELECT key_id FROM keys WHERE key_id = $1
            UNION ALL
            SELECT r.old_key FROM chain c JOIN rotations r ON r.new_key = c.key_id
         )
         SELECT COUNT(*) AS known, CAST(COALESCE(MIN(k.first_seen_ms), 0) AS BIGINT) AS first_seen_ms,
            CAST(COALESCE(SUM(k.accepted), 0) AS BIGINT) AS accepted, CAST(COALESCE(SUM(k.rejected), 0) AS BIGINT) AS rejected,
            CAST(COALESCE(SUM(k.pending), 0) AS BIGINT) AS pending, CAST(COALESCE(SUM(k.credit_flop), 0) AS BIGINT) AS credit_flop
         FROM chain c JOIN keys k ON k.key_id = c.key_id",
    )
    .bind(key.0.as_slice())
    .fetch_one(&mut *tx)
    .await?;
    if uint(&row, "known")? == 0 {
        return Ok(None);
    }
    let totals = Totals {
        accepted: uint(&row, "accepted")?,
        rejected: uint(&row, "rejected")?,
        pending: uint(&row, "pending")?,
        credit_flop: uint(&row, "credit_flop")?,
    };
    let first_seen_ms = uint(&row, "first_seen_ms")?;
    let until_ms = standings::quarantined_until(tx, key).await?;
    Ok(Some(KeyView {
        key,
        first_seen_ms,
        totals,
        standings: standings::of_key(tx, key).await?,
        quarantined_until_ms: (until_ms > 0).then_some(until_ms),
        replaced_by: successor(tx, key).await?,
    }))
}
