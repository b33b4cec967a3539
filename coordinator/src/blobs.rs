//! Blob bytes by their SHA-256, in a local folder or in a bucket of an S3-compatible service. Which blobs exist for whom is the
//! store's business: this module knows bytes and names.
//!
//! A blob is published whole or not at all, and is on the disk when its put returns.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use manyhands_protocol::BlobHash;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use sha2::{Digest, Sha256};

use crate::keys::blob_hash;

/// Bytes collected before they are written; S3 takes no smaller parts.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// What writes are tried with.
const PROBE: &str = "probe";
/// Holds the identity of the tables that the blobs are of.
const OWNER: &str = "store";
/// How long calls to a bucket wait for a connection, for the next bytes of an answer, and are tried again before they fail.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
const SILENCE_WAIT: Duration = Duration::from_secs(60);
const RETRY_WAIT: Duration = Duration::from_secs(15);
const RETRIES_COUNT: usize = 4;

/// What can go wrong with blob bytes.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{path}: cannot write there: {reason}")]
    NotWritable { path: PathBuf, reason: String },
    #[error("{url}: {reason}")]
    Bucket { url: String, reason: String },
    #[error("{0}: holds the blobs of other tables; is the store the one that it was?")]
    OtherTables(String),
    #[error("{0}: holds blobs, and the tables know of none; is the store the one that it was?")]
    UnknownBlobs(String),
    #[error("blob {0} is missing")]
    Missing(BlobHash),
    #[error("blob {0} is damaged: its bytes have another hash")]
    Damaged(BlobHash),
    #[error("the bytes do not hash to {0}")]
    HashMismatch(BlobHash),
    #[error("blob storage: {0}")]
    Storage(object_store::Error),
}

/// A bucket of an S3-compatible service.
#[derive(Clone)]
pub struct Bucket {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// What AWS's own tools read from the environment, as `AWS_ENDPOINT_URL`, secrets among them. Names without meaning here are
    /// left alone.
    pub options: Vec<(String, String)>,
}

/// The blob store.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    /// As people know it.
    place: String,
}

fn path_of(hash: BlobHash) -> ObjectPath {
    let name = hash.to_string();
    ObjectPath::from(format!("{}/{name}", &name[..2]))
}

impl Blobs {
    /// Opens a local folder, makes it if it is missing, and proves that it can be written.
    pub async fn open_folder(folder: &Path) -> Result<Blobs, BlobError> {
        let failed = |reason: String| BlobError::NotWritable { path: folder.to_owned(), reason };
        std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
        remove_staged(folder).map_err(|e| failed(e.to_string()))?;
        let local = LocalFileSystem::new_with_prefix(folder).map_err(|e| failed(e.to_string()))?.with_fsync(true);
        let blobs = Blobs { objects: Arc::new(local), place: folder.display().to_string() };
        blobs.probe().await.map_err(|e| failed(e.to_string()))?;
        Ok(blobs)
    }

    /// Opens a bucket, and proves that it can be written. What uploads cut off by a crash left is the service's to end:
    /// docs/operations.md, "On S3".
    pub async fn open_bucket(bucket: &Bucket) -> Result<Blobs, BlobError> {
        let Bucket { url, options } = bucket;
        let failed = |reason: String| BlobError::Bucket { url: url.clone(), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| failed("not of the form s3://BUCKET/PREFIX".to_owned()))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let option = |wanted: &str| options.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        if option("AWS_ENDPOINT_URL").is_some_and(|endpoint| endpoint.starts_with("http://"))
            && option("AWS_ALLOW_HTTP").is_none()
        {
            return Err(failed("AWS_ENDPOINT_URL is without TLS; set AWS_ALLOW_HTTP=true if that is meant".to_owned()));
        }
        // Then credentials are asked of the machine that this runs on, which may have none to give.
        let hint = if option("AWS_ACCESS_KEY_ID").is_none() { " (AWS_ACCESS_KEY_ID is not set)" } else { "" };
        let retry = RetryConfig { max_retries: RETRIES_COUNT, retry_timeout: RETRY_WAIT, ..RetryConfig::default() };
        // As long as bytes come or go a call may take: a checkpoint on a slow line.
        let client = ClientOptions::new().with_connect_timeout(CONNECT_WAIT);
        let client = client.with_timeout_disabled().with_read_timeout(SILENCE_WAIT);
        let mut builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
        for (key, value) in options {
            if let Ok(key) = key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        // Whatever the environment names.
        let objects = builder.with_bucket_name(name).build().map_err(|e| failed(e.to_string()))?;
        let prefix = ObjectPath::parse(prefix.trim_end_matches('/')).map_err(|e| failed(e.to_string()))?;
        let blobs = Blobs { objects: Arc::new(PrefixStore::new(objects, prefix)), place: url.clone() };
        blobs.probe().await.map_err(|e| failed(format!("{e}{hint}")))?;
        Ok(blobs)
    }

    async fn probe(&self) -> object_store::Result<()> {
        let probe = ObjectPath::from(PROBE);
        self.objects.put(&probe, PutPayload::from_static(b"probe")).await?;
        self.objects.delete(&probe).await
    }

    /// Makes these the blobs of the tables with this identity, which they may be already. Tables that are not theirs would have
    /// them deleted as what nothing names. `blobs_count` is how many the tables know of.
    pub async fn claim(&self, identity: &str, blobs_count: usize) -> Result<(), BlobError> {
        if let Some(owner) = self.owner().await? {
            return if owner == identity { Ok(()) } else { Err(BlobError::OtherTables(self.place.clone())) };
        }
        if blobs_count == 0 && !self.hashes().await?.is_empty() {
            return Err(BlobError::UnknownBlobs(self.place.clone()));
        }
        let (path, payload) = (ObjectPath::from(OWNER), PutPayload::from(identity.to_owned().into_bytes()));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&path, payload.clone(), options).await {
            // Others were quicker, or the service does not know the condition.
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(object_store::Error::NotImplemented { .. }) => {
                drop(self.objects.put(&path, payload).await.map_err(BlobError::Storage)?)
            }
            put => drop(put.map_err(BlobError::Storage)?),
        }
        if self.owner().await?.as_deref() == Some(identity) { Ok(()) } else { Err(BlobError::OtherTables(self.place.clone())) }
    }

