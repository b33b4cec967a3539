//! Token and position embeddings: parameters, references and tolerances of the forward kernel and of the two gradients.
//!
//! Rows are (sequence, time) pairs, time fastest: row `r` is at time `r % time`. Ids are u32, each below the vocabulary,
//! which whoever uploads them has checked.

pub mod forward;
pub mod position_gradient;
pub mod token_gradient;

use crate::rounding::{chunked, gamma};
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch};

/// Invocations per workgroup.
pub const WORKGROUP: u32 = 64;
/// Terms summed before they are added to the total.
pub const CHUNK: u32 = 64;

/// The uniform of every kernel here.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub rows: u32,
    pub time: u32,
    pub vocabulary: u32,
    pub channels: u32,
}

const fn kernel(name: &'static str, wgsl: &'static str, bindings: &'static [Binding]) -> Kernel {
    let params_fields = crate::params_fields!(rows, time, vocabulary, channels);
    Kernel { name, wgsl, bindings, params_bytes: size_of::<Params>(), params_fields }
}

/// An invocation per value of `count` rows.
fn dispatch_values(count: u32, channels: u32) -> [u32; 3] {
    linear_dispatch((u64::from(count) * u64::from(channels)).div_ceil(u64::from(WORKGROUP)))
}

/// `token[id] + position[time]` per row.
pub fn forward_reference(params: Params, ids: &[u32], token: &[f64], position: &[f64]) -> Vec<f64> {
    let channels = params.channels as usize;
    let mut out = Vec::new();
    for (row, &id) in ids.iter().enumerate() {
        let time = row % params.time as usize;
        out.extend((0..channels).map(|j| token[id as usize * channels + j] + position[time * channels + j]));
    }
    out
}

/// One rounding.
pub fn forward_tolerance(params: Params, ids: &[u32], token: &[f64], position: &[f64]) -> Vec<f64> {
    forward_reference(params, ids, &sizes(token), &sizes(position)).iter().map(|sum| UNIT_ROUNDOFF * sum + FLUSH).collect()
}

fn sizes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// Per token the sum of the gradient's rows that have its id.
pub fn token_reference(params: Params, ids: &[u32], d_out: &[f64]) -> Vec<f64> {
    let channels = params.channels as usize;
    let mut gradient = vec![0.0; params.vocabulary as usize * channels];
    for (row, &id) in ids.iter().enumerate() {
        for j in 0..channels {
            gradient[id as usize * channels + j] += d_out[row * channels + j];
        }
    }
    gradient
}

/// Per time the sum of the gradient's rows at it, one of each sequence.
pub fn position_reference(params: Params, d_out: &[f64]) -> Vec<f64> {
    let (channels, time) = (params.channels as usize, params.time as usize);
    let mut gradient = vec![0.0; time * channels];
    for row in 0..params.rows as usize {
        for j in 0..channels {
            gradient[row % time * channels + j] += d_out[row * channels + j];
        }
    }
    gradient
}

/// `γ·Σ|term|` of a chunked sum of at most `rows` terms.
fn bounds(rows: u32, sums: Vec<f64>) -> Vec<f64> {
    let gamma = gamma(chunked(rows as usize));
    sums.iter().map(|sum| gamma * sum + (f64::from(rows) + 1.0) * FLUSH).collect()
}

pub fn token_tolerance(params: Params, ids: &[u32], d_out: &[f64]) -> Vec<f64> {
    bounds(params.rows, token_reference(params, ids, &sizes(d_out)))
}

pub fn position_tolerance(params: Params, d_out: &[f64]) -> Vec<f64> {
    bounds(params.rows, position_reference(params, &sizes(d_out)))
}
