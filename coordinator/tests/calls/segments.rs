//! Challenges that ask for the two ends of a segment: honest volunteers pass, made-up segments are caught where they are drawn,
//! and keys whose segments may be drawn are repeated less often.

use manyhands::engine::states::Ends as States;
use manyhands_coordinator::keys::blob_hash;
use manyhands_coordinator::store::{ChallengeClosed, ChallengeStage};
use manyhands_protocol::JobId;
use manyhands_protocol::challenge::{Answer, Ask, ChallengeResponse, Ends};
use manyhands_protocol::manifest::{Inputs, JobWork};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::challenge::{CHALLENGE_RATE, segment_of};
use manyhands_protocol::rules::standing::RUN_TRUSTED;
use manyhands_protocol::states::path_of_state;
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::work::InnerOptimizer;
use manyhands_protocol::{TreeHash, limits};

use crate::challenges::{Run, asked, audits_only, bend, judged, path, post, submit, time_left, verdict};
use crate::client::{Leased, Volunteer};
use crate::world::{World, examples, train_work, update_file};

const STEPS: u32 = 16;
const BATCH: u32 = 1024;
const ROWS: u32 = 2048;

/// The small job with batches so large that its units can commit to a state every other step.
async fn job(world: &World, optimizer: Option<InnerOptimizer>, units_per_round: u32) -> JobId {
    let mut submission = world.train(1.0).await;
    let shard = world.put_input(examples(7, ROWS as usize)).await;
    let JobWork::Train(recipe) = &mut submission.manifest.work else { unreachable!() };
    (recipe.inner_steps, recipe.batch, recipe.rows_per_shard) = (STEPS, BATCH, ROWS);
    recipe.units_per_round = units_per_round;
    if let Some(optimizer) = optimizer {
        recipe.inner_optimizer = optimizer;
    }
    let Inputs::Train { shards, .. } = &mut submission.inputs else { unreachable!() };
    *shards = vec![shard];
    world.create(&submission).await
}

/// Every result is challenged, and goes to the referee where it was shown to be right.
async fn challenging() -> World {
    World::start_with(|config| (config.challenge_rate, config.draw) = (1.0, audits_only)).await
}

/// The answer to what is asked, and its file.
fn answer(run: &Run, ask: &Ask) -> (Ends, Vec<u8>) {
    let &Ask::Ends { first_step, steps } = ask else { panic!("{ask:?}") };
    let (end, committed) = (first_step + steps, run.committed());
    let (index, first, length) = segment_of(run.inner_steps(), run.every, first_step);
    assert_eq!((first, length), (first_step, steps), "a segment between committed states");
    let state = |step: u32, is_shown: bool| is_shown.then(|| run.states[step as usize].clone());
    let states = States { first: state(first_step, first_step > 0), last: state(end, end < run.inner_steps()) };
    let path = |of: &Option<_>, index| of.as_ref().map_or(Vec::new(), |_| path_of_state(&committed, index));
    let (first_path, last_path, file) = (path(&states.first, index), path(&states.last, index + 1), states.write());
    (Ends { hash: blob_hash(&file), bytes: file.len() as u64, first_path, last_path }, file)
}

/// Answers the one question; the first step of the segment that was drawn.
async fn show(volunteer: &Volunteer, lease: &Leased, run: &Run, lie: &dyn Fn(&mut Ends)) -> u32 {
    let ask = asked(volunteer, lease).await;
    let (mut ends, file) = answer(run, &ask);
    volunteer.upload(lease, file).await;
    lie(&mut ends);
    assert_eq!(post(volunteer, lease, Answer::Ends(ends)).await.cbor::<ChallengeResponse>().ask, Ask::Nothing);
    let Ask::Ends { first_step, .. } = ask else { unreachable!() };
    first_step
}

