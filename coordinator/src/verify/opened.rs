//! Does what a volunteer showed belong to what it committed to? Everything here is hashes and bits; whether the step shown
//! is an honest one is [`super::step`]'s.

use manyhands::engine::states::{
    Ends as Shown, Layout, Part, Step as Revealed, Tensors, initial_state, leaf_of, leaves_of, shown_tensors,
};
use manyhands::tensors::{self, TensorError};
use manyhands_protocol::TreeHash;
use manyhands_protocol::challenge::{Ends, Reveal, Segment};
use manyhands_protocol::rules::challenge::{segment_of, states_count};
use manyhands_protocol::statement::States;
use manyhands_protocol::states::{Tree, is_state, root};
use manyhands_protocol::work::TrainWork;

/// Why what was shown is not what was committed to.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    File(#[from] TensorError),
    #[error("the commitment to the unit does not hold {0}")]
    Committed(&'static str),
    #[error("the commitment to the segment does not hold {0}")]
    Segment(&'static str),
    #[error("the tensors of the step are not those committed to")]
    Trace,
    #[error("the last state is not the output's")]
    End,
    #[error("the model cannot be run: {0}")]
    Model(String),
}

/// What a challenge compares; checkpoint and delta in the model's order.
pub struct Opening<'a> {
    pub work: &'a TrainWork,
    pub states: States,
    pub checkpoint: &'a [Vec<f32>],
    pub delta: &'a [Vec<f32>],
    /// The step drawn, in a segment drawn before.
    pub step: u32,
    pub segment: &'a Segment,
    pub trace: TreeHash,
    pub reveal: &'a Reveal,
    /// The file shown.
    pub file: &'a [u8],
}

impl Opening<'_> {
    /// The step, if every part of it is what was committed to.
    pub fn check(&self) -> Result<Revealed, Fault> {
        let layout = Layout::of(self.work).map_err(|e| Fault::Model(e.to_string()))?;
        self.check_ends(&layout)?;
        self.check_segment()?;
        let revealed = read_step(&layout, self.file)?;
        self.check_step(&revealed)?;
        Ok(revealed)
    }

    /// State 0 is the checkpoint's, and the last one the output's.
    fn check_ends(&self, layout: &Layout) -> Result<(), Fault> {
        let model = |e: &dyn std::fmt::Display| Fault::Model(e.to_string());
        let States { every, root: committed } = self.states;
        let (count, segment) = (states_count(self.work.inner_steps, every), self.segment);
        let initial = initial_state(self.work, self.checkpoint).map_err(|e| model(&e))?;
        if !is_state(committed, root(&leaves_of(Tree::State, &initial)), 0, count, &segment.initial_path) {
            return Err(Fault::Committed("the checkpoint as state 0"));
        }
        if segment.end_leaves.len() != layout.state.len() {
            return Err(Fault::End);
        }
        let parameters = self.work.model.parameters().map_err(|e| model(&e))?;
        for (parameter, (before, delta)) in parameters.iter().zip(self.checkpoint.iter().zip(self.delta)) {
            let after: Vec<f32> = before.iter().zip(delta).map(|(before, delta)| before - delta).collect();
            let leaf = layout.state.iter().zip(&segment.end_leaves).find(|((name, _), _)| *name == parameter.name);
            if leaf.map(|(_, leaf)| *leaf) != Some(leaf_of(Tree::State, &parameter.name, &after)) {
                return Err(Fault::End);
            }
        }
        match is_state(committed, root(&segment.end_leaves), count - 1, count, &segment.end_path) {
            true => Ok(()),
            false => Err(Fault::End),
        }
    }

    /// The segment begins and ends with committed states.
    fn check_segment(&self) -> Result<(), Fault> {
        let (segment, inner_steps) = (self.segment, self.work.inner_steps);
        let States { every, root } = self.states;
        let (index, _, steps) = segment_of(inner_steps, every, self.step);
        let (committed, within) = (states_count(inner_steps, every), steps as usize + 1);
        let check = |ok: bool, fault| if ok { Ok(()) } else { Err(fault) };
        let first = is_state(root, segment.first, index, committed, &segment.first_committed);
        check(first, Fault::Committed("the segment's first state"))?;
        let last = is_state(root, segment.last, index + 1, committed, &segment.last_committed);
        check(last, Fault::Committed("the segment's last state"))?;
        let first = is_state(segment.root, segment.first, 0, within, &segment.first_path);
        check(first, Fault::Segment("its first state"))?;
        let last = is_state(segment.root, segment.last, within - 1, within, &segment.last_path);
        check(last, Fault::Segment("its last state"))
    }

    /// The tensors are those of the two states in the segment, and of the trace.
    fn check_step(&self, revealed: &Revealed) -> Result<(), Fault> {
        let (_, first, steps) = segment_of(self.work.inner_steps, self.states.every, self.step);
        let (at, count) = ((self.step - first) as usize, steps as usize + 1);
        let in_segment = |state: &Tensors, index, path: &[TreeHash]| {
            is_state(self.segment.root, root(&leaves_of(Tree::State, state)), index, count, path)
        };
        if !in_segment(&revealed.before, at, &self.reveal.before_path) {
            return Err(Fault::Segment("the state before the step"));
        }
        if !in_segment(&revealed.after, at + 1, &self.reveal.after_path) {
            return Err(Fault::Segment("the state after the step"));
        }
        if root(&leaves_of(Tree::Trace, &revealed.trace)) != self.trace {
            return Err(Fault::Trace);
        }
        Ok(())
    }
}

