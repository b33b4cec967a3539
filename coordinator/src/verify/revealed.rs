//! Is one step that was shown an honest one? A stand-in for a checker that needs no engine: it computes the step from the
//! state before and compares every tensor.

use futures::executor::block_on;
use manyhands::engine::states::{Step, Tensors};
use manyhands::{Control, Engine, EngineError, Shard};
use manyhands_protocol::work::TrainWork;
use rand::RngCore;

/// How far a tensor may be from ours, as a share of its norm.
const TOLERANCE: f64 = 1e-3;
/// What rounding may leave of a difference between two states, as a share of the state's norm.
const ROUNDING: f64 = 1e-6;

/// Why a step is not one.
#[derive(Debug, thiserror::Error)]
pub enum StepFault {
    #[error("{tensor} is off by {distance:e} of what may be {most:e}")]
    Off { tensor: String, distance: f64, most: f64 },
    #[error("the state before cannot be stepped from: {0}")]
    Engine(#[from] EngineError),
}

/// Whether the step from state `step` of a unit to the next is one of the unit's own, on its own rows of `shard`. `rng` was
/// seeded after the step was stored.
pub fn check_step(work: &TrainWork, step: u32, shard: &Shard, shown: &Step, _rng: &mut impl RngCore) -> Result<(), StepFault> {
    let engine = Engine::cpu();
    let from = (step, shown.before.clone());
    let parameters = parameters_of(work, &shown.before)?;
    let own = block_on(engine.replay_step(work, &parameters, shard, Some(&from), step, &Control::new()))?;
    for ((name, ours), (_, theirs)) in own.trace.iter().zip(&shown.trace) {
        near(name, ours, theirs, TOLERANCE * norm(ours))?;
    }
    for (((name, before), (_, ours)), (_, theirs)) in shown.before.iter().zip(&own.after).zip(&shown.after) {
        let moved = distance(before, ours);
        near(name, ours, theirs, TOLERANCE * moved + ROUNDING * norm(before))?;
    }
    Ok(())
}

/// The parameters of a state in the model's order.
fn parameters_of(work: &TrainWork, state: &Tensors) -> Result<Vec<Vec<f32>>, EngineError> {
    let parameters = work.model.parameters().map_err(|e| EngineError::Input(e.to_string()))?;
    let of = |name: &str| state.iter().find(|(other, _)| other == name).map(|(_, values)| values.clone()).unwrap_or_default();
    Ok(parameters.iter().map(|parameter| of(&parameter.name)).collect())
}

fn near(name: &str, ours: &[f32], theirs: &[f32], most: f64) -> Result<(), StepFault> {
    let distance = distance(ours, theirs);
    // NaN is not near.
    if distance <= most { Ok(()) } else { Err(StepFault::Off { tensor: name.to_owned(), distance, most }) }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}
