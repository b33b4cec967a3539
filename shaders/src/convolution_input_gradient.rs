//! Convolution, gradient of its input; see `convolution_input_gradient.wgsl` and, for the family, `convolution.rs`.

use crate::convolution::{BLOCK, CHUNK, Params, Shape, chunks, each_term, magnitudes};
use crate::images::Part;
use crate::{Binding, FLUSH, Kernel, UNIT_ROUNDOFF, convolution, linear_dispatch};

/// Invocations per workgroup, a block of 8 pixels by 8 channels each.
pub const WORKGROUP: u32 = 32;

pub static KERNEL: Kernel = convolution::kernel(
    "convolution_input_gradient",
    crate::wgsl!("convolution_input_gradient.wgsl"),
    &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite],
);

pub fn params(shape: Shape, images: Part) -> Params {
    Params::new(shape, images)
}

/// Values for the `override` declarations.
pub fn constants(shape: Shape) -> Vec<(&'static str, f64)> {
    let wide = f64::from(u8::from(shape.outputs.is_multiple_of(4)));
    vec![("WIDE_OUTPUTS", wide), ("STRIDE", f64::from(shape.stride))]
}

pub fn dispatch(shape: Shape, images: Part) -> [u32; 3] {
    let pixels = u64::from(images.count()) * u64::from(shape.height) * u64::from(shape.width);
    let blocks = pixels.div_ceil(BLOCK.into()) * u64::from(shape.channels.div_ceil(BLOCK));
    linear_dispatch(blocks.div_ceil(WORKGROUP.into()))
}

/// dX of the whole batch, from dY `[batch, out_height, out_width, outputs]`.
pub fn reference(shape: Shape, w: &[f64], gradient: &[f64]) -> Vec<f64> {
    let mut input_gradient = vec![0.0; shape.values()[0] as usize];
    each_term(shape, |from, at, weight| input_gradient[at] += gradient[from] * w[weight]);
    input_gradient
}

/// Roundings that a term passes in any kernel. Kernels may add up the outputs under each tap in chunks and then what the taps
/// give, so that it passes its product, a chunk and the chunks of every tap (Higham §4.2); or sum over rows of taps.
pub fn roundings(shape: Shape) -> f64 {
    let taps = f64::from(shape.kernel_height * shape.kernel_width);
    let chunks = (taps * f64::from(shape.outputs.div_ceil(CHUNK))).max(f64::from(chunks(shape, shape.outputs)));
    f64::from(CHUNK) + chunks + 1.0
}

/// `γ·|dY|∗|w|`.
pub fn tolerance(shape: Shape, w: &[f64], gradient: &[f64]) -> Vec<f64> {
    let roundings = roundings(shape);
    let gamma = roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF);
    let terms = f64::from(shape.kernel_height * shape.kernel_width) * f64::from(shape.outputs);
    let bounds = reference(shape, &magnitudes(w), &magnitudes(gradient));
    bounds.into_iter().map(|bound| gamma * bound + (terms + 1.0) * FLUSH).collect()
}
