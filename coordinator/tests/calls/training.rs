//! Gradient units: two keys that agree, the referee where they do not, and rounds until the job ends.

use std::sync::Arc;

use manyhands_coordinator::clock::ManualClock;
use manyhands_coordinator::{App, Config};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{JobState, JobView, KeyView};
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::{JobId, limits};

use crate::client::{Leased, Volunteer};
use crate::database::Database;
use crate::faulty::{Fault, Faulty};
use crate::world::{NOW_MS, World, train_work, update_file};

/// The verdict on a result, once the driver has settled its unit.
async fn verdict(volunteer: &Volunteer, lease: &Leased, output: &[u8]) -> ResultResponse {
    volunteer.try_submit(&volunteer.statement(lease, output)).await.cbor()
}

/// The unit's two leases, for two volunteers.
async fn same_unit(first: &Volunteer, second: &Volunteer) -> (Leased, Leased) {
    let (a, b) = (first.lease_one().await, second.lease_one().await);
    assert_eq!(a.manifest.unit, b.manifest.unit);
    (a, b)
}

#[tokio::test]
async fn two_honest_keys_train_to_the_end_without_a_referee() {
    let world = World::start().await;
    let job = world.train_job().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    for round in 0..3 {
        for _ in 0..2 {
            let (a, b) = same_unit(&first, &second).await;
            assert_eq!(train_work(&a).round, round);
            let update = first.update_bytes(&a).await;
            assert_eq!(first.submit(&a, update.clone()).await.verdict, Verdict::Pending);
            second.submit(&b, update).await;
        }
        world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == round + 1).await;
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.units_settled, view.units_refereed, view.results_accepted, view.contributors), (6, 0, 12, 2));
    let train = view.train.unwrap();
    assert_eq!(train.history.iter().map(|round| round.round).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_ne!(train.history[0].checkpoint, train.history[3].checkpoint);
    let totals = first.get(&format!("/v1/keys/{}", first.id())).await.json::<KeyView>().totals;
    let products = 6 * 5 + 5 * 3;
    assert_eq!((totals.accepted, totals.pending, totals.credit_flop), (6, 0, 6 * (6 * products * 4 * 3)));
    assert!(first.lease(1).await.is_empty());
    let path = format!("/jobs/{job}/export");
    let exported = crate::client::Answer::of(world.operator(reqwest::Method::GET, &path)).await;
    assert_eq!(manyhands_coordinator::keys::blob_hash(&exported.body), train.checkpoint);
    world.finish().await;
}

#[tokio::test]
async fn one_key_alone_is_joined_by_the_referee() {
    let world = World::start().await;
    let job = world.train_job().await;
    let volunteer = world.join(1).await;
    let leases = volunteer.lease(16).await;
    assert_eq!(leases.len(), 2, "one key gets each unit once");
    assert!(volunteer.lease(1).await.is_empty(), "also while it works on them");
    let mut outputs = Vec::new();
    for lease in &leases {
        let output = volunteer.update_bytes(lease).await;
        assert_eq!(volunteer.submit(lease, output.clone()).await.verdict, Verdict::Pending);
        outputs.push(output);
    }
    assert!(volunteer.lease(1).await.is_empty());
    world.clock.advance(limits::REPLICA_WAIT_MS - 1);
    assert_eq!(verdict(&volunteer, &leases[0], &outputs[0]).await.verdict, Verdict::Pending);
    world.clock.advance(1);
    let view = world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
    assert_eq!((view.units_settled, view.units_refereed), (2, 2));
    let judged = verdict(&volunteer, &leases[0], &outputs[0]).await;
    assert_eq!((judged.verdict, judged.reason.as_str()), (Verdict::Accepted, ""));
    assert!(judged.credit_flop > 0);
    world.finish().await;
}

