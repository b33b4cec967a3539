//! Pseudo-gradients: is one well-formed and of a sane size, and do two of the same unit agree?
//!
//! Neither check knows the right update; the referee and the second key do (docs/verification.md).

use manyhands::TensorError;
use manyhands_protocol::model::Parameter;
use manyhands_protocol::work::TrainWork;
use manyhands_protocol::{limits, rules};

use super::Refusal;

/// Reads a returned update and checks that it has the model's parameters under their names and shapes, finite, and a
/// norm of at most [`limits::UPDATE_NORM_RATIO_MAX`] × (‖checkpoint‖ + 1). Gives the tensors in the model's order.
pub fn check_update(work: &TrainWork, checkpoint: &[Vec<f32>], delta_bytes: &[u8]) -> Result<Vec<Vec<f32>>, Refusal> {
    let parameters = work.model.parameters().map_err(|e| TensorError::Model(e.to_string()))?;
    let sizes = |tensors: &[Vec<f32>]| tensors.iter().map(Vec::len).collect::<Vec<_>>();
    if sizes(checkpoint) != parameters.iter().map(Parameter::values_count).collect::<Vec<_>>() {
        return Err(Refusal::Checkpoint(format!("tensors of {:?} values", sizes(checkpoint))));
    }
    let delta = crate::merge::read_tensors(&work.model, delta_bytes)?;
    let (norm, most) = (norm(&delta), limits::UPDATE_NORM_RATIO_MAX * (norm(checkpoint) + 1.0));
    if norm <= most { Ok(delta) } else { Err(Refusal::UpdateTooLarge { norm, most }) }
}

/// Whether two executions of one unit agree: they differ by at most `tolerance` ([`rules::settle::tolerance`]) of the norm of
/// either, so that the order does not matter. NaN disagrees, and a zero update agrees only with a zero one.
pub fn compare(a: &[Vec<f32>], b: &[Vec<f32>], tolerance: f64) -> bool {
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
        return false;
    }
    let difference = difference_norm(a, b);
    [a, b].iter().all(|update| rules::settle::agree(difference, norm(update), tolerance))
}

/// How far `b` is from `a`, as a share of the norm of `a`: what [`compare`] holds against the tolerance.
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    difference_norm(a, b) / norm(a)
}

fn difference_norm(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Euclidean norm over all tensors, in f64.
pub fn norm(tensors: &[Vec<f32>]) -> f64 {
    tensors.iter().flatten().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
