//! Layer normalisation in f32, row by row.

use manyhands_shaders::layer_norm::{CHUNK, EPSILON};

use super::super::widest::widest;
use crate::{Saved, SequenceOp};

/// Partial sums side by side, for the compiler to keep in registers.
const LANES: usize = 16;

pub fn run(op: &SequenceOp, buffers: &mut [Vec<f32>]) {
    use SequenceOp::*;
    match *op {
        LayerNormForward { x, gain, shift, y, mean, rstd, extents } => {
            let mut written = [y, mean, rstd].map(|buffer| std::mem::take(&mut buffers[buffer.0]));
            let read = [x, gain, shift].map(|buffer| &buffers[buffer.0][..]);
            forward(extents.channels as usize, read, written.each_mut());
            [buffers[y.0], buffers[mean.0], buffers[rstd.0]] = written;
        }
        LayerNormBackward { saved: Saved { x, mean, rstd }, gain, d_y, d_x, accumulate, .. } => {
            let mut written = std::mem::take(&mut buffers[d_x.0]);
            let read = [x, mean, rstd, gain, d_y].map(|buffer| &buffers[buffer.0][..]);
            backward(read, &mut written, accumulate);
            buffers[d_x.0] = written;
        }
        LayerNormParameters { saved: Saved { x, mean, rstd }, d_y, gain, shift, extents } => {
            let mut written = [gain, shift].map(|buffer| std::mem::take(&mut buffers[buffer.0]));
            let read = [x, mean, rstd, d_y].map(|buffer| &buffers[buffer.0][..]);
            parameters(extents.channels as usize, read, written.each_mut());
            [buffers[gain.0], buffers[shift.0]] = written;
        }
        _ => {}
    }
}

/// Σ term(x, y, z), in [`LANES`] sums of at most [`CHUNK`] terms each at a time.
#[inline(always)]
fn sum(x: &[f32], y: &[f32], z: &[f32], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut total = 0.0;
    let length = LANES * CHUNK as usize;
    for ((x, y), z) in x.chunks(length).zip(y.chunks(length)).zip(z.chunks(length)) {
        let mut lanes = [0.0f32; LANES];
        let ((x, x_rest), (y, y_rest), (z, z_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
        for ((x, y), z) in x.iter().zip(y).zip(z) {
            for i in 0..LANES {
                lanes[i] += term(x[i], y[i], z[i]);
            }
        }
        for (((lane, x), y), z) in lanes.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
            *lane += term(*x, *y, *z);
        }
        total += lanes.iter().sum::<f32>();
    }
    total
}

widest!(fn forward(channels: usize, read: [&[f32]; 3], written: [&mut Vec<f32>; 3]) = forward_in);

#[inline(always)]
fn forward_in(channels: usize, [x, gain, shift]: [&[f32]; 3], [y, mean, rstd]: [&mut Vec<f32>; 3]) {
    let count = channels as f32;
    let rows = x.chunks_exact(channels.max(1)).zip(y.chunks_exact_mut(channels.max(1)));
    for (((x, y), mean), rstd) in rows.zip(mean).zip(rstd) {
        let center = sum(x, x, x, |x, _, _| x) / count;
        let variance = sum(x, x, x, |x, _, _| (x - center) * (x - center)) / count;
        let scale = 1.0 / (variance + EPSILON as f32).sqrt();
        for (((y, x), gain), shift) in y.iter_mut().zip(x).zip(gain).zip(shift) {
            *y = (x - center) * scale * gain + shift;
        }
        (*mean, *rstd) = (center, scale);
    }
}

widest!(fn backward(read: [&[f32]; 5], d_x: &mut [f32], accumulate: bool) = backward_in);

#[inline(always)]
fn backward_in([x, mean, rstd, gain, d_y]: [&[f32]; 5], d_x: &mut [f32], accumulate: bool) {
    let channels = gain.len().max(1);
    let rows = x.chunks_exact(channels).zip(d_y.chunks_exact(channels)).zip(d_x.chunks_exact_mut(channels));
    for ((((x, d_y), d_x), &center), &scale) in rows.zip(mean).zip(rstd) {
        let by_mean = sum(d_y, gain, x, |d, gain, _| d * gain) / channels as f32;
        let by_scale = sum(d_y, gain, x, |d, gain, x| d * gain * ((x - center) * scale)) / channels as f32;
        let value = |d: f32, gain: f32, x: f32| scale * (d * gain - by_mean - (x - center) * scale * by_scale);
        for (((to, d), gain), x) in d_x.iter_mut().zip(d_y).zip(gain).zip(x) {
            let before = if accumulate { *to } else { 0.0 };
            *to = before + value(*d, *gain, *x);
        }
    }
}

widest!(fn parameters(channels: usize, read: [&[f32]; 4], written: [&mut Vec<f32>; 2]) = parameters_in);

/// Both partial sums of each chunk of rows, row by row.
#[inline(always)]
fn parameters_in(channels: usize, [x, mean, rstd, d_y]: [&[f32]; 4], [gain, shift]: [&mut Vec<f32>; 2]) {
    gain.fill(0.0);
    shift.fill(0.0);
    let rows = x.chunks_exact(channels.max(1)).zip(d_y.chunks_exact(channels.max(1))).zip(mean.iter().zip(rstd));
    for (row, ((x, d_y), (center, scale))) in rows.enumerate() {
        let at = row / CHUNK as usize * channels;
        let partial = gain[at..at + channels].iter_mut().zip(&mut shift[at..at + channels]);
        for (((gain, shift), x), d) in partial.zip(x).zip(d_y) {
            *gain += d * ((x - center) * scale);
            *shift += d;
        }
    }
}
