//! Calls of sequence models through the reference functions.

use manyhands_shaders::attention::{self, Pairs, Shape};
use manyhands_shaders::{embedding, gelu, layer_norm};

use super::{narrow, widen};
use crate::{Buffer, Saved, SequenceOp};

pub fn run(op: &SequenceOp, buffers: &mut [Vec<f32>]) {
    use SequenceOp::*;
    let read = |buffer: Buffer| widen(&buffers[buffer.0]);
    let ids = |buffer: Buffer| bytemuck::cast_slice::<f32, u32>(&buffers[buffer.0]);
    let norm = |saved: Saved| [read(saved.x), read(saved.mean), read(saved.rstd)];
    let written = match *op {
        EmbeddingForward { ids: i, token, position, out, extents } => {
            vec![(out, embedding::forward_reference(extents, ids(i), &read(token), &read(position)))]
        }
        EmbeddingTokenGradient { ids: i, d_out, gradient, extents } => {
            vec![(gradient, embedding::token_reference(extents, ids(i), &read(d_out)))]
        }
        EmbeddingPositionGradient { d_out, gradient, extents } => {
            vec![(gradient, embedding::position_reference(extents, &read(d_out)))]
        }
        LayerNormForward { x, gain, shift, y, mean, rstd, .. } => {
            let forward = layer_norm::forward_reference(&read(x), &read(gain), &read(shift));
            vec![(y, forward.y), (mean, forward.mean), (rstd, forward.rstd)]
        }
        LayerNormBackward { saved, gain, d_y, d_x, accumulate, .. } => {
            let [x, mean, rstd] = norm(saved);
            let saved = layer_norm::Saved { x: &x, mean: &mean, rstd: &rstd };
            let before = if accumulate { read(d_x) } else { Vec::new() };
            vec![(d_x, layer_norm::backward_reference(saved, &read(gain), &read(d_y), &before))]
        }
        LayerNormParameters { saved, d_y, gain, shift, extents } => {
            let [x, mean, rstd] = norm(saved);
            let saved = layer_norm::Saved { x: &x, mean: &mean, rstd: &rstd };
            let partial = layer_norm::parameters_reference(extents.channels as usize, saved, &read(d_y));
            vec![(gain, partial.gain), (shift, partial.shift)]
        }
        GeluForward { x, y, .. } => vec![(y, gelu::forward_reference(&read(x)))],
        GeluBackward { x, gradient, .. } => vec![(gradient, gelu::backward_reference(&read(x), &read(gradient)))],
        AttentionDelta { out, d_out, delta, shape } => {
            vec![(delta, attention::delta::reference(shape, &read(out), &read(d_out)))]
        }
        AttentionForward { qkv, out, logsumexp, shape, pairs } => {
            let forward = attention::Forward::reference(shape, &read(qkv));
            keep(&mut buffers[out.0], &forward.out, shape, pairs, (1, 0..1));
            let statistics = (pairs.first * shape.time) as usize..(pairs.end * shape.time) as usize;
            buffers[logsumexp.0][statistics.clone()].copy_from_slice(&narrow(&forward.logsumexp[statistics]));
            return;
        }
        AttentionQueryGradient { backward: b, shape, pairs } | AttentionKeyGradient { backward: b, shape, pairs } => {
            let [qkv, logsumexp, delta, d_out] = [b.qkv, b.logsumexp, b.delta, b.d_out].map(read);
            let backward = attention::Backward { shape, qkv: &qkv, logsumexp: &logsumexp, delta: &delta, d_out: &d_out };
            let parts = if matches!(op, AttentionQueryGradient { .. }) { 0..1 } else { 1..3 };
            return keep(&mut buffers[b.d_qkv.0], &backward.reference(), shape, pairs, (3, parts));
        }
    };
    for (buffer, values) in written {
        buffers[buffer.0] = narrow(&values);
    }
}

/// Writes what a call over some pairs writes: of rows of `of` parts, `[of, heads, width]`, the named ones.
fn keep(to: &mut [f32], from: &[f64], shape: Shape, pairs: Pairs, (of, parts): (usize, std::ops::Range<usize>)) {
    let (heads, width, time) = (shape.heads as usize, shape.width as usize, shape.time as usize);
    for pair in pairs.first as usize..pairs.end as usize {
        for row in pair / heads * time..(pair / heads + 1) * time {
            for part in parts.clone() {
                let start = ((row * of + part) * heads + pair % heads) * width;
                to[start..start + width].copy_from_slice(&narrow(&from[start..start + width]));
            }
        }
    }
}
