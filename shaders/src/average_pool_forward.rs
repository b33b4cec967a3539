//! Average pooling, forward; see `average_pool_forward.wgsl` and, for the family, `pool.rs`.

use crate::convolution::magnitudes;
use crate::pool::{self, Shape, each_place};
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF};

pub static KERNEL: Kernel = pool::kernel(
    "average_pool_forward",
    crate::wgsl!("average_pool_forward.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite],
);

pub fn reference(shape: Shape, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; shape.values()[1] as usize];
    each_place(shape, |at, from, _| y[at] += x[from]);
    y.iter().map(|sum| sum / shape.area()).collect()
}

/// `γ·Σ|x| / window²`: a term passes the additions of its row of the window and of the rows (Higham §4.2), then a
/// quotient of 2.5 units in the last place, in WGSL, or a product with the rounded inverse.
pub fn tolerance(shape: Shape, x: &[f64]) -> Vec<f64> {
    let roundings = 2.0 * f64::from(shape.window) + 4.0;
    let gamma = roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF);
    let bounds = reference(shape, &magnitudes(x));
    bounds.into_iter().map(|mean| gamma * mean + (shape.area() + 2.0) * FLUSH).collect()
}
