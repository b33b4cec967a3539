//! One step of SGD with momentum; see `sgd_momentum.wgsl`.

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "sgd_momentum",
    wgsl: crate::wgsl!("sgd_momentum.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::ReadWrite, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4, learning_rate, momentum),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
    pub learning_rate: f32,
    pub momentum: f32,
}

/// The two rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub learning_rate: f32,
    pub momentum: f32,
}

impl Params {
    pub fn new(values: u32, rates: Rates) -> Self {
        Self { values4: values.div_ceil(4), learning_rate: rates.learning_rate, momentum: rates.momentum }
    }
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

/// Velocity and parameter after a step.
pub struct Updated {
    pub velocity: Vec<f64>,
    pub parameter: Vec<f64>,
}

pub fn reference(rates: Rates, gradient: &[f64], velocity: &[f64], parameter: &[f64]) -> Updated {
    let (learning_rate, momentum) = (f64::from(rates.learning_rate), f64::from(rates.momentum));
    let velocity: Vec<f64> = gradient.iter().zip(velocity).map(|(&g, &v)| momentum * v + g).collect();
    let parameter = parameter.iter().zip(&velocity).map(|(&p, &v)| p - learning_rate * v).collect();
    Updated { velocity, parameter }
}

/// Two roundings for the velocity; for the parameter two more, and the velocity's error times the learning rate.
pub fn tolerance(rates: Rates, gradient: &[f64], velocity: &[f64], parameter: &[f64]) -> Updated {
    let (learning_rate, momentum) = (f64::from(rates.learning_rate), f64::from(rates.momentum));
    let two = 2.0 * UNIT_ROUNDOFF * (1.0 + UNIT_ROUNDOFF);
    let sizes = gradient.iter().zip(velocity).map(|(&g, &v)| momentum * v.abs() + g.abs());
    let errors: Vec<f64> = sizes.clone().map(|size| two * size + 2.0 * FLUSH).collect();
    let parameter = parameter
        .iter()
        .zip(sizes.zip(&errors))
        .map(|(&p, (size, error))| learning_rate * error * (1.0 + two) + two * (p.abs() + learning_rate * size) + 2.0 * FLUSH);
    Updated { parameter: parameter.collect(), velocity: errors }
}