#[tokio::test]
async fn a_second_key_at_work_gets_time_to_finish() {
    let world = World::start().await;
    let job = world.train_job().await;
    let (fast, slow) = (world.join(1).await, world.join(2).await);
    let (ours, theirs) = same_unit(&fast, &slow).await;
    let alone = fast.lease_one().await;
    let shared = fast.update_bytes(&ours).await;
    fast.submit(&ours, shared.clone()).await;
    let output = fast.update_bytes(&alone).await;
    fast.submit(&alone, output.clone()).await;
    world.clock.advance(limits::REPLICA_WAIT_MS);
    // The unit that nobody else has taken is refereed, the other waits for its second key.
    world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!(verdict(&fast, &alone, &output).await.verdict, Verdict::Accepted);
    assert_eq!(verdict(&fast, &ours, &shared).await.verdict, Verdict::Pending);
    slow.submit(&theirs, shared).await;
    let view = world.follow(job, |view| view.units_settled == 2).await;
    assert_eq!((view.units_refereed, view.results_accepted), (1, 3));
    // One that stalls holds the round no longer than its limit.
    world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
    let (ours, _) = same_unit(&fast, &slow).await;
    let output = fast.update_bytes(&ours).await;
    fast.submit(&ours, output).await;
    world.clock.advance(limits::REPLICA_LEASED_WAIT_MS);
    let view = world.follow(job, |view| view.units_settled == 3).await;
    assert_eq!(view.units_refereed, 2);
    world.finish().await;
}

/// A lie against an honest partner: the referee tells them apart, whoever was first.
async fn lie_is_caught(name: &str, lie: impl Fn(&mut Vec<Vec<f32>>)) {
    for liar_first in [true, false] {
        let world = World::start().await;
        let job = world.train_job().await;
        let (honest, liar) = (world.join(1).await, world.join(2).await);
        let (ours, theirs) = same_unit(&honest, &liar).await;
        let right = honest.update(&ours).await;
        let mut wrong = right.clone();
        lie(&mut wrong);
        let (right, wrong) = (update_file(&ours, &right), update_file(&theirs, &wrong));
        if liar_first {
            liar.submit(&theirs, wrong.clone()).await;
            honest.submit(&ours, right.clone()).await;
        } else {
            honest.submit(&ours, right.clone()).await;
            liar.submit(&theirs, wrong.clone()).await;
        }
        let view = world.follow(job, |view| view.units_settled == 1).await;
        assert_eq!((view.units_refereed, view.results_accepted, view.results_rejected), (1, 1, 1), "{name}");
        assert_eq!(verdict(&honest, &ours, &right).await.verdict, Verdict::Accepted, "{name}");
        let judged = verdict(&liar, &theirs, &wrong).await;
        assert_eq!((judged.verdict, judged.credit_flop), (Verdict::Rejected, 0), "{name}");
        assert!(judged.reason.starts_with("disagrees:"), "{name}: {}", judged.reason);
        let hash = |bytes| manyhands_coordinator::keys::blob_hash(bytes);
        honest.get(&format!("/v1/blobs/{}", hash(&right))).await.is(200);
        honest.get(&format!("/v1/blobs/{}", hash(&wrong))).await.refused(Code::UnknownBlob);
        world.finish().await;
    }
}

#[tokio::test]
async fn noise_is_caught() {
    lie_is_caught("noise", |update| {
        let mut state = 1u32;
        update.iter_mut().flatten().for_each(|v| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *v = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
        });
    })
    .await;
}

/// All who computed nothing agree with each other: no second key is asked.
#[tokio::test]
async fn zeros_go_to_the_referee() {
    let world = World::start().await;
    let job = world.train_job().await;
    let (lazy, lazy_too) = (world.join(1).await, world.join(2).await);
    let (ours, _) = same_unit(&lazy, &lazy_too).await;
    let zeros: Vec<Vec<f32>> = lazy.update(&ours).await.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
    lazy.submit(&ours, update_file(&ours, &zeros)).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.units_refereed, view.results_accepted, view.results_rejected), (1, 0, 1));
    world.finish().await;
}

