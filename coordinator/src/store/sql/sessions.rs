//! Sessions.

use manyhands_protocol::manifest::Category;
use manyhands_protocol::problem::Code;
use manyhands_protocol::{JobId, UnitId};
use sqlx::Row;

use super::rows::{int, key as key_column, refresh_unit, touch_jobs, uint};
use super::{Connection, log, rotations};
use crate::prefix::PrefixTag;
use crate::store::{NewSession, Result, Session, StoreError};

pub async fn open(tx: &mut Connection, session: &NewSession) -> Result<()> {
    if let Some(successor) = rotations::successor(tx, session.key).await? {
        return Err(rotations::replaced(session.key, successor));
    }
    sqlx::query("INSERT INTO keys (key_id, first_seen_ms) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING")
        .bind(session.key.0.as_slice())
        .bind(int(session.opened_ms))
        .execute(&mut *tx)
        .await?;
    let opened = sqlx::query(
        "INSERT INTO sessions (token_hash, key_id, nonce, consent, job_id, opened_ms, expires_ms, site, category)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (nonce) DO NOTHING RETURNING id",
    )
    .bind(session.token_hash.as_slice())
    .bind(session.key.0.as_slice())
    .bind(session.nonce.as_slice())
    .bind(session.consent.as_slice())
    .bind(session.job.map(|job| int(job.0)))
    .bind(int(session.opened_ms))
    .bind(int(session.expires_ms))
    .bind(session.site.as_deref())
    .bind(session.category.map(Category::name))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(opened) = opened else {
        return Err(StoreError::refused(Code::BadNonce, "this nonce has opened a session before"));
    };
    sqlx::query("INSERT INTO consent_salts (session_id, salt) VALUES ($1, $2)")
        .bind(opened.try_get::<i64, _>("id")?)
        .bind(session.consent_salt.as_slice())
        .execute(&mut *tx)
        .await?;
    log::queue_consent(tx, &session.consent_salt, &session.consent).await
}

pub async fn find(tx: &mut Connection, token_hash: [u8; 32]) -> Result<Option<Session>> {
    let row = sqlx::query("SELECT id, key_id, job_id, expires_ms, withdrawn_ms FROM sessions WHERE token_hash = $1")
        .bind(token_hash.as_slice())
        .fetch_optional(tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Session {
        id: row.try_get("id")?,
        key: key_column(&row, "key_id")?,
        job: row.try_get::<Option<i64>, _>("job_id")?.map(|id| JobId(id as u64)),
        expires_ms: uint(&row, "expires_ms")?,
        withdrawn: row.try_get::<Option<i64>, _>("withdrawn_ms")?.is_some(),
    }))
}

/// Refuses unless the session is open now: checked again where a lease is given, so that none follows a withdrawal.
pub async fn check_open(tx: &mut Connection, session: i64, now_ms: u64) -> Result<()> {
    let row = sqlx::query("SELECT expires_ms, withdrawn_ms FROM sessions WHERE id = $1").bind(session).fetch_optional(tx).await?;
    let Some(row) = row else { return Err(StoreError::refused(Code::NoSession, "no such session")) };
    if row.try_get::<Option<i64>, _>("withdrawn_ms")?.is_some() {
        return Err(StoreError::refused(Code::NoSession, "the consent was withdrawn"));
    }
    if uint(&row, "expires_ms")? <= now_ms {
        return Err(StoreError::refused(Code::SessionExpired, "the session has expired"));
    }
    Ok(())
}

pub async fn withdraw(tx: &mut Connection, session: i64, now_ms: u64) -> Result<Vec<JobId>> {
    sqlx::query("UPDATE sessions SET withdrawn_ms = $2 WHERE id = $1 AND withdrawn_ms IS NULL")
        .bind(session)
        .bind(int(now_ms))
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE consent_salts SET salt = $2 WHERE session_id = $1")
        .bind(session)
        .bind([0_u8; 32].as_slice())
        .execute(&mut *tx)
        .await?;
    let ended =
        sqlx::query("UPDATE leases SET state = 'given_back' WHERE session_id = $1 AND state = 'live' RETURNING unit_id, job_id")
            .bind(session)
            .fetch_all(&mut *tx)
            .await?;
    let mut jobs = Vec::new();
    for row in &ended {
        refresh_unit(tx, UnitId(uint(row, "unit_id")?)).await?;
        jobs.push(JobId(uint(row, "job_id")?));
    }
    jobs.sort_unstable();
    jobs.dedup();
    touch_jobs(tx, &jobs).await?;
    Ok(jobs)
}

/// Notes where a session was last seen at.
pub async fn set_prefix(tx: &mut Connection, session: i64, prefix: Option<PrefixTag>) -> Result<()> {
    sqlx::query("UPDATE sessions SET prefix = $2 WHERE id = $1 AND prefix IS DISTINCT FROM $2")
        .bind(session)
        .bind(prefix.as_ref().map(|tag| tag.0.as_slice()))
        .execute(tx)
        .await?;
    Ok(())
}

pub async fn forget_prefixes(tx: &mut Connection) -> Result<()> {
    sqlx::query("UPDATE sessions SET prefix = NULL WHERE prefix IS NOT NULL").execute(tx).await?;
    Ok(())
}
