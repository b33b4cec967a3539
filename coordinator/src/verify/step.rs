//! Is one revealed training step an honest one? A volunteer shows the state before and after an inner step and what the step
//! computed on its way; every tensor is compared with what its own revealed inputs make it, so that no bound grows with the
//! depth of the network or the number of steps. docs/verification.md, "Challenged steps", has the bounds.
//!
//! Pure: it reads no store, and whether what is revealed is what was committed to is its caller's question.

mod backward;
pub mod cost;
mod forward;
mod network;
mod norm;
mod product;
mod update;

use std::collections::BTreeMap;
use std::fmt;

use manyhands::plan::{State, StateKind, Traced, What};
use manyhands::tensors::Shard;
use manyhands_protocol::work::{TrainWork, Work};
use rand::CryptoRng;

use self::network::{Activation, Network};
use super::Refusal;

/// The examples of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch<'a> {
    /// `[batch, input values]`, as in a [`Shard`].
    pub x: &'a [f32],
    /// `[batch, labels]`.
    pub y: &'a [u32],
}

impl<'a> Batch<'a> {
    /// The rows of the shard that the work names for an inner step, counted from 0. None if the shard is not of this work.
    pub fn of(work: &TrainWork, shard: &'a Shard, step: u32) -> Option<Self> {
        let batch = work.batch as usize;
        if shard.rows == 0 || batch == 0 || !shard.rows.is_multiple_of(batch) || !(work.first_row as usize).is_multiple_of(batch)
        {
            return None;
        }
        let first = (work.first_row as usize % shard.rows + step as usize % (shard.rows / batch) * batch) % shard.rows;
        let (inputs, labels) = (shard.x.len() / shard.rows, shard.y.len() / shard.rows);
        let rows = |each: usize| first * each..(first + batch) * each;
        Some(Self { x: shard.x.get(rows(inputs))?, y: shard.y.get(rows(labels))? })
    }
}

/// A step as it was revealed, and what the coordinator knows of it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub work: &'a TrainWork,
    /// Of the unit's inner steps, from 0.
    pub number: u32,
    pub batch: Batch<'a>,
    pub before: &'a [(State, Vec<f32>)],
    /// What [`manyhands::engine::Trainer::run_traced`] gives, in any order.
    pub trace: &'a [(Traced, Vec<f32>)],
    pub after: &'a [(State, Vec<f32>)],
    /// The unit's checkpoint, in the model's order, where the parameters after the step are `checkpoint − (checkpoint − p)` in
    /// f32 rather than p: so are those that a unit's last state is committed to with.
    pub settled_from: Option<&'a [Vec<f32>]>,
}

/// A tensor of a reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tensor {
    Before(State),
    Trace(Traced),
    After(State),
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |f: &mut fmt::Formatter<'_>, when: &str, of: &State| match of.parameter {
            Some(parameter) => write!(f, "{:?} {parameter} {when} the step", of.kind),
            None => write!(f, "{:?} {when} the step", of.kind),
        };
        match self {
            Tensor::Before(of) => state(f, "before", of),
            Tensor::After(of) => state(f, "after", of),
            Tensor::Trace(Traced { layer, part, what: What::Gradient { parameter } }) => {
                write!(f, "the gradient of parameter {parameter} in layer {layer}.{part}")
            }
            Tensor::Trace(Traced { layer, part, what }) => write!(f, "{what:?} of layer {layer}.{part}"),
        }
    }
}

/// Why a revealed step is not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepRefusal {
    #[error("the work is not valid: {0}")]
    Work(String),
    #[error("step {number} of a unit of {steps}")]
    Number { number: u32, steps: u32 },
    #[error("the batch does not fit the work: {0}")]
    Batch(&'static str),
    #[error("{0} is missing")]
    Missing(Tensor),
    #[error("{0} is revealed twice, or no part of this step")]
    Extra(Tensor),
    #[error("{tensor} holds {got} values, {expected} are expected")]
    Length { tensor: Tensor, got: usize, expected: usize },
    #[error("{tensor} holds NaN or infinity at {index}")]
    NotFinite { tensor: Tensor, index: usize },
    #[error("{tensor} is {got:e} at {index}, {expected:e} is expected within {tolerance:e}")]
    Value { tensor: Tensor, index: usize, got: f32, expected: f64, tolerance: f64 },
    #[error(
        "row {row} of {tensor} is not the product: off by {residual:e} in a random combination, at most {tolerance:e} is rounding"
    )]
    Product { tensor: Tensor, row: usize, residual: f64, tolerance: f64 },
}

/// What a check that passed has to tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The largest share of its tolerance that any value used, by kind of check.
    pub used: BTreeMap<&'static str, f64>,
    /// Of each tensor that was compared.
    pub rooms: BTreeMap<Tensor, Room>,
}

/// How much of a tensor might have been otherwise and passed: sums of squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Room {
    pub tolerance: f64,
    pub values: f64,
}

impl std::iter::Sum for Room {
    fn sum<I: Iterator<Item = Room>>(rooms: I) -> Room {
        rooms.fold(Room::default(), |a, b| Room { tolerance: a.tolerance + b.tolerance, values: a.values + b.values })
    }
}

impl Room {
    /// As a share of the norm.
    pub fn share(self) -> f64 {
        (self.tolerance / self.values).sqrt()
    }
}

