//! Clipping by the global norm in f32; see the shaders in `gradient_norm/`.

use manyhands_shaders::gradient_norm::squares::PART;

use super::exponential::widest;
use crate::Buffer;

/// Partial sums side by side, for the compiler to keep in registers.
const LANES: usize = 16;

pub fn square_sums(gradient: Buffer, parts: Buffer, first_part: u32, buffers: &mut [Vec<f32>]) {
    let mut written = std::mem::take(&mut buffers[parts.0]);
    let gradient = &buffers[gradient.0];
    widest(|| {
        for (part, sum) in gradient.chunks(4 * PART as usize).zip(&mut written[first_part as usize..]) {
            *sum = squares(part);
        }
    });
    buffers[parts.0] = written;
}

/// A lane sums 64 squares at most.
#[inline(always)]
fn squares(part: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for g in part.chunks(LANES) {
        lanes.iter_mut().zip(g).for_each(|(sum, g)| *sum += g * g);
    }
    lanes.iter().sum()
}

pub fn clip(squares: Buffer, gradient: Buffer, most: f32, buffers: &mut [Vec<f32>]) {
    let norm = buffers[squares.0][0].sqrt();
    if norm > most {
        let factor = most / norm;
        buffers[gradient.0].iter_mut().for_each(|g| *g *= factor);
    }
}
