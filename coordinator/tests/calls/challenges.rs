//! Challenges that ask for a step: an honest volunteer passes each of them, and a lie is caught at whatever stage it is told.

use futures::executor::block_on;
use manyhands::engine::states::{Step, Tensors, leaves_of};
use manyhands::{Control, Engine, tensors};
use manyhands_coordinator::clock::Clock;
use manyhands_coordinator::keys::{KeyError, blob_hash};
use manyhands_coordinator::merge;
use manyhands_protocol::challenge::{Answer, Ask, ChallengeAnswer, ChallengeResponse, Reveal, Segment};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::challenge::{segment_of, states_count, step_of_state};
use manyhands_protocol::statement::{ResultStatement, States};
use manyhands_protocol::states::{Tree, path_of_state, root, root_of_states};
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::{TreeHash, cbor, cose, limits};

use crate::client::{Answer as Answered, Leased, Volunteer};
use crate::world::{World, train_work, update_file};

/// A draw that sends every unit to the referee.
pub fn audits_only() -> Result<f64, KeyError> {
    Ok(0.0)
}

async fn challenging() -> World {
    // The small job's states take longer than its steps.
    World::start_with(|config| {
        (config.challenge_rate, config.commit_share_max, config.step_challenges) = (1.0, f64::INFINITY, true);
        config.draw = audits_only;
    })
    .await
}

/// All that happened in a unit, or is claimed to have.
#[derive(Clone)]
pub struct Run {
    pub every: u32,
    pub states: Vec<Tensors>,
    traces: Vec<Tensors>,
    pub delta: Vec<Vec<f32>>,
}

impl Run {
    pub async fn honest(volunteer: &Volunteer, lease: &Leased) -> Run {
        let work = train_work(lease);
        let (checkpoint, shard) = (volunteer.fetch(work.checkpoint).await, volunteer.fetch(work.shard).await);
        let parameters = merge::read_tensors(&work.model, &checkpoint).unwrap();
        let shard = tensors::read_shard(&shard, &work.model).unwrap();
        let (engine, control) = (Engine::cpu(), Control::new());
        let delta = block_on(engine.train(work, &parameters, &shard, &control)).unwrap().delta;
        let step = |step| block_on(engine.replay_step(work, &parameters, &shard, None, step, &control)).unwrap();
        let steps: Vec<Step> = (0..work.inner_steps).map(step).collect();
        let last = steps[steps.len() - 1].after.clone();
        let states = steps.iter().map(|step| step.before.clone()).chain([last]).collect();
        let traces = steps.into_iter().map(|step| step.trace).collect();
        Run { every: lease.manifest.states_every.unwrap(), states, traces, delta }
    }

    pub fn inner_steps(&self) -> u32 {
        self.traces.len() as u32
    }

    fn roots(&self) -> Vec<TreeHash> {
        self.states.iter().map(|state| root(&leaves_of(Tree::State, state))).collect()
    }

    pub fn committed(&self) -> Vec<TreeHash> {
        let (roots, steps) = (self.roots(), self.inner_steps());
        (0..states_count(steps, self.every)).map(|index| roots[step_of_state(steps, self.every, index) as usize]).collect()
    }

    pub fn output(&self, lease: &Leased) -> Vec<u8> {
        update_file(lease, &self.delta)
    }

    pub fn statement(&self, volunteer: &Volunteer, lease: &Leased) -> ResultStatement {
        let states = Some(States { every: self.every, root: root_of_states(&self.committed()) });
        ResultStatement { states, ..volunteer.statement(lease, &self.output(lease)) }
    }

