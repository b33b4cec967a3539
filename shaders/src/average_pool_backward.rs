//! Average pooling, backward; see `average_pool_backward.wgsl` and, for the family, `pool.rs`.

use crate::convolution::magnitudes;
use crate::pool::{self, Shape, each_place};
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF};

pub static KERNEL: Kernel = pool::kernel(
    "average_pool_backward",
    crate::wgsl!("average_pool_backward.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::ReadWrite],
);

/// dX, from dY.
pub fn reference(shape: Shape, gradient: &[f64]) -> Vec<f64> {
    let mut input_gradient = vec![0.0; shape.values()[0] as usize];
    each_place(shape, |from, at, _| input_gradient[at] += gradient[from]);
    input_gradient.iter().map(|sum| sum / shape.area()).collect()
}

/// `γ·Σ|dY| / window²` over the windows that hold the pixel, in any order, with a division before or after the sum (2.5
/// units in the last place, in WGSL, or a product with the rounded inverse).
pub fn tolerance(shape: Shape, gradient: &[f64]) -> Vec<f64> {
    let windows = shape.overlap() * shape.overlap();
    let roundings = windows + 4.0;
    let gamma = roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF);
    let bounds = reference(shape, &magnitudes(gradient));
    bounds.into_iter().map(|share| gamma * share + (2.0 * windows + 2.0) * FLUSH).collect()
}
