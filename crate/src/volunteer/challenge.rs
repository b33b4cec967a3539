//! Answering for a unit that was challenged: the two ends of the segment that was drawn are shown, as they were kept or
//! computed again; or the segment is computed again, one of its steps committed to and then shown. Which, is the coordinator's
//! to draw; how it is computed, the engine's. Also whether a device may commit at all, which it may only where it gives the same
//! bits twice.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use futures::FutureExt;
use manyhands_protocol::challenge::{self, Answer, Ask, ChallengeAnswer, ChallengeResponse, Reveal, Segment};
use manyhands_protocol::rules::challenge::segment_of;
use manyhands_protocol::states::{Tree, path_of_state, root, root_of_states};
use manyhands_protocol::work::{TrainWork, Work};
use manyhands_protocol::{LeaseId, TreeHash, cbor, cose, limits};

use super::call::COSE;
use super::error::VolunteerError;
use super::host::{Host, Method};
use super::lane::Lane;
use super::lease::Leased;
use super::run::Visit;
use super::task::Task;
use super::training::Training;
use super::unit::{PROGRESS_MS, StopOnDrop};
use crate::beside::beside;
use crate::control::Control;
use crate::engine::Engine;
use crate::engine::states::{Committed, Ends, Snapshot, Step, leaves};

/// Steps that are computed twice to see whether a device repeats itself.
const REPEATED_STEPS: u32 = 2;
/// A visitor who pauses for longer answers no challenge: shorter than the coordinator waits.
const PAUSE_MS: u64 = limits::CHALLENGE_WAIT_MS / 2;
/// Questions of one challenge; more are none of this protocol's.
const QUESTIONS_MAX: usize = 8;

/// What a result that committed to its states is answered for with.
pub(super) struct Shown {
    /// The device that computed it, for no other gives the same bits.
    pub engine: Arc<Engine>,
    pub inputs: [Arc<Vec<u8>>; 2],
    pub committed: Committed,
}

/// Adapters that were tested, and whether they repeat themselves.
#[derive(Default)]
pub(super) struct Repeats(RefCell<Vec<(String, bool)>>);

/// What was computed again so far.
#[derive(Default)]
struct Replayed {
    states: Vec<TreeHash>,
    step: Option<Arc<Step>>,
    ends: Ends,
}