/// One volunteer alone trains to the end; both optimisers. While its key is new the referee looks at each unit, whatever the
/// challenges say; once it is trusted they are all there is.
#[tokio::test]
async fn an_honest_volunteer_passes_every_challenge() {
    let adamw =
        InnerOptimizer::AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1.0 };
    for (optimizer, every) in [(None, 2), (Some(adamw), 3)] {
        // An audit for a new key, nothing for a trusted one whose segments are looked at.
        let world = World::start_with(|config| (config.challenge_rate, config.draw) = (1.0, || Ok(0.095))).await;
        let per_round = RUN_TRUSTED as u32 / 2;
        let job = job(&world, optimizer, per_round).await;
        let volunteer = world.join(1).await;
        let mut drawn = Vec::new();
        for round in 0..3 {
            for _ in 0..per_round {
                let lease = volunteer.lease_one().await;
                assert_eq!(lease.manifest.states_every, Some(every));
                let run = Run::honest(&volunteer, &lease).await;
                submit(&volunteer, &lease, &run).await;
                drawn.push(show(&volunteer, &lease, &run, &|_| ()).await);
                let judged = judged(&world, &volunteer, &lease, &run).await;
                assert_eq!((judged.verdict, judged.reason.as_str()), (Verdict::Accepted, ""));
                assert!(judged.credit_flop > 0);
            }
            world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == round + 1).await;
        }
        let view = world.follow(job, |view| view.state == JobState::Finished).await;
        let refereed = 2 * u64::from(per_round);
        assert_eq!((view.units_settled, view.units_refereed), (3 * u64::from(per_round), refereed));
        assert_eq!((view.results_accepted, view.results_rejected), (view.units_settled, 0));
        assert!(drawn.iter().any(|first| *first != drawn[0]), "as many draws of one segment: {drawn:?}");
        // Each challenge costs its segment, beside the few operations of comparing updates.
        let segments: u32 = drawn.iter().map(|&first| segment_of(STEPS, every, first).2).sum();
        let expected = f64::from(segments) / f64::from(STEPS) / drawn.len() as f64;
        let tax = view.tax.unwrap();
        assert_eq!(tax.replicas, 0.0);
        assert!((1.0..1.2).contains(&(tax.checks / expected)), "{tax:?}, {expected} for segments");
        world.finish().await;
    }
}

/// A new key whose segment is right has proved a part of one unit: a second key computes it as ever.
#[tokio::test]
async fn a_segment_that_is_right_confirms_nothing() {
    let world = World::start_with(|config| config.challenge_rate = 1.0).await;
    let job = job(&world, None, 2).await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let ours = first.lease_one().await;
    let run = Run::honest(&first, &ours).await;
    submit(&first, &ours, &run).await;
    assert_ne!(second.lease_one().await.manifest.unit, ours.manifest.unit, "nobody else's while the challenge is open");
    show(&first, &ours, &run, &|_| ()).await;
    let theirs = loop {
        match second.lease(1).await.pop() {
            Some(lease) => break lease,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(theirs.manifest.unit, ours.manifest.unit);
    assert_eq!(verdict(&first, &ours, &run).await.verdict, Verdict::Pending);
    assert_eq!(world.view(job).await.units_settled, 0);
    second.submit(&theirs, run.output(&theirs)).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.units_refereed, view.results_accepted), (0, 2));
    world.finish().await;
}

struct Lie {
    name: &'static str,
    /// Told before anything is committed to.
    run: fn(&mut Run),
    ends: fn(&mut Ends),
    reason: &'static str,
    /// Whether it can be seen in the segment that begins here.
    shows: fn(u32) -> bool,
}

const NONE: Lie = Lie { name: "", run: |_| (), ends: |_| (), reason: "", shows: |_| true };
const LAST: u32 = STEPS - 2;

