//! Convolution of stride 1 and the gradient by its input, on adapters with subgroups; see `convolution_quad.wgsl` and, for
//! the family, `convolution.rs`. References and tolerances are those of `convolution_forward` and
//! `convolution_input_gradient`.

use crate::convolution::{CHUNK, Epilogue, Shape, chunk_rows};
use crate::images::Part;
use crate::{Binding, Kernel, linear_dispatch, params_fields};

/// Consecutive pixels of a row that an invocation computes, and how many of these runs a workgroup has.
pub const RUN: u32 = 4;
pub const RUNS: u32 = 4;
/// Outputs of a workgroup.
pub const OUTPUTS: u32 = 8;

pub static KERNEL: Kernel = Kernel {
    name: "convolution_quad",
    wgsl: crate::wgsl!("convolution_quad.wgsl"),
    bindings: &[Binding::Uniform, Binding::Read, Binding::Read, Binding::Read, Binding::ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(
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
        padding_y,
        padding_x,
        chunk_rows
    ),
};

/// Extents of the convolution computed: of the gradient's these are not the forward pass's.
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
    pub padding_y: u32,
    pub padding_x: u32,
    /// Rows of taps summed up before they are added to the total.
    pub chunk_rows: u32,
}

impl Params {
    fn dispatch(self) -> [u32; 3] {
        let runs =
            u64::from(self.image_end - self.image_first) * u64::from(self.out_height) * u64::from(self.out_width.div_ceil(RUN));
        linear_dispatch(runs.div_ceil(RUNS.into()) * u64::from(self.outputs.div_ceil(OUTPUTS)))
    }
}

/// A call of the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub params: Params,
    /// Values for the `override` declarations.
    pub constants: Vec<(&'static str, f64)>,
    pub groups: [u32; 3],
}

/// Convolutions of `images`, where the kernel does them.
pub fn forward(shape: Shape, epilogue: Epilogue, images: Part) -> Option<Call> {
    if shape.stride != 1 || shape.kernel_width > CHUNK {
        return None;
    }
    let params = Params {
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
        padding_y: shape.padding,
        padding_x: shape.padding,
        chunk_rows: chunk_rows(shape),
    };
    Some(call(params, false, epilogue))
}

/// Gradients by the inputs of `images`, where the kernel does them: a convolution of dY, padded so that every pixel of x
/// meets all taps.
pub fn input_gradient(shape: Shape, images: Part) -> Option<Call> {
    let padding = |kernel: u32| (kernel.checked_sub(1)?).checked_sub(shape.padding);
    let (padding_y, padding_x) = (padding(shape.kernel_height)?, padding(shape.kernel_width)?);
    if shape.stride != 1 || shape.kernel_width > CHUNK || shape.plane() == 0 {
        return None;
    }
    let params = Params {
        image_first: images.first,
        image_end: images.end,
        height: shape.out_height(),
        width: shape.out_width(),
        channels: shape.outputs,
        kernel_height: shape.kernel_height,
        kernel_width: shape.kernel_width,
        outputs: shape.channels,
        out_height: shape.height,
        out_width: shape.width,
        padding_y,
        padding_x,
        chunk_rows: chunk_rows(shape),
    };
    Some(call(params, true, Epilogue::None))
}

fn call(params: Params, gradient: bool, epilogue: Epilogue) -> Call {
    let flag = |value: bool| f64::from(u8::from(value));
    let padded = params.padding_y > 0 || params.padding_x > 0;
    let constants = vec![("PADDED", flag(padded)), ("GRADIENT", flag(gradient)), ("EPILOGUE", f64::from(epilogue as u8))];
    Call { params, constants, groups: params.dispatch() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_wide_padding_are_left_to_the_other_kernels() {
        let shape = Shape {
            batch: 2,
            height: 9,
            width: 7,
            channels: 3,
            kernel_height: 3,
            kernel_width: 3,
            outputs: 9,
            stride: 1,
            padding: 1,
        };
        let check = |shape: Shape, forward_groups: Option<u32>, gradient_groups: Option<u32>| {
            assert_eq!(forward(shape, Epilogue::Bias, shape.images()).map(|call| call.groups[0]), forward_groups);
            assert_eq!(input_gradient(shape, shape.images()).map(|call| call.groups[0]), gradient_groups);
        };
        // 9 rows of 2 runs in two images are 9 workgroups, times 2 of outputs and 1 of channels.
        check(shape, Some(18), Some(9));
        check(Shape { stride: 2, ..shape }, None, None);
        check(Shape { padding: 3, ..shape }, Some(40), None);
        check(Shape { kernel_width: 65, padding: 64, ..shape }, None, None);
        check(Shape { height: 2, padding: 0, ..shape }, Some(0), None);
    }
}
