//! Consent: what opens a session and what does not.

use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::Consent;
use manyhands_protocol::wire::SessionOpened;
use manyhands_protocol::{JobId, KeyId, cbor, cose, limits};
use reqwest::{Method, header};

use crate::client::{Answer, Volunteer};
use crate::world::World;

#[tokio::test]
async fn a_consent_opens_a_session_once() {
    let world = World::start().await;
    let mut volunteer = Volunteer::new(&world.url(), 1).await;
    volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.refused(Code::UnknownKey);
    let consent = volunteer.consent().await;
    let answer = volunteer.try_open(&consent).await;
    answer.is(201);
    let opened: SessionOpened = answer.cbor();
    assert_eq!(opened.expires_ms, consent.expires_ms);
    volunteer.try_open(&consent).await.refused(Code::BadNonce);
    volunteer.token = opened.token;
    assert!(volunteer.lease(1).await.is_empty());
    volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.is(200);
    world.finish().await;
}

/// A page, or its server, that got hold of a visitor's statement.
#[tokio::test]
async fn a_consent_that_others_got_hold_of_opens_nothing() {
    let world = World::start().await;
    let mut volunteer = Volunteer::new(&world.url(), 1).await;
    let consent = volunteer.consent().await;
    let statement = volunteer.sign(cose::Kind::Consent, cbor::encode(&consent));
    let post = async |origin: Option<&str>, body: Vec<u8>| {
        let request = volunteer.call(Method::POST, "/v1/sessions").header(header::CONTENT_TYPE, "application/cose");
        Answer::of(origin.into_iter().fold(request, |request, origin| request.header(header::ORIGIN, origin)).body(body)).await
    };
    // From a page it is refused, before the visitor's own call and after it; from a server once the visitor used it.
    post(Some("https://shop.example"), statement.clone()).await.refused(Code::ForeignOrigin);
    let opened: SessionOpened = post(None, statement.clone()).await.cbor();
    post(Some("https://shop.example"), statement.clone()).await.refused(Code::ForeignOrigin);
    post(None, statement.clone()).await.refused(Code::BadNonce);
    // With a nonce of their own they would need the visitor's key.
    let mut forged = cose::open(cose::Kind::Consent, &statement).unwrap();
    let nonce = volunteer.consent().await.nonce;
    let at = forged.payload.windows(nonce.len()).position(|bytes| bytes == consent.nonce).unwrap();
    forged.payload[at..at + nonce.len()].copy_from_slice(&nonce);
    let forged = cose::prepare(cose::Kind::Consent, volunteer.id(), forged.payload).finish(forged.signature);
    post(None, forged).await.refused(Code::BadSignature);
    volunteer.token = opened.token;
    assert!(volunteer.lease(1).await.is_empty(), "the visitor's own session goes on");
    world.finish().await;
}

#[tokio::test]
async fn a_nonce_used_before_a_restart_is_used() {
    let mut world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let consent = volunteer.consent().await;
    volunteer.try_open(&consent).await.is(201);
    world.kill_and_restart().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    volunteer.try_open(&consent).await.refused(Code::BadNonce);
    world.finish().await;
}

#[tokio::test]
async fn consents_out_of_bounds_open_nothing() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let now = volunteer.info().await.now_ms;
    let refused = async |code: Code, change: &dyn Fn(&mut Consent)| {
        let mut consent = volunteer.consent().await;
        change(&mut consent);
        volunteer.try_open(&consent).await.refused(code);
    };
    refused(Code::BadConsent, &|c| c.version = 2).await;
    refused(Code::BadConsent, &|c| c.audience = KeyId([7; 32])).await;
    refused(Code::BadConsent, &|c| c.terms_version += 1).await;
    refused(Code::BadConsent, &|c| c.duty_percent = 0).await;
    refused(Code::BadConsent, &|c| c.duty_percent = 101).await;
    refused(Code::BadConsent, &|c| c.origin = String::new()).await;
    refused(Code::BadConsent, &|c| c.origin = "x".repeat(limits::TEXT_BYTES_MAX + 1)).await;
    refused(Code::BadConsent, &|c| c.site = "x".repeat(limits::TEXT_BYTES_MAX + 1)).await;
    refused(Code::BadConsent, &|c| c.expires_ms = now).await;
    refused(Code::BadConsent, &|c| (c.issued_ms, c.expires_ms) = (now + 9, now + 8)).await;
    refused(Code::BadConsent, &|c| c.expires_ms += 1).await;
    refused(Code::BadConsent, &|c| c.issued_ms = now + limits::CLOCK_SKEW_MS + 1).await;
    refused(Code::BadConsent, &|c| (c.issued_ms, c.expires_ms) = (0, u64::MAX)).await;
    refused(Code::BadNonce, &|c| c.nonce[0] ^= 1).await;
    refused(Code::BadNonce, &|c| c.nonce.clear()).await;
    refused(Code::UnknownJob, &|c| c.job = Some(JobId(99))).await;
    refused(Code::UnknownJob, &|c| c.job = Some(JobId(u64::MAX))).await;
    let old = volunteer.consent().await;
    world.clock.advance(limits::NONCE_MS + 1);
    volunteer.try_open(&old).await.refused(Code::BadNonce);
    // A clock that is a little ahead is no lie.
    let mut ahead = volunteer.consent().await;
    ahead.issued_ms += limits::CLOCK_SKEW_MS;
    volunteer.try_open(&ahead).await.is(201);
    world.finish().await;
}

