//! The ladder above structure and algebra: adaptive replication, audits, quarantine, who may confirm whom, roll-backs, and what
//! all of that costs. Each test fails when its rung is switched off.

use std::time::Duration;

use manyhands_protocol::log::entry::{self, KeyEvent, LogCheckpoint, LogKey, LogResult, LogRetraction, LogRollBack};
use manyhands_protocol::manifest::{Inputs, JobWork, MergeRule, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::standing::{self, RUN_TRUSTED};
use manyhands_protocol::view::{JobView, KeyView, TrainView};
use manyhands_protocol::wire::{LeaseResponse, Verdict};
use manyhands_protocol::work::InnerOptimizer;
use manyhands_protocol::{JobId, limits};
use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::client::{Leased, Volunteer};
use crate::log::Log;
use crate::world::{World, examples, product_file, update_file};

/// Units of a round: enough for a key to prove itself in one.
const UNITS: u32 = RUN_TRUSTED as u32 + 2;

/// The usual small job with many units a round, and as many held-out examples as a roll-back needs.
async fn long_rounds(world: &World, change: impl FnOnce(&mut Submission)) -> JobId {
    let mut submission = world.train(1.0).await;
    let test = world.put_input(examples(3, 400)).await;
    let JobWork::Train(recipe) = &mut submission.manifest.work else { unreachable!() };
    recipe.units_per_round = UNITS;
    let Inputs::Train { test: held_out, .. } = &mut submission.inputs else { unreachable!() };
    *held_out = test;
    change(&mut submission);
    world.create(&submission).await
}

fn rounds(view: &JobView) -> u32 {
    view.train.as_ref().unwrap().rounds_merged
}

async fn submit_right(volunteer: &Volunteer, lease: &Leased) -> Verdict {
    let update = volunteer.update_bytes(lease).await;
    volunteer.submit(lease, update).await.verdict
}

/// Both keys compute all of the first round and agree.
async fn prove(world: &World, job: JobId, first: &Volunteer, second: &Volunteer) {
    let (a, b) = (first.lease(16).await, second.lease(16).await);
    assert_eq!((a.len(), b.len()), (UNITS as usize, UNITS as usize), "each unit of a new key goes to two");
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(submit_right(first, a).await, Verdict::Pending);
        submit_right(second, b).await;
    }
    world.follow(job, |view| rounds(view) == 1).await;
}

async fn key(volunteer: &Volunteer) -> KeyView {
    volunteer.get(&format!("/v1/keys/{}", volunteer.id())).await.json()
}

fn run(view: &KeyView) -> u64 {
    view.standings.iter().map(|standing| standing.run).sum()
}

/// Draws that fall on nothing: trusted keys settle their units alone.
async fn trusting() -> World {
    World::start_with(|config| config.draw = || Ok(0.999)).await
}

/// An update that is wrong and of a sane size.
async fn lie(volunteer: &Volunteer, lease: &Leased, factor: f32) -> Vec<u8> {
    let mut update = volunteer.update(lease).await;
    update.iter_mut().flatten().for_each(|v| *v *= factor);
    update_file(lease, &update)
}

/// All that the volunteer can get of a job.
async fn leases_of(volunteer: &Volunteer, job: JobId) -> Vec<Leased> {
    let response = volunteer.try_lease(16, Some(job)).await.cbor::<LeaseResponse>();
    response.manifests.into_iter().map(|signed| volunteer.open_manifest(signed.0)).collect()
}

/// Gets caught by algebra, which needs nobody else.
async fn betray(world: &World, volunteer: &Volunteer) {
    let product = world.product_job().await;
    let held = &leases_of(volunteer, product).await[0];
    let mut values = volunteer.product_values(held).await;
    values[0] += 1.0;
    assert_eq!(volunteer.submit(held, product_file(held, &values)).await.verdict, Verdict::Rejected);
}