fn lies() -> Vec<Lie> {
    vec![
        Lie {
            name: "nothing was computed: every state is the first, and the output as far from it as an honest one",
            run: |run| {
                let first = run.states[0].clone();
                let last = run.states.len() - 1;
                run.states[1..last].fill(first);
            },
            reason: "is not where its first leads",
            ..NONE
        },
        Lie {
            name: "the optimiser's state is made up, which nothing else shows",
            run: |run| {
                let last = run.states.len() - 1;
                let tensors = run.states[1..last].iter_mut().flatten();
                tensors.filter(|(name, _)| name.ends_with(".velocity")).for_each(|(_, values)| bend(values));
            },
            reason: "is not where its first leads",
            ..NONE
        },
        Lie {
            name: "one segment in two is made up",
            run: |run| run.states[4..=6].iter_mut().flatten().for_each(|(_, values)| bend(values)),
            reason: "is not where its first leads",
            shows: |first| (2..=6).contains(&first),
            ..NONE
        },
        Lie {
            name: "the output is not where the states lead",
            run: |run| run.delta.iter_mut().flatten().for_each(|value| *value *= 1.5),
            reason: "the parameters",
            shows: |first| first == LAST,
            ..NONE
        },
        Lie {
            name: "the first state is not the one committed to",
            ends: |ends| {
                if let Some(node) = ends.first_path.first_mut() {
                    *node = TreeHash([7; 32]);
                }
            },
            reason: "the segment's first state",
            shows: |first| first > 0,
            ..NONE
        },
        Lie {
            name: "nor is the last",
            ends: |ends| {
                if let Some(node) = ends.last_path.first_mut() {
                    *node = TreeHash([7; 32]);
                }
            },
            reason: "the segment's last state",
            shows: |first| first < LAST,
            ..NONE
        },
        Lie {
            name: "a state that is not finite",
            run: |run| run.states[1..STEPS as usize].iter_mut().for_each(|state| state[0].1[0] = f32::NAN),
            reason: "not finite",
            ..NONE
        },
        Lie {
            name: "a tensor too few",
            run: |run| {
                run.states[1..STEPS as usize].iter_mut().for_each(|state| {
                    state.pop();
                });
            },
            reason: "tensors",
            ..NONE
        },
    ]
}

/// Each lie until it was drawn, and where it has segments that are honest, until one of those was.
#[tokio::test]
async fn lies_are_caught_where_they_are_drawn() {
    for lie in lies() {
        let always = (0..STEPS).step_by(2).all(lie.shows);
        let (mut caught, mut passed) = (0, 0);
        // One segment of eight: 150 draws miss it with probability 2·10⁻⁹.
        for _ in 0..150 {
            let world = challenging().await;
            job(&world, None, 2).await;
            let volunteer = world.join(1).await;
            let lease = volunteer.lease_one().await;
            let mut run = Run::honest(&volunteer, &lease).await;
            (lie.run)(&mut run);
            submit(&volunteer, &lease, &run).await;
            let first = show(&volunteer, &lease, &run, &lie.ends).await;
            let judged = judged(&world, &volunteer, &lease, &run).await;
            if (lie.shows)(first) {
                let reason = &judged.reason;
                assert!(reason.starts_with("caught: ") && reason.contains(lie.reason), "{}, segment {first}: {reason}", lie.name);
                assert_eq!(world.view(lease.manifest.job).await.units_settled, 0);
                caught += 1;
            } else {
                // An update that is wrong is still the referee's to find.
                let right = judged.verdict == Verdict::Accepted || judged.reason.starts_with("disagrees: ");
                assert!(right, "{}, segment {first}: {judged:?}", lie.name);
                passed += 1;
            }
            world.finish().await;
            if caught > 0 && (always || passed > 0) {
                break;
            }
        }
        assert!(caught > 0 && (always || passed > 0), "{}: {caught} caught, {passed} passed", lie.name);
    }
}

