//! A unit that trains, from its input files to its output file. Leasing it, fetching and sending are the loop's business.

use manyhands_protocol::model::Parameter;
use manyhands_protocol::work::TrainWork;

use super::error::VolunteerError;
use super::task::{Computed, finite};
use crate::control::Control;
use crate::engine::{Engine, EngineError};
use crate::tensors::{self, Shard};

/// A unit's inputs, parsed.
pub(super) struct Training {
    pub work: TrainWork,
    pub parameters: Vec<Vec<f32>>,
    pub shard: Shard,
}

impl Training {
    /// Reads the unit's two files.
    pub fn read(work: TrainWork, checkpoint: &[u8], shard: &[u8]) -> Result<Self, VolunteerError> {
        let declared = parameters(&work)?;
        let shapes = shapes(&declared);
        let expected: Vec<(&str, &[usize])> =
            declared.iter().zip(&shapes).map(|(p, s)| (p.name.as_str(), s.as_slice())).collect();
        let parameters = tensors::read_f32(checkpoint, &expected)?;
        let shard = tensors::read_shard(shard, &work.model)?;
        Ok(Self { work, parameters, shard })
    }

    /// Tests the kernels that are new to the device, then trains, and commits to each so many states where that is asked for.
    pub async fn compute(self, engine: &Engine, states_every: Option<u32>, control: &Control) -> Result<Computed, EngineError> {
        engine.self_test_training(&self.work).await?;
        let Training { work, parameters: checkpoint, shard } = &self;
        let (trained, committed) = match states_every {
            None => (engine.train(work, checkpoint, shard, control).await?, None),
            Some(every) => {
                let (trained, committed) = engine.train_committed(work, checkpoint, shard, every, control).await?;
                (trained, Some(committed))
            }
        };
        let declared = parameters(&self.work)?;
        let shapes = shapes(&declared);
        let mut output: Vec<(&str, &[usize], &[f32])> = Vec::new();
        for ((parameter, shape), values) in declared.iter().zip(&shapes).zip(&trained.delta) {
            finite(values)?;
            output.push((&parameter.name, shape, values));
        }
        Ok(Computed { output: tensors::write_f32(&output), losses: trained.losses, committed })
    }
}

fn parameters(work: &TrainWork) -> Result<Vec<Parameter>, EngineError> {
    work.model.parameters().map_err(|e| EngineError::Input(e.to_string()))
}

fn shapes(parameters: &[Parameter]) -> Vec<Vec<usize>> {
    parameters.iter().map(|p| p.shape.iter().map(|&d| d as usize).collect()).collect()
}