    fn segment(&self, first_step: u32, steps: u32) -> Segment {
        let (roots, committed) = (self.roots(), self.committed());
        let within = &roots[first_step as usize..=(first_step + steps) as usize];
        let (index, ..) = segment_of(self.inner_steps(), self.every, first_step);
        Segment {
            root: root_of_states(within),
            first: within[0],
            last: within[steps as usize],
            first_committed: path_of_state(&committed, index),
            last_committed: path_of_state(&committed, index + 1),
            first_path: path_of_state(within, 0),
            last_path: path_of_state(within, steps as usize),
            initial_path: path_of_state(&committed, 0),
            end_leaves: leaves_of(Tree::State, &self.states[self.states.len() - 1]),
            end_path: path_of_state(&committed, committed.len() - 1),
        }
    }

    fn file(&self, step: u32) -> Vec<u8> {
        let at = step as usize;
        let (before, after) = (self.states[at].clone(), self.states[at + 1].clone());
        Step { before, trace: self.traces[at].clone(), after }.write()
    }

    fn reveal(&self, step: u32, file: &[u8]) -> Reveal {
        let (_, first, steps) = segment_of(self.inner_steps(), self.every, step);
        let (roots, at) = (self.roots(), (step - first) as usize);
        let within = &roots[first as usize..=(first + steps) as usize];
        let [before_path, after_path] = [at, at + 1].map(|at| path_of_state(within, at));
        Reveal { hash: blob_hash(file), bytes: file.len() as u64, before_path, after_path }
    }
}

/// One stage's answer, and the file it names.
fn answer(run: &Run, ask: &Ask) -> (Answer, Option<Vec<u8>>) {
    match *ask {
        Ask::Segment { first_step, steps } => (Answer::Segment(run.segment(first_step, steps)), None),
        Ask::Trace { step } => (Answer::Trace(root(&leaves_of(Tree::Trace, &run.traces[step as usize]))), None),
        Ask::Reveal { step, .. } => {
            let file = run.file(step);
            (Answer::Reveal(run.reveal(step, &file)), Some(file))
        }
        Ask::Ends { .. } | Ask::Nothing => panic!("no step is asked for"),
    }
}

pub fn path(lease: &Leased) -> String {
    format!("/v1/challenges/{}", lease.manifest.lease)
}

/// How long the question is still waited for, in milliseconds.
pub async fn time_left(world: &World, volunteer: &Volunteer, lease: &Leased) -> u64 {
    volunteer.get(&path(lease)).await.cbor::<ChallengeResponse>().deadline_ms - world.clock.now_ms()
}

pub async fn asked(volunteer: &Volunteer, lease: &Leased) -> Ask {
    volunteer.get(&path(lease)).await.cbor::<ChallengeResponse>().ask
}

fn signed(volunteer: &Volunteer, lease: &Leased, answer: Answer) -> Vec<u8> {
    let statement = ChallengeAnswer { version: limits::PROTOCOL_VERSION, lease: lease.manifest.lease, answer };
    volunteer.sign(cose::Kind::ChallengeAnswer, cbor::encode(&statement))
}

pub async fn post(volunteer: &Volunteer, lease: &Leased, answer: Answer) -> Answered {
    volunteer.post(&path(lease), "application/cose", signed(volunteer, lease, answer)).await
}

/// Answers one question, by `lie`'s leave.
async fn reply(volunteer: &Volunteer, lease: &Leased, run: &Run, ask: &Ask, lie: &dyn Fn(&mut Answer)) -> Ask {
    let (mut answer, file) = answer(run, ask);
    if let Some(file) = file {
        volunteer.upload(lease, file).await;
    }
    lie(&mut answer);
    post(volunteer, lease, answer).await.cbor::<ChallengeResponse>().ask
}

/// Submits a run that must be challenged.
pub async fn submit(volunteer: &Volunteer, lease: &Leased, run: &Run) {
    volunteer.upload(lease, run.output(lease)).await;
    let answer: ResultResponse = volunteer.try_submit(&run.statement(volunteer, lease)).await.cbor();
    assert_eq!(answer.verdict, Verdict::Challenged);
}

