//! The public log: what waits for it, its entries, its tree's tiles and its newest checkpoint.

use manyhands_protocol::cose::Kind;
use manyhands_protocol::log::entry::{
    Credit, Entry, KeyEvent, LogCheckpoint, LogConsent, LogInput, LogJob, LogKey, LogMerge, LogResult, LogRetraction,
    LogRollBack, MergeInput, MergedBy, ModelState, Role, Statement, VERSION, merge_parts, micro,
};
use manyhands_protocol::log::note::{Checkpoint, Note};
use manyhands_protocol::log::tile::{ENTRY_BYTES_MAX, Edge, Tile, WIDTH};
use manyhands_protocol::log::tree::{Hash, leaf_hash};
use manyhands_protocol::manifest::Inputs;
use manyhands_protocol::wire::SignedBytes;
use manyhands_protocol::{JobId, KeyId, LeaseId, UnitId, cbor};
use sqlx::Row;

use super::Connection;
use super::rows::{int, uint};
use crate::keys::blob_hash;
use crate::store::{
    Job, LogHead, MergedUnit, NewRound, Queued, Result, ResultRow, RollBack, RoundClose, SignCheckpoint, SignedEntry, StoreError,
};

/// Puts a statement into the queue.
async fn queue(tx: &mut Connection, statement: Statement) -> Result<()> {
    queue_of(tx, statement, None, 0).await
}

/// Puts a statement into the queue that adds so many (1 or −1) to the accepted results of a lease.
async fn queue_of(tx: &mut Connection, statement: Statement, lease: Option<LeaseId>, accepted: i64) -> Result<()> {
    sqlx::query("INSERT INTO log_queue (content_type, payload, lease_id, accepted) VALUES ($1, $2, $3, $4)")
        .bind(statement.kind.content_type())
        .bind(statement.payload)
        .bind(lease.map(|lease| int(lease.0)))
        .bind(accepted)
        .execute(tx)
        .await?;
    Ok(())
}

/// Not one from before there was a log: its statement tells what must not be public.
pub async fn queue_result(tx: &mut Connection, result: &ResultRow) -> Result<()> {
    let row = sqlx::query(
        "SELECT r.statement, r.credit_flop, u.work, u.settled_by, p.bytes FROM results r JOIN units u ON u.id = r.unit_id
         JOIN uploads p ON p.lease_id = r.lease_id AND p.hash = r.output WHERE r.id = $1 AND r.details IS NOT NULL",
    )
    .bind(result.id)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(()) };
    let damaged = |e| StoreError::Damaged(format!("work of unit {}: {e}", result.unit));
    let entry = LogResult {
        version: VERSION,
        job: result.job,
        unit: result.unit,
        result: SignedBytes(row.try_get("statement")?),
        work: cbor::decode_strict(row.try_get("work")?).map_err(damaged)?,
        settled_by: row.try_get("settled_by")?,
        credit: Credit { flop: uint(&row, "credit_flop")?, bytes: uint(&row, "bytes")? },
    };
    queue_of(tx, entry.statement(), Some(result.lease), 1).await
}

/// Of a result that was accepted and is not any more. Nothing is said of one that was accepted before there was a log.
pub async fn queue_retraction(tx: &mut Connection, job: JobId, unit: UnitId, lease: LeaseId, signed: &[u8]) -> Result<()> {
    let logged = sqlx::query(
        "SELECT CAST(COALESCE(SUM(accepted), 0) AS BIGINT) AS n FROM
            (SELECT accepted FROM log_queue WHERE lease_id = $1 UNION ALL SELECT accepted FROM log_entries WHERE lease_id = $1) told",
    )
    .bind(int(lease.0))
    .fetch_one(&mut *tx)
    .await?;
    if uint(&logged, "n")? == 0 {
        return Ok(());
    }
    let entry = LogRetraction { version: VERSION, job, unit, result: blob_hash(signed) };
    queue_of(tx, entry.statement(), Some(lease), -1).await
}

/// A job that was approved, its inputs, and what it begins with.
pub async fn queue_job(tx: &mut Connection, job: &Job, round: Option<&NewRound>) -> Result<()> {
    let inputs: Vec<_> = match &job.submission.inputs {
        Inputs::Matmul { a_panels, b_panels, .. } => [(Role::APanel, a_panels.as_slice()), (Role::BPanel, b_panels)].into(),
        Inputs::Train { shards, test } => [(Role::Shard, shards.as_slice()), (Role::HeldOut, std::slice::from_ref(test))].into(),
    };
    let manifest = serde_json::to_vec(&job.submission.manifest).map_err(|e| StoreError::Damaged(e.to_string()))?;
    let inputs_count = inputs.iter().map(|(_, blobs)| blobs.len() as u64).sum();
    queue(tx, LogJob { version: VERSION, job: job.id, manifest, inputs_count }.statement()).await?;
    for (role, blobs) in inputs {
        for (place, &hash) in blobs.iter().enumerate() {
            let input = LogInput { version: VERSION, job: job.id, role, place: place as u64, hash };
            queue(tx, input.statement()).await?;
        }
    }
    match round {
        Some(round) => queue_checkpoint(tx, job.id, job.round, round).await,
        None => Ok(()),
    }
}

