//! Clipping by the global norm in f32; see the shaders in `gradient_norm/`.

use manyhands_shaders::gradient_norm::squares::PART;

use super::widest::widest;
use crate::Buffer;

/// Partial sums side by side, for the compiler to keep in registers.
const LANES: usize = 16;

pub fn square_sums(gradient: Buffer, parts: Buffer, first_part: u32, buffers: &mut [Vec<f32>]) {
    let mut written = std::mem::take(&mut buffers[parts.0]);
    let gradient = &buffers[gradient.0];
    sums(gradient, &mut written[first_part as usize..]);
    buffers[parts.0] = written;
}

widest!(fn sums(gradient: &[f32], parts: &mut [f32]) = sums_in);

#[inline(always)]
fn sums_in(gradient: &[f32], parts: &mut [f32]) {
    for (part, sum) in gradient.chunks(4 * PART as usize).zip(parts) {
        *sum = squares(part);
    }
}

/// A lane sums 64 squares at most.
#[inline(always)]
fn squares(part: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = part.as_chunks::<LANES>();
    for g in whole {
        for i in 0..LANES {
            lanes[i] += g[i] * g[i];
        }
    }
    for (sum, g) in lanes.iter_mut().zip(rest) {
        *sum += g * g;
    }
    lanes.iter().sum()
}

pub fn clip(squares: Buffer, gradient: Buffer, most: f32, buffers: &mut [Vec<f32>]) {
    let norm = buffers[squares.0][0].sqrt();
    if norm > most {
        let factor = most / norm;
        scale(&mut buffers[gradient.0], factor);
    }
}

widest!(fn scale(gradient: &mut [f32], factor: f32) = scale_in);

#[inline(always)]
fn scale_in(gradient: &mut [f32], factor: f32) {
    for g in gradient {
        *g *= factor;
    }
}
