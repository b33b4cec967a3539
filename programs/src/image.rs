//! Calls of the kernels on images: convolutions and pools. Layouts are those of `manyhands_shaders::convolution` and
//! `::pool`.

use manyhands_shaders::convolution::{self, Epilogue};
use manyhands_shaders::images::Part;
use manyhands_shaders::{
    average_pool_backward, average_pool_forward, convolution_forward, convolution_input_gradient, convolution_quad,
    convolution_weight_gradient, max_pool_backward, max_pool_forward, pool,
};

use super::{Buffer, Call, Op, Program, Sharing};

/// One call on images. All is f32 but places, which are u32 bits. Outputs are written whole where a call makes all
/// images (or splits); a call that makes a part of them leaves the rest as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ImageOp {
    /// x `[batch, height, width, channels]`, weight `[kernel_height · kernel_width · channels, outputs]`, bias
    /// `[outputs]` where the epilogue takes one, y `[batch, out_height, out_width, outputs]`.
    Convolution {
        x: Buffer,
        weight: Buffer,
        bias: Option<Buffer>,
        y: Buffer,
        shape: convolution::Shape,
        epilogue: Epilogue,
        images: Part,
    },
    /// dX as x, from weight and dY (`gradient`) as y.
    ConvolutionInputGradient { weight: Buffer, gradient: Buffer, input_gradient: Buffer, shape: convolution::Shape, images: Part },
    /// `[splits, kernel_height · kernel_width · channels · outputs]` of `convolution_weight_gradient::splits`, from x and
    /// dY: a column sum over the splits makes dW of it.
    ConvolutionWeightGradient { x: Buffer, gradient: Buffer, partial: Buffer, shape: convolution::Shape, splits: Part },
    /// x `[batch, height, width, channels]`, y and places `[batch, out_height, out_width, channels]`.
    MaxPool { x: Buffer, y: Buffer, places: Buffer, shape: pool::Shape, images: Part },
    /// dX as x, from dY as y and the places that forward left.
    MaxPoolBackward { gradient: Buffer, places: Buffer, input_gradient: Buffer, shape: pool::Shape, images: Part },
    /// x `[batch, height, width, channels]`, y `[batch, out_height, out_width, channels]`.
    AveragePool { x: Buffer, y: Buffer, shape: pool::Shape, images: Part },
    /// dX as x, from dY as y.
    AveragePoolBackward { gradient: Buffer, input_gradient: Buffer, shape: pool::Shape, images: Part },
}

impl ImageOp {
    /// The images, or splits, that the call makes.
    pub fn part(&self) -> Part {
        match *self {
            ImageOp::ConvolutionWeightGradient { splits, .. } => splits,
            ImageOp::Convolution { images, .. }
            | ImageOp::ConvolutionInputGradient { images, .. }
            | ImageOp::MaxPool { images, .. }
            | ImageOp::MaxPoolBackward { images, .. }
            | ImageOp::AveragePool { images, .. }
            | ImageOp::AveragePoolBackward { images, .. } => images,
        }
    }

    /// The same call for other images or splits.
    pub fn with_part(mut self, part: Part) -> Self {
        match &mut self {
            ImageOp::ConvolutionWeightGradient { splits, .. } => *splits = part,
            ImageOp::Convolution { images, .. }
            | ImageOp::ConvolutionInputGradient { images, .. }
            | ImageOp::MaxPool { images, .. }
            | ImageOp::MaxPoolBackward { images, .. }
            | ImageOp::AveragePool { images, .. }
            | ImageOp::AveragePoolBackward { images, .. } => *images = part,
        }
        self
    }

    /// Operations to slice time by: exact for convolutions without padding, a guess at memory traffic for pools.
    pub fn flop(&self) -> u64 {
        let count = self.part().count();
        match *self {
            ImageOp::Convolution { shape, .. } | ImageOp::ConvolutionInputGradient { shape, .. } => shape.flop(count),
            ImageOp::ConvolutionWeightGradient { shape, .. } => {
                let pixels = u64::from(convolution_weight_gradient::splits(shape).pixels);
                2 * u64::from(count) * pixels * shape.values()[1]
            }
            ImageOp::MaxPool { shape, .. }
            | ImageOp::MaxPoolBackward { shape, .. }
            | ImageOp::AveragePool { shape, .. }
            | ImageOp::AveragePoolBackward { shape, .. } => {
                let [inputs, outputs] = pool::Shape { batch: count, ..shape }.values();
                4 * (inputs + outputs * u64::from(shape.window) * u64::from(shape.window))
            }
        }
    }

    /// The call by a kernel for devices whose quads exchange values, where there is one for it.
    fn quad_call(&self) -> Option<Call> {
        let (call, buffers) = match *self {
            ImageOp::Convolution { x, weight, bias, y, shape, epilogue, images } => {
                (convolution_quad::forward(shape, epilogue, images)?, vec![x, weight, bias.unwrap_or(x), y])
            }
            ImageOp::ConvolutionInputGradient { weight, gradient, input_gradient, shape, images } => {
                (convolution_quad::input_gradient(shape, images)?, vec![gradient, weight, gradient, input_gradient])
            }
            _ => return None,
        };
        let convolution_quad::Call { params, constants, groups } = call;
        Some(Call { constants, ..Call::new(&convolution_quad::KERNEL, &params, buffers, groups) })
    }

