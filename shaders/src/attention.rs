//! Causal multi-head self-attention: what its kernels share, which is shapes, parameters, references and tolerances.
//!
//! Rows are (sequence, time) pairs, time fastest. A row of `qkv` holds queries, keys and values, each `heads · width`
//! wide with the heads one after another. Per sequence and head, with `s_ij = q_i·k_j / √width` for keys j ≤ i:
//! `p_ij = exp(s_ij − l_i)`, `l_i = log Σ_j exp(s_ij)`, `out_i = Σ_j p_ij v_j` (Vaswani et al., Attention Is All You
//! Need, 2017). Forward keeps l alone; backward makes p again from it, so that nothing of extent time² is stored (Dao et
//! al., FlashAttention, 2022): with `δ_i = dout_i·out_i` and `ds_ij = p_ij (dout_i·v_j − δ_i)`,
//! `dq_i = Σ_j ds_ij k_j / √width`, `dk_j = Σ_i ds_ij q_i / √width`, `dv_j = Σ_i p_ij dout_i`.
//!
//! l and δ are `[sequences, heads, time]`. A pair is one head of one sequence, numbered in that order; calls may be cut
//! into ranges of pairs, which divide outputs, never a sum.

pub mod delta;
pub mod forward;
pub mod forward_parted;
pub mod forward_quad;
pub mod key_gradient;
pub mod key_gradient_parted;
pub mod key_gradient_quad;
pub mod query_gradient;
pub mod query_gradient_parted;
pub mod query_gradient_quad;
mod reference;

pub use reference::{Backward, Forward, Saved};

use crate::{Binding, Kernel, linear_dispatch};

/// Invocations per workgroup, one position each.
pub const WORKGROUP: u32 = 32;
/// Keys, or queries, an invocation handles per step.
pub const BLOCK: u32 = 4;
/// Widest head; widths are multiples of four.
pub const WIDTH_MAX: u32 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub sequences: u32,
    pub time: u32,
    pub heads: u32,
    /// Of one head.
    pub width: u32,
}

impl Shape {
    /// Heads of all sequences together.
    pub fn pairs(self) -> u32 {
        self.sequences * self.heads
    }

    /// Width of a row of the output.
    pub fn channels(self) -> u32 {
        self.heads * self.width
    }

    pub fn rows(self) -> u32 {
        self.sequences * self.time
    }

    pub fn scale(self) -> f32 {
        (1.0 / f64::from(self.width).sqrt()) as f32
    }
}

/// The pairs one dispatch handles: `first` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pairs {
    pub first: u32,
    pub end: u32,
}

/// The uniform of every kernel here.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub time: u32,
    pub heads: u32,
    pub pair_first: u32,
    pub pair_end: u32,
    /// `1 / √width`.
    pub scale: f32,
}

impl Params {
    pub fn new(shape: Shape, pairs: Pairs) -> Self {
        let Shape { time, heads, .. } = shape;
        Self { time, heads, pair_first: pairs.first, pair_end: pairs.end, scale: shape.scale() }
    }
}

const fn kernel(name: &'static str, wgsl: &'static str, bindings: &'static [Binding]) -> Kernel {
    let params_fields = crate::params_fields!(time, heads, pair_first, pair_end, scale);
    Kernel { name, wgsl, bindings, params_bytes: size_of::<Params>(), params_fields }
}

/// An invocation per position of each pair.
pub fn dispatch(shape: Shape, pairs: Pairs) -> [u32; 3] {
    let positions = u64::from(pairs.end.saturating_sub(pairs.first)) * u64::from(shape.time);
    linear_dispatch(positions.div_ceil(u64::from(WORKGROUP)))
}

/// A workgroup of four invocations per four positions of each pair, for the kernels whose names end in `quad`.
pub fn dispatch_quads(shape: Shape, pairs: Pairs) -> [u32; 3] {
    linear_dispatch(u64::from(pairs.end.saturating_sub(pairs.first)) * u64::from(shape.time.div_ceil(4)))
}

/// Positions of a workgroup of the kernels whose names end in `parted`.
pub const PARTED: u32 = 16;

/// A workgroup per [`PARTED`] positions of each pair, for those.
pub fn dispatch_parted(shape: Shape, pairs: Pairs) -> [u32; 3] {
    linear_dispatch(u64::from(pairs.end.saturating_sub(pairs.first)) * u64::from(shape.time.div_ceil(PARTED)))
}

/// Values for the `override` declarations.
pub fn constants(shape: Shape) -> Vec<(&'static str, f64)> {
    vec![("HEAD_VEC4", f64::from(shape.width / 4))]
}
