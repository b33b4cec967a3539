//! One step of AdamW; see `adamw.wgsl`. The running powers β1ᵗ and β2ᵗ that it reads are kept by [`crate::adamw_advance`].

use crate::{Binding::*, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "adamw",
    wgsl: crate::wgsl!("adamw.wgsl"),
    bindings: &[Uniform, Read, Read, ReadWrite, ReadWrite, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4, learning_rate, beta1, beta2, epsilon, weight_decay),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
}

/// Learning rate, decay rates of the moments (both on [0, 1)), ε (at least 10⁻¹²) and decoupled weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
}

impl Params {
    pub fn new(values: u32, rates: Rates) -> Self {
        let Rates { learning_rate, beta1, beta2, epsilon, weight_decay } = rates;
        Self { values4: values.div_ceil(4), learning_rate, beta1, beta2, epsilon, weight_decay }
    }
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

/// What a step reads, value by value.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub gradient: &'a [f64],
    pub first: &'a [f64],
    pub second: &'a [f64],
    pub parameter: &'a [f64],
}

/// Moments and parameter after a step; or their tolerances.
#[derive(Default)]
pub struct Updated {
    pub first: Vec<f64>,
    pub second: Vec<f64>,
    pub parameter: Vec<f64>,
}

/// Both moments after the step.
#[derive(Clone, Copy)]
pub struct Moments<'a> {
    pub first: &'a [f64],
    pub second: &'a [f64],
}

/// The parameter after the step, from what it was and the moments after; `powers` are those of this step.
pub fn parameter_reference(rates: Rates, powers: [f64; 2], moments: Moments, parameter: &[f64]) -> Vec<f64> {
    let [rate, .., epsilon, decay] = wide(rates);
    let step = |m: f64, v: f64| (m / (1.0 - powers[0])) / ((v / (1.0 - powers[1])).sqrt() + epsilon);
    let moments = moments.first.iter().zip(moments.second);
    parameter.iter().zip(moments).map(|(p, (&m, &v))| p - rate * (step(m, v) + decay * p)).collect()
}

/// Of a kernel that computes the parameter from these very moments: what [`tolerance`] says of the quotient and what
/// follows it.
pub fn parameter_tolerance(rates: Rates, powers: [f64; 2], moments: Moments, parameter: &[f64]) -> Vec<f64> {
    let moments = moments.first.iter().zip(moments.second);
    parameter.iter().zip(moments).map(|(&p, (&m, &v))| parameter_bound(rates, powers, [m, v], 0.0, p)).collect()
}

/// `m_error` is how far the first moment may be off.
fn parameter_bound(rates: Rates, powers: [f64; 2], [m, v]: [f64; 2], m_error: f64, parameter: f64) -> f64 {
    let [rate, .., epsilon, decay] = wide(rates);
    let (u, c1, c2) = (UNIT_ROUNDOFF * 1.001, 1.0 - powers[0], 1.0 - powers[1]);
    let root = (v / c2).sqrt();
    let root_error = 3.0 * u * root + (4.0 * FLUSH / c2).sqrt();
    let step = m.abs() / c1 / (root + epsilon);
    let step_error = (m_error / c1) / (root + epsilon) + step * (root_error / (root + epsilon) + 16.0 * u) * 1.001;
    let p = parameter.abs();
    let size = rate * (step + step_error + decay * p);
    rate * step_error * 1.001 + 4.0 * u * size + u * (p + size) + 4.0 * FLUSH
}

/// `powers` are β1ᵗ and β2ᵗ of this step.
pub fn reference(rates: Rates, powers: [f64; 2], before: Before) -> Updated {
    let [_, beta1, beta2, ..] = wide(rates);
    let mut out = Updated::default();
    for (i, &g) in before.gradient.iter().enumerate() {
        out.first.push(beta1 * before.first[i] + (1.0 - beta1) * g);
        out.second.push(beta2 * before.second[i] + (1.0 - beta2) * g * g);
    }
    let moments = Moments { first: &out.first, second: &out.second };
    out.parameter = parameter_reference(rates, powers, moments, before.parameter);
    out
}

fn wide(rates: Rates) -> [f64; 5] {
    let Rates { learning_rate, beta1, beta2, epsilon, weight_decay } = rates;
    [learning_rate, beta1, beta2, epsilon, weight_decay].map(f64::from)
}

/// `1 − β` is rounded once. m then is within four roundings of its two terms' sizes, v within five, v being a sum of
/// positive terms. Of the quotient, `m/c1` takes 2.5 units and c1 one; v's relative error is halved by the root, whose
/// own is 5 units (`1 / inverseSqrt`), v/c2 takes 3.5 more under it; the sum with ε and the division 3.5 more: 12 in all,
/// 16 with what the CPU path's reciprocals add. A denormal v flushed to zero changes the root by `√(FLUSH / c2)` at most.
/// The remaining operations are four.
///
/// Over a training run the powers are f32 products: β2ᵗ is off by t·u relatively, hence c2 = 1 − β2ᵗ by
/// `t·β2ᵗ/(1 − β2ᵗ)·u ≤ u/(−ln β2)`: 20 u for β2 = 0.95, 1000 u = 1.2·10⁻⁴ for 0.999, and less as t grows. That is the
/// error of [`crate::adamw_advance`], not of this kernel, which is given the powers.
pub fn tolerance(rates: Rates, powers: [f64; 2], before: Before) -> Updated {
    let [_, beta1, ..] = wide(rates);
    let (u, updated) = (UNIT_ROUNDOFF * 1.001, reference(rates, powers, before));
    let mut out = Updated::default();
    for (i, &g) in before.gradient.iter().enumerate() {
        let m_error = 4.0 * u * (beta1 * before.first[i].abs() + (1.0 - beta1) * g.abs()) + 3.0 * FLUSH;
        let v = updated.second[i];
        out.parameter.push(parameter_bound(rates, powers, [updated.first[i], v], m_error, before.parameter[i]));
        out.first.push(m_error);
        out.second.push(5.0 * u * v + 4.0 * FLUSH);
    }
    out
}
