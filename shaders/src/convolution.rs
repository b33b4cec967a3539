//! 2-D convolutions (cross-correlations, as everywhere in deep learning): what the kernels `convolution_*` share, which
//! is shapes, parameters and numerics. Each has its own file.
//!
//! x is `[batch, height, width, channels]`, w is `[kernel_height, kernel_width, channels, outputs]`, y is
//! `[batch, out_height, out_width, outputs]`, row-major f32; stride and zero padding are the same along both axes
//! (Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2018, §2 and §4):
//! `y[b, i, j, o] = Σ x[b, i·stride + ky − padding, j·stride + kx − padding, c] · w[ky, kx, c, o]`.
//!
//! **Numerics.** Kernels sum at most [`CHUNK`] consecutive terms, or as many whole rows of taps as these hold, before they
//! add these up, as `matmul` does.

use crate::images::{Part, extent};
use crate::{Binding, Kernel};

/// Longest run of terms summed up before it is added to the total.
pub const CHUNK: u32 = crate::matmul::K_CHUNK;

/// Side of the block that one invocation computes.
pub const BLOCK: u32 = 8;

/// Extents of a convolution. `stride` is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    pub kernel_height: u32,
    pub kernel_width: u32,
    pub outputs: u32,
    pub stride: u32,
    pub padding: u32,
}

impl Shape {
    pub fn out_height(self) -> u32 {
        extent(self.height, self.kernel_height, self.stride, self.padding)
    }

    pub fn out_width(self) -> u32 {
        extent(self.width, self.kernel_width, self.stride, self.padding)
    }

    /// Pixels of one output image.
    pub fn plane(self) -> u32 {
        self.out_height() * self.out_width()
    }

    /// Terms of one output value: rows of w as a matrix.
    pub fn terms(self) -> u32 {
        self.kernel_height * self.kernel_width * self.channels
    }

    /// All images.
    pub fn images(self) -> Part {
        Part { first: 0, end: self.batch }
    }

    /// Values of x, w and y.
    pub fn values(self) -> [u64; 3] {
        let image = u64::from(self.height) * u64::from(self.width) * u64::from(self.channels);
        let out = u64::from(self.plane()) * u64::from(self.outputs);
        [u64::from(self.batch) * image, u64::from(self.terms()) * u64::from(self.outputs), u64::from(self.batch) * out]
    }

    /// Floating-point operations of `images` images: the same forward and in both gradients.
    pub fn flop(self, images: u32) -> u64 {
        2 * u64::from(images) * u64::from(self.plane()) * u64::from(self.terms()) * u64::from(self.outputs)
    }
}

/// What follows the sum before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    None = 0,
    Bias = 1,
    BiasRelu = 2,
}

/// The uniform of the forward pass and the input's gradient.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// First image to compute, and the one to stop before.
    pub image_first: u32,
    pub image_end: u32,
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

impl Params {
    pub fn new(shape: Shape, images: Part) -> Self {
        Self {
            image_first: images.first,
            image_end: images.end,
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
}

/// A kernel with [`Params`].
pub(crate) const fn kernel(name: &'static str, wgsl: &'static str, bindings: &'static [Binding]) -> Kernel {
    Kernel {
        name,
        wgsl,
        bindings,
        params_bytes: size_of::<Params>(),
        params_fields: crate::params_fields!(
            image_first,
            image_end,
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
    }
}

/// Values for the `override` declarations that say which widths are whole vec4.
pub(crate) fn wide(shape: Shape) -> [(&'static str, f64); 2] {
    let flag = |width: u32| f64::from(u8::from(width.is_multiple_of(4)));
    [("WIDE_CHANNELS", flag(shape.channels)), ("WIDE_OUTPUTS", flag(shape.outputs))]
}

/// Rows of taps, those of one row of the window in one channel, that a kernel which takes whole ones sums up before it adds
/// them to the total.
pub(crate) fn chunk_rows(shape: Shape) -> u32 {
    (CHUNK / shape.kernel_width.max(1)).max(1)
}

/// Chunks of a sum over the window and `channels` values below each tap, by any kernel.
pub(crate) fn chunks(shape: Shape, channels: u32) -> u32 {
    let rows = (shape.kernel_height * channels).div_ceil(chunk_rows(shape));
    rows.max((shape.kernel_height * shape.kernel_width * channels).div_ceil(CHUNK))
}

/// Calls `add(y, x, w)` with the indices of every term of y, in the order of the sums: images, pixels, taps, channels,
/// outputs. What lies in the padding is left out.
pub(crate) fn each_term(shape: Shape, mut add: impl FnMut(usize, usize, usize)) {
    let [height, width, channels, outputs] = [shape.height, shape.width, shape.channels, shape.outputs].map(|v| v as usize);
    let under = |position, tap, extent| crate::images::under(position, tap, shape.stride, shape.padding, extent);
    let mut pixel = 0;
    for image in 0..shape.batch as usize {
        for i in 0..shape.out_height() {
            for j in 0..shape.out_width() {
                for ky in 0..shape.kernel_height {
                    for kx in 0..shape.kernel_width {
                        let (Some(row), Some(column)) = (under(i, ky, shape.height), under(j, kx, shape.width)) else { continue };
                        for c in 0..channels {
                            let x = ((image * height + row) * width + column) * channels + c;
                            let w = (ky * shape.kernel_width + kx) as usize * channels + c;
                            for o in 0..outputs {
                                add(pixel * outputs + o, x, w * outputs + o);
                            }
                        }
                    }
                }
                pixel += 1;
            }
        }
    }
}

/// Magnitudes of values, for bounds.
pub(crate) fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}