/// Answers all questions; the step that was drawn.
async fn show(volunteer: &Volunteer, lease: &Leased, run: &Run, lie: &dyn Fn(&mut Answer)) -> u32 {
    let mut ask = asked(volunteer, lease).await;
    let mut drawn = None;
    while ask != Ask::Nothing {
        if let Ask::Trace { step } = ask {
            drawn = Some(step);
        }
        ask = reply(volunteer, lease, run, &ask, lie).await;
    }
    drawn.expect("a step was drawn")
}

pub async fn verdict(volunteer: &Volunteer, lease: &Leased, run: &Run) -> ResultResponse {
    volunteer.try_submit(&run.statement(volunteer, lease)).await.cbor()
}

/// The verdict once the driver has checked what was shown, and settled the unit.
pub async fn judged(world: &World, volunteer: &Volunteer, lease: &Leased, run: &Run) -> ResultResponse {
    let results = |view: &manyhands_protocol::view::JobView| view.results_accepted + view.results_rejected;
    let before = world.view(lease.manifest.job).await;
    let now = verdict(volunteer, lease, run).await;
    if ![Verdict::Challenged, Verdict::Pending].contains(&now.verdict) {
        return now;
    }
    world.follow(lease.manifest.job, |view| results(view) > results(&before)).await;
    verdict(volunteer, lease, run).await
}

/// One volunteer alone trains to the end, and the clock stands still. What was shown is right: the units go their way, here to the
/// referee.
#[tokio::test]
async fn an_honest_volunteer_passes_every_challenge() {
    let world = challenging().await;
    let job = world.train_job().await;
    let volunteer = world.join(1).await;
    for round in 0..3 {
        for _ in 0..2 {
            let lease = volunteer.lease_one().await;
            let run = Run::honest(&volunteer, &lease).await;
            submit(&volunteer, &lease, &run).await;
            show(&volunteer, &lease, &run, &|_| ()).await;
            let judged = judged(&world, &volunteer, &lease, &run).await;
            assert_eq!((judged.verdict, judged.reason.as_str()), (Verdict::Accepted, ""));
            assert!(judged.credit_flop > 0);
        }
        world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == round + 1).await;
    }
    let view = world.follow(job, |view| view.state == JobState::Finished).await;
    assert_eq!((view.units_settled, view.units_refereed, view.results_accepted, view.results_rejected), (6, 6, 6, 0));
    world.finish().await;
}

/// What a lie makes of a run, and of each answer.
struct Lie {
    name: &'static str,
    /// Told before anything is committed to.
    run: fn(&mut Run),
    answer: fn(&mut Answer),
    /// What the reason holds.
    reason: &'static str,
}

const NONE: Lie = Lie { name: "", run: |_| (), answer: |_| (), reason: "" };

pub fn bend(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = *value * 1.5 + 0.125);
}