#[tokio::test]
async fn a_key_that_proved_itself_settles_alone_and_one_failure_ends_that() {
    let world = trusting().await;
    let job = long_rounds(&world, |_| ()).await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    prove(&world, job, &first, &second).await;
    assert_eq!(run(&key(&first).await), u64::from(UNITS));
    let view = world.view(job).await;
    let tax = view.tax.unwrap();
    assert_eq!((tax.replicas, tax.audits), (1.0, 0.0), "two of everything");
    assert!(tax.checks > 0.0 && tax.total == 1.0 + tax.checks);

    let leases = first.lease(16).await;
    assert_eq!(leases.len(), UNITS as usize);
    assert!(second.lease(1).await.is_empty(), "nobody is asked to repeat them");
    for lease in &leases {
        assert_eq!(submit_right(&first, lease).await, Verdict::Accepted, "at once");
    }
    let view = world.follow(job, |view| rounds(view) == 2).await;
    assert_eq!((view.results_accepted, view.units_refereed), (u64::from(3 * UNITS), 0));
    assert_eq!(view.tax.unwrap().replicas, 0.5);
    assert_eq!(run(&key(&first).await), u64::from(UNITS), "what nobody confirmed proves nothing");

    let lease = first.lease_one().await;
    assert_eq!(first.submit(&lease, b"nothing".to_vec()).await.verdict, Verdict::Rejected);
    assert_eq!(run(&key(&first).await), 0);
    let lease = first.lease_one().await;
    assert_eq!(submit_right(&first, &lease).await, Verdict::Pending, "a new key again");
    world.finish().await;
}

#[tokio::test]
async fn a_trusted_key_is_repeated_when_the_draw_says_so() {
    let world = World::start_with(|config| config.draw = || Ok(standing::AUDIT_TRUSTED)).await;
    let job = long_rounds(&world, |_| ()).await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    // The draw is an audit's of a new key, so the referee confirms each unit.
    for lease in first.lease(16).await {
        submit_right(&first, &lease).await;
    }
    world.follow(job, |view| view.units_settled == RUN_TRUSTED).await;
    // From then on it is trusted, and this draw asks for a second key, which is not there.
    world.clock.advance(limits::REPLICA_WAIT_MS);
    world.follow(job, |view| rounds(view) == 1).await;
    assert_eq!(run(&key(&first).await), u64::from(UNITS));
    let lease = first.lease_one().await;
    let busy: Vec<_> = second.lease(16).await;
    assert!(busy.iter().all(|other| other.manifest.unit != lease.manifest.unit), "not yet");
    let wrong = lie(&first, &lease, 1.05).await;
    assert_eq!(first.submit(&lease, wrong).await.verdict, Verdict::Pending);
    let replica = second.lease_one().await;
    assert_eq!(replica.manifest.unit, lease.manifest.unit, "offered only now");
    submit_right(&second, &replica).await;
    world.follow(job, |view| view.results_rejected == 1).await;
    assert!(key(&first).await.quarantined_until_ms.is_some());
    world.finish().await;
}

