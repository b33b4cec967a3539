//! Calls of sequence models in f32: loops that the compiler vectorises, and attention as small products (`attention`). The
//! formulas are those of the shaders; see the headers there.

mod attention;
mod layer_norm;

use manyhands_shaders::{embedding, gelu};

use super::exponential::exp;
use super::kernels;
use super::widest::widest;
use crate::{Buffer, SequenceOp};

/// Memory that calls reuse.
#[derive(Default)]
pub struct Scratch {
    attention: attention::Scratch,
    /// Rows not yet added to their total, and how many of them per token.
    sums: Vec<f32>,
    counts: Vec<u32>,
}

/// Runs one call on a program's buffers. What is written is taken out of the list meanwhile.
pub fn run(op: &SequenceOp, buffers: &mut [Vec<f32>], scratch: &mut kernels::Scratch) {
    use SequenceOp::*;
    let take = |buffers: &mut [Vec<f32>], buffer: Buffer| std::mem::take(&mut buffers[buffer.0]);
    match *op {
        EmbeddingForward { ids, token, position, out, extents } => {
            let mut written = take(buffers, out);
            embed(extents, [&buffers[ids.0], &buffers[token.0], &buffers[position.0]], &mut written);
            buffers[out.0] = written;
        }
        EmbeddingTokenGradient { ids, d_out, gradient, extents } => {
            let mut written = take(buffers, gradient);
            let ids = bytemuck::cast_slice(&buffers[ids.0]);
            token_gradient(extents, ids, &buffers[d_out.0], &mut written, &mut scratch.sequence);
            buffers[gradient.0] = written;
        }
        EmbeddingPositionGradient { d_out, gradient, extents } => {
            let mut written = take(buffers, gradient);
            position_gradient(extents, &buffers[d_out.0], &mut written, &mut scratch.sequence.sums);
            buffers[gradient.0] = written;
        }
        GeluForward { x, y, .. } => {
            let mut written = take(buffers, y);
            gelu_forward(&buffers[x.0], &mut written);
            buffers[y.0] = written;
        }
        GeluBackward { x, gradient, .. } => {
            let mut written = take(buffers, gradient);
            gelu_backward(&buffers[x.0], &mut written);
            buffers[gradient.0] = written;
        }
        LayerNormForward { .. } | LayerNormBackward { .. } | LayerNormParameters { .. } => layer_norm::run(op, buffers),
        AttentionForward { .. } | AttentionDelta { .. } | AttentionKeyGradient { .. } => {
            attention::run(op, buffers, scratch);
        }
        // Written by the gradient of the keys, which belongs to the same pairs.
        AttentionQueryGradient { .. } => {}
    }
}

widest!(fn gelu_forward(x: &[f32], y: &mut [f32]) = gelu_forward_in);

#[inline(always)]
fn gelu_forward_in(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * sigmoid(x).0;
    }
}

widest!(fn gelu_backward(x: &[f32], gradient: &mut [f32]) = gelu_backward_in);

#[inline(always)]
fn gelu_backward_in(x: &[f32], gradient: &mut [f32]) {
    for (g, &x) in gradient.iter_mut().zip(x) {
        *g *= gelu_slope(x);
    }
}

widest!(
    /// GELU of each value, in place.
    pub fn gelu(values: &mut [f32]) = gelu_in
);

#[inline(always)]
fn gelu_in(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x *= sigmoid(*x).0);
}

/// σ(w), exp(−w) and x held within its limit; see `gelu.rs` beside the shader.
#[inline(always)]
fn sigmoid(x: f32) -> (f32, f32, f32) {
    let held = if x > gelu::LIMIT { gelu::LIMIT } else { x };
    let held = if held < -gelu::LIMIT { -gelu::LIMIT } else { held };
    let e = exp(-gelu::SLOPE * (held + gelu::CUBIC * (held * held * held)));
    (1.0 / (1.0 + e), e, held)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let (s, e, held) = sigmoid(x);
    s + (e * s) * s * (held * (gelu::SLOPE * (1.0 + 3.0 * gelu::CUBIC * (held * held))))
}

fn embed(extents: embedding::Params, [ids, token, position]: [&[f32]; 3], out: &mut [f32]) {
    let (channels, time) = (extents.channels as usize, extents.time as usize);
    let ids: &[u32] = bytemuck::cast_slice(ids);
    for (row, (out, &id)) in out.chunks_exact_mut(channels.max(1)).zip(ids).enumerate() {
        let token = &token[id as usize * channels..][..channels];
        let position = &position[row % time * channels..][..channels];
        for ((out, token), position) in out.iter_mut().zip(token).zip(position) {
            *out = token + position;
        }
    }
}

/// Adds `x` to `sum`, and both into `total` once `full`.
fn add(sum: &mut [f32], x: &[f32], total: &mut [f32], full: bool) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    if full {
        total.iter_mut().zip(&mut *sum).for_each(|(total, sum)| *total += std::mem::take(sum));
    }
}

/// Each row goes to its token's sum, which goes to the token's total after [`embedding::CHUNK`] rows and at the end.
fn token_gradient(extents: embedding::Params, ids: &[u32], d_out: &[f32], gradient: &mut [f32], scratch: &mut Scratch) {
    let channels = extents.channels as usize;
    let Scratch { sums, counts, .. } = scratch;
    sums.clear();
    sums.resize(gradient.len(), 0.0);
    counts.clear();
    counts.resize(extents.vocabulary as usize, 0);
    gradient.fill(0.0);
    for (x, &id) in d_out.chunks_exact(channels.max(1)).zip(ids) {
        let at = id as usize * channels..(id as usize + 1) * channels;
        let count = &mut counts[id as usize];
        *count += 1;
        add(&mut sums[at.clone()], x, &mut gradient[at], count.is_multiple_of(embedding::CHUNK));
    }
    gradient.iter_mut().zip(sums).for_each(|(total, sum)| *total += *sum);
}

fn position_gradient(extents: embedding::Params, d_out: &[f32], gradient: &mut [f32], sums: &mut Vec<f32>) {
    gradient.fill(0.0);
    sums.clear();
    sums.resize(gradient.len(), 0.0);
    let sequences = d_out.chunks_exact((extents.time as usize * extents.channels as usize).max(1));
    for (x, sequence) in sequences.zip(1u32..) {
        add(sums, x, gradient, sequence.is_multiple_of(embedding::CHUNK));
    }
    gradient.iter_mut().zip(sums).for_each(|(total, sum)| *total += *sum);
}