#[tokio::test]
async fn a_job_must_be_approved_before_anyone_consents_to_it() {
    let world = World::start().await;
    let job = JobId(1);
    let answer = world.try_create(&world.product().await).await;
    assert_eq!(answer.json::<manyhands_protocol::view::JobView>().id, job);
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let open = async || {
        let consent = Consent { job: Some(job), ..volunteer.consent().await };
        volunteer.try_open(&consent).await
    };
    open().await.refused(Code::UnknownJob);
    volunteer.get("/v1/jobs/1").await.refused(Code::UnknownJob);
    volunteer.get("/v1/jobs/1/events").await.refused(Code::UnknownJob);
    assert!(!String::from_utf8(volunteer.get("/v1/jobs").await.body).unwrap().contains("Small"));
    world.order("/jobs/1/approve").await.is(200);
    open().await.is(201);
    world.order("/jobs/1/cancel").await.is(200);
    open().await.refused(Code::WrongJobState);
    world.finish().await;
}

#[tokio::test]
async fn bytes_and_signatures_that_are_not_a_consent() {
    let world = World::start().await;
    let volunteer = Volunteer::new(&world.url(), 1).await;
    let payload = cbor::encode(&volunteer.consent().await);
    let good = volunteer.sign(cose::Kind::Consent, payload.clone());
    let post = async |body: Vec<u8>| volunteer.post("/v1/sessions", "application/cose", body).await;
    for cut in [0, 1, 2, 40, good.len() / 2, good.len() - 1] {
        post(good[..cut].to_vec()).await.refused(Code::BadCbor);
    }
    post([good.as_slice(), &[0]].concat()).await.refused(Code::BadCbor);
    let signed = |payload: &[u8]| volunteer.sign(cose::Kind::Consent, payload.to_vec());
    post(signed(&payload[..payload.len() - 1])).await.refused(Code::BadCbor);
    post(signed(&[payload.as_slice(), &[0]].concat())).await.refused(Code::BadCbor);
    let mut other_bytes = good.clone();
    let at = good.len() - 70; // inside the payload
    other_bytes[at] ^= 1;
    post(other_bytes).await.refused(Code::BadSignature);
    let mut other_signature = good.clone();
    *other_signature.last_mut().unwrap() ^= 1;
    post(other_signature).await.refused(Code::BadSignature);
    // Another key's signature under this key's name.
    let other = Volunteer::new(&world.url(), 2).await;
    let unsigned = cose::prepare(cose::Kind::Consent, volunteer.id(), payload.clone());
    let signature = ed25519_dalek::Signer::sign(&other.key, &unsigned.to_be_signed());
    post(unsigned.finish(signature.to_bytes())).await.refused(Code::BadSignature);
    post(volunteer.sign(cose::Kind::Result, payload.clone())).await.refused(Code::WrongContentType);
    // The algorithm in the protected header: -7 (ES256) in place of -8.
    let at = good.windows(2).position(|pair| pair == [0x01, 0x27]).unwrap() + 1;
    let mut es256 = good.clone();
    es256[at] = 0x26;
    post(es256).await.refused(Code::WrongAlgorithm);
    post(good).await.is(201);
    world.finish().await;
}

#[tokio::test]
async fn sessions_end() {
    let world = World::start().await;
    world.product_job().await;
    let mut volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    world.clock.advance(limits::SESSION_MS_MAX);
    volunteer.try_lease(1, None).await.refused(Code::SessionExpired);
    volunteer.try_heartbeat(&lease).await.refused(Code::SessionExpired);
    let consent = volunteer.consent().await;
    volunteer.open(&consent).await;
    volunteer.lease_one().await;
    volunteer.delete("/v1/sessions").await.is(204);
    volunteer.try_lease(1, None).await.refused(Code::NoSession);
    volunteer.delete("/v1/sessions").await.refused(Code::NoSession);
    volunteer.token = "0".repeat(64);
    volunteer.try_lease(1, None).await.refused(Code::NoSession);
    volunteer.token = String::new();
    volunteer.try_lease(1, None).await.refused(Code::NoSession);
    world.finish().await;
}

#[tokio::test]
async fn withdrawal_gives_leases_back() {
    let world = World::start().await;
    let job = world.product_job().await;
    let volunteer = world.join(1).await;
    assert_eq!(volunteer.lease(16).await.len(), 4);
    assert_eq!(world.view(job).await.contributors_now, 1);
    let other = world.join(2).await;
    assert!(other.lease(1).await.is_empty());
    volunteer.delete("/v1/sessions").await.is(204);
    assert_eq!(world.view(job).await.contributors_now, 0);
    assert_eq!(other.lease(16).await.len(), 4);
    world.finish().await;
}

/// Whoever opens sessions for the sake of the log's entries is held up, and nobody of another network.
#[tokio::test]
async fn a_network_opens_so_many_sessions_and_no_more() {
    let world = World::start_with(|config| {
        config.forwarded_header = Some(manyhands_coordinator::config::HeaderName::from_static("x-forwarded-for"));
        config.sessions_per_network_max = 2;
    })
    .await;
    let open = async |seed, address: &'static str| {
        let mut volunteer = Volunteer::new(&world.url(), seed).await;
        let header =
            (reqwest::header::HeaderName::from_static("x-forwarded-for"), reqwest::header::HeaderValue::from_static(address));
        volunteer.http =
            reqwest::Client::builder().default_headers(reqwest::header::HeaderMap::from_iter([header])).build().unwrap();
        volunteer.try_open(&volunteer.consent().await).await
    };
    open(1, "192.0.2.1").await.is(201);
    open(2, "192.0.2.2").await.is(201);
    open(3, "192.0.2.3").await.refused(Code::TooManyRequests);
    open(4, "192.0.3.1").await.is(201);
    open(5, "127.0.0.1").await.is(201);
    world.clock.advance(3_600_000);
    open(3, "192.0.2.3").await.is(201);
    world.finish().await;
}
