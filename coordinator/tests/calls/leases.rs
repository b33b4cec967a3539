//! Leases: who gets a unit, for how long, and what ends it.

use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::{Backend, Consent};
use manyhands_protocol::wire::LeaseRequest;
use manyhands_protocol::{JobId, LeaseId, cbor, limits};

use crate::client::Volunteer;
use crate::world::{NOW_MS, World};

#[tokio::test]
async fn each_unit_goes_to_one_key_until_it_lapses() {
    let world = World::start().await;
    let job = world.product_job().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let leases = first.lease(3).await;
    let manifest = &leases[0].manifest;
    assert_eq!((manifest.job, manifest.issued_ms, manifest.deadline_ms), (job, NOW_MS, NOW_MS + limits::LEASE_MS));
    assert_eq!(leases.len(), 3);
    let last = second.lease_one().await;
    assert!(leases.iter().all(|lease| lease.manifest.unit != last.manifest.unit));
    assert!(first.lease(1).await.is_empty());
    // A heartbeat keeps one; the others go back after their time.
    world.clock.advance(limits::LEASE_MS - 1);
    let kept = first.heartbeat(&leases[0]).await;
    assert!(kept.keep && kept.deadline_ms == NOW_MS + 2 * limits::LEASE_MS - 1);
    assert!(second.lease(16).await.is_empty());
    world.clock.advance(1);
    world.app().idle().await;
    first.try_heartbeat(&leases[1]).await.refused(Code::LeaseEnded);
    let again: Vec<_> = second.lease(16).await.iter().map(|lease| lease.manifest.unit).collect();
    let mut lapsed = vec![leases[1].manifest.unit, leases[2].manifest.unit, last.manifest.unit];
    lapsed.sort_unstable();
    assert_eq!(again, lapsed);
    world.finish().await;
}

#[tokio::test]
async fn the_driver_ends_lapsed_leases_by_itself() {
    let world = World::start().await;
    let job = world.product_job().await;
    world.join(1).await.lease_one().await;
    assert_eq!(world.follow(job, |view| view.contributors_now == 1).await.contributors_now, 1);
    world.clock.advance(limits::LEASE_MS);
    world.follow(job, |view| view.contributors_now == 0).await;
    world.finish().await;
}

#[tokio::test]
async fn leases_are_given_back_once() {
    let world = World::start().await;
    world.product_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let lease = volunteer.lease_one().await;
    other.give_back(&lease).await.refused(Code::NotYourLease);
    other.try_heartbeat(&lease).await.refused(Code::NotYourLease);
    volunteer.give_back(&lease).await.is(204);
    volunteer.give_back(&lease).await.is(204);
    volunteer.try_heartbeat(&lease).await.refused(Code::LeaseEnded);
    assert_eq!(other.lease(16).await.len(), 4);
    volunteer.delete("/v1/leases/999").await.refused(Code::UnknownLease);
    volunteer.delete(&format!("/v1/leases/{}", u64::MAX)).await.refused(Code::UnknownLease);
    volunteer.delete("/v1/leases/-1").await.refused(Code::BadRequest);
    volunteer.delete("/v1/leases/one").await.refused(Code::BadRequest);
    let mut unknown = lease.clone();
    unknown.manifest.lease = LeaseId(999);
    volunteer.try_heartbeat(&unknown).await.refused(Code::UnknownLease);
    world.finish().await;
}

#[tokio::test]
async fn heartbeats_keep_a_lease_only_so_long() {
    let world = World::start().await;
    world.product_job().await;
    let (stalls, other) = (world.join(1).await, world.join(2).await);
    let lease = stalls.lease_one().await;
    other.lease(16).await;
    let step_ms = limits::LEASE_MS / 2;
    for _ in 0..limits::LEASE_TOTAL_MS_MAX / step_ms - 1 {
        world.clock.advance(step_ms);
        assert!(stalls.heartbeat(&lease).await.keep);
    }
    world.clock.advance(step_ms);
    let last = stalls.heartbeat(&lease).await;
    assert_eq!((last.keep, last.deadline_ms), (false, NOW_MS + limits::LEASE_TOTAL_MS_MAX + step_ms));
    world.clock.advance(step_ms);
    world.app().idle().await;
    stalls.try_heartbeat(&lease).await.refused(Code::LeaseEnded);
    assert_eq!(other.lease_one().await.manifest.unit, lease.manifest.unit);
    world.finish().await;
}

