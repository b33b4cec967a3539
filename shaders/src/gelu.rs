//! GELU in its tanh form: what forward and backward share, which is parameters, reference and tolerance.
//!
//! `0.5·x·(1 + tanh z) = x·σ(2z)` with `z = √(2/π)·(x + 0.044715·x³)`, so that one exponential and one division are
//! enough: `σ(w) = 1 / (1 + exp(−w))`. (WGSL allows `tanh` an absolute error of 10⁻⁵.)

pub mod backward;
pub mod forward;

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

/// `2·√(2/π)`, by which `x + CUBIC·x³` is multiplied to give `w = 2z`.
pub const SLOPE: f32 = 1.595_769;
pub const CUBIC: f32 = 0.044_715;
/// Inside the exponential x is held within this: `exp(±66.4)` neither overflows nor is denormal, and σ is 0 or 1 to 28
/// digits beyond it.
pub const LIMIT: f32 = 9.0;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
}

impl Params {
    pub fn new(values: u32) -> Self {
        Self { values4: values.div_ceil(4) }
    }
}

const fn kernel(name: &'static str, wgsl: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel { name, wgsl, bindings, params_bytes: size_of::<Params>(), params_fields: crate::params_fields!(values4) }
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

/// w = 2z and its derivative.
fn inner(x: f64) -> (f64, f64) {
    let slope = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    (slope * (x + 0.044715 * x.powi(3)), slope * (1.0 + 3.0 * 0.044715 * x * x))
}

/// σ, by a form that does not cancel for negative arguments.
fn logistic(w: f64) -> f64 {
    1.0 / (1.0 + (-w).exp())
}

/// GELU of each pre-activation, `x·σ(w)`.
pub fn forward_reference(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| x * logistic(inner(x).0)).collect()
}

/// dL/dx from x and dL/dy: `σ(w) + x·σ(w)·σ(−w)·w'`.
pub fn backward_reference(x: &[f64], gradient: &[f64]) -> Vec<f64> {
    let slope = |x: f64| {
        let (w, dw) = inner(x);
        logistic(w) + logistic(w) * logistic(-w) * x * dw
    };
    x.iter().zip(gradient).map(|(&x, &g)| slope(x) * g).collect()
}

/// σ(w), 1 − σ(w), and the relative error of the computed exponential: w is rounded eight times at most (three
/// for the cube, the sum, the product, and three constants), which changes `exp(w)` by 8|w|u, and `exp` itself is
/// within (3 + 2|w|)u.
fn sigmoid(x: f64) -> (f64, f64, f64) {
    let w = inner(x.clamp(-f64::from(LIMIT), f64::from(LIMIT))).0;
    (logistic(w), logistic(-w), (3.0 + 10.0 * w.abs()) * UNIT_ROUNDOFF * 1.001)
}

/// What holding x within [`LIMIT`] changes, and denormal values: below 10⁻²⁸ of `1 + |x|`.
fn absolute(x: f64) -> f64 {
    (1.0 + x.abs()) * 1e-27 + 4.0 * FLUSH
}

/// `y = x·σ`: a relative error ε of the exponential changes σ by ε·(1 − σ); the sum, the quotient (2.5u) and a product
/// follow.
pub fn forward_tolerance(x: &[f64]) -> Vec<f64> {
    let bound = |x: f64| {
        let (s, rest, exp) = sigmoid(x);
        x.abs() * s * (rest * exp + 5.0 * UNIT_ROUNDOFF) * 1.001 + absolute(x)
    };
    x.iter().map(|&x| bound(x)).collect()
}

/// `g·(σ + x·σ·(1 − σ)·w')`: beside σ as in forward, `1 − σ` is `exp(−w)·σ` and changes by ε·σ more; w' passes five
/// roundings, the products and the sum of the two terms six.
pub fn backward_tolerance(x: &[f64], gradient: &[f64]) -> Vec<f64> {
    let bound = |x: f64, g: f64| {
        let (s, rest, exp) = sigmoid(x);
        let u = UNIT_ROUNDOFF * 1.001;
        let first = s * (rest * exp + 5.0 * u);
        let second = (x * s * rest * inner(x).1).abs() * (2.0 * exp + 20.0 * u);
        g.abs() * (first + second + 3.0 * u * (s + second)) + absolute(x) * (1.0 + g.abs())
    };
    x.iter().zip(gradient).map(|(&x, &g)| bound(x, g)).collect()
}
