//! From models to programs: what a model's forward pass and training step call, and how much of it runs between two
//! breaths. Programs themselves are `manyhands_programs`.

mod memory;
mod network;
mod slicer;

pub use manyhands_programs::joined::joined;
pub use manyhands_programs::memory::Placement;
pub use manyhands_programs::{
    AttentionBackward, Buffer, CALL_FLOP_MAX, Call, DEVICE_CALL_FLOP_MAX, ImageOp, Matmul, Op, Program, Saved, SequenceOp,
    Sharing,
};
pub use memory::MemoryUse;
pub use network::{ForwardPlan, Score, State, StateKind, Trace, Traced, TrainPlan, What};
pub use slicer::{FIRST_SPEED, Slicer};

use manyhands_programs::{EVERY_LAYER, NOT_BUILT};

use crate::engine::EngineError;

/// [`EngineError::Unsupported`] in a build without the kernels of models. Every way to a model's program leads through
/// here, so that the compiler drops what only they need.
#[inline(always)]
pub(crate) fn check_built() -> Result<(), EngineError> {
    if EVERY_LAYER { Ok(()) } else { Err(EngineError::Unsupported("a model; it computes products alone".to_owned())) }
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
