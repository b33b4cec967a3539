//! Inputs by hash: fetched once, checked on arrival, kept while there is room. A cache of public bytes, nothing else.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use manyhands_protocol::{BlobHash, limits};

use super::call::Client;
use super::error::VolunteerError;
use super::host::{Host, Method, Request};

/// Most bytes kept between units: a few checkpoints and shards.
const CACHE_BYTES_MAX: usize = limits::BLOB_BYTES_MAX as usize;

/// Recently used blobs, the newest last.
#[derive(Default)]
pub(super) struct Blobs(RefCell<VecDeque<(BlobHash, Arc<Vec<u8>>)>>);

impl Blobs {
    fn get(&self, hash: BlobHash) -> Option<Arc<Vec<u8>>> {
        let mut kept = self.0.borrow_mut();
        let position = kept.iter().position(|(name, _)| *name == hash)?;
        let found = kept.remove(position)?;
        let bytes = found.1.clone();
        kept.push_back(found);
        Some(bytes)
    }

    fn put(&self, hash: BlobHash, bytes: Arc<Vec<u8>>) {
        let mut kept = self.0.borrow_mut();
        kept.push_back((hash, bytes));
        while kept.iter().map(|(_, b)| b.len()).sum::<usize>() > CACHE_BYTES_MAX {
            kept.pop_front();
        }
    }

    /// The blob's bytes, from the cache or the coordinator. One attempt.
    pub async fn fetch<H: Host>(&self, client: &Client<'_, H>, hash: BlobHash) -> Result<Arc<Vec<u8>>, VolunteerError> {
        if let Some(bytes) = self.get(hash) {
            return Ok(bytes);
        }
        let _one_at_a_time = client.transfers.lock().await;
        // Another lane may have fetched it meanwhile.
        if let Some(bytes) = self.get(hash) {
            return Ok(bytes);
        }
        let path = format!("/v1/blobs/{hash}");
        let request = Request {
            method: Method::Get,
            path: &path,
            token: None,
            content_type: None,
            body: &[],
            answer_bytes_max: limits::BLOB_BYTES_MAX,
        };
        let bytes = client.plain(request).await?;
        if client.host.sha256(&bytes).await? != hash {
            return Err(VolunteerError::InputHash);
        }
        let bytes = Arc::new(bytes);
        self.put(hash, bytes.clone());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let blobs = Blobs::default();
        let half = || Arc::new(vec![0; CACHE_BYTES_MAX / 2]);
        let name = |n| BlobHash([n; 32]);
        blobs.put(name(1), half());
        blobs.put(name(2), half());
        assert!(blobs.get(name(1)).is_some());
        blobs.put(name(3), half());
        assert!(blobs.get(name(1)).is_some() && blobs.get(name(3)).is_some());
        assert!(blobs.get(name(2)).is_none());
    }
}