    async fn owner(&self) -> Result<Option<String>, BlobError> {
        match self.objects.get(&ObjectPath::from(OWNER)).await {
            Ok(found) => {
                let bytes = found.bytes().await.map_err(BlobError::Storage)?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(BlobError::Storage(error)),
        }
    }

    /// The blobs of a folder that may be another process's: nothing in it is changed.
    pub fn read_folder(folder: &Path) -> Result<Blobs, BlobError> {
        let local = LocalFileSystem::new_with_prefix(folder).map_err(BlobError::Storage)?;
        Ok(Blobs { objects: Arc::new(local), place: folder.display().to_string() })
    }

    /// Whether the storage answers a read.
    pub async fn answers(&self) -> Result<(), BlobError> {
        match self.objects.head(&ObjectPath::from(PROBE)).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Storage(error)),
        }
    }

    /// Stores bytes under their hash.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<BlobHash, BlobError> {
        let mut upload = self.begin(blob_hash(&bytes));
        upload.write(&bytes).await?;
        let hash = upload.hash;
        upload.finish().await?;
        Ok(hash)
    }

    /// Starts a streamed upload that will be published under `hash` if its bytes have it.
    pub fn begin(&self, hash: BlobHash) -> Upload {
        Upload { objects: self.objects.clone(), hash, parts: None, hasher: Sha256::new(), buffer: BytesMut::new() }
    }

    /// All bytes of a blob, checked against its name.
    pub async fn read(&self, hash: BlobHash) -> Result<Bytes, BlobError> {
        let got = self.objects.get(&path_of(hash)).await.map_err(|e| missing(hash, e))?;
        let bytes = got.bytes().await.map_err(BlobError::Storage)?;
        if blob_hash(&bytes) == hash { Ok(bytes) } else { Err(BlobError::Damaged(hash)) }
    }

    /// A range of a blob's bytes, as far as it has them; without the rest they cannot be checked against its name.
    pub async fn read_range(&self, hash: BlobHash, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.objects.get_range(&path_of(hash), range).await.map_err(|e| missing(hash, e))
    }

    /// Bytes stored for a blob, without reading them.
    pub async fn bytes_stored(&self, hash: BlobHash) -> Result<u64, BlobError> {
        Ok(self.objects.head(&path_of(hash)).await.map_err(|e| missing(hash, e))?.size)
    }

    /// Deletes a blob. Deleting what is not there is done.
    pub async fn remove(&self, hash: BlobHash) -> Result<(), BlobError> {
        match self.objects.delete(&path_of(hash)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Storage(error)),
        }
    }

    /// Names of all blobs with bytes here.
    pub async fn hashes(&self) -> Result<Vec<BlobHash>, BlobError> {
        let files: Vec<_> = self.objects.list(None).try_collect().await.map_err(BlobError::Storage)?;
        Ok(files.iter().filter_map(|file| file.location.filename()?.parse().ok()).collect())
    }

    /// A blob's bytes, or a range of them, as a stream. The receiver checks the hash.
    pub async fn stream(
        &self,
        hash: BlobHash,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, BlobError> {
        let options = GetOptions::new().with_range(range);
        Ok(self.objects.get_opts(&path_of(hash), options).await.map_err(|e| missing(hash, e))?.into_stream())
    }
}

