//! Training states by name, as they are committed to and shown: what a step's tensors are called, a run that commits on its
//! way, and replays of a part of it. The trees are the protocol's; what is asked for is the coordinator's.

use std::collections::BTreeMap;

use manyhands_protocol::TreeHash;
use manyhands_protocol::model::Parameter;
use manyhands_protocol::statement::States;
use manyhands_protocol::states::{Tree, root, root_of_states};
use manyhands_protocol::work::TrainWork;

use super::{Engine, EngineError, Trained, Trainer, finite};
use crate::control::Control;
use crate::cpu::subtract;
use crate::plan::{State, StateKind, Traced, TrainPlan, What};
use crate::tensors::{Shard, write_f32};

/// Most bytes of a unit's committed states that are kept for a replay to begin with; where there are more, a replay begins
/// further back.
pub const SNAPSHOTS_BYTES_MAX: usize = 64 << 20;

/// Tensors with their names, ascending by name.
pub type Tensors = Vec<(String, Vec<f32>)>;

/// A state after so many steps.
pub type Snapshot = (u32, Tensors);

/// What a run committed to, and what it keeps to answer for it.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    pub every: u32,
    /// The root over each committed state, the first and the last among them.
    pub states: Vec<TreeHash>,
    /// The leaves of the last one.
    pub end_leaves: Vec<TreeHash>,
    /// Some of those between.
    pub snapshots: Vec<Snapshot>,
}

impl Committed {
    /// What a result says of it.
    pub fn states(&self) -> States {
        States { every: self.every, root: root_of_states(&self.states) }
    }
}

/// One step, to be shown.
#[derive(Debug, Clone)]
pub struct Step {
    pub before: Tensors,
    pub trace: Tensors,
    pub after: Tensors,
}

/// The tensors of a shown step by what they are.
#[derive(Debug, Clone, Default)]
pub struct Keyed {
    pub before: Vec<(State, Vec<f32>)>,
    pub trace: Vec<(Traced, Vec<f32>)>,
    pub after: Vec<(State, Vec<f32>)>,
}

/// Names and sizes of the tensors of a unit's states and steps, ascending by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub state: Vec<(String, usize)>,
    pub trace: Vec<(String, usize)>,
}

impl Layout {
    /// That of a unit whose extents were validated.
    pub fn of(work: &TrainWork) -> Result<Layout, EngineError> {
        let (plan, names) = (TrainPlan::compile(work)?, Names::of(work)?);
        let size = |buffer: crate::plan::Buffer| plan.program.values[buffer.0] as usize;
        Ok(Layout {
            state: sorted(plan.state.iter().map(|(of, buffer)| (names.state(*of), size(*buffer)))),
            trace: sorted(plan.traces.iter().map(|trace| (names.traced(trace.of), size(trace.buffer)))),
        })
    }

    /// Bytes of the values of one state.
    pub fn state_bytes(&self) -> u64 {
        values_bytes(&self.state)
    }

    /// Bytes of the values of a segment's ends.
    pub fn ends_bytes(&self) -> u64 {
        2 * self.state_bytes()
    }

    /// Tensors of a segment's ends.
    pub fn ends_tensors_count(&self) -> usize {
        2 * self.state.len()
    }

    /// Bytes of the values of a step: two states and what is between.
    pub fn step_bytes(&self) -> u64 {
        2 * self.state_bytes() + values_bytes(&self.trace)
    }

    /// Tensors of a step.
    pub fn step_tensors_count(&self) -> usize {
        2 * self.state.len() + self.trace.len()
    }
}

