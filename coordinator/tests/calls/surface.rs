//! What holds for every route: methods, types, sizes, origins, the page's headers, and the event stream.

use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{InfoView, JobView, JobsView};
use manyhands_protocol::{KeyId, limits};
use reqwest::{Method, header};

use crate::client::{Answer, Volunteer};
use crate::world::World;

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/jobs/1/nothing", "/nothing.js", "/../Cargo.toml", "/v2/info"] {
        volunteer.get(path).await.refused(Code::NotFound);
    }
    let call = async |method: Method, path: &str| Answer::of(volunteer.call(method, path)).await;
    for (method, path) in [
        (Method::POST, "/v1/info"),
        (Method::GET, "/v1/sessions"),
        (Method::GET, "/v1/results"),
        (Method::PUT, "/v1/leases"),
        (Method::PATCH, "/v1/jobs/1"),
        (Method::DELETE, "/v1/blobs/00"),
        (Method::POST, "/"),
    ] {
        call(method, path).await.refused(Code::MethodNotAllowed);
    }
    volunteer.get("/v1/jobs/99").await.refused(Code::UnknownJob);
    volunteer.get("/v1/jobs/99/events").await.refused(Code::UnknownJob);
    volunteer.get("/v1/jobs/x").await.refused(Code::BadRequest);
    volunteer.get("/v1/jobs/%00").await.refused(Code::BadRequest);
    volunteer.get("/v1/jobs/%ff").await.refused(Code::BadRequest);
    volunteer.get(&format!("/v1/keys/{}", KeyId([1; 32]))).await.refused(Code::UnknownKey);
    volunteer.get("/v1/keys/x").await.refused(Code::BadRequest);
    world.finish().await;
}

#[tokio::test]
async fn bodies_have_a_type_and_a_limit() {
    let world = World::start().await;
    let volunteer = world.join(1).await;
    for (path, right) in [
        ("/v1/sessions", "application/cose"),
        ("/v1/rotations", "application/cbor"),
        ("/v1/leases", "application/cbor"),
        ("/v1/results", "application/cbor"),
    ] {
        for wrong in ["application/json", "text/plain", "", "application/cborx"] {
            volunteer.post(path, wrong, vec![0xa0]).await.refused(Code::WrongContentType);
        }
        Answer::of(volunteer.call(Method::POST, path)).await.refused(Code::WrongContentType);
        volunteer.post(path, right, vec![0; limits::CBOR_BODY_BYTES_MAX + 1]).await.refused(Code::BodyTooLarge);
        volunteer.post(path, right, vec![0; limits::CBOR_BODY_BYTES_MAX]).await.refused(Code::BadCbor);
        volunteer.post(path, &format!("{right}; v=1"), vec![]).await.refused(Code::BadCbor);
        // No announced length: counted as it comes.
        let chunks = futures::stream::iter((0..2).map(|_| Ok::<_, std::io::Error>(vec![0; limits::CBOR_BODY_BYTES_MAX])));
        let request = volunteer.call(Method::POST, path).header(header::CONTENT_TYPE, right);
        Answer::of(request.body(reqwest::Body::wrap_stream(chunks))).await.refused(Code::BodyTooLarge);
    }
    world.finish().await;
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing() {
    let world = World::start().await;
    let job = world.product_job().await;
    let volunteer = world.join(1).await;
    let calls = [
        (Method::POST, "/v1/sessions".to_owned()),
        (Method::DELETE, "/v1/sessions".to_owned()),
        (Method::POST, "/v1/rotations".to_owned()),
        (Method::POST, "/v1/leases".to_owned()),
        (Method::POST, "/v1/leases/1/heartbeat".to_owned()),
        (Method::DELETE, "/v1/leases/1".to_owned()),
        (Method::POST, "/v1/results".to_owned()),
        (Method::PUT, "/v1/blobs/00?lease=1".to_owned()),
        (Method::POST, format!("/v1/admin/jobs/{job}/cancel")),
    ];
    for (method, path) in calls {
        for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")] {
            Answer::of(volunteer.call(method.clone(), &path).header(name, value)).await.refused(Code::ForeignOrigin);
        }
    }
    let preflight = Answer::of(volunteer.call(Method::OPTIONS, "/v1/leases").header("origin", "https://evil.example")).await;
    assert!(!preflight.status.is_success() && preflight.header("access-control-allow-origin").is_empty(), "{preflight}");
    let own = volunteer.call(Method::POST, "/v1/leases").header("origin", world.url());
    Answer::of(own).await.refused(Code::WrongContentType);
    world.finish().await;
}

