//! Uploads and downloads.

use std::time::Duration;

use manyhands_coordinator::keys::blob_hash;
use manyhands_protocol::problem::Code;
use manyhands_protocol::{BlobHash, LeaseId, limits};
use reqwest::{Body, Method, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, Leased, Volunteer};
use crate::world::{World, matmul_work};

#[tokio::test]
async fn inputs_are_public_once_the_job_is_approved() {
    let world = World::start().await;
    let secret = world.put_input(b"no job names me".to_vec()).await;
    world.try_create(&world.product().await).await.is(201);
    let volunteer = world.join(1).await;
    let input = world.put_input(b"again".to_vec()).await;
    let manyhands_protocol::manifest::Inputs::Matmul { a_panels, .. } = world.product().await.inputs else { panic!() };
    let path = format!("/v1/blobs/{}", a_panels[0]);
    volunteer.get(&path).await.refused(Code::UnknownBlob);
    world.order("/jobs/1/approve").await.is(200);
    let answer = volunteer.get(&path).await;
    answer.is(200);
    assert_eq!(blob_hash(&answer.body), a_panels[0]);
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    for hidden in [secret, input, BlobHash([0; 32])] {
        volunteer.get(&format!("/v1/blobs/{hidden}")).await.refused(Code::UnknownBlob);
    }
    volunteer.get("/v1/blobs/xyz").await.refused(Code::BadRequest);
    volunteer.get(&path.to_uppercase().replace("/V1/BLOBS", "/v1/blobs")).await.refused(Code::BadRequest);
    world.finish().await;
}

#[tokio::test]
async fn downloads_know_heads_ranges_and_tags() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let path = format!("/v1/blobs/{}", matmul_work(&lease).a);
    let whole = volunteer.get(&path).await;
    let length = whole.body.len();
    let head = Answer::of(volunteer.call(Method::HEAD, &path)).await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, &*length.to_string(), 0));
    let part = Answer::of(volunteer.call(Method::GET, &path).header(header::RANGE, "bytes=8-15")).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &whole.body[8..16]));
    assert_eq!(part.header("content-range"), format!("bytes 8-15/{length}"));
    let tag = whole.header("etag").to_owned();
    let known = Answer::of(volunteer.call(Method::GET, &path).header(header::IF_NONE_MATCH, tag)).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    world.finish().await;
}

#[tokio::test]
async fn uploads_keep_to_their_lease() {
    let world = World::start().await;
    world.product_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let lease = volunteer.lease_one().await;
    let bytes = b"some bytes".to_vec();
    let hash = blob_hash(&bytes);
    other.try_upload(&lease, hash, bytes.clone()).await.refused(Code::NotYourLease);
    let mut unknown = lease.clone();
    unknown.manifest.lease = LeaseId(77);
    volunteer.try_upload(&unknown, hash, bytes.clone()).await.refused(Code::UnknownLease);
    volunteer.try_upload(&lease, hash, bytes.clone()).await.is(201);
    volunteer.try_upload(&lease, hash, bytes.clone()).await.is(200);
    volunteer.get(&format!("/v1/blobs/{hash}")).await.refused(Code::UnknownBlob);
    // Bytes that were not sent are not had, whoever has sent them before.
    let theirs = other.lease_one().await;
    other.try_upload(&theirs, hash, b"other byte".to_vec()).await.refused(Code::HashMismatch);
    other.try_upload(&theirs, hash, bytes.clone()).await.is(200);

    let left = lease.manifest.upload_bytes_max as usize - bytes.len();
    let large = vec![7; left + 1];
    volunteer.try_upload(&lease, blob_hash(&large), large.clone()).await.refused(Code::UploadNotAllowed);
    let fits = &large[..left];
    volunteer.try_upload(&lease, blob_hash(fits), fits.to_vec()).await.is(201);
    volunteer.try_upload(&lease, blob_hash(b"x"), b"x".to_vec()).await.refused(Code::UploadNotAllowed);

    let many = other.lease_one().await;
    for i in 0..limits::OUTPUTS_COUNT_MAX {
        let bytes = vec![i as u8];
        other.try_upload(&many, blob_hash(&bytes), bytes).await.is(201);
    }
    other.try_upload(&many, blob_hash(b"one more"), b"one more".to_vec()).await.refused(Code::UploadNotAllowed);
    volunteer.give_back(&lease).await.is(204);
    volunteer.try_upload(&lease, hash, bytes).await.refused(Code::LeaseEnded);
    world.finish().await;
}

#[tokio::test]
async fn a_repeated_upload_counts_once() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    // More than half of what the lease allows, sent again because the first answer was lost.
    let large = vec![7; lease.manifest.upload_bytes_max as usize];
    let hash = blob_hash(&large);
    volunteer.try_upload(&lease, hash, large.clone()).await.is(201);
    volunteer.try_upload(&lease, hash, large).await.is(200);
    // A name that is recorded opens no room for other bytes.
    volunteer.try_upload(&lease, hash, b"other".to_vec()).await.refused(Code::UploadNotAllowed);
    world.finish().await;
}

/// Whether a file holds the blob's bytes.
fn is_on_disk(world: &World, hash: BlobHash) -> bool {
    let name = hash.to_string();
    world.folder.path().join("blobs").join(&name[..2]).join(name).exists()
}