#[tokio::test]
async fn an_audit_catches_two_that_agree_on_a_lie() {
    for audited in [true, false] {
        let world = if audited { World::start_with(|config| config.draw = || Ok(0.0)).await } else { World::start().await };
        let job = world.train_job().await;
        let (first, second) = (world.join(1).await, world.join(2).await);
        let (a, b) = (first.lease_one().await, second.lease_one().await);
        assert_eq!(a.manifest.unit, b.manifest.unit);
        let wrong = lie(&first, &a, -1.0).await;
        second.upload(&b, wrong.clone()).await;
        first.submit(&a, wrong.clone()).await;
        second.try_submit(&second.statement(&b, &wrong)).await;
        let view = world.follow(job, |view| view.units_settled == 1).await;
        // The second may have come too late for its unit: then it is refused rather than rejected.
        assert_eq!((view.units_refereed, view.results_accepted), if audited { (1, 0) } else { (0, 2) });
        assert_eq!(key(&first).await.quarantined_until_ms.is_some(), audited);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caught_key_loses_what_nobody_confirmed_and_gets_no_work_for_a_day() {
    let world = trusting().await;
    // Steps enough for a unit to be worth a point, and small ones.
    let long = |submission: &mut Submission| {
        let JobWork::Train(recipe) = &mut submission.manifest.work else { unreachable!() };
        recipe.inner_steps = 1_000;
        recipe.inner_optimizer = InnerOptimizer::Sgd { learning_rate: 0.0009765625, momentum: 0.5, clip_norm: 0.0 };
    };
    let job = long_rounds(&world, long).await;
    let (first, second, third) = (world.join(1).await, world.join(2).await, world.join(3).await);
    prove(&world, job, &first, &second).await;
    let before = world.view(job).await;
    // One unit that a new key confirms, two that nobody does, and one that is still in hand.
    let confirming = third.lease_one().await;
    let leases = first.lease(4).await;
    assert_eq!(leases[0].manifest.unit, confirming.manifest.unit);
    submit_right(&first, &leases[0]).await;
    submit_right(&third, &confirming).await;
    world.follow(job, |view| view.units_settled == before.units_settled + 1).await;
    for lease in &leases[1..3] {
        let wrong = lie(&first, lease, -1.0).await;
        assert_eq!(first.submit(lease, wrong).await.verdict, Verdict::Accepted, "trusted");
    }
    let settled = world.view(job).await;
    assert_eq!(settled.units_settled, before.units_settled + 3);
    world.check().await;

    betray(&world, &first).await;
    let after = world.view(job).await;
    assert_eq!(after.units_settled, before.units_settled + 1, "what the third key confirmed stays");
    assert_eq!(after.results_accepted, before.results_accepted + 2);
    assert_eq!(after.results_rejected, 2);
    first.try_heartbeat(&leases[3]).await.refused(Code::LeaseEnded);
    first.try_lease(1, None).await.refused(Code::Quarantined);
    let view = key(&first).await;
    assert_eq!(view.quarantined_until_ms, Some(crate::world::NOW_MS + standing::QUARANTINE_MS));
    assert_eq!(run(&view), 0);
    world.check().await;
    // The log tells both, and credits what is left.
    world.app().append_log().await.unwrap();
    let log = Log::read(&second).await;
    let caught = LogKey { version: entry::VERSION, key: first.id(), event: KeyEvent::Quarantined, successor: None };
    assert_eq!(log.of::<LogKey>(&second), [caught]);
    let mut retracted: Vec<_> = log.of(&second).iter().map(|retraction: &LogRetraction| retraction.unit).collect();
    retracted.sort();
    assert_eq!(retracted, [leases[1].manifest.unit, leases[2].manifest.unit]);
    let each = log.of::<LogResult>(&second)[0].credit.points();
    assert!(each > 0);
    assert_eq!(log.points(&first).await, view.totals.accepted * each);
    assert_eq!(log.points(&second).await, key(&second).await.totals.accepted * each);
    // Someone else computes them.
    for lease in leases_of(&second, job).await {
        assert_eq!(submit_right(&second, &lease).await, Verdict::Accepted);
    }
    world.follow(job, |view| rounds(view) == 2).await;
    // A day later it begins anew.
    world.clock.advance(standing::QUARANTINE_MS);
    let again = world.join(1).await;
    let lease = &leases_of(&again, job).await[0];
    assert_eq!(submit_right(&again, lease).await, Verdict::Pending);
    world.finish().await;
}

/// The network that a volunteer seems to come from.
async fn join_from(world: &World, seed: u8, address: &'static str) -> Volunteer {
    let mut volunteer = world.join(seed).await;
    let headers =
        HeaderMap::from_iter([(reqwest::header::HeaderName::from_static("x-forwarded-for"), HeaderValue::from_static(address))]);
    volunteer.http = Client::builder().default_headers(headers).build().unwrap();
    volunteer
}

async fn behind_a_proxy() -> World {
    World::start_with(|config| {
        config.forwarded_header = Some(manyhands_coordinator::config::HeaderName::from_static("x-forwarded-for"));
        config.draw = crate::world::replicas_only;
    })
    .await
}

#[tokio::test]
async fn keys_of_one_network_confirm_nothing_for_each_other_and_nothing_waits() {
    let world = behind_a_proxy().await;
    let job = world.train_job().await;
    let first = join_from(&world, 1, "192.0.2.1").await;
    let beside = join_from(&world, 2, "192.0.2.200").await;
    let elsewhere = join_from(&world, 3, "198.51.100.1, 203.0.113.9").await;
    let held = first.lease_one().await;
    let other = beside.lease_one().await;
    assert_ne!(held.manifest.unit, other.manifest.unit, "not a replica of its neighbour's");
    assert!(beside.lease(16).await.is_empty() && first.lease(16).await.is_empty());
    let replica = elsewhere.lease_one().await;
    assert_eq!(replica.manifest.unit, held.manifest.unit);
    submit_right(&first, &held).await;
    submit_right(&elsewhere, &replica).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!(view.units_refereed, 0);
    // Where nobody comes from elsewhere, the referee does it.
    submit_right(&beside, &other).await;
    world.clock.advance(limits::REPLICA_WAIT_MS);
    let view = world.follow(job, |view| view.units_settled == 2).await;
    assert_eq!(view.units_refereed, 1);
    world.finish().await;
}

#[tokio::test]
async fn prefixes_are_stored_as_tags_alone_and_forgotten_after_a_day() {
    let world = behind_a_proxy().await;
    world.train_job().await;
    let volunteer = join_from(&world, 1, "192.0.2.1").await;
    volunteer.lease_one().await;
    let tags = async || world.database().bytes("SELECT prefix FROM sessions WHERE prefix IS NOT NULL").await;
    let stored = tags().await;
    assert_eq!(stored.iter().map(Vec::len).collect::<Vec<_>>(), [32]);
    let public = |bytes: &[u8]| manyhands_coordinator::keys::sha256(bytes).to_vec();
    assert!(!stored.contains(&public(&[192, 0, 2])) && !stored.contains(&public(b"192.0.2.1")));
    world.clock.advance(24 * 3_600_000);
    let forgotten = async {
        while !tags().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), forgotten).await.expect("the tags are forgotten");
    world.finish().await;
}

/// Two that agree on a lie make the model worse: the merge is undone, the referee finds them out, and the round ends with the
/// model that honest keys would have made.
#[tokio::test]
async fn a_merge_that_makes_the_model_worse_is_undone_and_its_units_are_audited() {
    let plain = |submission: &mut Submission| {
        let JobWork::Train(recipe) = &mut submission.manifest.work else { unreachable!() };
        (recipe.units_per_round, recipe.merge) = (2, MergeRule::Mean);
    };
    let mut checkpoints = Vec::new();
    for lying in [false, true] {
        let world = World::start().await;
        let job = long_rounds(&world, plain).await;
        let (first, second) = (world.join(1).await, world.join(2).await);
        let (a, b) = (first.lease(16).await, second.lease(16).await);
        for (a, b) in a.iter().zip(&b) {
            let update = if lying { lie(&first, a, -60.0).await } else { first.update_bytes(a).await };
            first.submit(a, update.clone()).await;
            second.submit(b, update).await;
        }
        let view = world.follow(job, |view| rounds(view) == 1).await;
        assert_eq!(view.units_refereed, if lying { 2 } else { 0 });
        assert_eq!((view.results_accepted, view.results_rejected), if lying { (0, 4) } else { (4, 0) });
        for volunteer in [&first, &second] {
            assert_eq!(key(volunteer).await.quarantined_until_ms.is_some(), lying);
        }
        let train: TrainView = view.train.unwrap();
        assert_eq!(train.merges_undone, u32::from(lying));
        world.app().append_log().await.unwrap();
        let log = Log::read(&first).await;
        let undone: Vec<LogRollBack> = log.of(&first);
        assert_eq!(undone.len(), usize::from(lying));
        assert!(
            undone
                .iter()
                .all(|undone| (undone.job, undone.round, undone.to) == (job, 0, log.of::<LogCheckpoint>(&first)[0].state))
        );
        let retracted = log.of::<LogRetraction>(&first).len();
        assert_eq!((log.of::<LogResult>(&first).len(), retracted), if lying { (4, 4) } else { (4, 0) });
        checkpoints.push(train.checkpoint);
        world.finish().await;
    }
    assert_eq!(checkpoints[0], checkpoints[1]);
}