#[tokio::test]
async fn five_and_ten_percent_are_caught() {
    lie_is_caught("five percent", |update| update.iter_mut().flatten().for_each(|v| *v *= 1.05)).await;
    lie_is_caught("ten percent", |update| update.iter_mut().flatten().for_each(|v| *v *= 0.90)).await;
}

#[tokio::test]
async fn a_stale_update_is_caught() {
    let world = World::start().await;
    let job = world.train_job().await;
    let (honest, liar) = (world.join(1).await, world.join(2).await);
    let mut stale = Vec::new();
    for _ in 0..2 {
        let (a, b) = same_unit(&honest, &liar).await;
        stale = honest.update_bytes(&a).await;
        honest.submit(&a, stale.clone()).await;
        liar.submit(&b, stale.clone()).await;
    }
    world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
    // The last round's update again, for this round's units: the right one for the wrong checkpoint.
    let (a, b) = same_unit(&honest, &liar).await;
    let fresh = honest.update_bytes(&a).await;
    assert_ne!(fresh, stale);
    liar.submit(&b, stale.clone()).await;
    honest.submit(&a, fresh.clone()).await;
    world.follow(job, |view| view.results_rejected == 1).await;
    assert_eq!(verdict(&liar, &b, &stale).await.verdict, Verdict::Rejected);
    assert_eq!(verdict(&honest, &a, &fresh).await.verdict, Verdict::Accepted);
    world.finish().await;
}

#[tokio::test]
async fn two_lies_that_differ_leave_the_referees_own_update() {
    let world = World::start().await;
    let job = world.train_job().await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let (a, b) = same_unit(&first, &second).await;
    let right = first.update(&a).await;
    let scaled = |by: f32| {
        let mut update = right.clone();
        update.iter_mut().flatten().for_each(|v| *v *= by);
        update_file(&a, &update)
    };
    first.submit(&a, scaled(0.5)).await;
    second.submit(&b, scaled(2.0)).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.results_accepted, view.results_rejected, view.units_refereed), (0, 2, 1));
    let own = update_file(&a, &right);
    first.get(&format!("/v1/blobs/{}", manyhands_coordinator::keys::blob_hash(&own))).await.is(200);
    world.finish().await;
}

#[tokio::test]
async fn malformed_and_absurd_updates_are_rejected_at_once_and_the_unit_goes_on() {
    let world = World::start().await;
    let job = world.train_job().await;
    type Lie = fn(&mut Vec<Vec<f32>>);
    let lies: [(&str, Lie); 3] = [
        ("not_finite", |update| update[0][0] = f32::NAN),
        ("not_finite", |update| update[1][0] = f32::NEG_INFINITY),
        ("wrong_tensor", |update| update.iter_mut().flatten().for_each(|v| *v = 1e6)),
    ];
    for (seed, (word, lie)) in (1..).zip(lies) {
        let liar = world.join(seed).await;
        let lease = liar.lease_one().await;
        let mut update = liar.update(&lease).await;
        lie(&mut update);
        let judged = liar.submit(&lease, update_file(&lease, &update)).await;
        assert_eq!(judged.verdict, Verdict::Rejected);
        assert!(judged.reason.starts_with(word), "{}", judged.reason);
    }
    let cut = world.join(8).await;
    let lease = cut.lease_one().await;
    let bytes = cut.update_bytes(&lease).await;
    let judged = cut.submit(&lease, bytes[..bytes.len() - 4].to_vec()).await;
    assert!(judged.verdict == Verdict::Rejected && judged.reason.starts_with("bad_tensor_file"), "{}", judged.reason);
    // None of these counts as one of the two.
    let (first, second) = (world.join(10).await, world.join(11).await);
    let (a, b) = same_unit(&first, &second).await;
    let right = first.update_bytes(&a).await;
    assert_eq!(first.submit(&a, right.clone()).await.verdict, Verdict::Pending);
    second.submit(&b, right).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.units_refereed, view.results_accepted, view.results_rejected), (0, 2, 4));
    world.finish().await;
}

