//! From models to programs: what a model's forward pass and training step call, and how much of it runs between two
//! breaths. Programs themselves are `manyhands_programs`.

mod network;
mod slicer;

pub use manyhands_programs::{AttentionBackward, Buffer, Call, ImageOp, Matmul, Op, Program, Saved, SequenceOp};
pub use network::{ForwardPlan, TrainPlan};
pub use slicer::Slicer;

use manyhands_programs::{EVERY_LAYER, NOT_BUILT};
use manyhands_protocol::model::{Layer, Model};
use manyhands_protocol::work::InnerOptimizer;

use crate::engine::EngineError;

/// [`EngineError::Unsupported`] where a model or optimiser needs kernels that this build is without.
fn check_built(model: &Model, optimizer: Option<&InnerOptimizer>) -> Result<(), EngineError> {
    if EVERY_LAYER {
        return Ok(());
    }
    let basic =
        |layer: &&Layer| matches!(layer, Layer::Dense { .. } | Layer::Projection { .. } | Layer::Relu | Layer::Residual { .. });
    if let Some(layer) = model.layers.iter().find(|layer| !basic(layer)) {
        return Err(EngineError::Unsupported(format!("a model with {layer:?}")));
    }
    match optimizer {
        Some(InnerOptimizer::AdamW { .. }) => Err(EngineError::Unsupported("by AdamW".to_owned())),
        _ => Ok(()),
    }
}

/// Most memory one program may take, buffers and inputs together.
pub const PROGRAM_BYTES_MAX: u64 = if cfg!(target_arch = "wasm32") { 1536 << 20 } else { 8 << 30 };

/// [`EngineError::TooLarge`], before anything is allocated, if a program's buffers and `more` bytes beside them are past
/// [`PROGRAM_BYTES_MAX`].
pub fn check_bytes(program: &Program, more: u64) -> Result<(), EngineError> {
    let bytes = program.bytes(more);
    if bytes > PROGRAM_BYTES_MAX {
        return Err(EngineError::TooLarge { bytes, most: PROGRAM_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_before_it_is_taken() {
        let mut program = Program::default();
        program.buffer(1024);
        assert_eq!(check_bytes(&program, 4), Ok(()));
        assert!(matches!(check_bytes(&program, PROGRAM_BYTES_MAX), Err(EngineError::TooLarge { .. })));
        program.buffer(u64::MAX / 2);
        assert!(matches!(check_bytes(&program, 0), Err(EngineError::TooLarge { .. })));
    }
}
