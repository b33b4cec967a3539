//! Known answers of the kernels on images. Convolutions and pools hold their inputs in the order in which their calls
//! name them.

use manyhands_shaders::convolution::{self, Epilogue};
use manyhands_shaders::{
    average_pool_backward, average_pool_forward, convolution_forward, convolution_input_gradient, convolution_weight_gradient,
    max_pool_backward, max_pool_forward, pool,
};

use super::{Case, values, wide};
use crate::init::word;
use crate::plan::ImageOp;

pub fn convolution(shape: convolution::Shape, epilogue: Epilogue) -> Case {
    let mut case = Case::new(format!("{} {shape:?} {epilogue:?}", convolution_forward::KERNEL.name));
    let [inputs, weights, outputs] = shape.values().map(|values| values as usize);
    let (x, w, bias) = (values(20, inputs), values(21, weights), values(22, shape.outputs as usize));
    let (wx, ww, wbias) = (wide(&x), wide(&w), wide(&bias));
    let expected = convolution_forward::reference(shape, epilogue, &wx, &ww, &wbias);
    let tolerance = convolution_forward::tolerance(shape, epilogue, &wx, &ww, &wbias);
    let [x, weight, bias] = [x, w, bias].map(|values| case.input(values));
    let y = case.output(outputs);
    let bias = (epilogue != Epilogue::None).then_some(bias);
    case.program.images(ImageOp::Convolution { x, weight, bias, y, shape, epilogue, images: shape.images() });
    case.expect(y, expected, tolerance);
    case
}

pub fn convolution_input_gradient(shape: convolution::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", convolution_input_gradient::KERNEL.name));
    let [inputs, weights, outputs] = shape.values().map(|values| values as usize);
    let (w, g) = (values(21, weights), values(23, outputs));
    let expected = convolution_input_gradient::reference(shape, &wide(&w), &wide(&g));
    let tolerance = convolution_input_gradient::tolerance(shape, &wide(&w), &wide(&g));
    let [weight, gradient] = [w, g].map(|values| case.input(values));
    let input_gradient = case.output(inputs);
    let images = shape.images();
    case.program.images(ImageOp::ConvolutionInputGradient { weight, gradient, input_gradient, shape, images });
    case.expect(input_gradient, expected, tolerance);
    case
}

pub fn convolution_weight_gradient(shape: convolution::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", convolution_weight_gradient::KERNEL.name));
    let [inputs, weights, outputs] = shape.values().map(|values| values as usize);
    let (x, g) = (values(20, inputs), values(23, outputs));
    let expected = convolution_weight_gradient::reference(shape, &wide(&x), &wide(&g));
    let tolerance = convolution_weight_gradient::tolerance(shape, &wide(&x), &wide(&g));
    let [x, gradient] = [x, g].map(|values| case.input(values));
    let splits = convolution_weight_gradient::splits(shape);
    let partial = case.output(splits.count as usize * weights);
    case.program.images(ImageOp::ConvolutionWeightGradient { x, gradient, partial, shape, splits: splits.all() });
    case.expect(partial, expected, tolerance);
    case
}

/// The places are compared as the f32 of the same bits: they are exact, so any other fails.
pub fn max_pool(shape: pool::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", max_pool_forward::KERNEL.name));
    let [inputs, outputs] = shape.values().map(|values| values as usize);
    // Eighths, so that many windows hold their maximum twice.
    let x: Vec<f32> = values(24, inputs).iter().map(|v| (v * 8.0).round() / 8.0).collect();
    let pooled = max_pool_forward::reference(shape, &wide(&x));
    let x = case.input(x);
    let [y, places] = [0; 2].map(|_| case.output(outputs));
    case.program.images(ImageOp::MaxPool { x, y, places, shape, images: shape.images() });
    case.expect(y, pooled.y, max_pool_forward::tolerance(shape));
    let bits = pooled.places.iter().map(|&place| f64::from(f32::from_bits(place)));
    case.expect(places, bits.collect(), vec![0.0; outputs]);
    case
}

/// From any places, among them such as lie in the padding, which give nothing.
pub fn max_pool_backward(shape: pool::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", max_pool_backward::KERNEL.name));
    let [inputs, outputs] = shape.values().map(|values| values as usize);
    let g = values(25, outputs);
    let area = u64::from(shape.window) * u64::from(shape.window);
    let places: Vec<u32> = (0..outputs as u64).map(|i| (word(2, 9, i) % area) as u32).collect();
    let expected = max_pool_backward::reference(shape, &wide(&g), &places);
    let tolerance = max_pool_backward::tolerance(shape, &wide(&g), &places);
    let mut words = vec![0.0f32; outputs];
    bytemuck::cast_slice_mut(&mut words).copy_from_slice(&places);
    let [gradient, places] = [g, words].map(|values| case.input(values));
    let input_gradient = case.output(inputs);
    let images = shape.images();
    case.program.images(ImageOp::MaxPoolBackward { gradient, places, input_gradient, shape, images });
    case.expect(input_gradient, expected, tolerance);
    case
}