fn lies_about_states() -> Vec<Lie> {
    vec![
        Lie {
            name: "no state is a step from the one before",
            run: |run| {
                let last = run.states.len() - 1;
                run.states[1..last].iter_mut().flatten().for_each(|(_, values)| bend(values));
                run.traces.iter_mut().flatten().for_each(|(_, values)| bend(values));
            },
            reason: "is expected",
            ..NONE
        },
        Lie {
            name: "the optimiser's state is made up, which no trace shows",
            run: |run| {
                let last = run.states.len() - 1;
                let tensors = run.states[1..last].iter_mut().flatten();
                tensors.filter(|(name, _)| name.ends_with(".velocity")).for_each(|(_, values)| bend(values));
            },
            reason: "is expected",
            ..NONE
        },
        Lie {
            name: "state 0 is another checkpoint",
            run: |run| run.states[0].iter_mut().for_each(|(_, values)| bend(values)),
            reason: "the checkpoint as state 0",
            ..NONE
        },
        Lie {
            name: "the output is not the last state's",
            run: |run| run.delta[0].iter_mut().for_each(|value| *value *= 1.01),
            reason: "the last state is not the output's",
            ..NONE
        },
        Lie {
            name: "the segment's end is not what the result committed to",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.last = TreeHash([7; 32]);
                }
            },
            reason: "the segment's last state",
            ..NONE
        },
        Lie {
            name: "the segment's beginning is not",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.first = TreeHash([7; 32]);
                }
            },
            reason: "the segment's first state",
            ..NONE
        },
        Lie {
            name: "the segment's own tree ends with another state",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.last_path[0] = TreeHash([7; 32]);
                }
            },
            reason: "its last state",
            ..NONE
        },
        Lie {
            name: "the segment's own tree begins with another state",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.first_path[0] = TreeHash([7; 32]);
                }
            },
            reason: "its first state",
            ..NONE
        },
        Lie {
            name: "a last state of too few tensors",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.end_leaves.pop();
                }
            },
            reason: "the last state is not the output's",
            ..NONE
        },
        Lie {
            name: "the optimiser's last state is made up",
            answer: |answer| {
                if let Answer::Segment(segment) = answer {
                    segment.end_leaves[1] = TreeHash([7; 32]);
                }
            },
            reason: "the last state is not the output's",
            ..NONE
        },
    ]
}

fn lies_about_the_step() -> Vec<Lie> {
    vec![
        Lie {
            name: "a trace of which another was committed to",
            answer: |answer| {
                if let Answer::Trace(root) = answer {
                    *root = TreeHash([7; 32]);
                }
            },
            reason: "the tensors of the step are not those committed to",
            ..NONE
        },
        Lie { name: "the trace of another step", run: |run| run.traces.rotate_left(1), reason: "is expected", ..NONE },
        Lie {
            name: "the state after is not the segment's",
            answer: |answer| {
                if let Answer::Reveal(reveal) = answer {
                    reveal.after_path = reveal.before_path.clone();
                }
            },
            reason: "the state after the step",
            ..NONE
        },
        Lie {
            name: "the state before is not the segment's",
            answer: |answer| {
                if let Answer::Reveal(reveal) = answer {
                    reveal.before_path = reveal.after_path.clone();
                }
            },
            reason: "the state before the step",
            ..NONE
        },
        Lie {
            name: "a trace that is not finite",
            run: |run| run.traces.iter_mut().for_each(|trace| trace[0].1[0] = f32::NAN),
            reason: "not finite",
            ..NONE
        },
        Lie {
            name: "a tensor too few",
            run: |run| {
                run.traces.iter_mut().for_each(|trace| {
                    trace.pop();
                });
            },
            reason: "tensors",
            ..NONE
        },
    ]
}

#[tokio::test]
async fn every_lie_is_caught() {
    for lie in lies_about_states().into_iter().chain(lies_about_the_step()) {
        let world = challenging().await;
        world.train_job().await;
        let volunteer = world.join(1).await;
        let lease = volunteer.lease_one().await;
        let mut run = Run::honest(&volunteer, &lease).await;
        (lie.run)(&mut run);
        submit(&volunteer, &lease, &run).await;
        show(&volunteer, &lease, &run, &lie.answer).await;
        let judged = judged(&world, &volunteer, &lease, &run).await;
        assert_eq!(judged.verdict, Verdict::Rejected, "{}", lie.name);
        assert!(judged.reason.starts_with("caught: ") && judged.reason.contains(lie.reason), "{}: {}", lie.name, judged.reason);
        assert_eq!(world.view(lease.manifest.job).await.units_settled, 0);
        world.finish().await;
    }
}

