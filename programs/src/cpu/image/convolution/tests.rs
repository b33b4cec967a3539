//! The plain loops, which a processor with wider arithmetic does not run otherwise, against the reference. Whichever the
//! processor chooses is tested with the rest of the engine.

use manyhands_shaders::compare::compare;
use manyhands_shaders::convolution::Epilogue;
use manyhands_shaders::{convolution_forward, convolution_input_gradient, convolution_weight_gradient};

use super::*;

fn values(seed: usize, count: u64) -> (Vec<f32>, Vec<f64>) {
    let values: Vec<f32> = (0..count as usize).map(|i| ((seed * 31 + i) as f32 * 0.7).sin()).collect();
    let wide = values.iter().map(|&v| f64::from(v)).collect();
    (values, wide)
}

#[test]
fn plain_loops_agree_with_the_reference() {
    // Runs of 3 and 5 that have loops of their own, and one in three tiles; outputs of one panel and a part.
    for (channels, kernel_width) in [(1, 3), (1, 5), (7, 2)] {
        let shape =
            Shape { batch: 1, height: 9, width: 8, channels, kernel_height: 3, kernel_width, outputs: 11, stride: 1, padding: 0 };
        let [((x, wx), (w, ww)), ((g, wg), _)] = [(1, shape.values()[0]), (3, shape.values()[2])]
            .map(|(seed, count)| (values(seed, count), values(2, shape.values()[1])));
        let (extents, mut scratch) = (Extents::new(shape, 1), Scratch::default());
        let [inputs, weights, outputs] = shape.values().map(|count| count as usize);

        let (mut chosen, mut plain) = (vec![0.0; outputs], vec![0.0; outputs]);
        forward(shape, &x, &w, &[], false, &mut chosen, &mut scratch);
        let Scratch { panels, corners, bias, .. } = &scratch;
        tiles_in::<false>(extents, &x, panels, corners, Finish { bias, relu: false }, &mut plain);
        let expected = convolution_forward::reference(shape, Epilogue::None, &wx, &ww, &[]);
        let tolerance = convolution_forward::tolerance(shape, Epilogue::None, &wx, &ww, &[]);
        assert!(compare(&plain, &expected, &tolerance).is_ok_and(|_| compare(&chosen, &expected, &tolerance).is_ok()));

        let (mut chosen, mut plain) = (vec![0.0; inputs], vec![0.0; inputs]);
        input_gradient(shape, &w, &g, &mut chosen, &mut scratch);
        scatter_in::<false>(extents, &scratch.panels, &g, &mut plain);
        let expected = convolution_input_gradient::reference(shape, &ww, &wg);
        let tolerance = convolution_input_gradient::tolerance(shape, &ww, &wg);
        assert!(compare(&plain, &expected, &tolerance).is_ok_and(|_| compare(&chosen, &expected, &tolerance).is_ok()));

        // One split of one chunk, whose panels are still there.
        let (mut chosen, mut plain) = (vec![0.0; weights], vec![0.0; weights]);
        assert_eq!(splits(shape).count, 1);
        weight_gradient(shape, Part { first: 0, end: 1 }, &x, &g, &mut chosen, &mut scratch);
        for (index, panel) in scratch.panels.chunks_exact(scratch.corners.len() * COLUMNS).enumerate() {
            for (ky, plain) in plain.chunks_exact_mut(extents.run * extents.outputs).enumerate() {
                outer_in::<false>(extents, &x[ky * extents.row..], &scratch.corners, panel, index * COLUMNS, plain);
            }
        }
        let expected = convolution_weight_gradient::reference(shape, &wx, &wg);
        let tolerance = convolution_weight_gradient::tolerance(shape, &wx, &wg);
        assert!(compare(&plain, &expected, &tolerance).is_ok_and(|_| compare(&chosen, &expected, &tolerance).is_ok()));
    }
}
