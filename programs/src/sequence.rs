//! Kernel calls of sequence models: embeddings, layer normalisation, GELU and causal self-attention. Layouts are those of
//! the shaders: activations `[sequences · time, channels]`, rows ordered by sequence, then time.

use manyhands_shaders::attention::{self, Pairs, Shape};
use manyhands_shaders::{Kernel, embedding, gelu, layer_norm};

use super::op::{Call, Sharing};
use super::{Buffer, Op, Program};

/// One kernel call. Ids are u32 bits, each below the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SequenceOp {
    /// `ids [rows]`, `token [vocabulary, channels]` and `position [time, channels]` to `out [rows, channels]`.
    EmbeddingForward { ids: Buffer, token: Buffer, position: Buffer, out: Buffer, extents: embedding::Params },
    /// `ids [rows]` and `d_out [rows, channels]` to `gradient [vocabulary, channels]`.
    EmbeddingTokenGradient { ids: Buffer, d_out: Buffer, gradient: Buffer, extents: embedding::Params },
    /// `d_out [rows, channels]` to `gradient [time, channels]`.
    EmbeddingPositionGradient { d_out: Buffer, gradient: Buffer, extents: embedding::Params },
    /// `x [rows, channels]`, `gain` and `shift [channels]` to `y [rows, channels]`, `mean` and `rstd [rows]`.
    LayerNormForward {
        x: Buffer,
        gain: Buffer,
        shift: Buffer,
        y: Buffer,
        mean: Buffer,
        rstd: Buffer,
        extents: layer_norm::Params,
    },
    /// The gradient by x, `[rows, channels]`, written to `d_x` or added to it.
    LayerNormBackward { saved: Saved, gain: Buffer, d_y: Buffer, d_x: Buffer, extents: layer_norm::Params, accumulate: bool },
    /// The gradients by gain and shift in partial sums `[⌈rows / 64⌉, channels]`, to be added up by a column sum.
    LayerNormParameters { saved: Saved, d_y: Buffer, gain: Buffer, shift: Buffer, extents: layer_norm::Params },
    /// `y = gelu(x)`, value by value.
    GeluForward { x: Buffer, y: Buffer, values: u32 },
    /// `gradient *= gelu'(x)`, value by value, x being forward's.
    GeluBackward { x: Buffer, gradient: Buffer, values: u32 },
    /// `qkv [rows, 3, heads, width]` to `out [rows, heads, width]` and `logsumexp [sequences, heads, time]`.
    AttentionForward { qkv: Buffer, out: Buffer, logsumexp: Buffer, shape: Shape, pairs: Pairs },
    /// `out` and `d_out [rows, heads, width]` to `delta [sequences, heads, time]`.
    AttentionDelta { out: Buffer, d_out: Buffer, delta: Buffer, shape: Shape },
    /// The queries' part of `d_qkv`. The two gradient calls on the same buffers and pairs belong together, this one
    /// first: a CPU, which makes the probabilities once for both, writes all of `d_qkv` in the second.
    AttentionQueryGradient { backward: AttentionBackward, shape: Shape, pairs: Pairs },
    /// The parts of keys and values of `d_qkv`.
    AttentionKeyGradient { backward: AttentionBackward, shape: Shape, pairs: Pairs },
}

/// Input of a layer normalisation `[rows, channels]` and what its forward saved, `[rows]` each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saved {
    pub x: Buffer,
    pub mean: Buffer,
    pub rstd: Buffer,
}

/// Buffers of attention's gradient: `qkv` and `d_qkv [rows, 3, heads, width]`, `d_out [rows, heads, width]`, `logsumexp`
/// and `delta [sequences, heads, time]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionBackward {
    pub qkv: Buffer,
    pub logsumexp: Buffer,
    pub delta: Buffer,
    pub d_out: Buffer,
    pub d_qkv: Buffer,
}