#[tokio::test]
async fn a_third_result_is_judged_by_what_settled_the_unit() {
    let world = World::start_with(|config| config.replica_wait_ms = u64::MAX).await;
    let job = world.train_job().await;
    let (slow, first, second) = (world.join(1).await, world.join(2).await, world.join(3).await);
    let late = slow.lease_one().await;
    let output = slow.update_bytes(&late).await;
    slow.upload(&late, output.clone()).await;
    world.clock.advance(limits::LEASE_MS);
    world.app().idle().await;
    let (a, b) = same_unit(&first, &second).await;
    assert_eq!(a.manifest.unit, late.manifest.unit);
    // Late, and before the unit is settled: a full part, and the third key's is judged after.
    first.submit(&a, output.clone()).await;
    let judged = verdict(&slow, &late, &output).await;
    world.follow(job, |view| view.units_settled == 1).await;
    assert_ne!(judged.verdict, Verdict::Rejected);
    second.upload(&b, output.clone()).await;
    second.try_submit(&second.statement(&b, &output)).await.refused(Code::UnitSettled);
    assert!(!second.heartbeat(&b).await.keep);
    assert_eq!(verdict(&slow, &late, &output).await.verdict, Verdict::Accepted);
    world.finish().await;
}

/// A coordinator on a store with this fault.
struct Watched {
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Arc<Faulty>,
    app: App,
    world: World,
    _database: Database,
}

async fn watched(fault: Fault) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let mut config = Config::new(folder.path());
    config.listen.set_port(0);
    config.opening_units_count = 0;
    config.draw = crate::world::replicas_only;
    config.clock = clock.clone();
    let database = Database::new(folder.path()).await;
    let store = Arc::new(Faulty::new(database.open().await, fault));
    let app = App::start_with(config, store.clone()).await.unwrap();
    let world = World::watching(&app);
    Watched { _folder: folder, clock, store, app, world, _database: database }
}

impl Watched {
    async fn finish(self) {
        assert_eq!(self.app.check_invariants().await.unwrap(), Vec::<String>::new());
        self.app.shutdown().await;
    }
}

/// Whoever submits lies for many units must not hold up everything else.
#[tokio::test]
async fn the_driver_looks_around_after_each_refereed_unit() {
    let w = watched(Fault::None).await;
    let job = w.world.train_job().await;
    let volunteer = w.world.join(1).await;
    for lease in volunteer.lease(16).await {
        let output = volunteer.update_bytes(&lease).await;
        volunteer.submit(&lease, output).await;
    }
    w.clock.advance(limits::REPLICA_WAIT_MS);
    w.world.follow(job, |view| view.units_refereed == 2).await;
    let calls = w.store.calls(&["settle", "jobs_to_advance"]);
    let settled: Vec<_> = (0..calls.len()).filter(|&at| calls[at] == "settle").collect();
    assert!(settled.len() == 2 && settled[1] > settled[0] + 1, "{calls:?}");
    w.finish().await;
}

#[tokio::test]
async fn asking_for_a_verdict_repeats_no_check() {
    let w = watched(Fault::None).await;
    w.world.train_job().await;
    let volunteer = w.world.join(1).await;
    let lease = volunteer.lease_one().await;
    let output = volunteer.update_bytes(&lease).await;
    assert_eq!(volunteer.submit(&lease, output.clone()).await.verdict, Verdict::Pending);
    let checks = w.store.calls(&["unit"]).len();
    for _ in 0..3 {
        assert_eq!(verdict(&volunteer, &lease, &output).await.verdict, Verdict::Pending);
    }
    assert_eq!((checks, w.store.calls(&["unit"]).len()), (1, 1));
    w.finish().await;
}

