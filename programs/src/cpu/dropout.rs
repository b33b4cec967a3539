//! Dropout in f32; see `dropout.wgsl` for the formula.

use manyhands_shaders::dropout::{Mask, ROUNDS, next_key, philox_round};

use super::widest::widest;
use crate::Buffer;

/// Blocks of the generator side by side, for the compiler to keep in registers.
const LANES: usize = 16;

pub fn run(mask: Mask, step: Buffer, [x, y]: [Buffer; 2], buffers: &mut [Vec<f32>]) {
    let mut written = std::mem::take(&mut buffers[y.0]);
    let (step, x) = (buffers[step.0][0].to_bits(), &buffers[x.0]);
    masked(mask, step, x, &mut written);
    buffers[y.0] = written;
}

widest!(fn masked(mask: Mask, step: u32, x: &[f32], y: &mut [f32]) = masked_in);

#[inline(always)]
fn masked_in(mask: Mask, step: u32, x: &[f32], y: &mut [f32]) {
    let (scale, threshold) = (mask.scale(), mask.threshold());
    for ((x, y), part) in x.chunks(4 * LANES).zip(y.chunks_mut(4 * LANES)).zip(0u32..) {
        let words = words(mask, step, part * LANES as u32);
        for ((x, y), word) in x.iter().zip(y).zip(words.as_flattened()) {
            *y = if *word >= threshold { x * scale } else { 0.0 };
        }
    }
}

/// The words of so many blocks from `first` on.
#[inline(always)]
fn words(mask: Mask, step: u32, first: u32) -> [[u32; 4]; LANES] {
    let mut a: [u32; LANES] = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
    let [mut b, mut c, mut d] = [mask.layer, step, mask.first_row].map(|word| [word; LANES]);
    let mut key = mask.key;
    for _ in 0..ROUNDS {
        for lane in 0..LANES {
            [a[lane], b[lane], c[lane], d[lane]] = philox_round([a[lane], b[lane], c[lane], d[lane]], key);
        }
        key = next_key(key);
    }
    std::array::from_fn(|lane| [a[lane], b[lane], c[lane], d[lane]])
}

pub fn advance(step: Buffer, buffers: &mut [Vec<f32>]) {
    let step = &mut buffers[step.0][0];
    *step = f32::from_bits(step.to_bits().wrapping_add(1));
}