impl AttentionBackward {
    /// A call of one of `kernels`.
    fn call(self, kernels: [&'static Kernel; 3], sharing: Sharing, shape: Shape, pairs: Pairs) -> Call {
        let buffers = vec![self.qkv, self.logsumexp, self.delta, self.d_out, self.d_qkv];
        attention_call(kernels, sharing, buffers, shape, pairs)
    }
}

/// A call of the one of `kernels` that shares its work so, in the order of [`Sharing`].
fn attention_call(kernels: [&'static Kernel; 3], sharing: Sharing, buffers: Vec<Buffer>, shape: Shape, pairs: Pairs) -> Call {
    let [plain, quad, parted] = kernels;
    let (kernel, groups) = match sharing {
        Sharing::Nothing => (plain, attention::dispatch(shape, pairs)),
        Sharing::Quads => (quad, attention::dispatch_quads(shape, pairs)),
        Sharing::Workgroups => (parted, attention::dispatch_parted(shape, pairs)),
    };
    let call = Call::new(kernel, &attention::Params::new(shape, pairs), buffers, groups);
    Call { constants: attention::constants(shape), ..call }
}

/// Floating-point operations of one product of causal attention over `pairs`: half of time².
fn triangle(shape: Shape, pairs: Pairs) -> u64 {
    let positions = u64::from(shape.time) * (u64::from(shape.time) + 1);
    u64::from(pairs.end.saturating_sub(pairs.first)) * positions * u64::from(shape.width)
}

impl Program {
    /// Adds attention's forward call over all pairs, cut into ranges of pairs of at most `call_flop_max`.
    pub fn attention_forward(&mut self, qkv: Buffer, out: Buffer, logsumexp: Buffer, shape: Shape) {
        for pairs in cut(shape, 2, self.call_flop_max) {
            self.ops.push(Op::Sequence(SequenceOp::AttentionForward { qkv, out, logsumexp, shape, pairs }));
        }
    }

    /// Adds attention's two gradient calls over all pairs, cut likewise; δ is there already.
    pub fn attention_backward(&mut self, backward: AttentionBackward, shape: Shape) {
        for pairs in cut(shape, 4, self.call_flop_max) {
            self.ops.push(Op::Sequence(SequenceOp::AttentionQueryGradient { backward, shape, pairs }));
            self.ops.push(Op::Sequence(SequenceOp::AttentionKeyGradient { backward, shape, pairs }));
        }
    }
}

/// Ranges of pairs, at least one pair each, whose `products` stay within `flop_max`.
fn cut(shape: Shape, products: u64, flop_max: u64) -> impl Iterator<Item = Pairs> {
    let one = products * triangle(shape, Pairs { first: 0, end: 1 });
    let step = u32::try_from((flop_max / one.max(1)).max(1)).unwrap_or(u32::MAX);
    let pairs = shape.pairs();
    (0..pairs).step_by(step as usize).map(move |first| Pairs { first, end: first.saturating_add(step).min(pairs) })
}

impl SequenceOp {
    /// Operations to slice time by: exact for the products of attention, a guess for the rest.
    pub fn flop(&self) -> u64 {
        let values = |rows: u32, channels: u32| u64::from(rows) * u64::from(channels);
        match *self {
            Self::EmbeddingForward { extents: e, .. } => 4 * values(e.rows, e.channels),
            Self::EmbeddingTokenGradient { extents: e, .. } => {
                4 * values(e.rows, e.channels) + values(e.vocabulary, e.rows) * u64::from(e.channels.div_ceil(4))
            }
            Self::EmbeddingPositionGradient { extents: e, .. } => 4 * values(e.rows, e.channels),
            Self::LayerNormForward { extents: e, .. } => 12 * values(e.rows, e.channels),
            Self::LayerNormBackward { extents: e, .. } => 16 * values(e.rows, e.channels),
            Self::LayerNormParameters { extents: e, .. } => 8 * values(e.rows, e.channels),
            Self::GeluForward { values, .. } => 32 * u64::from(values),
            Self::GeluBackward { values, .. } => 40 * u64::from(values),
            Self::AttentionForward { shape, pairs, .. } => 2 * triangle(shape, pairs),
            Self::AttentionDelta { shape, .. } => 4 * values(shape.rows(), shape.channels()),
            Self::AttentionQueryGradient { shape, pairs, .. } => 3 * triangle(shape, pairs),
            Self::AttentionKeyGradient { shape, pairs, .. } => 4 * triangle(shape, pairs),
        }
    }

    /// How a device binds this call.
    pub fn call(&self, sharing: Sharing) -> Call {
        match *self {
            Self::EmbeddingForward { ids, token, position, out, extents } => {
                let groups = embedding::forward::dispatch(extents);
                Call::new(&embedding::forward::KERNEL, &extents, vec![ids, token, position, out], groups)
            }
            Self::EmbeddingTokenGradient { ids, d_out, gradient, extents } => {
                let groups = embedding::token_gradient::dispatch(extents);
                Call::new(&embedding::token_gradient::KERNEL, &extents, vec![ids, d_out, gradient], groups)
            }
            Self::EmbeddingPositionGradient { d_out, gradient, extents } => {
                let groups = embedding::position_gradient::dispatch(extents);
                Call::new(&embedding::position_gradient::KERNEL, &extents, vec![d_out, gradient], groups)
            }
            Self::GeluForward { x, y, values } => {
                Call::new(&gelu::forward::KERNEL, &gelu::Params::new(values), vec![x, y], gelu::dispatch(values))
            }
            Self::GeluBackward { x, gradient, values } => {
                Call::new(&gelu::backward::KERNEL, &gelu::Params::new(values), vec![x, gradient], gelu::dispatch(values))
            }
            Self::LayerNormForward { x, gain, shift, y, mean, rstd, extents } => {
                let buffers = vec![x, gain, shift, y, mean, rstd];
                let (kernel, groups) = match sharing {
                    Sharing::Workgroups => (&layer_norm::forward_shared::KERNEL, layer_norm::dispatch_shared(extents)),
                    _ => (&layer_norm::forward::KERNEL, layer_norm::dispatch_rows(extents)),
                };
                Call::new(kernel, &extents, buffers, groups)
            }
            Self::LayerNormBackward { saved: Saved { x, mean, rstd }, gain, d_y, d_x, extents, accumulate } => {
                let buffers = vec![x, mean, rstd, gain, d_y, d_x];
                let (kernel, groups) = match sharing {
                    Sharing::Workgroups => (&layer_norm::backward_shared::KERNEL, layer_norm::dispatch_shared(extents)),
                    _ => (&layer_norm::backward::KERNEL, layer_norm::dispatch_rows(extents)),
                };
                let call = Call::new(kernel, &extents, buffers, groups);
                Call { constants: layer_norm::backward::constants(accumulate), ..call }
            }
            Self::LayerNormParameters { saved: Saved { x, mean, rstd }, d_y, gain, shift, extents } => {
                let (buffers, groups) = (vec![x, mean, rstd, d_y, gain, shift], layer_norm::dispatch_parameters(extents));
                Call::new(&layer_norm::parameters::KERNEL, &extents, buffers, groups)
            }
            Self::AttentionForward { qkv, out, logsumexp, shape, pairs } => {
                use attention::{forward, forward_parted, forward_quad};
                let kernels = [&forward::KERNEL, &forward_quad::KERNEL, &forward_parted::KERNEL];
                attention_call(kernels, sharing, vec![qkv, out, logsumexp], shape, pairs)
            }
            Self::AttentionDelta { out, d_out, delta, shape } => {
                let params = attention::Params::new(shape, Pairs { first: 0, end: shape.pairs() });
                let groups = attention::delta::dispatch(shape);
                let call = Call::new(&attention::delta::KERNEL, &params, vec![out, d_out, delta], groups);
                Call { constants: attention::constants(shape), ..call }
            }
            Self::AttentionQueryGradient { backward, shape, pairs } => {
                use attention::{query_gradient, query_gradient_parted, query_gradient_quad};
                let kernels = [&query_gradient::KERNEL, &query_gradient_quad::KERNEL, &query_gradient_parted::KERNEL];
                backward.call(kernels, sharing, shape, pairs)
            }
            Self::AttentionKeyGradient { backward, shape, pairs } => {
                use attention::{key_gradient, key_gradient_parted, key_gradient_quad};
                let kernels = [&key_gradient::KERNEL, &key_gradient_quad::KERNEL, &key_gradient_parted::KERNEL];
                backward.call(kernels, sharing, shape, pairs)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CALL_FLOP_MAX;

    #[test]
    fn attention_is_cut_along_pairs() {
        let check = |[sequences, time, heads, width]: [u32; 4], calls: usize| {
            let shape = Shape { sequences, time, heads, width };
            let mut program = Program::default();
            let [qkv, out, logsumexp] = [0; 3].map(|values| program.buffer(values));
            program.attention_forward(qkv, out, logsumexp, shape);
            assert_eq!(program.ops.len(), calls);
            let mut next = 0;
            for op in &program.ops {
                let Op::Sequence(SequenceOp::AttentionForward { pairs, .. }) = op else { panic!("attention") };
                assert_eq!(pairs.first, next);
                assert!(op.flop() <= CALL_FLOP_MAX || pairs.end - pairs.first == 1);
                next = pairs.end;
            }
            assert_eq!(next, sequences * heads);
        };
        check([16, 64, 4, 32], 1);
        check([0, 64, 4, 32], 0);
        check([16, 1024, 8, 64], 128);
        check([1, 1024, 2, 128], 2);
        check([3, 0, 5, 32], 1);
    }
}