/// Keys that let their leases lapse and then submit together: the referee reads a bounded number of updates at once.
#[tokio::test]
async fn many_results_of_one_unit_are_all_judged() {
    let w = watched(Fault::Verdicts).await;
    let job = w.world.train_job().await;
    let mut all = Vec::new();
    for pair in 0..3 {
        let (first, second) = (w.world.join(2 * pair + 1).await, w.world.join(2 * pair + 2).await);
        let (a, b) = same_unit(&first, &second).await;
        let mut update = first.update(&a).await;
        for (volunteer, lease) in [(first, a), (second, b)] {
            let output = update_file(&lease, &update);
            volunteer.upload(&lease, output.clone()).await;
            all.push((volunteer, lease, output));
            // Each other one lies.
            update.iter_mut().flatten().for_each(|v| *v *= 0.5);
        }
        w.clock.advance(limits::LEASE_MS);
    }
    for (volunteer, lease, output) in &all {
        assert_eq!(lease.manifest.unit, all[0].1.manifest.unit);
        assert_eq!(verdict(volunteer, lease, output).await.verdict, Verdict::Pending);
    }
    w.store.mend();
    let judged_before = w.store.calls(&["judge"]).len();
    w.clock.advance(limits::LEASE_MS / 2);
    let view = w.world.follow(job, |view| view.results_accepted + view.results_rejected == 6).await;
    assert_eq!((view.results_accepted, view.results_rejected, view.units_settled), (3, 3, 1));
    // Four with the settlement, the other two after it.
    assert_eq!(w.store.calls(&["judge"]).len() - judged_before, 2);
    w.finish().await;
}

/// Three results are in when the unit is settled by the first two: the third is judged by what they settled.
async fn third_is_judged(lie: impl Fn(&mut Vec<Vec<f32>>), expected: Verdict) {
    let Watched { _folder, clock, store, app, world, _database } = watched(Fault::Verdicts).await;
    let job = world.train_job().await;
    let (late, first, second) = (world.join(1).await, world.join(2).await, world.join(3).await);
    let old = late.lease_one().await;
    let right = late.update(&old).await;
    let mut third = right.clone();
    lie(&mut third);
    let (right, third) = (update_file(&old, &right), update_file(&old, &third));
    late.upload(&old, third.clone()).await;
    clock.advance(limits::LEASE_MS);
    // Who takes a lease while the driver ends the old one may get another unit.
    app.idle().await;
    let (a, b) = same_unit(&first, &second).await;
    assert_eq!(a.manifest.unit, old.manifest.unit);
    for (volunteer, lease) in [(&first, &a), (&second, &b)] {
        assert_eq!(volunteer.submit(lease, right.clone()).await.verdict, Verdict::Pending);
    }
    assert_eq!(verdict(&late, &old, &third).await.verdict, Verdict::Pending);
    store.mend();
    clock.advance(limits::LEASE_MS / 2);
    let judged = |view: &JobView| view.results_accepted + view.results_rejected == 3;
    let view = world.follow(job, judged).await;
    assert_eq!((view.units_settled, view.units_refereed), (1, 0));
    assert_eq!(verdict(&first, &a, &right).await.verdict, Verdict::Accepted);
    assert_eq!(verdict(&late, &old, &third).await.verdict, expected);
    assert_eq!(app.check_invariants().await.unwrap(), Vec::<String>::new());
    app.shutdown().await;
}

#[tokio::test]
async fn a_late_result_is_judged_like_the_others() {
    third_is_judged(|_| (), Verdict::Accepted).await;
    third_is_judged(|update| update.iter_mut().flatten().for_each(|v| *v *= 1.05), Verdict::Rejected).await;
}

#[tokio::test]
async fn a_target_in_reach_ends_the_job() {
    let world = World::start().await;
    let job = world.create(&world.train(0.0).await).await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    for _ in 0..2 {
        let (a, b) = same_unit(&first, &second).await;
        let update = first.update_bytes(&a).await;
        first.submit(&a, update.clone()).await;
        second.submit(&b, update).await;
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!(view.train.unwrap().rounds_merged, 1);
    assert_eq!(job, JobId(1));
    world.finish().await;
}
