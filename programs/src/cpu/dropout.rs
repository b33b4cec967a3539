//! Dropout in f32; see `dropout.wgsl` for the formula.

use manyhands_shaders::dropout::Mask;

use super::exponential::widest;
use crate::Buffer;

pub fn run(mask: Mask, step: Buffer, [x, y]: [Buffer; 2], buffers: &mut [Vec<f32>]) {
    let mut written = std::mem::take(&mut buffers[y.0]);
    let (step, x) = (buffers[step.0][0].to_bits(), &buffers[x.0]);
    widest(|| masked(mask, step, x, &mut written));
    buffers[y.0] = written;
}

#[inline(always)]
fn masked(mask: Mask, step: u32, x: &[f32], y: &mut [f32]) {
    let scale = mask.scale();
    for ((x, y), block) in x.chunks(4).zip(y.chunks_mut(4)).zip(0u32..) {
        for ((x, y), keeps) in x.iter().zip(y).zip(mask.keeps(block, step)) {
            *y = if keeps { x * scale } else { 0.0 };
        }
    }
}

pub fn advance(step: Buffer, buffers: &mut [Vec<f32>]) {
    let step = &mut buffers[step.0][0];
    *step = f32::from_bits(step.to_bits().wrapping_add(1));
}