#[tokio::test]
async fn what_no_result_can_name_is_deleted() {
    let mut world = World::start().await;
    world.product_job().await;
    let mut volunteer = world.join(1).await;
    let leases = volunteer.lease(4).await;
    let [given_back, rejected, accepted, lapsed] = leases.as_slice() else { panic!("four units") };
    let wrong = |fill: u8| vec![fill; 100];
    for (lease, fill) in [(given_back, 1), (accepted, 1), (lapsed, 3)] {
        volunteer.upload(lease, wrong(fill)).await;
    }
    volunteer.submit(rejected, wrong(2)).await;
    let right = volunteer.product_bytes(accepted).await;
    volunteer.submit(accepted, right.clone()).await;
    volunteer.give_back(given_back).await.is(204);
    world.clock.advance(limits::LEASE_MS);
    // The driver was woken by each of these.
    while is_on_disk(&world, blob_hash(&wrong(1))) || is_on_disk(&world, blob_hash(&wrong(2))) {
        tokio::task::yield_now().await;
    }
    assert!(is_on_disk(&world, blob_hash(&right)));
    assert!(is_on_disk(&world, blob_hash(&wrong(3))), "a late result may still name it");
    world.check().await;
    // Deleted bytes may be uploaded again, and a file without a row does not outlive a restart.
    let again = volunteer.lease_one().await;
    volunteer.try_upload(&again, blob_hash(&wrong(1)), wrong(1)).await.is(201);
    let stray = world.folder.path().join("blobs/00").join("0".repeat(64));
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, b"stray").unwrap();
    world.kill_and_restart().await;
    volunteer.url = world.url();
    assert!(!stray.exists());
    assert!(is_on_disk(&world, blob_hash(&right)) && is_on_disk(&world, blob_hash(&wrong(1))));
    world.finish().await;
}

#[tokio::test]
async fn uploads_say_what_and_how_long_they_are() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let hash = blob_hash(b"bytes");
    let put =
        |path: &str, kind: &str, body: Body| volunteer.call(Method::PUT, path).header(header::CONTENT_TYPE, kind).body(body);
    let path = format!("/v1/blobs/{hash}?lease={}", lease.manifest.lease);
    let octets = "application/octet-stream";
    let streamed = || Body::wrap_stream(futures::stream::once(async { Ok::<_, std::io::Error>("bytes") }));
    Answer::of(put(&path, octets, streamed())).await.refused(Code::LengthRequired);
    Answer::of(put(&path, "text/plain", "bytes".into())).await.refused(Code::WrongContentType);
    Answer::of(put(&format!("/v1/blobs/{hash}"), octets, "bytes".into())).await.refused(Code::BadRequest);
    Answer::of(put(&format!("/v1/blobs/{hash}?lease=x"), octets, "bytes".into())).await.refused(Code::BadRequest);
    Answer::of(put(&format!("/v1/blobs/xyz?lease={}", lease.manifest.lease), octets, "bytes".into()))
        .await
        .refused(Code::BadRequest);
    let huge = put(&path, octets, "bytes".into()).header(header::CONTENT_LENGTH, limits::BLOB_BYTES_MAX + 1);
    Answer::of(huge).await.refused(Code::BodyTooLarge);
    let mut nobody = world.join(1).await;
    nobody.token = String::new();
    nobody.try_upload(&lease, hash, b"bytes".to_vec()).await.refused(Code::NoSession);
    Answer::of(put(&path, octets, "bytes".into())).await.is(201);
    world.finish().await;
}

/// An upload whose head was sent and is being waited for.
async fn begun(world: &World, volunteer: &Volunteer, lease: &Leased) -> TcpStream {
    let mut stream = TcpStream::connect(world.app().addr).await.unwrap();
    let head = format!(
        "PUT /v1/blobs/{}?lease={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 11\r\n\
         Content-Type: application/octet-stream\r\nExpect: 100-continue\r\n\r\n",
        blob_hash(b"whole bytes"),
        lease.manifest.lease,
        volunteer.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Said when the body is asked for: from there on the upload has its place.
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn one_key_takes_few_places_and_volunteers_none_of_the_operators() {
    let world = World::start_with(|config| config.uploads_count_max = limits::UPLOADS_PER_KEY_MAX + 1).await;
    world.product_job().await;
    let (greedy, other) = (world.join(1).await, world.join(2).await);
    let leases = greedy.lease(3).await;
    let theirs = other.lease_one().await;
    let mut held = Vec::new();
    for lease in &leases[..limits::UPLOADS_PER_KEY_MAX] {
        held.push(begun(&world, &greedy, lease).await);
    }
    let bytes = || b"bytes".to_vec();
    greedy.try_upload(&leases[2], blob_hash(&bytes()), bytes()).await.refused(Code::TooManyRequests);
    other.try_upload(&theirs, blob_hash(&bytes()), bytes()).await.is(201);
    held.push(begun(&world, &other, &theirs).await);
    world.join(3).await;
    world.put_input(b"the operator's own".to_vec()).await;
    // A place is free again when its upload has ended.
    held[0].write_all(b"whole bytes").await.unwrap();
    let mut answer = [0; 12];
    held[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
    greedy.try_upload(&leases[2], blob_hash(&bytes()), bytes()).await.is(200);
    world.finish().await;
}

#[tokio::test]
async fn a_silent_upload_is_given_up() {
    let world = World::start_with(|config| config.upload_silence = Duration::from_millis(50)).await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let mut stream = begun(&world, &volunteer, &lease).await;
    stream.write_all(b"whole").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let world = World::start().await;
    world.product_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let hash = blob_hash(b"whole bytes");
    let mut stream = TcpStream::connect(world.app().addr).await.unwrap();
    let head = format!(
        "PUT /v1/blobs/{hash}?lease={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 11\r\n\
         Content-Type: application/octet-stream\r\n\r\nwhole",
        lease.manifest.lease, volunteer.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    // The lease is free for the whole upload.
    volunteer.try_upload(&lease, hash, b"whole bytes".to_vec()).await.is(201);
    world.finish().await;
}
