//! Dropout through the reference functions.

use manyhands_shaders::dropout::{self, Mask};
use manyhands_shaders::dropout_advance::{self, Params};

use super::{narrow, widen};
use crate::Buffer;

pub fn run(mask: Mask, step: Buffer, [x, y]: [Buffer; 2], buffers: &mut [Vec<f32>]) {
    let step = buffers[step.0][0].to_bits();
    buffers[y.0] = narrow(&dropout::reference(mask, step, &widen(&buffers[x.0])));
}

pub fn advance(step: Buffer, buffers: &mut [Vec<f32>]) {
    let step = &mut buffers[step.0][0];
    *step = f32::from_bits(dropout_advance::reference(Params { steps: 1 }, step.to_bits()));
}