#[tokio::test]
async fn a_key_that_lets_a_unit_go_gets_it_only_so_often() {
    let world = World::start().await;
    world.train_job().await;
    let (stalls, holds) = (world.join(1).await, world.join(2).await);
    // Held by another key all the while, so that the coordinator does not take it.
    let unit = holds.lease_one().await.manifest.unit;
    for _ in 0..limits::LEASES_ENDED_MAX {
        let lease = stalls.lease_one().await;
        assert_eq!(lease.manifest.unit, unit);
        stalls.give_back(&lease).await.is(204);
    }
    assert_ne!(stalls.lease_one().await.manifest.unit, unit);
    assert!(stalls.lease(1).await.is_empty());
    assert_eq!(world.join(3).await.lease_one().await.manifest.unit, unit);
    world.finish().await;
}

#[tokio::test]
async fn requests_outside_their_bounds() {
    let world = World::start().await;
    let (job, other_job) = (world.product_job().await, world.product_job().await);
    let volunteer = world.join(1).await;
    volunteer.try_lease(0, None).await.refused(Code::BadRequest);
    volunteer.try_lease(limits::LEASES_PER_CALL_MAX + 1, None).await.refused(Code::BadRequest);
    volunteer.try_lease(1, Some(JobId(99))).await.refused(Code::UnknownJob);
    let ask = LeaseRequest { units_max: 1, backend: Backend::Other, job: None, blob_bytes_max: 64 };
    let good = cbor::encode(&ask);
    let post = async |body: &[u8]| volunteer.post("/v1/leases", "application/cbor", body.to_vec()).await;
    for cut in 0..good.len() {
        post(&good[..cut]).await.refused(Code::BadCbor);
    }
    post(&[good.as_slice(), &[0]].concat()).await.refused(Code::BadCbor);
    // A device that holds less than any unit needs gets none.
    let answer: manyhands_protocol::wire::LeaseResponse = post(&good).await.cbor();
    assert!(answer.manifests.is_empty() && answer.retry_after_ms > 0);

    let mut bound = Volunteer::new(&world.url(), 2).await;
    let consent = Consent { job: Some(job), ..bound.consent().await };
    bound.open(&consent).await;
    bound.try_lease(1, Some(other_job)).await.refused(Code::BadConsent);
    let leases = bound.lease(16).await;
    assert!(leases.len() == 4 && leases.iter().all(|lease| lease.manifest.job == job));
    world.finish().await;
}

#[tokio::test]
async fn a_key_has_a_bounded_number_of_leases() {
    let world = World::start().await;
    for _ in 0..9 {
        world.product_job().await;
    }
    let volunteer = world.join(1).await;
    assert_eq!(volunteer.lease(16).await.len(), 16);
    // Two sessions are one key.
    let again = world.join(1).await;
    assert_eq!(again.lease(16).await.len(), 16);
    volunteer.try_lease(1, None).await.refused(Code::TooManyLeases);
    assert_eq!(world.join(2).await.lease(16).await.len(), 4, "the last job's units");
    world.finish().await;
}

#[tokio::test]
async fn stop_and_pause_reach_everyone_with_the_next_heartbeat() {
    let world = World::start().await;
    let (job, other_job) = (world.product_job().await, world.product_job().await);
    let volunteer = world.join(1).await;
    let leases = volunteer.lease(8).await;
    let (ours, theirs) = (&leases[0], &leases[4]);
    assert_eq!((ours.manifest.job, theirs.manifest.job), (job, other_job));

    world.order(&format!("/jobs/{job}/pause")).await.is(200);
    assert!(!volunteer.heartbeat(ours).await.keep);
    assert!(volunteer.heartbeat(theirs).await.keep);
    volunteer.give_back(ours).await.is(204);
    assert!(volunteer.lease(1).await.is_empty());
    world.order(&format!("/jobs/{job}/resume")).await.is(200);
    assert_eq!(volunteer.lease_one().await.manifest.unit, ours.manifest.unit);

    world.order("/stop").await.is(204);
    assert!(volunteer.info().await.stopped);
    assert!(!volunteer.heartbeat(theirs).await.keep);
    volunteer.try_lease(1, None).await.refused(Code::Stopped);
    world.order("/resume").await.is(204);
    assert!(volunteer.heartbeat(theirs).await.keep);

    world.order(&format!("/jobs/{other_job}/cancel")).await.is(200);
    assert!(!volunteer.heartbeat(theirs).await.keep);
    world.finish().await;
}

#[tokio::test]
async fn stop_survives_a_restart() {
    let mut world = World::start().await;
    world.product_job().await;
    world.order("/stop").await.is(204);
    world.kill_and_restart().await;
    world.join(1).await.try_lease(1, None).await.refused(Code::Stopped);
    world.finish().await;
}
