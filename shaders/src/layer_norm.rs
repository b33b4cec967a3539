//! Layer normalisation over the last axis: what its kernels share, which is parameters, references and tolerances.
//!
//! `y = (x − mean)·rstd·gain + shift` per row of `[rows, channels]`, `rstd = 1 / √(variance + ε)` (Ba, Kiros and Hinton,
//! Layer Normalization, 2016). Forward saves mean and rstd, from which backward makes x̂ = (x − mean)·rstd again.

pub mod backward;
pub mod backward_shared;
pub mod forward;
pub mod forward_shared;
pub mod parameters;

use crate::rounding::{chunked, gamma};
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch};

pub const EPSILON: f64 = 1e-5;
/// Invocations per workgroup.
pub const WORKGROUP: u32 = 32;
/// Terms summed before they are added to the total, and rows of one partial sum of `parameters`.
pub const CHUNK: u32 = 64;

/// The uniform of every kernel here.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub rows: u32,
    pub channels: u32,
}

const fn kernel(name: &'static str, wgsl: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel { name, wgsl, bindings, params_bytes: size_of::<Params>(), params_fields: crate::params_fields!(rows, channels) }
}

/// Dispatch of forward and backward: an invocation per row.
pub fn dispatch_rows(params: Params) -> [u32; 3] {
    let rows = if params.channels == 0 { 0 } else { params.rows };
    linear_dispatch(u64::from(rows.div_ceil(WORKGROUP)))
}

/// Dispatch of the kernels whose names end in `shared`: a workgroup per row.
pub fn dispatch_shared(params: Params) -> [u32; 3] {
    linear_dispatch(u64::from(if params.channels == 0 { 0 } else { params.rows }))
}

/// Dispatch of the parameters' gradient: an invocation per chunk and channel.
pub fn dispatch_parameters(params: Params) -> [u32; 3] {
    let values = u64::from(params.rows.div_ceil(CHUNK)) * u64::from(params.channels);
    linear_dispatch(values.div_ceil(u64::from(WORKGROUP)))
}

/// What forward writes; or its tolerances.
#[derive(Default)]
pub struct Forward {
    pub y: Vec<f64>,
    pub mean: Vec<f64>,
    pub rstd: Vec<f64>,
}

pub fn forward_reference(x: &[f64], gain: &[f64], shift: &[f64]) -> Forward {
    let channels = gain.len();
    let mut out = Forward::default();
    for x in x.chunks_exact(channels.max(1)) {
        let mean = x.iter().sum::<f64>() / channels as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
        let rstd = 1.0 / (variance + EPSILON).sqrt();
        out.y.extend((0..channels).map(|j| (x[j] - mean) * rstd * gain[j] + shift[j]));
        out.mean.push(mean);
        out.rstd.push(rstd);
    }
    out
}

/// The mean is a chunked sum and a quotient. Each x − mean carries that error δ and one rounding; squares, their sum and
/// its quotient follow, and bound the computed variance between v − Δ and v + Δ. rstd is decreasing, so its error is
/// largest at one of these ends; adding ε and `inverseSqrt` (2 units) come on top.
pub fn forward_tolerance(x: &[f64], gain: &[f64], shift: &[f64]) -> Forward {
    let (channels, u) = (gain.len(), UNIT_ROUNDOFF * 1.001);
    let (count, sum) = (channels as f64, gamma(chunked(channels) + 3.0));
    let exact = forward_reference(x, gain, shift);
    let mut out = Forward::default();
    for (x, (&mean, &rstd)) in x.chunks_exact(channels.max(1)).zip(exact.mean.iter().zip(&exact.rstd)) {
        let mean_error = sum * x.iter().map(|x| x.abs()).sum::<f64>() / count + FLUSH;
        let deviation = |x: f64| ((x - mean).abs(), mean_error + u * ((x - mean).abs() + mean_error) + FLUSH);
        let squares = x.iter().map(|&x| {
            let (size, error) = deviation(x);
            (2.0 * size * error + error * error) * (1.0 + sum) + sum * size * size + FLUSH
        });
        let variance_error = squares.sum::<f64>() / count + FLUSH;
        let variance = rstd.powi(-2);
        let (low, high) = ((variance - variance_error).max(EPSILON), variance + variance_error);
        let rstd_error = (low.powf(-0.5) - rstd).max(rstd - high.powf(-0.5)) + 4.0 * u * low.powf(-0.5);
        for j in 0..channels {
            let (size, error) = deviation(x[j]);
            let product = error * (rstd + rstd_error) + size * rstd_error;
            let scaled = (size * rstd + product) * gain[j].abs();
            out.y.push(product * gain[j].abs() + 2.0 * u * scaled + u * (scaled + shift[j].abs()) + 3.0 * FLUSH);
        }
        out.mean.push(mean_error);
        out.rstd.push(rstd_error);
    }
    out
}