/// Checks every tensor of a step. `rng` draws the vectors of Freivalds' check: call this once all tensors are stored, with a
/// generator whose state nobody else knows.
///
/// What is allocated is bounded by the work's validated extents, before the first tensor is looked at.
pub fn check_step(step: &Step, rng: &mut (impl CryptoRng + ?Sized)) -> Result<Report, Refusal> {
    let invalid = |e: &dyn fmt::Display| StepRefusal::Work(e.to_string());
    let work = step.work;
    Work::Train(work.clone()).validate().map_err(|e| invalid(&e))?;
    if step.number >= work.inner_steps {
        return Err(StepRefusal::Number { number: step.number, steps: work.inner_steps }.into());
    }
    let network = Network::of(work).map_err(|e| invalid(&e))?;
    check_batch(work, step.batch)?;
    let state = network.state(&work.optimizer);
    let mut checker = Checker {
        before: tensors(step.before, &state, Tensor::Before)?,
        trace: tensors(step.trace, &network.trace(), Tensor::Trace)?,
        after: tensors(step.after, &state, Tensor::After)?,
        step,
        network: &network,
        report: Report::default(),
        rng,
    };
    for node in &network.nodes {
        checker.forward(node)?;
    }
    checker.loss()?;
    for index in (network.first..network.nodes.len()).rev() {
        checker.backward(index)?;
    }
    checker.update()?;
    Ok(checker.report)
}

fn check_batch(work: &TrainWork, batch: Batch) -> Result<(), StepRefusal> {
    let model = &work.model;
    let values = model.input_values().map_err(|e| StepRefusal::Work(e.to_string()))?;
    let rows = work.batch as usize;
    if batch.x.len() != rows * values as usize || batch.y.len() != rows * model.labels_count() as usize {
        return Err(StepRefusal::Batch("its rows"));
    }
    let known = match model.vocabulary() {
        Some(vocabulary) => batch.x.iter().all(|id| id.to_bits() < vocabulary),
        None => batch.x.iter().all(|value| value.is_finite()),
    };
    if !known {
        return Err(StepRefusal::Batch("a value"));
    }
    if batch.y.iter().any(|&label| label >= model.classes()) {
        return Err(StepRefusal::Batch("a label"));
    }
    Ok(())
}

/// The tensors by name: each of those expected, once, of its length and finite.
fn tensors<'a, N: Copy + Ord>(
    given: &'a [(N, Vec<f32>)],
    expected: &BTreeMap<N, usize>,
    name: fn(N) -> Tensor,
) -> Result<BTreeMap<N, &'a [f32]>, StepRefusal> {
    let mut by_name = BTreeMap::new();
    for (of, values) in given {
        let tensor = name(*of);
        let Some(&count) = expected.get(of) else { return Err(StepRefusal::Extra(tensor)) };
        if values.len() != count {
            return Err(StepRefusal::Length { tensor, got: values.len(), expected: count });
        }
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(StepRefusal::NotFinite { tensor, index });
        }
        if by_name.insert(*of, values.as_slice()).is_some() {
            return Err(StepRefusal::Extra(tensor));
        }
    }
    match expected.keys().find(|of| !by_name.contains_key(of)) {
        Some(&of) => Err(StepRefusal::Missing(name(of))),
        None => Ok(by_name),
    }
}

/// The walk over a step whose tensors are all there.
struct Checker<'a, R: ?Sized> {
    step: &'a Step<'a>,
    network: &'a Network,
    before: BTreeMap<State, &'a [f32]>,
    trace: BTreeMap<Traced, &'a [f32]>,
    after: BTreeMap<State, &'a [f32]>,
    report: Report,
    rng: &'a mut R,
}

impl<'a, R: CryptoRng + ?Sized> Checker<'a, R> {
    /// Compares a range of a tensor, as long as what is expected, value by value; `got` begins with the value at `first`.
    fn compare(
        &mut self,
        kind: &'static str,
        tensor: Tensor,
        first: usize,
        got: &[f32],
        expected: &[f64],
        tolerance: &[f64],
    ) -> Result<(), StepRefusal> {
        let (mut most, mut room) = (0.0f64, Room::default());
        for (index, (&expected, &tolerance)) in expected.iter().zip(tolerance).enumerate() {
            let got = got[index];
            let difference = (f64::from(got) - expected).abs();
            // Written so that NaN on either side fails.
            #[allow(clippy::neg_cmp_op_on_partial_ord)]
            if !(difference <= tolerance) {
                return Err(StepRefusal::Value { tensor, index: first + index, got, expected, tolerance });
            }
            if difference > 0.0 {
                most = most.max(difference / tolerance);
            }
            room.tolerance += tolerance * tolerance;
            room.values += expected * expected;
        }
        self.note(kind, tensor, most, room);
        Ok(())
    }

    fn note(&mut self, kind: &'static str, tensor: Tensor, share: f64, room: Room) {
        let most = self.report.used.entry(kind).or_default();
        *most = most.max(share);
        let rooms = self.report.rooms.entry(tensor).or_default();
        *rooms = [*rooms, room].into_iter().sum();
    }

    /// A tensor that the work says is there, as all are by now.
    fn traced(&self, of: Traced) -> &'a [f32] {
        self.trace[&of]
    }

    fn parameter(&self, index: u32) -> &'a [f32] {
        self.before[&State { parameter: Some(index), kind: StateKind::Parameter }]
    }

    /// The batch, or what a node gave.
    fn activation(&self, at: Activation) -> &'a [f32] {
        match at.checked_sub(1) {
            Some(node) => self.traced(self.network.nodes[node].output_name()),
            None => self.step.batch.x,
        }
    }

    /// The error by an activation, and its name; only what comes before the first node that trains has none.
    fn error(&self, at: Activation) -> Option<(Tensor, &'a [f32])> {
        let node = at.checked_sub(1).filter(|&node| node >= self.network.first)?;
        let name = self.network.nodes[node].error_name();
        Some((Tensor::Trace(name), self.traced(name)))
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[cfg(test)]
mod tests;