/// What the ends of a segment are compared with.
pub struct EndsOpening<'a> {
    pub work: &'a TrainWork,
    pub states: States,
    pub first_step: u32,
    pub steps: u32,
    pub ends: &'a Ends,
    /// The file shown.
    pub file: &'a [u8],
}

impl EndsOpening<'_> {
    /// The two states, without those that the coordinator has, if they are those committed to.
    pub fn check(&self) -> Result<Shown, Fault> {
        let layout = Layout::of(self.work).map_err(|e| Fault::Model(e.to_string()))?;
        let (inner_steps, States { every, root: committed }) = (self.work.inner_steps, self.states);
        let (index, count) = (segment_of(inner_steps, every, self.first_step).0, states_count(inner_steps, every));
        let state: &[(String, usize)] = &layout.state;
        let (first, last) = (self.first_step > 0, self.first_step + self.steps < inner_steps);
        let parts: Vec<Part<&[_]>> =
            [first.then_some(("before", state)), last.then_some(("after", state))].into_iter().flatten().collect();
        let mut shown = read(&parts, self.file)?.into_iter();
        let mut opened = |is_shown: bool, index, path: &[TreeHash], what| {
            let state = if is_shown { shown.next() } else { None };
            let wrong = state
                .as_ref()
                .is_some_and(|state| !is_state(committed, root(&leaves_of(Tree::State, state)), index, count, path));
            if wrong { Err(Fault::Committed(what)) } else { Ok(state) }
        };
        let first = opened(first, index, &self.ends.first_path, "the segment's first state")?;
        let last = opened(last, index + 1, &self.ends.last_path, "the segment's last state")?;
        Ok(Shown { first, last })
    }
}

/// The tensors of a file that shows a step.
fn read_step(layout: &Layout, file: &[u8]) -> Result<Revealed, Fault> {
    let mut parts = read(&[("before", &layout.state), ("trace", &layout.trace), ("after", &layout.state)], file)?.into_iter();
    let mut part = || parts.next().expect("three parts were read");
    Ok(Revealed { before: part(), trace: part(), after: part() })
}

/// The tensors of a file that shows these parts, by part.
fn read(parts: &[Part<&[(String, usize)]>], file: &[u8]) -> Result<Vec<Tensors>, Fault> {
    let shapes: Vec<_> = shown_tensors(parts).into_iter().map(|(name, values)| (name, [values])).collect();
    let expected: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let mut values = tensors::read_f32(file, &expected)?.into_iter();
    let mut take = |named: &[(String, usize)]| named.iter().map(|(name, _)| name.clone()).zip(values.by_ref()).collect();
    Ok(parts.iter().map(|(_, tensors)| take(tensors)).collect())
}
