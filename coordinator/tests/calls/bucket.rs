//! Blobs in a bucket: a real S3 server in the test's process, which may be away for a while.

use std::net::SocketAddr;
use std::path::Path;

use futures::TryStreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use manyhands_coordinator::blobs::{BlobError, Blobs, Bucket};
use manyhands_coordinator::keys::blob_hash;
use manyhands_protocol::BlobHash;
use manyhands_protocol::view::JobState;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::World;

const SECRET: &str = "a-secret-that-nobody-prints";

/// An S3 server with one bucket, in a folder.
struct S3 {
    folder: TempDir,
    address: SocketAddr,
    running: JoinSet<()>,
}

fn service(folder: &Path) -> S3Service {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single("volunteers", SECRET));
    builder.build()
}

async fn accept(listener: TcpListener, service: S3Service) {
    // Ends with this task, as a server that is killed.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service.clone();
        connections.spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl S3 {
    async fn start() -> S3 {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("hands")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut s3 = S3 { folder, address, running: JoinSet::new() };
        s3.running.spawn(accept(listener, service(s3.folder.path())));
        s3
    }

    /// Until [`S3::come_back`] nobody answers.
    async fn go_away(&mut self) {
        self.running.shutdown().await;
    }

    async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.running.spawn(accept(listener, service(self.folder.path())));
    }

    fn bucket(&self, path: &str, secret: &str) -> Bucket {
        let options = [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "volunteers".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_BUCKET", "another-s".to_owned()),
            ("AWS_PROFILE", "of no meaning here".to_owned()),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Bucket { url: format!("s3://{path}"), options }
    }

    async fn open(&self, path: &str) -> Result<Blobs, BlobError> {
        Blobs::open_bucket(&self.bucket(path, SECRET)).await
    }
}

#[tokio::test]
async fn bytes_come_back_whole_and_in_ranges() {
    let s3 = S3::start().await;
    let blobs = s3.open("hands/a/b").await.unwrap();
    blobs.answers().await.unwrap();
    let hash = blobs.put(b"0123456789".to_vec()).await.unwrap();
    assert_eq!(&blobs.read(hash).await.unwrap()[..], b"0123456789");
    assert_eq!(blobs.bytes_stored(hash).await.unwrap(), 10);
    assert_eq!(&blobs.read_range(hash, 7..10).await.unwrap()[..], b"789");
    let part: Vec<_> = blobs.stream(hash, Some(2..5)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(part.concat(), b"234");
    assert_eq!(blobs.hashes().await.unwrap(), [hash]);
    assert!(matches!(blobs.read(BlobHash([1; 32])).await, Err(BlobError::Missing(_))));
    for _ in 0..2 {
        blobs.remove(hash).await.unwrap();
        assert!(blobs.hashes().await.unwrap().is_empty());
    }
}

/// In one call, in parts, and in parts that end with the last byte.
#[tokio::test]
async fn uploads_are_published_only_under_their_hash() {
    let s3 = S3::start().await;
    let blobs = s3.open("hands").await.unwrap();
    for bytes in [0, 3, 5 << 20, (11 << 20) + 1] {
        let bytes = vec![7; bytes];
        let mut upload = blobs.begin(blob_hash(&bytes));
        for piece in bytes.chunks(1 << 20) {
            upload.write(piece).await.unwrap();
        }
        upload.finish().await.unwrap();
        assert_eq!(blobs.read(blob_hash(&bytes)).await.unwrap().len(), bytes.len());
    }
    for bytes in [5, 6 << 20] {
        let mut wrong = blobs.begin(BlobHash([9; 32]));
        wrong.write(&vec![1; bytes]).await.unwrap();
        assert!(matches!(wrong.finish().await, Err(BlobError::HashMismatch(_))));
        assert!(matches!(blobs.read(BlobHash([9; 32])).await, Err(BlobError::Missing(_))));
    }
    assert_eq!(blobs.hashes().await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_named() {
    let s3 = S3::start().await;
    let without = |name: &str| {
        let mut bucket = s3.bucket("hands", SECRET);
        bucket.options.retain(|(option, _)| option != name);
        bucket
    };
    let error = async |bucket: Bucket| Blobs::open_bucket(&bucket).await.err().unwrap().to_string();
    for (bucket, says) in [
        (s3.bucket("hands", "wrong"), "SignatureDoesNotMatch"),
        (Bucket { url: "https://hands".to_owned(), options: Vec::new() }, "s3://BUCKET/PREFIX"),
        (without("AWS_ALLOW_HTTP"), "AWS_ALLOW_HTTP=true"),
    ] {
        let error = error(bucket).await;
        assert!(error.contains(says) && !error.contains(SECRET), "{error}");
    }
}

#[tokio::test]
async fn a_prefix_is_of_one_store() {
    let s3 = S3::start().await;
    s3.open("hands/ours").await.unwrap().claim("ours", 0).await.unwrap();
    let again = s3.open("hands/ours/").await.unwrap();
    again.claim("ours", 0).await.unwrap();
    assert!(matches!(again.claim("theirs", 0).await, Err(BlobError::OtherTables(place)) if place == "s3://hands/ours/"));
    s3.open("hands/theirs").await.unwrap().claim("theirs", 0).await.unwrap();
    // Copied there by hand, without what says whose they are.
    let copied = s3.open("hands/copied").await.unwrap();
    copied.put(b"a blob".to_vec()).await.unwrap();
    assert!(matches!(copied.claim("ours", 0).await, Err(BlobError::UnknownBlobs(_))));
    copied.claim("ours", 1).await.unwrap();
}

/// What was uploaded in part is not kept.
#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let s3 = S3::start().await;
    let blobs = s3.open("hands").await.unwrap();
    let mut upload = blobs.begin(BlobHash([9; 32]));
    let before = files(s3.folder.path());
    upload.write(&vec![1; 11 << 20]).await.unwrap();
    assert!(files(s3.folder.path()) > before, "parts are with the service");
    drop(upload);
    while files(s3.folder.path()) > before {
        tokio::task::yield_now().await;
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
}

/// A job goes on through a restart of the coordinator and an absence of the bucket; what is asked for meanwhile fails, and the same
/// asked again does not.
#[tokio::test]
async fn a_job_is_trained_on_a_bucket_that_is_away_for_a_while() {
    let mut s3 = S3::start().await;
    let mut world = World::start_on(s3.bucket("hands/job", SECRET)).await;
    let job = world.train_job().await;
    assert!(!world.folder.path().join("blobs").exists());
    let (mut first, mut second) = (world.join(1).await, world.join(2).await);
    let (a, b) = (first.lease_one().await, second.lease_one().await);
    let update = first.update_bytes(&a).await;
    first.submit(&a, update.clone()).await;

    s3.go_away().await;
    let hash = blob_hash(&update);
    assert_eq!(second.try_upload(&b, hash, update.clone()).await.status, 503);
    s3.come_back().await;
    second.submit(&b, update).await;
    world.follow(job, |view| view.units_settled == 1).await;

    world.kill_and_restart().await;
    (first.url, second.url) = (world.url(), world.url());
    while world.view(job).await.state == JobState::Running {
        let leases = first.lease(1).await;
        let Some(a) = leases.first() else {
            tokio::task::yield_now().await;
            continue;
        };
        let update = first.update_bytes(a).await;
        first.submit(a, update.clone()).await;
        let b = second.lease_one().await;
        second.submit(&b, update).await;
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.units_settled, view.results_rejected), (6, 0));
    world.finish().await;
}