#[tokio::test]
async fn the_page_is_served_with_a_strict_policy() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let page = volunteer.get("/").await;
    page.is(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    let parts = ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'"];
    let typed = ["require-trusted-types-for 'script'", "trusted-types manyhands-worker;"];
    for part in parts.iter().chain(&typed) {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe-") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
    let head = Answer::of(volunteer.call(Method::HEAD, "/")).await;
    assert!(head.status.is_success() && head.body.is_empty());
    world.finish().await;
}

#[tokio::test]
async fn views_say_what_there_is() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let first: InfoView = volunteer.info().await;
    assert_eq!((first.key, first.protocol_version, first.stopped), (world.app().key, limits::PROTOCOL_VERSION, false));
    assert_ne!(first.nonce, volunteer.info().await.nonce);
    let job = world.train_job().await;
    let jobs: JobsView = volunteer.get("/v1/jobs").await.json();
    let one: JobView = volunteer.get(&format!("/v1/jobs/{job}")).await.json();
    assert_eq!(jobs.jobs, std::slice::from_ref(&one));
    let train = one.train.unwrap();
    assert_eq!((train.rounds_merged, train.history.len(), one.units_total), (0, 1, 2));
    assert_eq!(train.history[0].checkpoint, train.checkpoint);
    volunteer.get(&format!("/v1/blobs/{}", train.checkpoint)).await.is(200);
    volunteer.get(&format!("/v1/blobs/{}", train.test)).await.is(200);
    world.finish().await;
}

/// The first event of a stream: its id and its view.
async fn first_event(world: &World, path: &str, seen: Option<&str>) -> Option<(String, JobView)> {
    use futures::StreamExt;
    let mut request = world.admin.get(format!("{}{path}", world.url()));
    if let Some(seen) = seen {
        request = request.header("last-event-id", seen);
    }
    let mut pieces = request.send().await.unwrap().bytes_stream();
    let wait = tokio::time::timeout(std::time::Duration::from_millis(500), pieces.next());
    let text = String::from_utf8(wait.await.ok()??.unwrap().to_vec()).unwrap();
    assert!(text.contains("event: job\n"), "{text}");
    let part = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    Some((part("id: "), serde_json::from_str(&part("data: ")).unwrap()))
}

#[tokio::test]
async fn event_streams_resume_where_they_were() {
    let world = World::start().await;
    let job = world.product_job().await;
    let path = format!("/v1/jobs/{job}/events");
    let (id, view) = first_event(&world, &path, None).await.unwrap();
    assert_eq!(view, world.view(job).await);
    assert!(first_event(&world, &path, Some(&id)).await.is_none(), "nothing new");
    world.join(1).await.lease_one().await;
    let (newer, view) = first_event(&world, &path, Some(&id)).await.unwrap();
    assert!(newer.parse::<u64>().unwrap() > id.parse().unwrap());
    assert_eq!(view.contributors_now, 1);
    assert!(first_event(&world, &path, Some("nonsense")).await.is_some());
    world.finish().await;
}

#[tokio::test]
async fn event_streams_are_bounded_and_end_with_the_coordinator() {
    let world = World::start_with(|config| config.streams_count_max = 1).await;
    let job = world.product_job().await;
    let path = format!("/v1/jobs/{job}/events");
    let open = world.admin.get(format!("{}{path}", world.url())).send().await.unwrap();
    Volunteer::new(&world.url(), 1).await.get(&path).await.refused(Code::TooManyRequests);
    let begun = std::time::Instant::now();
    world.finish().await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "the open stream held the shutdown");
    drop(open);
}
