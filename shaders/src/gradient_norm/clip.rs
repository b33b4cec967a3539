//! Scaling by the global norm; see `clip.wgsl`.

use crate::{Binding::*, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "gradient_norm_clip",
    wgsl: crate::wgsl!("gradient_norm/clip.wgsl"),
    bindings: &[Uniform, Read, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4, most),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
    /// The norm that is not exceeded, above zero.
    pub most: f32,
}

impl Params {
    pub fn new(values: u32, most: f32) -> Self {
        Self { values4: values.div_ceil(4), most }
    }
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

/// `g·min(1, most / √squares)`.
pub fn reference(most: f32, squares: f64, gradient: &[f64]) -> Vec<f64> {
    let factor = (f64::from(most) / squares.sqrt()).min(1.0);
    gradient.iter().map(|g| g * factor).collect()
}

/// The root is within 5 units (`1 / inverseSqrt`), the quotient within 2.5, the product is rounded once.
pub fn tolerance(most: f32, squares: f64, gradient: &[f64]) -> Vec<f64> {
    reference(most, squares, gradient).iter().map(|g| 9.0 * UNIT_ROUNDOFF * g.abs() + FLUSH).collect()
}
