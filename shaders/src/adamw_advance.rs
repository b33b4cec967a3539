//! The step counter of AdamW, as running powers; see `adamw_advance.wgsl`.

use crate::{Binding::*, FLUSH, Kernel, UNIT_ROUNDOFF, params_fields};

pub static KERNEL: Kernel = Kernel {
    name: "adamw_advance",
    wgsl: crate::wgsl!("adamw_advance.wgsl"),
    bindings: &[Uniform, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(beta1, beta2),
};

/// Values of the buffer of powers before the first step.
pub const START: [f32; 4] = [1.0, 1.0, 0.0, 0.0];

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub beta1: f32,
    pub beta2: f32,
}

pub fn dispatch() -> [u32; 3] {
    [1, 1, 1]
}

/// The powers one step on; the two unused values stay.
pub fn reference(params: Params, powers: [f64; 4]) -> [f64; 4] {
    [powers[0] * f64::from(params.beta1), powers[1] * f64::from(params.beta2), powers[2], powers[3]]
}

/// One rounding.
pub fn tolerance(params: Params, powers: [f64; 4]) -> [f64; 4] {
    reference(params, powers).map(|power| UNIT_ROUNDOFF * power.abs() + FLUSH)
}