/// What backward reads beside the upstream gradient: one row each per row of x.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub x: &'a [f64],
    pub mean: &'a [f64],
    pub rstd: &'a [f64],
}

impl Saved<'_> {
    /// x̂ of every value.
    fn normalized(&self, channels: usize) -> Vec<f64> {
        (0..self.x.len()).map(|i| (self.x[i] - self.mean[i / channels]) * self.rstd[i / channels]).collect()
    }
}

/// `dx = rstd·(h − mean(h) − x̂·mean(h·x̂))` with h = dy·gain, added to `before` where that is not empty.
pub fn backward_reference(saved: Saved, gain: &[f64], d_y: &[f64], before: &[f64]) -> Vec<f64> {
    let channels = gain.len();
    let normalized = saved.normalized(channels);
    let mut d_x = Vec::new();
    for (row, &rstd) in saved.rstd.iter().enumerate() {
        let n = &normalized[row * channels..][..channels];
        let h: Vec<f64> = (0..channels).map(|j| d_y[row * channels + j] * gain[j]).collect();
        let mean = h.iter().sum::<f64>() / channels as f64;
        let mean_n = h.iter().zip(n).map(|(h, n)| h * n).sum::<f64>() / channels as f64;
        d_x.extend((0..channels).map(|j| rstd * (h[j] - mean - n[j] * mean_n)));
    }
    d_x.iter_mut().zip(before).for_each(|(d, before)| *d += before);
    d_x
}

/// h is rounded once, x̂ twice; both means are chunked sums of at most four more roundings and a quotient.
pub fn backward_tolerance(saved: Saved, gain: &[f64], d_y: &[f64], before: &[f64]) -> Vec<f64> {
    let (channels, u) = (gain.len(), UNIT_ROUNDOFF * 1.001);
    let sum = gamma(chunked(channels) + 8.0);
    let normalized = saved.normalized(channels);
    let mut bounds = Vec::new();
    for (row, &rstd) in saved.rstd.iter().enumerate() {
        let n: Vec<f64> = normalized[row * channels..][..channels].iter().map(|n| n.abs()).collect();
        let h: Vec<f64> = (0..channels).map(|j| (d_y[row * channels + j] * gain[j]).abs()).collect();
        let mean = h.iter().sum::<f64>() / channels as f64;
        let mean_n = h.iter().zip(&n).map(|(h, n)| h * n).sum::<f64>() / channels as f64;
        for j in 0..channels {
            let size = h[j] + mean + n[j] * mean_n;
            let bound = rstd * (sum * (mean + n[j] * mean_n) + 6.0 * u * size) + 4.0 * FLUSH * (1.0 + rstd);
            let added = before.get(bounds.len()).map_or(0.0, |before| u * (before.abs() + rstd * size + bound));
            bounds.push(bound + added);
        }
    }
    bounds
}

/// Sums over [`CHUNK`] rows each, `[⌈rows / CHUNK⌉, channels]`, for the gradients of gain and shift; or their tolerances.
#[derive(Default)]
pub struct Partial {
    pub gain: Vec<f64>,
    pub shift: Vec<f64>,
}

pub fn parameters_reference(channels: usize, saved: Saved, d_y: &[f64]) -> Partial {
    partial(channels, &saved.normalized(channels), d_y)
}

fn partial(channels: usize, normalized: &[f64], d_y: &[f64]) -> Partial {
    let mut out = Partial::default();
    let length = (channels * CHUNK as usize).max(1);
    for (n, d_y) in normalized.chunks(length).zip(d_y.chunks(length)) {
        for j in 0..channels {
            let column = (j..d_y.len()).step_by(channels);
            out.gain.push(column.clone().map(|i| d_y[i] * n[i]).sum());
            out.shift.push(column.map(|i| d_y[i]).sum());
        }
    }
    out
}

/// `γ·Σ|term|`: three roundings of a term and those of its chunk.
pub fn parameters_tolerance(channels: usize, saved: Saved, d_y: &[f64]) -> Partial {
    let sizes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut bounds = partial(channels, &sizes(&saved.normalized(channels)), &sizes(d_y));
    let gamma = gamma(f64::from(CHUNK) + 3.0);
    bounds.gain.iter_mut().chain(&mut bounds.shift).for_each(|b| *b = gamma * *b + 66.0 * FLUSH);
    bounds
}