/// A key that goes on to work and does not answer is caught; one that says it cannot is not believed.
#[tokio::test]
async fn silence_is_what_it_is_to_a_step() {
    let world = challenging().await;
    let job = job(&world, None, 2).await;
    let (volunteer, other) = (world.join(1).await, world.join(2).await);
    let (lease, kept) = (volunteer.lease_one().await, volunteer.lease_one().await);
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    other.get(&path(&lease)).await.refused(Code::NotYourLease);
    let (ends, file) = answer(&run, &asked(&volunteer, &lease).await);
    post(&volunteer, &lease, Answer::Trace(TreeHash([0; 32]))).await.refused(Code::WrongStage);
    post(&volunteer, &lease, Answer::Ends(ends.clone())).await.refused(Code::OutputMissing);
    let left = time_left(&world, &volunteer, &lease).await;
    let upload_ms = file.len() as u64 * 1000 / 125_000;
    assert!(left > limits::CHALLENGE_WAIT_MS + upload_ms, "{left}: time to upload {} bytes", file.len());
    world.clock.advance(left - 1);
    assert!(volunteer.heartbeat(&kept).await.keep);
    world.clock.advance(1);
    volunteer.try_upload(&lease, blob_hash(&file), file).await.refused(Code::LeaseEnded);
    post(&volunteer, &lease, Answer::Ends(ends)).await.refused(Code::WrongStage);
    world.follow(job, |view| view.results_rejected == 1).await;
    assert_eq!(verdict(&volunteer, &lease, &run).await.reason, "caught: no answer in time");

    let lease = other.lease_one().await;
    let run = Run::honest(&other, &lease).await;
    submit(&other, &lease, &run).await;
    post(&other, &lease, Answer::Unable).await.is(200);
    let judged = verdict(&other, &lease, &run).await;
    assert_eq!(judged.reason, "unanswered: the segment that was asked for was not shown");
    world.finish().await;
}

/// A tab that was closed while it had time to answer is gone, whatever it did just after it was asked.
#[tokio::test]
async fn a_heartbeat_long_before_the_deadline_is_no_presence() {
    let world = challenging().await;
    let job = job(&world, None, 2).await;
    let volunteer = world.join(1).await;
    let (lease, kept) = (volunteer.lease_one().await, volunteer.lease_one().await);
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let left = time_left(&world, &volunteer, &lease).await;
    world.clock.advance(left / 2);
    assert!(volunteer.heartbeat(&kept).await.keep);
    world.clock.advance(left - left / 2);
    world.follow(job, |view| view.results_rejected == 1).await;
    assert_eq!(verdict(&volunteer, &lease, &run).await.reason, "unanswered: the segment that was asked for was not shown");
    world.finish().await;
}

/// Nobody could answer while no coordinator ran: who was asked has all the time again.
#[tokio::test]
async fn a_coordinator_that_was_away_waits_anew() {
    let mut world = challenging().await;
    let job = job(&world, None, 2).await;
    let mut volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let left = time_left(&world, &volunteer, &lease).await;
    world.clock.advance(left - 1);
    world.kill_and_restart_after(left).await;
    volunteer.url = world.url();
    assert_eq!(time_left(&world, &volunteer, &lease).await, left);
    show(&volunteer, &lease, &run, &|_| ()).await;
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!(view.results_accepted, 1);
    world.finish().await;
}

/// A challenge that went on meanwhile is not ended by what was found before.
#[tokio::test]
async fn a_challenge_ends_at_the_stage_that_was_looked_at() {
    let world = challenging().await;
    let job = job(&world, None, 2).await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let store = world.store();
    let challenge = store.challenge(lease.manifest.lease).await.unwrap().unwrap();
    let closed = |stage| ChallengeClosed {
        result: challenge.result,
        stage,
        outcome: ChallengeStage::Unanswered,
        reason: "unanswered".to_owned(),
        check_flop: 0,
        now_ms: challenge.asked_ms,
    };
    store.close_challenge(closed(ChallengeStage::Check)).await.unwrap();
    assert_eq!(verdict(&volunteer, &lease, &run).await.verdict, Verdict::Challenged);
    store.close_challenge(closed(ChallengeStage::Ends)).await.unwrap();
    assert_eq!(verdict(&volunteer, &lease, &run).await.verdict, Verdict::Rejected);
    world.follow(job, |view| view.results_rejected == 1).await;
    world.finish().await;
}

