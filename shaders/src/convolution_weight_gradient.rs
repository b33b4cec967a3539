//! Convolution, gradient of its weights, in splits of the sum; see `convolution_weight_gradient.wgsl` and, for the
//! family, `convolution.rs`.

use crate::convolution::{self, BLOCK, CHUNK, Shape, each_term, magnitudes};
use crate::images::Part;
use crate::matmul::gamma;
use crate::{Binding, FLUSH, Kernel, linear_dispatch, params_fields};

/// Invocations per workgroup, a block of 8 rows of w by 8 outputs of one split each.
pub const WORKGROUP: u32 = 32;

/// Invocations that splitting aims at: w alone is too small to occupy a device.
const INVOCATIONS: u64 = 4096;

pub static KERNEL: Kernel = Kernel {
    name: "convolution_weight_gradient",
    wgsl: crate::wgsl!("convolution_weight_gradient.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(
        split_first,
        split_end,
        split_pixels,
        batch,
        height,
        width,
        channels,
        kernel_height,
        kernel_width,
        outputs,
        out_height,
        out_width,
        stride,
        padding
    ),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// First split to compute, and the one to stop before.
    pub split_first: u32,
    pub split_end: u32,
    /// Output pixels that a split sums over; the last may have fewer.
    pub split_pixels: u32,
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    pub kernel_height: u32,
    pub kernel_width: u32,
    pub outputs: u32,
    pub out_height: u32,
    pub out_width: u32,
    pub stride: u32,
    pub padding: u32,
}

/// How the sum over output pixels is cut, by the shape alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Splits {
    pub count: u32,
    /// Pixels of each but the last: a multiple of [`CHUNK`].
    pub pixels: u32,
}

impl Splits {
    /// Every split.
    pub fn all(self) -> Part {
        Part { first: 0, end: self.count }
    }
}

/// One split at least, so that there is something to sum up where there are no pixels.
pub fn splits(shape: Shape) -> Splits {
    let pixels = shape.batch * shape.plane();
    let aim = (INVOCATIONS / blocks(shape).max(1)).max(1);
    let chunks = u64::from(pixels.div_ceil(CHUNK)).div_ceil(aim).max(1) as u32;
    Splits { count: pixels.div_ceil(chunks * CHUNK).max(1), pixels: chunks * CHUNK }
}

/// Blocks of w.
fn blocks(shape: Shape) -> u64 {
    u64::from(shape.terms().div_ceil(BLOCK)) * u64::from(shape.outputs.div_ceil(BLOCK))
}

pub fn params(shape: Shape, part: Part) -> Params {
    Params {
        split_first: part.first,
        split_end: part.end,
        split_pixels: splits(shape).pixels,
        batch: shape.batch,
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        kernel_height: shape.kernel_height,
        kernel_width: shape.kernel_width,
        outputs: shape.outputs,
        out_height: shape.out_height(),
        out_width: shape.out_width(),
        stride: shape.stride,
        padding: shape.padding,
    }
}

/// Values for the `override` declarations.
pub fn constants(shape: Shape) -> Vec<(&'static str, f64)> {
    let mut constants = convolution::wide(shape).to_vec();
    constants.push(("PADDED", f64::from(u8::from(shape.padding > 0))));
    constants
}

pub fn dispatch(shape: Shape, part: Part) -> [u32; 3] {
    linear_dispatch((u64::from(part.count()) * blocks(shape)).div_ceil(WORKGROUP.into()))
}

/// The sums of every split, `[splits, terms, outputs]`; dW is what they add up to.
pub fn reference(shape: Shape, x: &[f64], gradient: &[f64]) -> Vec<f64> {
    let splits = splits(shape);
    let values = shape.values()[1] as usize;
    let mut partial = vec![0.0; splits.count as usize * values];
    each_term(shape, |from, input, weight| {
        let split = from / shape.outputs as usize / splits.pixels as usize;
        partial[split * values + weight] += x[input] * gradient[from];
    });
    partial
}

/// As of a product whose depth is the pixels of a split; see `matmul::tolerance`.
pub fn tolerance(shape: Shape, x: &[f64], gradient: &[f64]) -> Vec<f64> {
    let pixels = splits(shape).pixels;
    let bounds = reference(shape, &magnitudes(x), &magnitudes(gradient));
    bounds.into_iter().map(|bound| gamma(pixels) * bound + f64::from(pixels + 1) * FLUSH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_every_pixel_once() {
        let check = |batch, side, channels, kernel, outputs, expected: [u32; 2]| {
            let shape = Shape {
                batch,
                height: side,
                width: side,
                channels,
                kernel_height: kernel,
                kernel_width: kernel,
                outputs,
                stride: 1,
                padding: 0,
            };
            let got = splits(shape);
            assert_eq!([got.count, got.pixels], expected);
            let pixels = batch * shape.plane();
            assert!(got.count * got.pixels >= pixels && (got.count - 1) * got.pixels <= pixels);
        };
        check(64, 28, 1, 5, 8, [576, 64]);
        check(64, 12, 8, 5, 16, [64, 64]);
        check(64, 34, 64, 3, 64, [7, 64 * 147]);
        check(0, 28, 1, 5, 8, [1, 64]);
        check(1, 4, 1, 5, 8, [1, 64]);
        check(1, 9, 0, 1, 0, [2, 64]);
        check(1, 9, 1, 1, 1, [2, 64]);
    }
}
