//! ReLU where no product before it takes it as its epilogue; see `relu_forward.wgsl`.

use crate::{Binding, Kernel, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "relu_forward",
    wgsl: crate::wgsl!("relu_forward.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::ReadWrite],
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

/// `max(x, 0)`.
pub fn reference(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.max(0.0)).collect()
}

/// Values are copied or zeroed: the only error is a flushed denormal.
pub fn tolerance(values: usize) -> Vec<f64> {
    vec![crate::FLUSH; values]
}
