//! Max pooling, backward; see `max_pool_backward.wgsl` and, for the family, `pool.rs`.

use crate::convolution::magnitudes;
use crate::pool::{self, Shape, each_place};
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF};

pub static KERNEL: Kernel = pool::kernel(
    "max_pool_backward",
    crate::wgsl!("max_pool_backward.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite],
);

/// dX, from dY and the places that forward left.
pub fn reference(shape: Shape, gradient: &[f64], places: &[u32]) -> Vec<f64> {
    let mut input_gradient = vec![0.0; shape.values()[0] as usize];
    each_place(shape, |from, at, place| {
        if places[from] == place {
            input_gradient[at] += gradient[from];
        }
    });
    input_gradient
}

/// `γ·Σ|dY|` over the windows that hold the pixel, in any order.
pub fn tolerance(shape: Shape, gradient: &[f64], places: &[u32]) -> Vec<f64> {
    let windows = shape.overlap() * shape.overlap();
    let gamma = windows * UNIT_ROUNDOFF / (1.0 - windows * UNIT_ROUNDOFF);
    let bounds = reference(shape, &magnitudes(gradient), places);
    bounds.into_iter().map(|sum| gamma * sum + (windows + 1.0) * FLUSH).collect()
}
