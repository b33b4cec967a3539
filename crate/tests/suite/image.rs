//! Convolutions and pools: tables of shapes for [`super::kernels`], and that parts of a batch make the whole.

use manyhands::control::Control;
use manyhands::engine::{Engine, EngineError, known};
use manyhands::plan::Op;
use manyhands_shaders::convolution::{self, Epilogue};
use manyhands_shaders::images::Part;
use manyhands_shaders::pool;

/// `[batch, height, width, channels]`, `[kernel_height, kernel_width, outputs]`, `[stride, padding]`: no images, no
/// room, no channels and no outputs; 1; the block of 8 by 8 ± 1; widths that are whole vec4 and not; padding up to past
/// the kernel; strides past it; more terms than a chunk; the layers of the models.
const CONVOLUTIONS: [([u32; 4], [u32; 3], [u32; 2]); 22] = [
    ([0, 5, 5, 2], [3, 3, 4], [1, 0]),
    ([2, 2, 5, 2], [3, 3, 4], [1, 0]),
    ([2, 3, 3, 0], [2, 2, 3], [1, 0]),
    ([2, 3, 3, 2], [2, 2, 0], [1, 0]),
    ([1, 1, 1, 1], [1, 1, 1], [1, 0]),
    ([1, 3, 3, 8], [1, 1, 8], [1, 0]),
    ([7, 1, 1, 7], [1, 1, 7], [1, 0]),
    ([1, 3, 3, 9], [1, 1, 9], [1, 0]),
    ([2, 7, 9, 4], [3, 2, 12], [1, 0]),
    ([2, 7, 9, 4], [3, 2, 5], [2, 1]),
    ([2, 7, 9, 3], [3, 2, 4], [3, 1]),
    ([1, 4, 5, 4], [2, 2, 8], [1, 3]),
    ([1, 8, 8, 4], [2, 2, 4], [3, 0]),
    ([1, 6, 40, 1], [1, 9, 3], [1, 4]),
    ([1, 4, 4, 130], [2, 2, 67], [1, 1]),
    ([1, 5, 5, 132], [3, 3, 68], [2, 1]),
    ([3, 28, 28, 1], [5, 5, 8], [1, 0]),
    ([3, 12, 12, 8], [5, 5, 16], [1, 0]),
    ([2, 32, 32, 3], [3, 3, 16], [1, 1]),
    ([1, 33, 31, 3], [7, 7, 10], [2, 3]),
    ([3, 32, 32, 3], [5, 5, 8], [1, 0]),
    ([3, 14, 14, 8], [5, 5, 16], [1, 0]),
];

/// `[batch, height, width, channels]`, `[window, stride, padding]`: as above, windows that overlap and that leave out.
const POOLS: [([u32; 4], [u32; 3]); 14] = [
    ([0, 4, 4, 4], [2, 2, 0]),
    ([2, 1, 4, 4], [2, 2, 0]),
    ([2, 4, 4, 0], [2, 2, 0]),
    ([1, 1, 1, 1], [1, 1, 0]),
    ([1, 1, 1, 5], [3, 1, 2]),
    ([2, 5, 7, 3], [2, 2, 0]),
    ([2, 5, 7, 4], [3, 1, 1]),
    ([2, 9, 8, 9], [3, 2, 1]),
    ([2, 9, 8, 8], [2, 3, 0]),
    ([2, 17, 17, 6], [17, 1, 0]),
    ([3, 24, 24, 8], [2, 2, 0]),
    ([3, 8, 8, 16], [2, 2, 0]),
    ([3, 28, 28, 8], [2, 2, 0]),
    ([3, 10, 10, 16], [2, 2, 0]),
];

fn convolution_shape(index: usize) -> convolution::Shape {
    let ([batch, height, width, channels], [kernel_height, kernel_width, outputs], [stride, padding]) = CONVOLUTIONS[index];
    convolution::Shape { batch, height, width, channels, kernel_height, kernel_width, outputs, stride, padding }
}

fn pool_shape(index: usize) -> pool::Shape {
    let ([batch, height, width, channels], [window, stride, padding]) = POOLS[index];
    pool::Shape { batch, height, width, channels, window, stride, padding }
}

/// Every kernel over its table.
pub fn cases() -> Vec<known::Case> {
    let mut cases = Vec::new();
    for shape in (0..CONVOLUTIONS.len()).map(convolution_shape) {
        cases.extend([Epilogue::None, Epilogue::Bias, Epilogue::BiasRelu].map(|e| known::image::convolution(shape, e)));
        cases.push(known::image::convolution_input_gradient(shape));
        cases.push(known::image::convolution_weight_gradient(shape));
    }
    for shape in (0..POOLS.len()).map(pool_shape) {
        cases.extend(pools().map(|case| case(shape)));
    }
    cases
}

fn pools() -> [fn(pool::Shape) -> known::Case; 4] {
    use known::image::{average_pool, average_pool_backward, max_pool, max_pool_backward};
    [max_pool, max_pool_backward, average_pool, average_pool_backward]
}

/// One of each kernel, of at least three images (or splits).
fn samples() -> Vec<known::Case> {
    let shape = convolution::Shape { batch: 4, ..convolution_shape(9) };
    let window = pool::Shape { batch: 4, ..pool_shape(8) };
    let mut cases = vec![
        known::image::convolution(shape, Epilogue::Bias),
        known::image::convolution_input_gradient(shape),
        known::image::convolution_weight_gradient(convolution_shape(17)),
    ];
    cases.extend(pools().map(|case| case(window)));
    cases
}

/// A changed input is seen, and a batch made in parts has the bits of one made in a single call.
pub async fn changes_are_seen_and_parts_change_no_bits(engine: &Engine) {
    for case in samples() {
        let whole = engine.run(&case.program, case.buffers.clone(), &Control::new()).await.unwrap();
        let mut cut = case.clone();
        let [Op::Image(op)] = cut.program.ops[..] else { panic!("one call") };
        let end = op.part().end;
        assert!(end >= 3, "{}", case.name);
        let parts = [(0, 1), (1, end - 1), (end - 1, end)].map(|(first, end)| op.with_part(Part { first, end }));
        // Backwards, because no part may touch another's values.
        cut.program.ops = parts.into_iter().rev().map(Op::Image).collect();
        let parts = engine.run(&cut.program, cut.buffers.clone(), &Control::new()).await.unwrap();
        let bits = |buffers: &[Vec<f32>]| buffers.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&whole), bits(&parts), "{}", case.name);

        let mut changed = case.clone();
        for wrong in [changed.buffers[0][0] + 0.01, f32::NAN] {
            // A value of the first window that is its maximum then, and one of dY that passes its place.
            let largest = if case.name.starts_with("max_pool_forward") { wrong + 2.0 } else { wrong };
            let every = case.name.starts_with("max_pool_backward");
            let count = if every { changed.buffers[0].len() } else { 1 };
            changed.buffers[0][..count].fill(largest);
            let got = engine.answer(&changed).await;
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{}: {got:?}", case.name);
        }
    }
}