/// A root over nothing: there is no path that leads to it.
#[tokio::test]
async fn a_commitment_to_garbage_is_caught() {
    let world = challenging().await;
    world.train_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    volunteer.upload(&lease, run.output(&lease)).await;
    let states = Some(States { every: run.every, root: TreeHash([9; 32]) });
    let statement = ResultStatement { states, ..run.statement(&volunteer, &lease) };
    assert_eq!(volunteer.try_submit(&statement).await.cbor::<ResultResponse>().verdict, Verdict::Challenged);
    show(&volunteer, &lease, &run, &|_| ()).await;
    world.follow(lease.manifest.job, |view| view.results_rejected == 1).await;
    let judged: ResultResponse = volunteer.try_submit(&statement).await.cbor();
    assert!(judged.reason.starts_with("caught: "), "{}", judged.reason);
    world.finish().await;
}

/// Whoever makes up some of the steps is caught where one of them is drawn, and only there.
#[tokio::test]
async fn made_up_steps_are_caught_where_they_are_drawn() {
    let (mut caught, mut passed) = (0, 0);
    // One step of three: 40 draws miss it with probability 10⁻⁷.
    for _ in 0..40 {
        let world = challenging().await;
        world.train_job().await;
        let volunteer = world.join(1).await;
        let lease = volunteer.lease_one().await;
        let mut run = Run::honest(&volunteer, &lease).await;
        let made_up = 1;
        run.traces[made_up].iter_mut().for_each(|(_, values)| bend(values));
        submit(&volunteer, &lease, &run).await;
        let step = show(&volunteer, &lease, &run, &|_| ()).await;
        let judged = judged(&world, &volunteer, &lease, &run).await;
        if step as usize == made_up {
            assert!(judged.reason.starts_with("caught: "), "step {step}: {judged:?}");
            caught += 1;
        } else {
            assert_eq!(judged.verdict, Verdict::Accepted, "step {step}: {judged:?}");
            passed += 1;
        }
        world.finish().await;
        if caught > 0 && passed > 0 {
            return;
        }
    }
    panic!("{caught} caught, {passed} passed");
}

/// A key that goes on to work and does not answer is caught; a late answer is none.
#[tokio::test]
async fn silence_of_a_key_that_is_there_is_caught() {
    for late in [false, true] {
        let world = challenging().await;
        let job = world.train_job().await;
        let volunteer = world.join(1).await;
        let lease = volunteer.lease_one().await;
        let other = volunteer.lease_one().await;
        let run = Run::honest(&volunteer, &lease).await;
        submit(&volunteer, &lease, &run).await;
        world.clock.advance(time_left(&world, &volunteer, &lease).await - 1);
        assert!(volunteer.heartbeat(&other).await.keep);
        assert_eq!(verdict(&volunteer, &lease, &run).await.verdict, Verdict::Challenged);
        world.clock.advance(1);
        if late {
            let (answer, _) = answer(&run, &Ask::Segment { first_step: 0, steps: run.inner_steps() });
            post(&volunteer, &lease, answer).await.refused(Code::WrongStage);
        }
        world.follow(job, |view| view.results_rejected == 1).await;
        let judged = verdict(&volunteer, &lease, &run).await;
        assert_eq!(judged.reason, "caught: no answer in time");
        world.finish().await;
    }
}

/// A page that was loaded again works on, and knows nothing of what the one before it computed.
#[tokio::test]
async fn another_lease_is_no_sign_that_the_volunteer_is_there() {
    let world = challenging().await;
    let job = world.train_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    world.clock.advance(1);
    let other = volunteer.lease_one().await;
    world.clock.advance(time_left(&world, &volunteer, &lease).await - 1);
    assert!(volunteer.heartbeat(&other).await.keep);
    world.clock.advance(1);
    world.follow(job, |view| view.results_rejected == 1).await;
    assert!(verdict(&volunteer, &lease, &run).await.reason.starts_with("unanswered: "));
    world.finish().await;
}