async fn queue_checkpoint(tx: &mut Connection, job: JobId, round: u32, new: &NewRound) -> Result<()> {
    let (loss_micro, accuracy_micro) = (micro(new.loss), micro(new.accuracy));
    let entry = LogCheckpoint { version: VERSION, job, round, state: state(new), loss_micro, accuracy_micro };
    queue(tx, entry.statement()).await
}

fn state(round: &NewRound) -> ModelState {
    ModelState { checkpoint: round.checkpoint, velocity: round.velocity }
}

fn merge_input(unit: &MergedUnit) -> MergeInput {
    MergeInput {
        unit: unit.unit,
        output: unit.canonical,
        weight_micro: u64::from(unit.weight_permille) * 1_000,
        settled_by: if unit.by_keys { MergedBy::Quorum } else { MergedBy::Referee },
    }
}

/// The merge of a round, and the checkpoint that it gave.
pub async fn queue_merge(tx: &mut Connection, before: &NewRound, close: &RoundClose) -> Result<()> {
    let merge = LogMerge {
        version: VERSION,
        job: close.job,
        round: close.round,
        rule: close.rule.clone(),
        before: state(before),
        after: state(&close.next),
        inputs_count: close.merged.len() as u64,
        first: 0,
        inputs: close.merged.iter().map(merge_input).collect(),
    };
    for part in merge_parts(&merge) {
        queue(tx, part.statement()).await?;
    }
    queue_checkpoint(tx, close.job, close.round + 1, &close.next).await
}

/// A merge that was not kept.
pub async fn queue_roll_back(tx: &mut Connection, roll_back: &RollBack) -> Result<()> {
    let entry = LogRollBack {
        version: VERSION,
        job: roll_back.job,
        round: roll_back.round,
        from: roll_back.undone,
        to: roll_back.kept,
        reason: roll_back.reason.clone(),
    };
    queue(tx, entry.statement()).await
}

pub async fn queue_quarantine(tx: &mut Connection, key: KeyId) -> Result<()> {
    queue(tx, LogKey { version: VERSION, key, event: KeyEvent::Quarantined, successor: None }.statement()).await
}

pub async fn queue_rotation(tx: &mut Connection, old: KeyId, new: KeyId) -> Result<()> {
    let entry = LogKey { version: VERSION, key: old, event: KeyEvent::Rotated, successor: Some(new) };
    queue(tx, entry.statement()).await
}

pub async fn queue_consent(tx: &mut Connection, salt: &[u8; 32], consent: &[u8]) -> Result<()> {
    let commitment = blob_hash(&[salt, consent].concat());
    queue(tx, LogConsent { version: VERSION, commitment }.statement()).await
}

pub async fn queued(tx: &mut Connection, count_max: u32) -> Result<Vec<Queued>> {
    sqlx::query("SELECT id, content_type, payload FROM log_queue ORDER BY id LIMIT $1")
        .bind(i64::from(count_max))
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| {
            let (id, content_type): (i64, &str) = (row.try_get("id")?, row.try_get("content_type")?);
            let unknown = || StoreError::Damaged(format!("statement {id} in the queue is {content_type}"));
            let kind = Kind::logged(content_type).ok_or_else(unknown)?;
            Ok(Queued { id, statement: Statement { kind, payload: row.try_get("payload")? } })
        })
        .collect()
}

pub async fn head(tx: &mut Connection) -> Result<Option<LogHead>> {
    let row = sqlx::query("SELECT size, note FROM log_head").fetch_optional(tx).await?;
    row.map(|row| Ok(LogHead { size: uint(&row, "size")?, note: row.try_get("note")? })).transpose()
}

pub async fn tile(tx: &mut Connection, level: u8, number: u64) -> Result<Option<Vec<Hash>>> {
    let row = sqlx::query("SELECT hashes FROM log_tiles WHERE level = $1 AND number = $2")
        .bind(i64::from(level))
        .bind(int(number))
        .fetch_optional(tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (hashes, rest) = row.try_get::<&[u8], _>("hashes")?.as_chunks();
    if rest.is_empty() { Ok(Some(hashes.to_vec())) } else { Err(StoreError::Damaged(format!("tile {level}/{number}"))) }
}

pub async fn entries(tx: &mut Connection, from: u64, count: u64) -> Result<Vec<Vec<u8>>> {
    sqlx::query("SELECT entry FROM log_entries WHERE entry_index >= $1 ORDER BY entry_index LIMIT $2")
        .bind(int(from))
        .bind(int(count))
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok(row.try_get("entry")?))
        .collect()
}

