//! A leased unit once its inputs are here: read, computed, written as the file that goes up. It names no coordinator and
//! no device, so that it can be computed wherever there is an engine.

use std::sync::Arc;

use manyhands_protocol::work::Work;

use super::error::VolunteerError;
#[cfg(feature = "every-layer")]
use super::training::Training;
use crate::control::Control;
#[cfg(feature = "every-layer")]
use crate::engine::states::Committed;
use crate::engine::{Engine, EngineError, MatmulShape};
use crate::tensors;

/// What to compute, and the files it is computed from, in the order of [`Work::inputs`].
pub struct Task {
    pub work: Work,
    pub inputs: [Arc<Vec<u8>>; 2],
    /// Steps between two training states to commit to; none where nothing is committed to.
    pub states_every: Option<u32>,
}

/// What a unit gives: the output file and, for training, the losses.
pub struct Computed {
    pub output: Vec<u8>,
    pub losses: Vec<f32>,
    #[cfg(feature = "every-layer")]
    pub committed: Option<Committed>,
}

impl Task {
    /// Computes it on this thread. Files that are not what the work says are [`VolunteerError::Tensor`].
    pub async fn compute(self, engine: &Engine, control: &Control) -> Result<Computed, VolunteerError> {
        // Units may be shorter than a slice: what the one before owes is rested here.
        control.between_slices().await?;
        let [first, second] = self.inputs;
        match self.work {
            Work::Matmul(w) => {
                let shape = MatmulShape { m: w.m as usize, k: w.k as usize, n: w.n as usize };
                let a = tensors::read_operand(&first, "a", [shape.m, shape.k], w.dtype)?;
                let b = tensors::read_operand(&second, "b", [shape.k, shape.n], w.dtype)?;
                let c = engine.product(shape, a, b, control).await?;
                finite(&c)?;
                Ok(Computed {
                    output: tensors::write_f32(&[("c", &[shape.m, shape.n], &c)]),
                    losses: Vec::new(),
                    #[cfg(feature = "every-layer")]
                    committed: None,
                })
            }
            // No manifest of such a unit was read.
            #[cfg(not(feature = "every-layer"))]
            Work::Train(_) => Err(VolunteerError::Beyond(None)),
            #[cfg(feature = "every-layer")]
            Work::Train(work) => Ok(Training::read(work, &first, &second)?.compute(engine, self.states_every, control).await?),
        }
    }
}

/// A result with NaN or infinity would be refused: not worth an upload.
pub(super) fn finite(values: &[f32]) -> Result<(), EngineError> {
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(EngineError::NotFinite("an output".to_owned())) }
}