/// One that is gone is not believed, and its unit goes to others; one that is gone whenever it is asked is caught.
#[tokio::test]
async fn silence_of_a_key_that_is_gone_is_not_believed_until_it_is_a_habit() {
    let world = challenging().await;
    let job = world.train_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let mut units = Vec::new();
    let mut reasons = Vec::new();
    for unable in [false, true] {
        let lease = volunteer.lease_one().await;
        let run = Run::honest(&volunteer, &lease).await;
        submit(&volunteer, &lease, &run).await;
        if unable {
            let answered: ChallengeResponse = post(&volunteer, &lease, Answer::Unable).await.cbor();
            assert_eq!((answered.ask, answered.deadline_ms), (Ask::Nothing, 0));
        } else {
            world.clock.advance(time_left(&world, &volunteer, &lease).await);
        }
        units.push(lease.manifest.unit);
        let rejected = units.len() as u64;
        world.follow(job, |view| view.results_rejected == rejected).await;
        reasons.push(verdict(&volunteer, &lease, &run).await.reason);
    }
    assert!(reasons.iter().all(|reason| reason.starts_with("unanswered: ")), "{reasons:?}");
    // Both units are for others now, who settle them and begin another round.
    for lease in other.lease(2).await {
        assert!(units.contains(&lease.manifest.unit));
        let run = Run::honest(&other, &lease).await;
        submit(&other, &lease, &run).await;
        show(&other, &lease, &run, &|_| ()).await;
    }
    world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    post(&volunteer, &lease, Answer::Unable).await.is(200);
    let judged = verdict(&volunteer, &lease, &run).await;
    assert_eq!(judged.reason, "caught: too many challenges were left unanswered");
    world.finish().await;
}

/// While it is open nobody else gets the unit and no referee computes it; its stages outlive the coordinator.
#[tokio::test]
async fn an_open_challenge_holds_its_unit_through_restarts() {
    let mut world = challenging().await;
    let job = world.train_job().await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let (mut volunteer, mut asks) = (volunteer, Vec::new());
    loop {
        let ask = asked(&volunteer, &lease).await;
        asks.push(ask.clone());
        if ask == Ask::Nothing {
            break;
        }
        let other = world.join(2).await;
        assert!(other.lease(2).await.iter().all(|other| other.manifest.unit != lease.manifest.unit));
        world.clock.advance(limits::REPLICA_WAIT_MS);
        world.check().await;
        // An upload that is in use through a restart.
        let (answer, file) = answer(&run, &ask);
        if let Some(file) = file {
            volunteer.upload(&lease, file).await;
        }
        world.kill_and_restart().await;
        volunteer.url = world.url();
        assert_eq!(asked(&volunteer, &lease).await, ask, "the same is asked after a restart");
        let signed = signed(&volunteer, &lease, answer);
        let first = volunteer.post(&path(&lease), "application/cose", signed.clone()).await;
        let again = volunteer.post(&path(&lease), "application/cose", signed).await;
        let [first, again] = [first, again].map(|answer| answer.cbor::<ChallengeResponse>().ask);
        assert!(again == first || again == Ask::Nothing, "the same bytes again draw nothing new: {first:?}, {again:?}");
    }
    assert_eq!(asks.len(), 4, "{asks:?}");
    let view = world.follow(job, |view| view.units_settled >= 1).await;
    assert_eq!((view.units_refereed, view.results_accepted), (1, 1));
    assert_eq!(verdict(&volunteer, &lease, &run).await.verdict, Verdict::Accepted);
    world.finish().await;
}

