//! Calls on images through the reference functions. These make whole batches, so a part is made as a batch of its own.

use manyhands_shaders::images::Part;
use manyhands_shaders::{
    average_pool_backward, average_pool_forward, convolution, convolution_forward, convolution_input_gradient,
    convolution_weight_gradient, max_pool_backward, max_pool_forward, pool,
};

use super::{narrow, widen};
use crate::{Buffer, ImageOp};

/// Runs one call on a program's buffers.
pub fn run(op: &ImageOp, buffers: &mut [Vec<f32>]) {
    let all = |buffer: Buffer| widen(&buffers[buffer.0]);
    let (part, whole) = (op.part(), whole(op));
    let cut = |buffer: Buffer| widen(&buffers[buffer.0][range(&buffers[buffer.0], part, whole)]);
    let (to, result) = match *op {
        ImageOp::Convolution { x, weight, bias, y, shape, epilogue, .. } => {
            let bias = bias.map(all).unwrap_or_default();
            let shape = convolution::Shape { batch: part.count(), ..shape };
            (y, convolution_forward::reference(shape, epilogue, &cut(x), &all(weight), &bias))
        }
        ImageOp::ConvolutionInputGradient { weight, gradient, input_gradient, shape, .. } => {
            let shape = convolution::Shape { batch: part.count(), ..shape };
            (input_gradient, convolution_input_gradient::reference(shape, &all(weight), &cut(gradient)))
        }
        ImageOp::ConvolutionWeightGradient { x, gradient, partial, shape, .. } => {
            let result = convolution_weight_gradient::reference(shape, &all(x), &all(gradient));
            (partial, result[range(&result, part, whole)].to_vec())
        }
        ImageOp::MaxPool { x, y, places, shape, .. } => {
            let pooled = max_pool_forward::reference(pool::Shape { batch: part.count(), ..shape }, &cut(x));
            let range = range(&buffers[places.0], part, whole);
            bytemuck::cast_slice_mut(&mut buffers[places.0][range]).copy_from_slice(&pooled.places);
            (y, pooled.y)
        }
        ImageOp::MaxPoolBackward { gradient, places, input_gradient, shape, .. } => {
            let words = &buffers[places.0];
            let words: &[u32] = bytemuck::cast_slice(&words[range(words, part, whole)]);
            let shape = pool::Shape { batch: part.count(), ..shape };
            (input_gradient, max_pool_backward::reference(shape, &cut(gradient), words))
        }
        ImageOp::AveragePool { x, y, shape, .. } => {
            (y, average_pool_forward::reference(pool::Shape { batch: part.count(), ..shape }, &cut(x)))
        }
        ImageOp::AveragePoolBackward { gradient, input_gradient, shape, .. } => {
            let shape = pool::Shape { batch: part.count(), ..shape };
            (input_gradient, average_pool_backward::reference(shape, &cut(gradient)))
        }
    };
    let range = range(&buffers[to.0], part, whole);
    buffers[to.0][range].copy_from_slice(&narrow(&result));
}

/// Images or splits of the whole computation.
fn whole(op: &ImageOp) -> u32 {
    match *op {
        ImageOp::Convolution { shape, .. } | ImageOp::ConvolutionInputGradient { shape, .. } => shape.batch,
        ImageOp::ConvolutionWeightGradient { shape, .. } => convolution_weight_gradient::splits(shape).count,
        ImageOp::MaxPool { shape, .. }
        | ImageOp::MaxPoolBackward { shape, .. }
        | ImageOp::AveragePool { shape, .. }
        | ImageOp::AveragePoolBackward { shape, .. } => shape.batch,
    }
}

/// Where the values of a part stand among those of `whole` images.
fn range<T>(values: &[T], part: Part, whole: u32) -> std::ops::Range<usize> {
    let each = values.len() / (whole as usize).max(1);
    part.first as usize * each..part.end as usize * each
}
