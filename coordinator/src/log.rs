//! The public log's sequencer and its proofs. Statements come into the queue with the transactions that they tell of; here they
//! are signed and appended, once a second. What the log holds is in the store; this remembers nothing. Who cosigns it is asked in
//! `witnesses`.

pub mod witnesses;

use std::ops::Range;
use std::sync::Arc;

use manyhands_protocol::log::entry::Statement;
use manyhands_protocol::log::receipt::{self, Proof};
use manyhands_protocol::log::tile::subtrees;
use manyhands_protocol::log::tree::{self, Hash, fold};

use crate::driver::DriveError;
use crate::service::Service;
use crate::store::{SignedEntry, Store};

/// Between two batches.
pub const BATCH_MS: u64 = 1_000;
/// Most statements that one transaction appends, a whole tile: others wait for it, and go between two.
const BATCH_COUNT: u32 = 256;

/// Appends what is queued, and takes what withdrawals deleted out of the files, once a second, until the shutdown.
pub async fn run(service: Arc<Service>) {
    loop {
        if let Err(error) = sequence(&service).await {
            tracing::error!(%error, "appending to the log failed; it is tried again");
        }
        if let Err(error) = service.store.scrub().await {
            tracing::error!(%error, "what withdrawals deleted is still in the store's files; it is tried again");
        }
        tokio::select! {
            () = service.shutdown.cancelled() => return,
            () = service.config.clock.wait(BATCH_MS) => {}
        }
    }
}

/// Appends all that is queued.
pub async fn sequence(service: &Arc<Service>) -> Result<(), DriveError> {
    loop {
        let queued = service.store.log_queue(BATCH_COUNT).await?;
        if queued.is_empty() && service.store.log_head().await?.is_some() {
            return Ok(());
        }
        let (is_last, signer) = (queued.len() < BATCH_COUNT as usize, service.clone());
        // Outside the transaction, which others wait for. The same statement is signed with the same bytes each time.
        let sign = move || {
            let sign = |statement: Statement| signer.keys.sign(statement.kind, statement.payload);
            queued.into_iter().map(|queued| SignedEntry { id: queued.id, bytes: sign(queued.statement) }).collect()
        };
        let entries = tokio::task::spawn_blocking(sign).await?;
        service.store.append_log(entries, &|size, root| service.keys.sign_checkpoint(size, root)).await?;
        service.witnesses.grown.send_replace(());
        if is_last {
            return Ok(());
        }
    }
}

/// The receipt that the entry at `index` is in the tree of `size`; none where it is not. The log has that many entries.
pub async fn inclusion(service: &Service, index: u64, size: u64) -> Result<Option<Vec<u8>>, DriveError> {
    let Some(ranges) = tree::inclusion_ranges(index, size) else { return Ok(None) };
    let path = path(&*service.store, ranges).await?;
    receipt(service, size, Proof::Inclusion { size, index, path }).await.map(Some)
}

/// The receipt that the tree of `size` begins with that of `first`; none where it is smaller. The log has that many entries.
pub async fn consistency(service: &Service, first: u64, size: u64) -> Result<Option<Vec<u8>>, DriveError> {
    let Some(ranges) = tree::consistency_ranges(first, size) else { return Ok(None) };
    let path = path(&*service.store, ranges).await?;
    receipt(service, size, Proof::Consistency { first, size, path }).await.map(Some)
}

async fn receipt(service: &Service, size: u64, proof: Proof) -> Result<Vec<u8>, DriveError> {
    let (key, root) = (service.keys.id(), hash(&*service.store, 0..size).await?);
    let signature = service.keys.sign_bytes(&receipt::to_be_signed(key, &root));
    Ok(receipt::encode(key, &proof, signature))
}

async fn path(store: &dyn Store, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>, DriveError> {
    let mut path = Vec::with_capacity(ranges.len());
    for range in ranges {
        path.push(hash(store, range).await?);
    }
    Ok(path)
}

/// The hash over a range of leaves, out of the tiles. Tiles only grow, so it is the same in every tree that has the leaves.
async fn hash(store: &dyn Store, leaves: Range<u64>) -> Result<Hash, DriveError> {
    let mut roots = Vec::new();
    for subtree in subtrees(leaves) {
        let tile = store.log_tile(subtree.level, subtree.number).await?.unwrap_or_default();
        let missing = || DriveError::Damaged(format!("tile {}/{} of the log is not whole", subtree.level, subtree.number));
        roots.push(subtree.root(&tile).ok_or_else(missing)?);
    }
    Ok(fold(roots.into_iter()).unwrap_or_else(tree::empty_root))
}