fn missing(hash: BlobHash, error: object_store::Error) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => BlobError::Missing(hash),
        other => BlobError::Storage(other),
    }
}

/// Removes what uploads cut off by a crash left: files that `LocalFileSystem` staged as `name#number`.
fn remove_staged(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let staged = entry.file_name().to_string_lossy().contains('#');
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if staged {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// An upload under way. Dropped before [`Upload::finish`], it leaves nothing.
pub struct Upload {
    objects: Arc<dyn ObjectStore>,
    hash: BlobHash,
    /// Once there is more than one part.
    parts: Option<Box<dyn MultipartUpload>>,
    hasher: Sha256,
    buffer: BytesMut,
}

impl Upload {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        self.buffer.extend_from_slice(bytes);
        // All but the last are of one size: some services take no others.
        while self.buffer.len() >= PART_BYTES {
            self.put_part(PART_BYTES).await?;
        }
        Ok(())
    }

    async fn put_part(&mut self, bytes: usize) -> Result<(), BlobError> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => self.parts.insert(self.objects.put_multipart(&path_of(self.hash)).await.map_err(BlobError::Storage)?),
        };
        parts.put_part(PutPayload::from(self.buffer.split_to(bytes).freeze())).await.map_err(BlobError::Storage)
    }

    /// Publishes the blob if its bytes have the hash they were announced under.
    pub async fn finish(mut self) -> Result<(), BlobError> {
        if <[u8; 32]>::from(self.hasher.clone().finalize()) != self.hash.0 {
            return Err(BlobError::HashMismatch(self.hash));
        }
        if self.parts.is_some() && !self.buffer.is_empty() {
            self.put_part(self.buffer.len()).await?;
        }
        let done = match &mut self.parts {
            Some(parts) => parts.complete().await,
            None => self.objects.put(&path_of(self.hash), PutPayload::from(self.buffer.split().freeze())).await,
        };
        done.map_err(BlobError::Storage)?;
        self.parts = None;
        Ok(())
    }
}

/// What is not finished is ended: a service keeps parts, and counts them, until it is told.
impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut parts), Ok(runtime)) = (self.parts.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { parts.abort().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(&folder.path().join("blobs")).await.unwrap();
        (folder, blobs)
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
    }

    #[tokio::test]
    async fn bytes_come_back_whole_and_in_ranges() {
        let (_folder, blobs) = open().await;
        let hash = blobs.put(b"0123456789".to_vec()).await.unwrap();
        assert_eq!(&blobs.read(hash).await.unwrap()[..], b"0123456789");
        assert_eq!(blobs.bytes_stored(hash).await.unwrap(), 10);
        let part: Vec<_> = blobs.stream(hash, Some(2..5)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), b"234");
        assert_eq!(blobs.hashes().await.unwrap(), [hash]);
        assert!(matches!(blobs.read(BlobHash([1; 32])).await, Err(BlobError::Missing(_))));
        for _ in 0..2 {
            blobs.remove(hash).await.unwrap();
            assert!(blobs.hashes().await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn uploads_are_published_only_under_their_hash() {
        let (folder, blobs) = open().await;
        let bytes = vec![7; PART_BYTES + 3];
        let mut upload = blobs.begin(blob_hash(&bytes));
        for piece in bytes.chunks(1_000_000) {
            upload.write(piece).await.unwrap();
        }
        upload.finish().await.unwrap();
        assert_eq!(blobs.read(blob_hash(&bytes)).await.unwrap().len(), bytes.len());
        assert_eq!(files(folder.path()), 1);

        let mut wrong = blobs.begin(BlobHash([9; 32]));
        wrong.write(b"other").await.unwrap();
        assert!(matches!(wrong.finish().await, Err(BlobError::HashMismatch(_))));
        let mut cut_off = blobs.begin(blob_hash(b"cut off"));
        cut_off.write(b"cut").await.unwrap();
        drop(cut_off);
        assert!(matches!(blobs.read(BlobHash([9; 32])).await, Err(BlobError::Missing(_))));
        // Also what a killed process left is gone after the next start.
        std::fs::write(folder.path().join("blobs/ab#3"), b"half").unwrap();
        Blobs::open_folder(&folder.path().join("blobs")).await.unwrap();
        assert_eq!(files(folder.path()), 1);
    }

    #[tokio::test]
    async fn damage_is_noticed() {
        let (folder, blobs) = open().await;
        let hash = blobs.put(b"good".to_vec()).await.unwrap();
        let path = folder.path().join("blobs").join(path_of(hash).as_ref());
        std::fs::write(path, b"evil").unwrap();
        assert!(matches!(blobs.read(hash).await, Err(BlobError::Damaged(_))));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blobs");
        std::fs::write(&path, b"a file").unwrap();
        let error = Blobs::open_folder(&path).await.err().unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
