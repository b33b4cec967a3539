//! Sums of squares in parts; see `squares.wgsl`.

use crate::rounding::gamma;
use crate::{Binding::*, FLUSH, Kernel, linear_dispatch, params_fields};

/// Invocations per workgroup, one part each.
pub const WORKGROUP: u32 = 32;
/// Values in fours of a part, and how many of them are summed before they are added to the total.
pub const PART: u32 = 256;
pub const CHUNK: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "gradient_norm_squares",
    wgsl: crate::wgsl!("gradient_norm/squares.wgsl"),
    bindings: &[Uniform, Read, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4, first_part),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
    /// Where this tensor's parts begin.
    pub first_part: u32,
}

impl Params {
    pub fn new(values: u32, first_part: u32) -> Self {
        Self { values4: values.div_ceil(4), first_part }
    }
}

/// Parts of a tensor.
pub fn parts(values: u32) -> u32 {
    values.div_ceil(4 * PART)
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(parts(values).div_ceil(WORKGROUP)))
}

/// One sum per part.
pub fn reference(gradient: &[f64]) -> Vec<f64> {
    gradient.chunks(4 * PART as usize).map(|part| part.iter().map(|g| g * g).sum()).collect()
}

/// A square is rounded once, and passes the additions of its chunk, of the chunks and of the four lanes.
pub fn tolerance(gradient: &[f64]) -> Vec<f64> {
    let gamma = gamma(f64::from(CHUNK + PART / CHUNK + 3));
    reference(gradient).iter().map(|sum| gamma * sum + f64::from(8 * PART) * FLUSH).collect()
}