pub fn average_pool(shape: pool::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", average_pool_forward::KERNEL.name));
    let [inputs, outputs] = shape.values().map(|values| values as usize);
    let x = values(24, inputs);
    let expected = average_pool_forward::reference(shape, &wide(&x));
    let tolerance = average_pool_forward::tolerance(shape, &wide(&x));
    let (x, y) = (case.input(x), case.output(outputs));
    case.program.images(ImageOp::AveragePool { x, y, shape, images: shape.images() });
    case.expect(y, expected, tolerance);
    case
}

pub fn average_pool_backward(shape: pool::Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", average_pool_backward::KERNEL.name));
    let [inputs, outputs] = shape.values().map(|values| values as usize);
    let g = values(25, outputs);
    let expected = average_pool_backward::reference(shape, &wide(&g));
    let tolerance = average_pool_backward::tolerance(shape, &wide(&g));
    let (gradient, input_gradient) = (case.input(g), case.output(inputs));
    let images = shape.images();
    case.program.images(ImageOp::AveragePoolBackward { gradient, input_gradient, shape, images });
    case.expect(input_gradient, expected, tolerance);
    case
}

/// The case of a call's kernel with its constants: as it is, but for few images, pixels and channels.
pub(super) fn case_of(op: &ImageOp) -> Case {
    match *op {
        ImageOp::Convolution { shape, epilogue, .. } => convolution(small_convolution(shape), epilogue),
        ImageOp::ConvolutionInputGradient { shape, .. } => convolution_input_gradient(small_convolution(shape)),
        ImageOp::ConvolutionWeightGradient { shape, .. } => convolution_weight_gradient(small_convolution(shape)),
        ImageOp::MaxPool { shape, .. } => max_pool(small_pool(shape)),
        ImageOp::MaxPoolBackward { shape, .. } => max_pool_backward(small_pool(shape)),
        ImageOp::AveragePool { shape, .. } => average_pool(small_pool(shape)),
        ImageOp::AveragePoolBackward { shape, .. } => average_pool_backward(small_pool(shape)),
    }
}

/// Places of a window along either side at most.
const PLACES: u32 = 5;

fn small_convolution(shape: convolution::Shape) -> convolution::Shape {
    let extent = |extent: u32, kernel: u32| extent.min(kernel + (PLACES - 1) * shape.stride);
    convolution::Shape {
        batch: 2,
        height: extent(shape.height, shape.kernel_height),
        width: extent(shape.width, shape.kernel_width),
        channels: few(shape.channels),
        outputs: few(shape.outputs),
        ..shape
    }
}

fn small_pool(shape: pool::Shape) -> pool::Shape {
    let extent = |extent: u32| extent.min(shape.window + (PLACES - 1) * shape.stride);
    pool::Shape { batch: 2, height: extent(shape.height), width: extent(shape.width), channels: few(shape.channels), ..shape }
}

/// Whole vec4 where there were such, and more than a block of eight where there were.
fn few(count: u32) -> u32 {
    count.min(if count.is_multiple_of(4) { 12 } else { 9 })
}

/// Every kernel on images, with edges: padding, stride, widths that are no multiples of four and ones that are.
pub fn self_test_cases() -> Vec<Case> {
    let odd = convolution::Shape {
        batch: 2,
        height: 9,
        width: 7,
        channels: 3,
        kernel_height: 5,
        kernel_width: 5,
        outputs: 9,
        stride: 2,
        padding: 1,
    };
    let fours = convolution::Shape { channels: 8, outputs: 12, stride: 1, padding: 0, ..odd };
    let window = pool::Shape { batch: 2, height: 9, width: 7, channels: 8, window: 3, stride: 2, padding: 1 };
    let mut cases = Vec::new();
    for shape in [odd, fours] {
        cases.push(convolution(shape, Epilogue::BiasRelu));
        cases.push(convolution_input_gradient(shape));
        cases.push(convolution_weight_gradient(shape));
    }
    cases.extend([max_pool, max_pool_backward, average_pool, average_pool_backward].map(|case| case(window)));
    cases
}