/// A question, an upload and an answer outlive the coordinator.
#[tokio::test]
async fn an_open_challenge_outlives_a_restart() {
    let mut world = challenging().await;
    let job = job(&world, None, 2).await;
    let mut volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    let run = Run::honest(&volunteer, &lease).await;
    submit(&volunteer, &lease, &run).await;
    let ask = asked(&volunteer, &lease).await;
    let (ends, file) = answer(&run, &ask);
    volunteer.upload(&lease, file).await;
    world.kill_and_restart().await;
    volunteer.url = world.url();
    assert_eq!(asked(&volunteer, &lease).await, ask, "the same is asked after a restart");
    assert_eq!(post(&volunteer, &lease, Answer::Ends(ends)).await.cbor::<ChallengeResponse>().ask, Ask::Nothing);
    world.kill_and_restart().await;
    volunteer.url = world.url();
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.units_refereed, view.results_accepted), (1, 1));
    world.finish().await;
}

/// A draw that a trusted key's result is repeated by where no challenge looks at it, and not where one might have.
#[tokio::test]
async fn keys_whose_segments_may_be_drawn_are_repeated_less_often() {
    let often = World::start_with(|config| (config.draw, config.challenge_rate) = (|| Ok(0.095), CHALLENGE_RATE)).await;
    let seldom = World::start_with(|config| (config.draw, config.challenge_rate) = (|| Ok(0.095), 0.05)).await;
    let pending = Verdict::Pending;
    for (world, verdicts) in [(often, [pending, Verdict::Accepted]), (seldom, [pending, pending])] {
        let job = job(&world, None, RUN_TRUSTED as u32).await;
        let first = world.join(1).await;
        // The draw is an audit's of a new key, so the referee confirms each unit.
        for lease in first.lease(16).await {
            first.submit(&lease, first.update_bytes(&lease).await).await;
        }
        world.follow(job, |view| view.train.as_ref().unwrap().rounds_merged == 1).await;
        for (commits, expected) in [false, true].into_iter().zip(verdicts) {
            let lease = first.lease_one().await;
            let mut statement = first.statement(&lease, &first.update_bytes(&lease).await);
            if commits {
                let run = Run::honest(&first, &lease).await;
                statement = run.statement(&first, &lease);
                assert_eq!(run.output(&lease), update_file(&lease, &run.delta));
            }
            assert_eq!(train_work(&lease).inner_steps, STEPS);
            first.upload(&lease, first.update_bytes(&lease).await).await;
            let answer = first.try_submit(&statement).await.cbor::<ResultResponse>();
            assert_eq!(answer.verdict, expected, "commits: {commits}");
        }
        world.finish().await;
    }
}

/// A second key may be an accomplice that was sent ahead: where one was drawn and nothing can be asked, the referee looks.
#[tokio::test]
async fn a_draw_is_kept_where_a_second_key_has_begun_the_unit() {
    let world = World::start_with(|config| config.challenge_rate = 1.0).await;
    let job = job(&world, None, 2).await;
    let (first, second) = (world.join(1).await, world.join(2).await);
    let (ours, theirs) = (first.lease_one().await, second.lease_one().await);
    assert_eq!(ours.manifest.unit, theirs.manifest.unit);
    let run = Run::honest(&first, &ours).await;
    first.upload(&ours, run.output(&ours)).await;
    let statement = run.statement(&first, &ours);
    assert_eq!(first.try_submit(&statement).await.cbor::<ResultResponse>().verdict, Verdict::Pending);
    let view = world.follow(job, |view| view.results_accepted == 1).await;
    assert_eq!((view.units_settled, view.units_refereed), (1, 1));
    world.finish().await;
}

/// Whoever leaves out the commitment that was asked for is looked at as often, by the referee.
#[tokio::test]
async fn a_result_without_its_commitment_is_audited_as_often_as_others_are_challenged() {
    let world = World::start_with(|config| config.challenge_rate = 1.0).await;
    let job = job(&world, None, 2).await;
    let volunteer = world.join(1).await;
    let lease = volunteer.lease_one().await;
    assert!(lease.manifest.states_every.is_some());
    let output = volunteer.update_bytes(&lease).await;
    assert_eq!(volunteer.submit(&lease, output).await.verdict, Verdict::Pending);
    let view = world.follow(job, |view| view.units_settled == 1).await;
    assert_eq!((view.units_refereed, view.results_accepted), (1, 1));
    world.finish().await;
}