/// A part of what a file shows: the state before, what is between, the state after.
pub type Part<T> = (&'static str, T);

/// Names and sizes of the tensors of a file that shows these parts, in their order.
pub fn shown_tensors(parts: &[Part<&[(String, usize)]>]) -> Vec<(String, usize)> {
    let named = |part: &str, tensors: &[(String, usize)]| -> Vec<_> {
        tensors.iter().map(|(name, values)| (format!("{part}.{name}"), *values)).collect()
    };
    parts.iter().flat_map(|(part, tensors)| named(part, tensors)).collect()
}

/// The file that shows these parts.
pub fn write_shown(parts: &[Part<&Tensors>]) -> Vec<u8> {
    let named: Vec<_> = parts
        .iter()
        .flat_map(|(part, tensors)| tensors.iter().map(move |(name, values)| (format!("{part}.{name}"), [values.len()], values)))
        .collect();
    let tensors: Vec<_> =
        named.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice())).collect();
    write_f32(&tensors)
}

/// The states at the ends of a segment, but for those that everyone has: state 0 and the unit's last.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    pub first: Option<Tensors>,
    pub last: Option<Tensors>,
}

impl Ends {
    /// The file that shows them.
    pub fn write(&self) -> Vec<u8> {
        let parts = [("before", &self.first), ("after", &self.last)];
        write_shown(&parts.iter().filter_map(|(part, state)| Some((*part, state.as_ref()?))).collect::<Vec<_>>())
    }
}

/// The tensors of a state by what they are: those of a unit's plan that are there.
pub fn keyed_state(work: &TrainWork, state: Tensors) -> Result<Vec<(State, Vec<f32>)>, EngineError> {
    let (plan, names) = (TrainPlan::compile(work)?, Names::of(work)?);
    Ok(pick(plan.state.iter().map(|(of, _)| (*of, names.state(*of))), state))
}

fn pick<K: Copy>(of: impl Iterator<Item = (K, String)>, tensors: Tensors) -> Vec<(K, Vec<f32>)> {
    let mut tensors: BTreeMap<String, Vec<f32>> = tensors.into_iter().collect();
    of.filter_map(|(of, name)| Some((of, tensors.remove(&name)?))).collect()
}

impl Step {
    /// The file that shows it.
    pub fn write(&self) -> Vec<u8> {
        write_shown(&[("before", &self.before), ("trace", &self.trace), ("after", &self.after)])
    }

    /// Its tensors by what they are: those of a unit's plan that are there.
    pub fn keyed(self, work: &TrainWork) -> Result<Keyed, EngineError> {
        let (plan, names) = (TrainPlan::compile(work)?, Names::of(work)?);
        let state = || plan.state.iter().map(|(of, _)| (*of, names.state(*of)));
        Ok(Keyed {
            before: pick(state(), self.before),
            trace: pick(plan.traces.iter().map(|trace| (trace.of, names.traced(trace.of))), self.trace),
            after: pick(state(), self.after),
        })
    }
}

fn values_bytes(tensors: &[(String, usize)]) -> u64 {
    tensors.iter().map(|(_, values)| *values as u64 * 4).sum()
}

