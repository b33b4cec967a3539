//! Blob bytes by their SHA-256, on any `object_store`; a local folder here. Which blobs exist for whom is the store's
//! business: this module knows bytes and names.
//!
//! A blob is published whole or not at all, and is on the disk when its put returns.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use manyhands_protocol::BlobHash;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

use crate::keys::blob_hash;

/// Bytes collected before they are written; S3 takes no smaller parts.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// What can go wrong with blob bytes.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{path}: cannot write there: {reason}")]
    NotWritable { path: PathBuf, reason: String },
    #[error("blob {0} is missing")]
    Missing(BlobHash),
    #[error("blob {0} is damaged: its bytes have another hash")]
    Damaged(BlobHash),
    #[error("the bytes do not hash to {0}")]
    HashMismatch(BlobHash),
    #[error("blob storage: {0}")]
    Storage(object_store::Error),
}

/// The blob store.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
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
        let blobs = Blobs { objects: Arc::new(local) };
        let probe = ObjectPath::from("probe");
        blobs.objects.put(&probe, PutPayload::from_static(b"probe")).await.map_err(|e| failed(e.to_string()))?;
        blobs.objects.delete(&probe).await.map_err(|e| failed(e.to_string()))?;
        Ok(blobs)
    }

    /// The blobs of a folder that may be another process's: nothing in it is changed.
    pub fn read_folder(folder: &Path) -> Result<Blobs, BlobError> {
        let local = LocalFileSystem::new_with_prefix(folder).map_err(BlobError::Storage)?;
        Ok(Blobs { objects: Arc::new(local) })
    }

    /// Whether the storage answers a read.
    pub async fn answers(&self) -> Result<(), BlobError> {
        match self.objects.head(&ObjectPath::from("probe")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Storage(error)),
        }
    }

    /// Stores bytes under their hash.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<BlobHash, BlobError> {
        let hash = blob_hash(&bytes);
        self.objects.put(&path_of(hash), PutPayload::from(bytes)).await.map_err(BlobError::Storage)?;
        Ok(hash)
    }

    /// Starts a streamed upload that will be published under `hash` if its bytes have it.
    pub async fn begin(&self, hash: BlobHash) -> Result<Upload, BlobError> {
        let parts = self.objects.put_multipart(&path_of(hash)).await.map_err(BlobError::Storage)?;
        Ok(Upload { hash, parts, hasher: Sha256::new(), buffer: BytesMut::new() })
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
    hash: BlobHash,
    parts: Box<dyn MultipartUpload>,
    hasher: Sha256,
    buffer: BytesMut,
}

impl Upload {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PART_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), BlobError> {
        let part = PutPayload::from(self.buffer.split().freeze());
        self.parts.put_part(part).await.map_err(BlobError::Storage)
    }

    /// Publishes the blob if its bytes have the hash they were announced under.
    pub async fn finish(mut self) -> Result<(), BlobError> {
        if <[u8; 32]>::from(self.hasher.clone().finalize()) != self.hash.0 {
            self.parts.abort().await.map_err(BlobError::Storage)?;
            return Err(BlobError::HashMismatch(self.hash));
        }
        self.flush().await?;
        self.parts.complete().await.map_err(BlobError::Storage)?;
        Ok(())
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
        let mut upload = blobs.begin(blob_hash(&bytes)).await.unwrap();
        for piece in bytes.chunks(1_000_000) {
            upload.write(piece).await.unwrap();
        }
        upload.finish().await.unwrap();
        assert_eq!(blobs.read(blob_hash(&bytes)).await.unwrap().len(), bytes.len());
        assert_eq!(files(folder.path()), 1);

        let mut wrong = blobs.begin(BlobHash([9; 32])).await.unwrap();
        wrong.write(b"other").await.unwrap();
        assert!(matches!(wrong.finish().await, Err(BlobError::HashMismatch(_))));
        let mut cut_off = blobs.begin(blob_hash(b"cut off")).await.unwrap();
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
