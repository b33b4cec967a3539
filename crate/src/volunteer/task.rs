//! A leased unit once its inputs are here: read, computed, written as the file that goes up. It names no coordinator and
//! no device, so that it can be computed wherever there is an engine.

use std::sync::Arc;

use manyhands_protocol::model::Parameter;
use manyhands_protocol::work::{TrainWork, Work};

use super::error::VolunteerError;
use crate::control::Control;
use crate::engine::{Engine, EngineError, MatmulShape};
use crate::plan::check_built;
use crate::tensors;

/// What to compute, and the files it is computed from, in the order of [`Work::inputs`].
pub struct Task {
    pub work: Work,
    pub inputs: [Arc<Vec<u8>>; 2],
}

/// What a unit gives: the output file and, for training, the losses.
pub struct Computed {
    pub output: Vec<u8>,
    pub losses: Vec<f32>,
}

impl Task {
    /// Computes it on this thread. Files that are not what the work says are [`VolunteerError::Tensor`].
    pub async fn compute(self, engine: &Engine, control: &Control) -> Result<Computed, VolunteerError> {
        let [first, second] = self.inputs;
        match self.work {
            Work::Matmul(w) => {
                let shape = MatmulShape { m: w.m as usize, k: w.k as usize, n: w.n as usize };
                let a = only(tensors::read_f32(&first, &[("a", &[shape.m, shape.k])])?);
                let b = only(tensors::read_f32(&second, &[("b", &[shape.k, shape.n])])?);
                let c = engine.matmul(shape, &a, &b, control).await?;
                finite(&c)?;
                Ok(Computed { output: tensors::write_f32(&[("c", &[shape.m, shape.n], &c)]), losses: Vec::new() })
            }
            Work::Train(work) => {
                check_built()?;
                let declared = parameters(&work)?;
                let shapes = shapes(&declared);
                let expected: Vec<(&str, &[usize])> =
                    declared.iter().zip(&shapes).map(|(p, s)| (p.name.as_str(), s.as_slice())).collect();
                let start = tensors::read_f32(&first, &expected)?;
                let shard = tensors::read_shard(&second, &work.model)?;
                engine.self_test_training(&work).await?;
                let trained = engine.train(&work, &start, &shard, control).await?;
                let mut output: Vec<(&str, &[usize], &[f32])> = Vec::new();
                for ((name, shape), values) in expected.into_iter().zip(&trained.delta) {
                    finite(values)?;
                    output.push((name, shape, values));
                }
                Ok(Computed { output: tensors::write_f32(&output), losses: trained.losses })
            }
        }
    }
}

/// A result with NaN or infinity would be refused: not worth an upload.
fn finite(values: &[f32]) -> Result<(), EngineError> {
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(EngineError::NotFinite("an output".to_owned())) }
}

fn parameters(work: &TrainWork) -> Result<Vec<Parameter>, EngineError> {
    work.model.parameters().map_err(|e| EngineError::Input(e.to_string()))
}

fn shapes(parameters: &[Parameter]) -> Vec<Vec<usize>> {
    parameters.iter().map(|p| p.shape.iter().map(|&d| d as usize).collect()).collect()
}

/// The one tensor of a file that was read with one expected.
fn only(tensors: Vec<Vec<f32>>) -> Vec<f32> {
    tensors.into_iter().next().unwrap_or_default()
}
