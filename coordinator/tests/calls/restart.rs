//! Kills and failed writes: whatever was reported as done stays done, the rest is done again, and every invariant holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use manyhands_coordinator::clock::ManualClock;
use manyhands_coordinator::{App, Config};
use manyhands_protocol::problem::{Code, Problem};
use manyhands_protocol::view::{JobState, JobView};
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::{BlobHash, JobId, limits};

use crate::client::{Answer, Leased, Volunteer};
use crate::database::Database;
use crate::faulty::{Fault, Faulty};
use crate::world::World;

#[tokio::test]
async fn a_kill_loses_no_verdict_and_the_job_goes_on() {
    let mut world = World::start().await;
    let job = world.train_job().await;
    let (mut first, mut second) = (world.join(1).await, world.join(2).await);
    let mut settled = 0;
    for step in 0..6 {
        let (a, b) = (first.lease_one().await, second.lease_one().await);
        let update = first.update_bytes(&a).await;
        assert_eq!(first.submit(&a, update.clone()).await.verdict, Verdict::Pending);
        if step % 2 == 0 {
            // Between the two results of a unit, and between settling and merging.
            world.kill_and_restart().await;
            (first.url, second.url) = (world.url(), world.url());
        }
        second.submit(&b, update.clone()).await;
        world.kill_and_restart().await;
        (first.url, second.url) = (world.url(), world.url());
        settled += 1;
        let view = world.follow(job, |view| view.units_settled == settled).await;
        assert_eq!(view.results_accepted, 2 * settled);
        let again: ResultResponse = first.try_submit(&first.statement(&a, &update)).await.cbor();
        assert_eq!(again.verdict, Verdict::Accepted);
        if settled % 2 == 0 {
            let merged = (settled / 2) as u32;
            world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == merged).await;
        }
        world.check().await;
    }
    world.follow(job, |view| view.state == JobState::Finished).await;
    world.finish().await;
}

#[tokio::test]
async fn a_result_whose_check_was_cut_off_is_checked_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(crate::world::NOW_MS));
    let mut config = Config::new(folder.path());
    config.listen.set_port(0);
    config.opening_units_count = 0;
    config.draw = crate::world::replicas_only;
    config.clock = clock;
    let database = Database::new(folder.path()).await;
    database.configure(&mut config);
    // Everything after the result is stored fails: no verdict is written.
    let store = Arc::new(Faulty::new(database.open().await, Fault::Verdicts));
    let app = App::start_with(config.clone(), store).await.unwrap();
    let world = Operator::of(&app);
    let job = world.create_product().await;
    let volunteer = Volunteer::join(&app.url(), 1).await;
    let lease = volunteer.lease_one().await;
    let output = volunteer.product_bytes(&lease).await;
    assert_eq!(volunteer.submit(&lease, output.clone()).await.verdict, Verdict::Pending);
    drop(app);
    let app = App::start(config).await.unwrap();
    let mut volunteer = volunteer;
    volunteer.url = app.url();
    let view = loop {
        let view: JobView = volunteer.get(&format!("/v1/jobs/{job}")).await.json();
        if view.units_settled == 1 {
            break view;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(view.results_accepted, 1);
    let again: ResultResponse = volunteer.try_submit(&volunteer.statement(&lease, &output)).await.cbor();
    assert_eq!(again.verdict, Verdict::Accepted);
    assert_eq!(app.check_invariants().await.unwrap(), Vec::<String>::new());
    app.shutdown().await;
}

/// Set by `cargo xtask test --long`: every write is tried, not one in a few.
const LONG_VARIABLE: &str = "MANYHANDS_TEST_LONG";
/// A short run tries every so many-th write, from another start on each of its two ways to fail.
const STRIDE: u32 = 6;

/// Each write of a small job fails once in each way: not done, and done but reported as failed.
#[tokio::test]
async fn every_write_may_fail_either_way() {
    let (undisturbed, writes) = run_with(Fault::None).await;
    assert!(writes > 30, "only {writes} writes");
    let stride = if std::env::var_os(LONG_VARIABLE).is_some() { 1 } else { STRIDE };
    let befores = (0..writes).step_by(stride as usize).map(Fault::Before);
    let afters = (stride / 2..writes).step_by(stride as usize).map(Fault::After);
    for fault in befores.chain(afters) {
        let (outcome, _) = run_with(fault).await;
        assert_eq!(outcome, undisturbed, "{fault:?}");
    }
}

/// What must be the same however often something failed: the model.
#[derive(Debug, PartialEq)]
struct Outcome {
    checkpoints: Vec<BlobHash>,
    settled: u64,
}

/// Runs a train job with two volunteers that try again, on a store with one fault.
async fn run_with(fault: Fault) -> (Outcome, u32) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(crate::world::NOW_MS));
    let mut config = Config::new(folder.path());
    config.listen.set_port(0);
    config.opening_units_count = 0;
    config.draw = crate::world::replicas_only;
    config.clock = clock.clone();
    let database = Database::new(folder.path()).await;
    let store = Arc::new(Faulty::new(database.open().await, fault));
    let app = App::start_with(config, store.clone()).await.unwrap();
    let operator = Operator::of(&app);
    let job = operator.create_train().await;
    let robots = [Robot::join(&app.url(), 1).await, Robot::join(&app.url(), 2).await];
    let view = loop {
        for robot in &robots {
            robot.work().await;
        }
        let view: JobView = robots[0].volunteer.get(&format!("/v1/jobs/{job}")).await.json();
        if view.state == JobState::Finished {
            break view;
        }
        // Leases whose grant was lost lapse; failed steps of the driver are tried again.
        clock.advance(limits::LEASE_MS / 4);
        tokio::task::yield_now().await;
    };
    assert_eq!(app.check_invariants().await.unwrap(), Vec::<String>::new(), "{fault:?}");
    assert_eq!(view.results_rejected, 0, "{fault:?}");
    let writes = store.writes.load(Ordering::Relaxed);
    app.shutdown().await;
    let checkpoints = view.train.unwrap().history.iter().map(|round| round.checkpoint).collect();
    (Outcome { checkpoints, settled: view.units_settled }, writes)
}

