//! Zeros in a range of a tensor; see `clear.wgsl`.

use crate::{Binding, Kernel, linear_dispatch, params_fields};

/// Invocations per workgroup, one value each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "clear",
    wgsl: crate::wgsl!("clear.wgsl"),
    bindings: &[Binding::Uniform, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(first, end),
};

/// The values to clear: `first` to before `end`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub first: u32,
    pub end: u32,
}

pub fn dispatch(params: Params) -> [u32; 3] {
    linear_dispatch(u64::from(params.end.saturating_sub(params.first).div_ceil(WORKGROUP)))
}

/// `x` with zeros in the range, which lies inside it.
pub fn reference(params: Params, x: &[f64]) -> Vec<f64> {
    let cleared = params.first as usize..params.end as usize;
    x.iter().enumerate().map(|(i, &x)| if cleared.contains(&i) { 0.0 } else { x }).collect()
}

/// Nothing is computed.
pub fn tolerance(values: usize) -> Vec<f64> {
    vec![crate::FLUSH; values]
}