impl<H: Host> Visit<'_, H> {
    /// The commitment that a unit asks for, where the device that computes it may give one.
    pub async fn states_every(
        &self,
        leased: &Leased,
        inputs: &[Arc<Vec<u8>>; 2],
        lane: &Lane<H::Aside>,
    ) -> Result<Option<u32>, VolunteerError> {
        let (Some(every), Work::Train(work)) = (leased.manifest.states_every, &leased.manifest.work) else { return Ok(None) };
        if every == 0 {
            return Ok(None);
        }
        Ok(self.repeats(work, inputs, lane).await?.then_some(every))
    }

    /// Whether the device gives the same bits twice, tried once for each.
    async fn repeats(&self, work: &TrainWork, inputs: &[Arc<Vec<u8>>; 2], lane: &Lane<H::Aside>) -> Result<bool, VolunteerError> {
        let adapter = format!("{:?}", self.engine().device_class());
        let known = self.repeats.0.borrow().iter().find(|(name, _)| *name == adapter).map(|(_, repeats)| *repeats);
        if let Some(repeats) = known {
            return Ok(repeats);
        }
        let work = TrainWork { inner_steps: work.inner_steps.min(REPEATED_STEPS), ..work.clone() };
        let mut roots = Vec::new();
        for _ in 0..2 {
            let task = Task { work: Work::Train(work.clone()), inputs: inputs.clone(), states_every: Some(1) };
            let computed = self.compute(task, lane, &self.client.host.control()).await?;
            roots.push(computed.committed.map(|committed| committed.states));
        }
        let repeats = same(&roots);
        self.repeats.0.borrow_mut().push((adapter, repeats));
        Ok(repeats)
    }

    /// Answers what is asked about a result until nothing is. A visitor who pauses or stops meanwhile does not keep the
    /// coordinator waiting.
    pub async fn answer(&self, leased: &Leased, shown: &Shown) -> Result<(), VolunteerError> {
        let control = self.client.host.control();
        let _stop = StopOnDrop(control.clone());
        let _at_work = self.client.reporter.at_work();
        let (lease, paused_since_ms) = (leased.manifest.lease, Cell::new(None));
        self.asked.borrow_mut().push(lease);
        let answered = futures::select_biased! {
            answered = self.answer_all(leased, shown, &control).fuse() => answered,
            never = self.steer(&control, &paused_since_ms).fuse() => match never {},
            () = self.paused_for(&paused_since_ms, PAUSE_MS).fuse() => self.unable(lease).await,
        };
        self.asked.borrow_mut().retain(|asked| *asked != lease);
        answered
    }

    async fn paused_for(&self, since_ms: &Cell<Option<u64>>, most_ms: u64) {
        let host = self.client.host;
        while since_ms.get().is_none_or(|since_ms| host.now_ms() < since_ms + most_ms) {
            host.sleep(PROGRESS_MS).await;
        }
    }

    /// Says, where the visit ends, that what is asked will not be answered.
    pub async fn unable_to_answer(&self) {
        let asked = self.asked.take();
        futures::future::join_all(asked.into_iter().map(|lease| self.unable(lease))).await;
    }

    /// One attempt: who does not hear it waits until the deadline.
    async fn unable(&self, lease: LeaseId) -> Result<(), VolunteerError> {
        let signed = self.sign_answer(lease, Answer::Unable).await?;
        let path = format!("/v1/challenges/{lease}");
        self.client.call::<ChallengeResponse>(Method::Post, &path, Some(COSE), &signed).await.map(drop)
    }

    async fn sign_answer(&self, lease: LeaseId, answer: Answer) -> Result<Vec<u8>, VolunteerError> {
        let host = self.client.host;
        let statement = ChallengeAnswer { version: limits::PROTOCOL_VERSION, lease, answer };
        let unsigned = cose::prepare(cose::Kind::ChallengeAnswer, host.key(), cbor::encode(&statement));
        Ok(unsigned.finish(host.sign(&unsigned.to_be_signed()).await?))
    }

    async fn answer_all(&self, leased: &Leased, shown: &Shown, control: &Control) -> Result<(), VolunteerError> {
        let client = &self.client;
        let path = format!("/v1/challenges/{}", leased.manifest.lease);
        let until_ms = Some(client.host.now_ms() + limits::CHALLENGE_WAIT_MS);
        let mut asked: ChallengeResponse =
            client.retry(until_ms, async || client.call(Method::Get, &path, None, &[]).await).await?;
        let mut replayed = Replayed::default();
        for _ in 0..QUESTIONS_MAX {
            let (answer, fault) = match self.answer_one(leased, shown, &asked.ask, &mut replayed, control).await {
                Ok(None) => return Ok(()),
                Ok(Some(answer)) => (answer, None),
                // What the device did not keep, or could not be uploaded, it cannot show; that is no lie.
                Err(fault) => (Answer::Unable, Some(fault)),
            };
            let signed = self.sign_answer(leased.manifest.lease, answer).await?;
            let until_ms = Some(client.host.now_ms() + limits::CHALLENGE_WAIT_MS);
            asked = client.retry(until_ms, async || client.call(Method::Post, &path, Some(COSE), &signed).await).await?;
            if let Some(fault) = fault {
                return Err(fault);
            }
        }
        Err(VolunteerError::Answer("a challenge that goes on and on".to_owned()))
    }

    async fn answer_one(
        &self,
        leased: &Leased,
        shown: &Shown,
        ask: &Ask,
        replayed: &mut Replayed,
        control: &Control,
    ) -> Result<Option<Answer>, VolunteerError> {
        let Work::Train(work) = &leased.manifest.work else { return Ok(None) };
        let step = match *ask {
            Ask::Nothing => return Ok(None),
            Ask::Segment { first_step, .. } | Ask::Ends { first_step, .. } => first_step,
            Ask::Trace { step } | Ask::Reveal { step, .. } => step,
        };
        if step >= work.inner_steps {
            return Err(VolunteerError::Answer(format!("step {step} of {} is asked for", work.inner_steps)));
        }
        let (index, first, steps) = segment_of(work.inner_steps, shown.committed.every, step);
        if let Ask::Ends { .. } = ask {
            let states = &shown.committed.states;
            let ends = self.ends(shown, work, [first, steps], control).await?;
            let uploaded = self.upload_file(leased, &ends.write()).await?;
            let path = |of: &Option<_>, at| of.as_ref().map_or(Vec::new(), |_| path_of_state(states, at));
            let [first_path, last_path] = [path(&ends.first, index), path(&ends.last, index + 1)];
            return Ok(Some(Answer::Ends(challenge::Ends { hash: uploaded.hash, bytes: uploaded.bytes, first_path, last_path })));
        }
        if replayed.states.is_empty() {
            replayed.states = self.replay(shown, work, first, control, Wanted::States(steps)).await?.states;
        }
        if let Ask::Segment { .. } = ask {
            return Ok(Some(Answer::Segment(segment(&shown.committed, &replayed.states, index))));
        }
        let revealed = match replayed.step.take() {
            Some(revealed) => revealed,
            None => {
                let step = self.replay(shown, work, step, control, Wanted::Step).await?.step;
                step.ok_or_else(|| VolunteerError::Answer("no step was computed".to_owned()))?
            }
        };
        replayed.step = Some(revealed.clone());
        if let Ask::Trace { .. } = ask {
            return Ok(Some(Answer::Trace(root(&leaves(Tree::Trace, &revealed.trace).await?))));
        }
        let uploaded = self.upload_file(leased, &revealed.write()).await?;
        let at = (step - first) as usize;
        let [before_path, after_path] = [at, at + 1].map(|at| path_of_state(&replayed.states, at));
        Ok(Some(Answer::Reveal(Reveal { hash: uploaded.hash, bytes: uploaded.bytes, before_path, after_path })))
    }

    /// The states at the ends of a segment that the coordinator lacks: as they were kept, or computed again.
    async fn ends(
        &self,
        shown: &Shown,
        work: &TrainWork,
        [first, steps]: [u32; 2],
        control: &Control,
    ) -> Result<Ends, VolunteerError> {
        let kept = |at| shown.committed.snapshots.iter().find(|(step, _)| *step == at).map(|(_, state)| state.clone());
        let last = first + steps;
        let ends = Ends { first: kept(first), last: kept(last) };
        let is_there = |state: &Option<_>, at| state.is_some() || at == 0 || at == work.inner_steps;
        if is_there(&ends.first, first) && is_there(&ends.last, last) {
            return Ok(ends);
        }
        Ok(self.replay(shown, work, first, control, Wanted::Ends(steps)).await?.ends)
    }

    /// Computes a part of the unit again, on the device that computed it.
    async fn replay(
        &self,
        shown: &Shown,
        work: &TrainWork,
        step: u32,
        control: &Control,
        wanted: Wanted,
    ) -> Result<Replayed, VolunteerError> {
        let (engine, inputs, control, work) = (shown.engine.clone(), shown.inputs.clone(), control.clone(), work.clone());
        let from = shown.committed.snapshots.iter().rfind(|(at, _)| *at <= step).cloned();
        beside(move || async move { Ok(replay(&engine, work, &inputs, from, step, &control, wanted).await) }).await?
    }
}

