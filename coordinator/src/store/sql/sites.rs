//! Sites that embed the page.

use manyhands_protocol::manifest::Category;
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::{Site, SiteTotals};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;

use super::rows::{bytes32, uint};
use super::{Connection, DbRow};
use crate::store::{Result, StoreError};

/// Registers a site or changes a registered one; its token stays. True if it is new.
pub async fn put(tx: &mut Connection, site: &Site) -> Result<bool> {
    let known = find(tx, &site.name).await?.is_some();
    sqlx::query(
        "INSERT INTO sites (name, origins, categories) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET origins = excluded.origins, categories = excluded.categories",
    )
    .bind(&site.name)
    .bind(text(&site.origins)?)
    .bind(text(&site.categories)?)
    .execute(tx)
    .await?;
    Ok(!known)
}

pub async fn find(tx: &mut Connection, name: &str) -> Result<Option<Site>> {
    let row = sqlx::query("SELECT name, origins, categories FROM sites WHERE name = $1").bind(name).fetch_optional(tx).await?;
    row.as_ref().map(site).transpose()
}

pub async fn all(tx: &mut Connection) -> Result<Vec<Site>> {
    sqlx::query("SELECT name, origins, categories FROM sites ORDER BY name").fetch_all(tx).await?.iter().map(site).collect()
}

/// True if it was there.
pub async fn remove(tx: &mut Connection, name: &str) -> Result<bool> {
    Ok(sqlx::query("DELETE FROM sites WHERE name = $1").bind(name).execute(tx).await?.rows_affected() == 1)
}

/// Gives a site a token, in place of the one it may have.
pub async fn set_token(tx: &mut Connection, name: &str, token_hash: [u8; 32]) -> Result<()> {
    let done = sqlx::query("UPDATE sites SET token_hash = $2 WHERE name = $1")
        .bind(name)
        .bind(token_hash.as_slice())
        .execute(tx)
        .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(unknown(name)) }
}

pub async fn has_token(tx: &mut Connection, name: &str, token_hash: [u8; 32]) -> Result<bool> {
    let row = sqlx::query("SELECT token_hash FROM sites WHERE name = $1 AND token_hash IS NOT NULL")
        .bind(name)
        .fetch_optional(tx)
        .await?;
    Ok(row.map(|row| bytes32(&row, "token_hash")).transpose()? == Some(token_hash))
}

pub async fn totals(tx: &mut Connection, name: &str) -> Result<SiteTotals> {
    if find(tx, name).await?.is_none() {
        return Err(unknown(name));
    }
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM sessions WHERE site = $1) AS sessions,
            COUNT(CASE WHEN r.verdict = 'accepted' THEN 1 END) AS accepted,
            COUNT(CASE WHEN r.verdict = 'rejected' THEN 1 END) AS rejected,
            CAST(COALESCE(SUM(r.credit_flop), 0) AS BIGINT) AS credit_flop
         FROM sessions s JOIN leases l ON l.session_id = s.id JOIN results r ON r.lease_id = l.id
         WHERE s.site = $1",
    )
    .bind(name)
    .fetch_one(tx)
    .await?;
    Ok(SiteTotals {
        sessions: uint(&row, "sessions")?,
        results_accepted: uint(&row, "accepted")?,
        results_rejected: uint(&row, "rejected")?,
        credit_flop: uint(&row, "credit_flop")?,
    })
}

/// The kinds of jobs that may run for a session: the one that its consent names, where it names one, as far as its site allows
/// it as that is registered now; any where neither says anything.
pub async fn allowed(tx: &mut Connection, session: i64) -> Result<Option<Vec<Category>>> {
    let row = sqlx::query("SELECT site, category FROM sessions WHERE id = $1").bind(session).fetch_one(&mut *tx).await?;
    let agreed = match row.try_get::<Option<&str>, _>("category")? {
        None => None,
        Some(name) => {
            let unknown = || StoreError::Damaged(format!("category {name} of a session"));
            Some(vec![Category::parse(name).ok_or_else(unknown)?])
        }
    };
    let Some(name) = row.try_get::<Option<&str>, _>("site")? else { return Ok(agreed) };
    let Some(site) = find(tx, name).await? else {
        return Err(StoreError::refused(Code::BadConsent, format!("site {name} is no longer registered here")));
    };
    let mut kinds = site.categories;
    if let Some(agreed) = agreed {
        kinds.retain(|kind| agreed.contains(kind));
    }
    Ok(Some(kinds))
}

fn unknown(name: &str) -> StoreError {
    StoreError::refused(Code::UnknownSite, format!("no site {name}"))
}

fn site(row: &DbRow) -> Result<Site> {
    Ok(Site { name: row.try_get("name")?, origins: list(row, "origins")?, categories: list(row, "categories")? })
}

fn text<T: Serialize>(list: &[T]) -> Result<String> {
    serde_json::to_string(list).map_err(|e| StoreError::Damaged(e.to_string()))
}

fn list<T: DeserializeOwned>(row: &DbRow, column: &str) -> Result<Vec<T>> {
    serde_json::from_str(row.try_get(column)?).map_err(|e| StoreError::Damaged(format!("{column} of a site: {e}")))
}
