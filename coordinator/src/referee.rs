//! The coordinator's own hands: computes a unit that is disputed, lonely or let go, and evaluates checkpoints on held-out data,
//! on the native CPU engine. It blocks for as long as that takes and decides nothing.

use futures::executor::block_on;
use manyhands::engine::Evaluated;
use manyhands::tensors::{self, Shard, TensorError};
use manyhands::{Control, Engine, EngineError, MatmulShape};
use manyhands_protocol::model::Model;
use manyhands_protocol::rules::settle::{ROUNDING_RUNS, tolerance};
use manyhands_protocol::work::{MatmulWork, TrainWork};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::merge;
use crate::verify::gradient;

/// Examples whose logits are computed at once.
const EVALUATION_ROWS: usize = 512;

/// Why the referee could not compute. The inputs are the coordinator's own blobs, so none of these is a volunteer's
/// fault.
#[derive(Debug, thiserror::Error)]
pub enum RefereeError {
    #[error("checkpoint: {0}")]
    Checkpoint(TensorError),
    #[error("panel: {0}")]
    Panel(TensorError),
    #[error("examples: {0}")]
    Examples(TensorError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the engine gave {got} logits for {rows} examples of {classes} classes")]
    Logits { got: usize, rows: usize, classes: usize },
}

/// The unit's pseudo-gradient, tensors in the model's order.
pub fn compute_update(work: &TrainWork, checkpoint_bytes: &[u8], shard_bytes: &[u8]) -> Result<Vec<Vec<f32>>, RefereeError> {
    let checkpoint = merge::read_tensors(&work.model, checkpoint_bytes).map_err(RefereeError::Checkpoint)?;
    let shard = tensors::read_shard(shard_bytes, &work.model).map_err(RefereeError::Examples)?;
    train(work, &checkpoint, &shard)
}

fn train(work: &TrainWork, checkpoint: &[Vec<f32>], shard: &Shard) -> Result<Vec<Vec<f32>>, RefereeError> {
    Ok(block_on(Engine::cpu().train(work, checkpoint, shard, &Control::new()))?.delta)
}

/// Which of `updates` an honest execution may have given, though the referee's own gave another: whether the unit gives it, within
/// the tolerance, from one of [`ROUNDING_RUNS`] checkpoints in which each parameter that is not zero is the next f32 above or
/// below, drawn by the run's number. Where a sum is zero but for its rounding, a ReLU passes it in one execution and not in
/// another, and what follows differs by more than rounding.
pub fn rounding_gives(
    work: &TrainWork,
    checkpoint_bytes: &[u8],
    shard_bytes: &[u8],
    updates: &[Vec<Vec<f32>>],
) -> Result<Vec<bool>, RefereeError> {
    let checkpoint = merge::read_tensors(&work.model, checkpoint_bytes).map_err(RefereeError::Checkpoint)?;
    let shard = tensors::read_shard(shard_bytes, &work.model).map_err(RefereeError::Examples)?;
    let mut given = vec![false; updates.len()];
    for run in 0..ROUNDING_RUNS {
        if given.iter().all(|&given| given) {
            break;
        }
        let near = match train(work, &neighbour(&checkpoint, run), &shard) {
            Ok(near) => near,
            // It says nothing of the unit, whose own execution ended well.
            Err(RefereeError::Engine(EngineError::NotFinite(_))) => continue,
            Err(error) => return Err(error),
        };
        for (given, update) in given.iter_mut().zip(updates) {
            *given |= gradient::compare(&near, update, tolerance(&work.model));
        }
    }
    Ok(given)
}

/// The parameters, each moved by its last bit.
pub fn neighbour(checkpoint: &[Vec<f32>], run: u64) -> Vec<Vec<f32>> {
    let mut numbers = ChaCha20Rng::seed_from_u64(run);
    let mut moved = |value: f32| match numbers.next_u32() & 1 {
        _ if value == 0.0 => value,
        0 => value.next_down(),
        _ => value.next_up(),
    };
    checkpoint.iter().map(|tensor| tensor.iter().map(|&value| moved(value)).collect()).collect()
}

/// The unit's product as an output file.
pub fn compute_product(work: &MatmulWork, a_bytes: &[u8], b_bytes: &[u8]) -> Result<Vec<u8>, RefereeError> {
    let (m, k, n) = (work.m as usize, work.k as usize, work.n as usize);
    let panel = |bytes, name, shape| tensors::read_operand(bytes, name, shape, work.dtype).map_err(RefereeError::Panel);
    let (a, b) = (panel(a_bytes, "a", [m, k])?, panel(b_bytes, "b", [k, n])?);
    let c = block_on(Engine::cpu().product(MatmulShape { m, k, n }, a, b, &Control::new()))?;
    Ok(tensors::write_f32(&[("c", &[m, n], &c)]))
}

/// A checkpoint's standing on held-out examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean −log softmax(logits)\[label\].
    pub loss: f64,
    /// Share of labels whose class has the largest logit, 0 to 1; a tie goes to the lower class.
    pub accuracy: f64,
    /// Standard error of the loss, from the losses of the examples; none of fewer than [`EXAMPLES_COUNT_MIN`].
    pub loss_error: Option<f64>,
}

/// Fewer examples say nothing about their own spread.
pub const EXAMPLES_COUNT_MIN: usize = 30;

/// Evaluates a checkpoint on a held-out set. Logits that are not finite are an error of the engine.
pub fn evaluate(model: &Model, parameters_bytes: &[u8], test_bytes: &[u8]) -> Result<Evaluation, RefereeError> {
    let parameters = merge::read_tensors(model, parameters_bytes).map_err(RefereeError::Checkpoint)?;
    let test = tensors::read_shard(test_bytes, model).map_err(RefereeError::Examples)?;
    let (engine, classes) = (Engine::cpu(), model.classes() as usize);
    let (width, each) = (test.x.len() / test.rows, model.labels_count() as usize);
    let (mut losses, mut right) = (Vec::with_capacity(test.rows), 0);
    for (x, labels) in test.x.chunks(EVALUATION_ROWS * width).zip(test.y.chunks(EVALUATION_ROWS * each)) {
        let rows = labels.len() / each;
        let Evaluated { logits, hits } = block_on(engine.evaluate(model, &parameters, x, labels, &Control::new()))?;
        if logits.len() != labels.len() * classes {
            return Err(RefereeError::Logits { got: logits.len(), rows, classes });
        }
        right += hits;
        for (logits, labels) in logits.chunks_exact(each * classes).zip(labels.chunks_exact(each)) {
            let mut loss = 0.0;
            for (logits, &label) in logits.chunks_exact(classes).zip(labels) {
                loss += cross_entropy(logits, label as usize);
            }
            losses.push(loss / each as f64);
        }
    }
    let loss = losses.iter().sum::<f64>() / losses.len() as f64;
    Ok(Evaluation { loss, accuracy: right as f64 / test.y.len() as f64, loss_error: standard_error(&losses, loss) })
}

fn standard_error(losses: &[f64], mean: f64) -> Option<f64> {
    let count = losses.len() as f64;
    let squares: f64 = losses.iter().map(|loss| (loss - mean) * (loss - mean)).sum();
    (losses.len() >= EXAMPLES_COUNT_MIN).then(|| (squares / (count * (count - 1.0))).sqrt())
}

/// −log softmax(logits)\[label\] in f64.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, &v| most.max(f64::from(v)));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - most).exp()).sum();
    sum.ln() + most - f64::from(logits[label])
}

#[cfg(test)]
mod tests;