/// What a replay is to give.
#[derive(Clone, Copy)]
enum Wanted {
    /// The states of so many steps from there.
    States(u32),
    Step,
    /// The states before and after so many steps from there.
    Ends(u32),
}

async fn replay(
    engine: &Engine,
    work: TrainWork,
    inputs: &[Arc<Vec<u8>>; 2],
    from: Option<Snapshot>,
    step: u32,
    control: &Control,
    wanted: Wanted,
) -> Result<Replayed, VolunteerError> {
    let [checkpoint, shard] = inputs;
    let Training { work, parameters, shard } = Training::read(work, checkpoint, shard)?;
    let from = from.as_ref();
    Ok(match wanted {
        Wanted::States(steps) => {
            let states = engine.replay_states(&work, &parameters, &shard, from, [step, steps], control).await?;
            Replayed { states, ..Replayed::default() }
        }
        Wanted::Step => {
            let step = engine.replay_step(&work, &parameters, &shard, from, step, control).await?;
            Replayed { step: Some(Arc::new(step)), ..Replayed::default() }
        }
        Wanted::Ends(steps) => {
            let ends = engine.replay_ends(&work, &parameters, &shard, from, [step, steps], control).await?;
            Replayed { ends, ..Replayed::default() }
        }
    })
}

/// Commits to the states of a segment, which begins with committed state `index`.
fn segment(committed: &Committed, states: &[TreeHash], index: usize) -> Segment {
    let within = states.len() - 1;
    Segment {
        root: root_of_states(states),
        first: states[0],
        last: states[within],
        first_committed: path_of_state(&committed.states, index),
        last_committed: path_of_state(&committed.states, index + 1),
        first_path: path_of_state(states, 0),
        last_path: path_of_state(states, within),
        initial_path: path_of_state(&committed.states, 0),
        end_leaves: committed.end_leaves.clone(),
        end_path: path_of_state(&committed.states, committed.states.len() - 1),
    }
}

/// Whether all runs committed, and to the same states.
fn same(runs: &[Option<Vec<TreeHash>>]) -> bool {
    runs.iter().all(|run| run.is_some() && run == &runs[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_gives_other_bits_commits_to_nothing() {
        let run = |n| Some(vec![TreeHash([0; 32]), TreeHash([n; 32])]);
        assert!(same(&[run(1), run(1)]));
        assert!(!same(&[run(1), run(2)]));
        assert!(!same(&[None, None]), "nothing was committed to");
    }
}