pub async fn index_of_lease(tx: &mut Connection, lease: LeaseId) -> Result<Option<u64>> {
    let row = sqlx::query(
        "SELECT MAX(entry_index) AS entry_index FROM log_entries WHERE lease_id = $1 AND accepted = 1 HAVING COUNT(*) > 0",
    )
    .bind(int(lease.0))
    .fetch_optional(tx)
    .await?;
    row.map(|row| uint(&row, "entry_index")).transpose()
}

/// The tree's right edge, out of its tiles.
async fn edge(tx: &mut Connection, size: u64) -> Result<Edge> {
    let mut tiles = Vec::new();
    for level in 0.. {
        let hashes = size >> (8 * u32::from(level));
        if hashes == 0 {
            break;
        }
        let stored = tile(tx, level, hashes / WIDTH).await?.unwrap_or_default();
        if stored.len() as u64 != hashes % WIDTH {
            return Err(StoreError::Damaged(format!("level {level} of the log ends after {} hashes", stored.len())));
        }
        tiles.push(stored);
    }
    Ok(Edge { size, tiles })
}

pub async fn append(tx: &mut Connection, entries: &[SignedEntry], sign: SignCheckpoint<'_>) -> Result<()> {
    let head = head(tx).await?;
    let waiting = sqlx::query("SELECT id, lease_id, accepted FROM log_queue ORDER BY id LIMIT $1")
        .bind(int(entries.len() as u64))
        .fetch_all(&mut *tx)
        .await?;
    let ids = waiting.iter().map(|row| row.try_get("id")).collect::<Result<Vec<i64>, _>>()?;
    // An append that was done and reported as failed took its statements with it.
    let is_next = ids.iter().copied().eq(entries.iter().map(|entry| entry.id));
    if !is_next || (entries.is_empty() && head.is_some()) {
        return Ok(());
    }
    let mut edge = edge(tx, head.map_or(0, |head| head.size)).await?;
    for (entry, row) in entries.iter().zip(&waiting) {
        if entry.bytes.len() > ENTRY_BYTES_MAX {
            return Err(StoreError::Damaged(format!("statement {} is too long for the log", entry.id)));
        }
        sqlx::query("INSERT INTO log_entries (entry_index, entry, lease_id, accepted) VALUES ($1, $2, $3, $4)")
            .bind(int(edge.size))
            .bind(entry.bytes.as_slice())
            .bind(row.try_get::<Option<i64>, _>("lease_id")?)
            .bind(row.try_get::<i64, _>("accepted")?)
            .execute(&mut *tx)
            .await?;
        for full in edge.append(leaf_hash(&entry.bytes)) {
            put_tile(tx, &full).await?;
        }
    }
    for partial in edge.partial() {
        put_tile(tx, &partial).await?;
    }
    if let Some(last) = entries.last() {
        sqlx::query("DELETE FROM log_queue WHERE id <= $1").bind(last.id).execute(&mut *tx).await?;
    }
    sqlx::query(
        "INSERT INTO log_head (id, size, note) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note",
    )
    .bind(int(edge.size))
    .bind(sign(edge.size, edge.root()))
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_tile(tx: &mut Connection, tile: &Tile) -> Result<()> {
    sqlx::query(
        "INSERT INTO log_tiles (level, number, hashes) VALUES ($1, $2, $3)
         ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
    )
    .bind(i64::from(tile.level))
    .bind(int(tile.number))
    .bind(tile.hashes.concat())
    .execute(tx)
    .await?;
    Ok(())
}

/// Builds the tree again from its entries; gives what is stored otherwise.
pub async fn check(tx: &mut Connection) -> Result<Vec<String>> {
    let Some(head) = head(tx).await? else { return Ok(Vec::new()) };
    let (mut edge, mut tiles) = (Edge::default(), Vec::new());
    let rows = sqlx::query("SELECT entry_index, entry FROM log_entries ORDER BY entry_index").fetch_all(&mut *tx).await?;
    let mut broken = Vec::new();
    for row in &rows {
        if uint(row, "entry_index")? != edge.size {
            broken.push(format!("the log has no entry {}", edge.size));
            return Ok(broken);
        }
        tiles.extend(edge.append(leaf_hash(row.try_get("entry")?)));
    }
    tiles.extend(edge.partial());
    for derived in &tiles {
        if tile(tx, derived.level, derived.number).await?.as_deref() != Some(&derived.hashes) {
            broken.push(format!("tile {}/{} of the log is not that of its entries", derived.level, derived.number));
        }
    }
    let count = sqlx::query("SELECT COUNT(*) AS n FROM log_tiles").fetch_one(tx).await?;
    if uint(&count, "n")? != tiles.len() as u64 {
        broken.push("the log has tiles that its entries do not fill".to_owned());
    }
    let checkpoint = Note::parse(&head.note).and_then(|note| Checkpoint::parse(&note.text));
    if checkpoint.is_none_or(|checkpoint| (checkpoint.size, checkpoint.root) != (edge.size, edge.root()))
        || head.size != edge.size
    {
        broken.push(format!("the log's checkpoint is not that of its {} entries", edge.size));
    }
    Ok(broken)
}
