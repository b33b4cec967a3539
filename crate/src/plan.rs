//! From models to programs: what a model's forward pass and training step call, and how much of it runs between two
//! breaths. Programs themselves are `manyhands_programs`.

mod memory;
mod network;
mod slicer;

pub use manyhands_programs::memory::Placement;
pub use manyhands_programs::{AttentionBackward, Buffer, CALL_FLOP_MAX, Call, ImageOp, Matmul, Op, Program, Saved, SequenceOp};
pub use memory::MemoryUse;
pub use network::{ForwardPlan, State, StateKind, Trace, Traced, TrainPlan, What};
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

/// [`EngineError::TooLarge`], before anything is allocated, if so many bytes are past [`PROGRAM_BYTES_MAX`].
pub fn check_bytes(bytes: u64) -> Result<(), EngineError> {
    if bytes > PROGRAM_BYTES_MAX {
        return Err(EngineError::TooLarge { bytes, most: PROGRAM_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
#[test]
fn memory_is_bounded_before_it_is_taken() {
    assert_eq!(check_bytes(PROGRAM_BYTES_MAX), Ok(()));
    assert!(matches!(check_bytes(PROGRAM_BYTES_MAX + 1), Err(EngineError::TooLarge { .. })));
}