#[tokio::test]
async fn answers_are_taken_from_their_key_in_their_order() {
    let world = challenging().await;
    world.train_job().await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let lease = volunteer.lease_one().await;
    volunteer.get(&path(&lease)).await.refused(Code::UnknownChallenge);
    volunteer.get("/v1/challenges/x").await.refused(Code::BadRequest);
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let ask = asked(&volunteer, &lease).await;
    assert_eq!(ask, Ask::Segment { first_step: 0, steps: 3 });
    other.get(&path(&lease)).await.refused(Code::NotYourLease);
    let (good, _) = answer(&run, &ask);
    post(&other, &lease, good.clone()).await.refused(Code::UnknownChallenge);
    let by_other = signed(&other, &lease, good.clone());
    volunteer.post(&path(&lease), "application/cose", by_other).await.refused(Code::WrongKey);
    let elsewhere = ChallengeAnswer { version: 1, lease: manyhands_protocol::LeaseId(99), answer: good.clone() };
    let elsewhere = volunteer.sign(cose::Kind::ChallengeAnswer, cbor::encode(&elsewhere));
    volunteer.post(&path(&lease), "application/cose", elsewhere).await.refused(Code::BadRequest);
    let as_result = volunteer.sign(cose::Kind::Result, vec![0xa0]);
    volunteer.post(&path(&lease), "application/cose", as_result).await.refused(Code::WrongContentType);
    volunteer.try_upload(&lease, blob_hash(b"x"), b"x".to_vec()).await.refused(Code::LeaseEnded);
    post(&volunteer, &lease, Answer::Trace(TreeHash([0; 32]))).await.refused(Code::WrongStage);
    post(&volunteer, &lease, good.clone()).await.is(200);
    // Another commitment comes too late once a step was drawn for the first.
    let mut second = run.segment(0, 3);
    second.root = TreeHash([1; 32]);
    post(&volunteer, &lease, Answer::Segment(second)).await.refused(Code::WrongStage);
    let ask = asked(&volunteer, &lease).await;
    let Ask::Trace { step } = ask else { panic!("{ask:?}") };
    let (trace, _) = answer(&run, &ask);
    post(&volunteer, &lease, trace).await.is(200);
    let file = run.file(step);
    post(&volunteer, &lease, Answer::Reveal(run.reveal(step, &file))).await.refused(Code::OutputMissing);
    let long = vec![0; lease.manifest.upload_bytes_max as usize];
    volunteer.try_upload(&lease, blob_hash(&long), long).await.refused(Code::UploadNotAllowed);
    volunteer.upload(&lease, file.clone()).await;
    post(&volunteer, &lease, Answer::Reveal(run.reveal(step, &file))).await.is(200);
    assert_eq!(judged(&world, &volunteer, &lease, &run).await.verdict, Verdict::Accepted);
    world.finish().await;
}

/// A result without a commitment goes its way, here to the referee as what was drawn; one with another than was asked for is no
/// result.
#[tokio::test]
async fn only_what_was_asked_for_is_a_commitment() {
    let world = World::start_with(|config| {
        (config.challenge_rate, config.commit_share_max, config.step_challenges) = (1.0, f64::INFINITY, true)
    })
    .await;
    let job = world.train_job().await;
    let first = world.join(1).await;
    let ours = first.lease_one().await;
    let run = Run::honest(&first, &ours).await;
    first.upload(&ours, run.output(&ours)).await;
    let other = Some(States { every: run.every - 1, root: TreeHash([0; 32]) });
    let statement = ResultStatement { states: other, ..run.statement(&first, &ours) };
    first.try_submit(&statement).await.refused(Code::BadRequest);
    let answer = first.try_submit(&ResultStatement { states: None, ..statement }).await.cbor::<ResultResponse>();
    assert_eq!(answer.verdict, Verdict::Pending);
    let view = world.follow(job, |view| view.results_accepted == 1).await;
    assert_eq!(view.units_refereed, 1);
    world.finish().await;

    let world = World::start_with(|config| (config.challenge_rate, config.commit_share_max) = (0.0, f64::INFINITY)).await;
    world.train_job().await;
    let lease = world.join(1).await.lease_one().await;
    assert_eq!(lease.manifest.states_every, None, "nobody is asked for what nobody looks at");
    world.finish().await;

    let world = World::start_with(|config| config.challenge_rate = 1.0).await;
    world.train_job().await;
    let lease = world.join(1).await.lease_one().await;
    assert_eq!(lease.manifest.states_every, None, "nor for what takes longer than it may");
    world.finish().await;
}
