//! Sums over rows; see `column_sum.wgsl`.

use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup.
pub const WORKGROUP: u32 = 64;
/// Rows summed before they are added to the total.
pub const CHUNK: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "column_sum",
    wgsl: crate::wgsl!("column_sum.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(rows, columns),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub rows: u32,
    pub columns: u32,
}

pub fn dispatch(columns: u32) -> [u32; 3] {
    linear_dispatch(u64::from(columns.div_ceil(WORKGROUP)))
}

pub fn reference(rows: usize, columns: usize, x: &[f64]) -> Vec<f64> {
    (0..columns).map(|j| (0..rows).map(|i| x[i * columns + j]).sum()).collect()
}

/// `γ·Σ|x|`: a term passes the additions of its chunk and those of the chunk sums (Higham §4.2).
pub fn tolerance(rows: usize, columns: usize, x: &[f64]) -> Vec<f64> {
    let roundings = f64::from(CHUNK) + (rows as f64 / f64::from(CHUNK)).ceil();
    let gamma = roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF);
    let magnitudes: Vec<f64> = x.iter().map(|v| v.abs()).collect();
    reference(rows, columns, &magnitudes).iter().map(|sum| gamma * sum + (rows as f64 + 1.0) * FLUSH).collect()
}
