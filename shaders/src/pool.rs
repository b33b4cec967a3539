//! Pooling over square windows: what the kernels `max_pool_*` and `average_pool_*` share, which is shapes and parameters.
//! Each has its own file.
//!
//! x is `[batch, height, width, channels]`, y is `[batch, out_height, out_width, channels]`, row-major f32; stride and
//! zero padding are the same along both axes, windows may overlap (Dumoulin and Visin, A guide to convolution arithmetic
//! for deep learning, 2018, §3). The padding is less than the window, so that every window holds a pixel.

use crate::images::{Part, extent, under};
use crate::{Binding, Kernel, linear_dispatch};

/// Invocations per workgroup of each kernel, four channels of a pixel each.
pub const WORKGROUP: u32 = 64;

/// Extents of a pooling. `stride` is at least 1, `padding` below `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    pub window: u32,
    pub stride: u32,
    pub padding: u32,
}

impl Shape {
    pub fn out_height(self) -> u32 {
        extent(self.height, self.window, self.stride, self.padding)
    }

    pub fn out_width(self) -> u32 {
        extent(self.width, self.window, self.stride, self.padding)
    }

    /// All images.
    pub fn images(self) -> Part {
        Part { first: 0, end: self.batch }
    }

    /// Values of x and y.
    pub fn values(self) -> [u64; 2] {
        let rows = u64::from(self.batch) * u64::from(self.channels);
        let out = u64::from(self.out_height()) * u64::from(self.out_width());
        [rows * u64::from(self.height) * u64::from(self.width), rows * out]
    }

    /// What an average divides by: pixels of a window, those in the padding among them.
    pub fn area(self) -> f64 {
        f64::from(self.window) * f64::from(self.window)
    }

    /// Windows along one axis that hold a pixel, at most.
    pub(crate) fn overlap(self) -> f64 {
        f64::from(self.window.div_ceil(self.stride))
    }
}

/// The uniform of every kernel.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// First image to compute, and the one to stop before.
    pub image_first: u32,
    pub image_end: u32,
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    pub window: u32,
    pub stride: u32,
    pub padding: u32,
    pub out_height: u32,
    pub out_width: u32,
}

impl Params {
    pub fn new(shape: Shape, images: Part) -> Self {
        Self {
            image_first: images.first,
            image_end: images.end,
            height: shape.height,
            width: shape.width,
            channels: shape.channels,
            window: shape.window,
            stride: shape.stride,
            padding: shape.padding,
            out_height: shape.out_height(),
            out_width: shape.out_width(),
        }
    }
}

/// A kernel of the family.
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
            window,
            stride,
            padding,
            out_height,
            out_width
        ),
    }
}

/// Values for the `override` declarations of every kernel.
pub fn constants(shape: Shape) -> Vec<(&'static str, f64)> {
    vec![("WIDE", f64::from(u8::from(shape.channels.is_multiple_of(4))))]
}

/// Workgroups of a kernel whose invocations stand for pixels of the output.
pub fn dispatch_forward(shape: Shape, images: Part) -> [u32; 3] {
    dispatch(shape, images, [shape.out_height(), shape.out_width()])
}

/// Workgroups of a kernel whose invocations stand for pixels of the input.
pub fn dispatch_backward(shape: Shape, images: Part) -> [u32; 3] {
    dispatch(shape, images, [shape.height, shape.width])
}

fn dispatch(shape: Shape, images: Part, extents: [u32; 2]) -> [u32; 3] {
    let pixels = u64::from(images.count()) * u64::from(extents[0]) * u64::from(extents[1]);
    linear_dispatch((pixels * u64::from(shape.channels.div_ceil(4))).div_ceil(WORKGROUP.into()))
}

/// Calls `visit(y, x, place)` with the indices of every output value and of every value in its window, row by row, and
/// the place in the window. What lies in the padding is left out.
pub(crate) fn each_place(shape: Shape, mut visit: impl FnMut(usize, usize, u32)) {
    let [height, width, channels] = [shape.height, shape.width, shape.channels].map(|v| v as usize);
    let mut pixel = 0;
    for image in 0..shape.batch as usize {
        for i in 0..shape.out_height() {
            for j in 0..shape.out_width() {
                for place in 0..shape.window * shape.window {
                    let row = under(i, place / shape.window, shape.stride, shape.padding, shape.height);
                    let column = under(j, place % shape.window, shape.stride, shape.padding, shape.width);
                    let (Some(row), Some(column)) = (row, column) else { continue };
                    let x = ((image * height + row) * width + column) * channels;
                    (0..channels).for_each(|c| visit(pixel * channels + c, x + c, place));
                }
                pixel += 1;
            }
        }
    }
}
