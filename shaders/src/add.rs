//! The sum of two tensors, value by value; see `add.wgsl`.

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "add",
    wgsl: crate::wgsl!("add.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4),
};

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

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

/// `x + y`.
pub fn reference(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

/// One rounding of the sum.
pub fn tolerance(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| UNIT_ROUNDOFF * (x + y).abs() + 3.0 * FLUSH).collect()
}