    /// How a device binds it. Buffers that kernels read both as f32 and as vec4 are bound twice.
    pub(super) fn call(&self, sharing: Sharing) -> Call {
        if let Some(call) = self.quad_call().filter(|_| sharing == Sharing::Quads) {
            return call;
        }
        match *self {
            ImageOp::Convolution { x, weight, bias, y, shape, epilogue, images } => {
                use convolution_forward as kernel;
                // Where there is no bias the binding still needs a buffer: x, which is only read as well.
                let buffers = vec![x, x, weight, weight, bias.unwrap_or(x), y];
                let call = Call::new(&kernel::KERNEL, &kernel::params(shape, images), buffers, kernel::dispatch(shape, images));
                Call { constants: kernel::constants(shape, epilogue), ..call }
            }
            ImageOp::ConvolutionInputGradient { weight, gradient, input_gradient, shape, images } => {
                use convolution_input_gradient as kernel;
                let buffers = vec![weight, weight, gradient, gradient, input_gradient];
                let call = Call::new(&kernel::KERNEL, &kernel::params(shape, images), buffers, kernel::dispatch(shape, images));
                Call { constants: kernel::constants(shape), ..call }
            }
            ImageOp::ConvolutionWeightGradient { x, gradient, partial, shape, splits } => {
                use convolution_weight_gradient as kernel;
                let buffers = vec![x, x, gradient, gradient, partial];
                let call = Call::new(&kernel::KERNEL, &kernel::params(shape, splits), buffers, kernel::dispatch(shape, splits));
                Call { constants: kernel::constants(shape), ..call }
            }
            ImageOp::MaxPool { x, y, places, shape, images } => {
                let groups = pool::dispatch_forward(shape, images);
                pooling(&max_pool_forward::KERNEL, shape, images, vec![x, x, y, places], groups)
            }
            ImageOp::MaxPoolBackward { gradient, places, input_gradient, shape, images } => {
                let buffers = vec![gradient, gradient, places, places, input_gradient];
                pooling(&max_pool_backward::KERNEL, shape, images, buffers, pool::dispatch_backward(shape, images))
            }
            ImageOp::AveragePool { x, y, shape, images } => {
                let groups = pool::dispatch_forward(shape, images);
                pooling(&average_pool_forward::KERNEL, shape, images, vec![x, x, y], groups)
            }
            ImageOp::AveragePoolBackward { gradient, input_gradient, shape, images } => {
                let buffers = vec![gradient, gradient, input_gradient];
                pooling(&average_pool_backward::KERNEL, shape, images, buffers, pool::dispatch_backward(shape, images))
            }
        }
    }
}

fn pooling(
    kernel: &'static manyhands_shaders::Kernel,
    shape: pool::Shape,
    images: Part,
    buffers: Vec<Buffer>,
    groups: [u32; 3],
) -> Call {
    let call = Call::new(kernel, &pool::Params::new(shape, images), buffers, groups);
    Call { constants: pool::constants(shape), ..call }
}

impl Program {
    /// Adds a call over its whole part, cut into calls of at most `call_flop_max` or of one image (or split). Cuts
    /// divide images and splits, never a sum, so they change no bits.
    pub fn images(&mut self, op: ImageOp) {
        let whole = op.part();
        let each = (op.flop() / u64::from(whole.count()).max(1)).max(1);
        let step = u32::try_from((self.call_flop_max / each).max(1)).unwrap_or(u32::MAX);
        let mut first = whole.first;
        while first < whole.end {
            let end = first.saturating_add(step).min(whole.end);
            self.ops.push(Op::Image(op.with_part(Part { first, end })));
            first = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CALL_FLOP_MAX;

    #[test]
    fn convolutions_are_cut_along_images() {
        let check = |batch, channels, calls: usize| {
            let shape = convolution::Shape {
                batch,
                height: 32,
                width: 32,
                channels,
                kernel_height: 3,
                kernel_width: 3,
                outputs: channels,
                stride: 1,
                padding: 1,
            };
            let mut program = Program::default();
            let [x, weight, y] = shape.values().map(|values| program.buffer(values));
            let (images, epilogue) = (shape.images(), Epilogue::None);
            program.images(ImageOp::Convolution { x, weight, bias: None, y, shape, epilogue, images });
            assert_eq!(program.ops.len(), calls);
            let mut next = 0;
            for op in &program.ops {
                let Op::Image(op) = op else { panic!("a convolution") };
                assert_eq!(op.part().first, next);
                assert!(op.flop() <= CALL_FLOP_MAX || op.part().count() == 1);
                next = op.part().end;
            }
            assert_eq!(next, batch);
        };
        check(0, 8, 0);
        check(64, 8, 1);
        check(64, 64, 22);
        check(2, 512, 2);
    }
}
