//! The outer step of a round, and the tensors it reads and writes. Pure: equal inputs give equal bytes on every
//! machine. Which updates deserve to be merged is decided before.

use manyhands::tensors::{self, TensorError};
use manyhands_protocol::UnitId;
use manyhands_protocol::manifest::{MergeRule, OuterOptimizer};
use manyhands_protocol::model::{Model, Parameter};

mod robust;

/// One unit's update as it enters a merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub unit: UnitId,
    /// Over 0, at most 1: thousandths of [`manyhands_protocol::rules::standing`], divided.
    pub weight: f64,
    /// In the model's order.
    pub tensors: Vec<Vec<f32>>,
}

/// What the outer optimiser carries from round to round, tensors in the model's order.
#[derive(Debug, Clone, PartialEq)]
pub struct OuterState {
    pub parameters: Vec<Vec<f32>>,
    /// Momentum; zero before the first round.
    pub velocity: Vec<Vec<f32>>,
}

impl OuterState {
    /// The state before the first round.
    pub fn new(parameters: Vec<Vec<f32>>) -> OuterState {
        let velocity = parameters.iter().map(|p| vec![0.0; p.len()]).collect();
        OuterState { parameters, velocity }
    }
}

/// One outer step over what `rule` makes of the round's updates (each `checkpoint − parameters after the inner steps`).
///
/// Canonical: updates are taken in ascending order of their unit, added in f64, and each new value is rounded to f32 once;
/// the rounded velocity is the one that moves the parameters. So the order of arrival cannot change a bit, and anyone
/// can repeat the step. Units must differ. Without updates nothing moves.
///
/// Panics if an update's tensors are not of the parameters' sizes: [`crate::verify::gradient::check_update`] has
/// checked that.
pub fn step(rule: MergeRule, outer: &OuterOptimizer, state: &OuterState, updates: &[Update]) -> OuterState {
    let mut order: Vec<_> = updates.iter().collect();
    order.sort_by_key(|update| update.unit);
    debug_assert!(order.windows(2).all(|pair| pair[0].unit != pair[1].unit), "two updates of one unit");
    let mut next = state.clone();
    if order.is_empty() {
        return next;
    }
    let merged = robust::combine(rule, &order);
    let OuterOptimizer::Nesterov { learning_rate, momentum } = *outer;
    let (learning_rate, momentum) = (f64::from(learning_rate), f64::from(momentum));
    for ((parameters, velocity), merged) in next.parameters.iter_mut().zip(&mut next.velocity).zip(&merged) {
        assert_eq!(parameters.len(), merged.len(), "values of a parameter");
        for ((p, v), g) in parameters.iter_mut().zip(velocity.iter_mut()).zip(merged) {
            *v = (momentum * f64::from(*v) + g) as f32;
            *p = (f64::from(*p) - learning_rate * (g + momentum * f64::from(*v))) as f32;
        }
    }
    next
}

/// The job's first checkpoint.
pub fn initial_parameters(model: &Model, seed: u64) -> Vec<Vec<f32>> {
    manyhands::init_parameters(model, seed)
}

/// A checkpoint, a velocity or an update as safetensors: every parameter of the model under its name.
///
/// Panics if the tensors are not the model's: they come from [`step`] or [`initial_parameters`].
pub fn write_tensors(model: &Model, tensors: &[Vec<f32>]) -> Vec<u8> {
    let parameters = model.parameters().expect("a job's model was validated on submission");
    assert_eq!(parameters.len(), tensors.len(), "tensors of the model");
    let shapes = shapes(&parameters);
    let named: Vec<_> =
        (0..tensors.len()).map(|i| (parameters[i].name.as_str(), shapes[i].as_slice(), tensors[i].as_slice())).collect();
    tensors::write_f32(&named)
}

/// Reads what [`write_tensors`] writes, or what a volunteer claims to be such a file.
pub fn read_tensors(model: &Model, bytes: &[u8]) -> Result<Vec<Vec<f32>>, TensorError> {
    let parameters = model.parameters().map_err(|e| TensorError::Model(e.to_string()))?;
    let shapes = shapes(&parameters);
    let expected: Vec<_> = parameters.iter().zip(&shapes).map(|(p, shape)| (p.name.as_str(), shape.as_slice())).collect();
    tensors::read_f32(bytes, &expected)
}

fn shapes(parameters: &[Parameter]) -> Vec<Vec<usize>> {
    parameters.iter().map(|p| p.shape.iter().map(|&d| d as usize).collect()).collect()
}

#[cfg(test)]
mod tests;
