//! Calls on images in f32, fast. Convolutions run as products that read the images in place (`image/convolution.rs`),
//! pools as loops along channels (`image/pool.rs`).

mod convolution;
mod pool;

use manyhands_shaders::convolution::Epilogue;
use manyhands_shaders::images::Part;

use crate::{Buffer, ImageOp};

/// Memory that convolutions reuse from call to call.
#[derive(Default)]
pub struct Scratch {
    /// Images with their padding around them.
    padded: Vec<f32>,
    /// Weights, or a chunk of dY, in panels of 8 columns.
    panels: Vec<f32>,
    /// Where the window of each output pixel begins.
    corners: Vec<usize>,
    bias: Vec<f32>,
}

/// Runs one call on a program's buffers. What is written is taken out of the list meanwhile, so that the rest can be
/// read.
pub fn run(op: &ImageOp, buffers: &mut [Vec<f32>], scratch: &mut Scratch) {
    let part = op.part();
    let mut taken = outputs(op).map(|buffer| buffer.map(|b| std::mem::take(&mut buffers[b.0])));
    let [Some(out), second] = &mut taken else { return };
    let read = |buffer: Buffer| &buffers[buffer.0][..];
    let images = |buffer: Buffer, batch: u32| cut(read(buffer), part, batch);
    match *op {
        ImageOp::Convolution { x, weight, bias, shape, epilogue, .. } => {
            let bias = if epilogue == Epilogue::None { &[][..] } else { bias.map_or(&[][..], read) };
            let (x, relu) = (images(x, shape.batch), epilogue == Epilogue::BiasRelu);
            convolution::forward(shape, x, read(weight), bias, relu, cut_mut(out, part, shape.batch), scratch);
        }
        ImageOp::ConvolutionInputGradient { weight, gradient, shape, .. } => {
            let to = cut_mut(out, part, shape.batch);
            convolution::input_gradient(shape, read(weight), images(gradient, shape.batch), to, scratch);
        }
        ImageOp::ConvolutionWeightGradient { x, gradient, shape, .. } => {
            convolution::weight_gradient(shape, part, read(x), read(gradient), out, scratch);
        }
        ImageOp::MaxPool { x, shape, .. } => {
            let Some(places) = second else { return };
            let places = bytemuck::cast_slice_mut(cut_mut(places, part, shape.batch));
            pool::max_forward(shape, images(x, shape.batch), cut_mut(out, part, shape.batch), places);
        }
        ImageOp::MaxPoolBackward { gradient, places, shape, .. } => {
            let places = bytemuck::cast_slice(images(places, shape.batch));
            pool::max_backward(shape, images(gradient, shape.batch), places, cut_mut(out, part, shape.batch));
        }
        ImageOp::AveragePool { x, shape, .. } => {
            pool::average_forward(shape, images(x, shape.batch), cut_mut(out, part, shape.batch));
        }
        ImageOp::AveragePoolBackward { gradient, shape, .. } => {
            pool::average_backward(shape, images(gradient, shape.batch), cut_mut(out, part, shape.batch));
        }
    }
    for (buffer, values) in outputs(op).into_iter().zip(taken) {
        if let (Some(buffer), Some(values)) = (buffer, values) {
            buffers[buffer.0] = values;
        }
    }
}

/// What a call writes.
fn outputs(op: &ImageOp) -> [Option<Buffer>; 2] {
    match *op {
        ImageOp::Convolution { y, .. } | ImageOp::AveragePool { y, .. } => [Some(y), None],
        ImageOp::ConvolutionWeightGradient { partial, .. } => [Some(partial), None],
        ImageOp::MaxPool { y, places, .. } => [Some(y), Some(places)],
        ImageOp::ConvolutionInputGradient { input_gradient, .. }
        | ImageOp::MaxPoolBackward { input_gradient, .. }
        | ImageOp::AveragePoolBackward { input_gradient, .. } => [Some(input_gradient), None],
    }
}

/// The images of a part among those of a batch.
fn cut(values: &[f32], part: Part, batch: u32) -> &[f32] {
    let each = values.len() / (batch as usize).max(1);
    &values[part.first as usize * each..part.end as usize * each]
}

fn cut_mut(values: &mut [f32], part: Part, batch: u32) -> &mut [f32] {
    let each = values.len() / (batch as usize).max(1);
    &mut values[part.first as usize * each..part.end as usize * each]
}