/// The operator's calls, repeated while storage fails.
struct Operator(World);

impl Operator {
    fn of(app: &App) -> Operator {
        Operator(World::watching(app))
    }

    async fn create_train(&self) -> JobId {
        let submission = self.0.train(1.0).await;
        self.create(&submission).await
    }

    async fn create_product(&self) -> JobId {
        let submission = self.0.product().await;
        self.create(&submission).await
    }

    async fn create(&self, submission: &manyhands_protocol::manifest::Submission) -> JobId {
        let job = persist(async || self.0.try_create(submission).await).await.json::<JobView>().id;
        let approved = persist(async || self.0.order(&format!("/jobs/{job}/approve")).await).await;
        assert!(approved.status.is_success() || code(&approved) == Some(Code::WrongJobState), "{approved}");
        job
    }
}

fn code(answer: &Answer) -> Option<Code> {
    serde_json::from_slice::<Problem>(&answer.body).ok().and_then(|problem| Code::parse(&problem.code))
}

/// Repeats a call while its answer says that storage failed, as the protocol asks of clients.
async fn persist(call: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..10 {
        let answer = call().await;
        if code(&answer) != Some(Code::StorageFailed) {
            return answer;
        }
    }
    panic!("storage fails for ever");
}

/// A volunteer that repeats what failed.
struct Robot {
    volunteer: Volunteer,
}

impl Robot {
    async fn join(url: &str, seed: u8) -> Robot {
        let mut volunteer = Volunteer::new(url, seed).await;
        loop {
            let consent = volunteer.consent().await;
            let answer = volunteer.try_open(&consent).await;
            if answer.status == 201 {
                volunteer.token = answer.cbor::<manyhands_protocol::wire::SessionOpened>().token;
                return Robot { volunteer };
            }
            assert!(matches!(code(&answer), Some(Code::StorageFailed | Code::BadNonce)), "{answer}");
        }
    }

    /// Leases what there is and returns honest results.
    async fn work(&self) {
        let answer = persist(async || self.volunteer.try_lease(4, None).await).await;
        let response: manyhands_protocol::wire::LeaseResponse = answer.cbor();
        for signed in response.manifests {
            let lease = self.volunteer.open_manifest(signed.0);
            self.compute(&lease).await;
        }
    }

    async fn compute(&self, lease: &Leased) {
        let output = self.volunteer.update_bytes(lease).await;
        let hash = manyhands_coordinator::keys::blob_hash(&output);
        let uploaded = persist(async || self.volunteer.try_upload(lease, hash, output.clone()).await).await;
        assert!(uploaded.status.is_success(), "{uploaded}");
        let statement = self.volunteer.statement(lease, &output);
        let answer = persist(async || self.volunteer.try_submit(&statement).await).await;
        assert!(answer.status.is_success() || code(&answer) == Some(Code::UnitSettled), "{answer}");
    }
}
