//! From models to programs: what a model's forward pass and training step call, and how much of it runs between two
//! breaths. Programs themselves are `manyhands_programs`.

mod network;
mod slicer;

pub use manyhands_programs::{AttentionBackward, Buffer, Call, ImageOp, Matmul, Op, Program, Saved, SequenceOp};
pub use network::{ForwardPlan, TrainPlan};
pub use slicer::Slicer;

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