fn sorted<T>(named: impl Iterator<Item = (String, T)>) -> Vec<(String, T)> {
    let mut named: Vec<_> = named.collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

/// The names of a model's parameters, from which all others are made.
pub(crate) struct Names(Vec<Parameter>);

impl Names {
    pub(crate) fn of(work: &TrainWork) -> Result<Names, EngineError> {
        Ok(Names(work.model.parameters().map_err(|e| EngineError::Input(e.to_string()))?))
    }

    fn parameter(&self, index: u32) -> &str {
        &self.0[index as usize].name
    }

    pub(crate) fn state(&self, State { parameter, kind }: State) -> String {
        let name = parameter.map_or("", |index| self.parameter(index));
        match kind {
            StateKind::Parameter => name.to_owned(),
            StateKind::Velocity => format!("{name}.velocity"),
            StateKind::FirstMoment => format!("{name}.first_moment"),
            StateKind::SecondMoment => format!("{name}.second_moment"),
            StateKind::Powers => "powers".to_owned(),
            StateKind::InnerStep => "inner_step".to_owned(),
        }
    }

    fn traced(&self, Traced { layer, part, what }: Traced) -> String {
        match what {
            What::Output => format!("layers.{layer}.{part}.output"),
            What::Error => format!("layers.{layer}.{part}.error"),
            What::Gradient { parameter } => format!("{}.gradient", self.parameter(parameter)),
        }
    }
}

/// The state that a unit begins with.
pub fn initial_state(work: &TrainWork, parameters: &[Vec<f32>]) -> Result<Tensors, EngineError> {
    let (plan, names) = (TrainPlan::compile(work)?, Names::of(work)?);
    let contents = |of: State, buffer: crate::plan::Buffer| match (of.kind, of.parameter) {
        (StateKind::Parameter, Some(index)) => parameters[index as usize].clone(),
        _ => match plan.initial.iter().find(|(initial, _)| *initial == buffer) {
            Some((_, values)) => values.clone(),
            None => vec![0.0; plan.program.values[buffer.0] as usize],
        },
    };
    Ok(sorted(plan.state.iter().map(|&(of, buffer)| (names.state(of), contents(of, buffer)))))
}

/// The leaves of tensors in their order.
#[cfg(not(all(target_arch = "wasm32", feature = "web")))]
pub async fn leaves(tree: Tree, tensors: &Tensors) -> Result<Vec<TreeHash>, EngineError> {
    Ok(leaves_of(tree, tensors))
}

/// The same where nothing waits.
pub fn leaves_of(tree: Tree, tensors: &Tensors) -> Vec<TreeHash> {
    tensors.iter().map(|(name, values)| leaf_of(tree, name, values)).collect()
}

/// The leaf of one tensor.
pub fn leaf_of(tree: Tree, name: &str, values: &[f32]) -> TreeHash {
    tree.leaf(name, bytemuck::cast_slice(values))
}

/// The same by WebCrypto, which has the processor's instructions; all at once, for each waits for another thread.
#[cfg(all(target_arch = "wasm32", feature = "web"))]
pub async fn leaves(tree: Tree, tensors: &Tensors) -> Result<Vec<TreeHash>, EngineError> {
    let leaf = async |(name, values): &(String, Vec<f32>)| {
        let bytes = [&tree.prefix(name), bytemuck::cast_slice(values)].concat();
        crate::web::sha256(&bytes).await.map(|hash| TreeHash(hash.0))
    };
    let leaves = futures::future::try_join_all(tensors.iter().map(leaf)).await;
    leaves.map_err(|e| EngineError::Unsupported(e.to_string()))
}

/// The root over a state.
async fn state_root(state: &Tensors) -> Result<TreeHash, EngineError> {
    Ok(root(&leaves(Tree::State, state).await?))
}

/// The parameters of the last state as they are committed to: checkpoint − delta, so that whoever has the output has them.
fn settle(state: &mut Tensors, names: &Names, checkpoint: &[Vec<f32>]) {
    for (parameter, before) in names.0.iter().zip(checkpoint) {
        let (_, values) = state.iter_mut().find(|(name, _)| *name == parameter.name).expect("every parameter is state");
        *values = subtract(before, &subtract(before, values));
    }
}

impl Engine {
    /// [`Engine::train`], with a commitment to the states after each `every` steps and after the last.
    pub async fn train_committed(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        every: u32,
        control: &Control,
    ) -> Result<(Trained, Committed), EngineError> {
        let (mut run, names) = (self.replay(work, parameters, shard, None, 0, control).await?, Names::of(work)?);
        let mut committed = Committed { every, ..Committed::default() };
        committed.states.push(state_root(&initial_state(work, parameters)?).await?);
        let (mut losses, mut done, mut kept) = (Vec::with_capacity(work.inner_steps as usize), 0, 0);
        let mut last = loop {
            let steps = every.clamp(1, work.inner_steps - done);
            losses.extend(run.run(steps, control).await?);
            done += steps;
            let state = run.named_state(&names).await?;
            if done == work.inner_steps {
                break state;
            }
            committed.states.push(state_root(&state).await?);
            kept += state.iter().map(|(_, values)| values.len() * 4).sum::<usize>();
            if kept <= SNAPSHOTS_BYTES_MAX {
                committed.snapshots.push((done, state));
            }
        };
        let after = |name: &str| &last.iter().find(|(other, _)| other == name).expect("every parameter is state").1;
        let delta: Vec<_> = names.0.iter().zip(parameters).map(|(p, before)| subtract(before, after(&p.name))).collect();
        for delta in &delta {
            finite("delta", delta)?;
        }
        settle(&mut last, &names, parameters);
        committed.end_leaves = leaves(Tree::State, &last).await?;
        committed.states.push(root(&committed.end_leaves));
        Ok((Trained { delta, losses }, committed))
    }

    /// The roots over the states from step `first` to step `first + steps` of a unit, begun from a state at or before the
    /// first of them. The same device gives the same bits.
    pub async fn replay_states(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        from: Option<&Snapshot>,
        [first, steps]: [u32; 2],
        control: &Control,
    ) -> Result<Vec<TreeHash>, EngineError> {
        let (mut run, names) = (self.replay(work, parameters, shard, from, first, control).await?, Names::of(work)?);
        let mut states = Vec::with_capacity(steps as usize + 1);
        for step in first..=first + steps {
            let mut state = run.named_state(&names).await?;
            if step == work.inner_steps {
                settle(&mut state, &names, parameters);
            }
            states.push(state_root(&state).await?);
            if step < first + steps {
                run.run(1, control).await?;
            }
        }
        Ok(states)
    }

    /// The states before and after `steps` steps from step `first` of a unit, begun likewise.
    pub async fn replay_ends(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        from: Option<&Snapshot>,
        [first, steps]: [u32; 2],
        control: &Control,
    ) -> Result<Ends, EngineError> {
        let (mut run, names) = (self.replay(work, parameters, shard, from, first, control).await?, Names::of(work)?);
        let mut ends = Ends::default();
        if first > 0 {
            ends.first = Some(run.named_state(&names).await?);
        }
        if first + steps < work.inner_steps {
            run.run(steps, control).await?;
            ends.last = Some(run.named_state(&names).await?);
        }
        Ok(ends)
    }

    /// The state after `steps` steps from any state of a unit, its own or not.
    pub async fn run_from(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        from: &Snapshot,
        steps: u32,
        control: &Control,
    ) -> Result<Tensors, EngineError> {
        let (mut run, names) = (self.replay(work, parameters, shard, Some(from), from.0, control).await?, Names::of(work)?);
        run.run(steps, control).await?;
        run.named_state(&names).await
    }

    /// The step from state `step` of a unit to the next, begun likewise.
    pub async fn replay_step(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        from: Option<&Snapshot>,
        step: u32,
        control: &Control,
    ) -> Result<Step, EngineError> {
        let (mut run, names) = (self.replay(work, parameters, shard, from, step, control).await?, Names::of(work)?);
        let before = run.named_state(&names).await?;
        let trace = run.run_traced(control).await?;
        let trace = sorted(trace.into_iter().map(|(of, values)| (names.traced(of), values)));
        let mut after = run.named_state(&names).await?;
        if step + 1 == work.inner_steps {
            settle(&mut after, &names, parameters);
        }
        Ok(Step { before, trace, after })
    }

    /// A run that has come to state `step`.
    async fn replay<'a>(
        &'a self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &'a Shard,
        from: Option<&Snapshot>,
        step: u32,
        control: &Control,
    ) -> Result<Trainer<'a>, EngineError> {
        let call_flop_max = self.call_flop_max().min(control.call_flop_max());
        let mut run = self.trainer_cut(work, parameters, shard, call_flop_max).await?;
        let mut done = 0;
        if let Some((at, state)) = from.filter(|(at, _)| *at <= step) {
            run.resume(&Names::of(work)?, *at, state)?;
            done = *at;
        }
        if done < step {
            run.run(step - done, control).await?;
        }
        Ok(run)
    }
}
