//! The reference functions of convolutions and pools against finite differences in f64, and by hand. No device.
#![allow(clippy::unwrap_used)]

use manyhands_shaders::convolution::{self, Epilogue};
use manyhands_shaders::{average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward, pool};
use manyhands_shaders::{column_sum, convolution_forward, convolution_input_gradient, convolution_weight_gradient};

const STEP: f64 = 1e-5;

/// Fixed values spread over (-1, 1), no two alike.
fn values(seed: u32, count: u64) -> Vec<f64> {
    (0..count).map(|i| ((f64::from(seed) * 31.0 + i as f64) * 12.9898).sin()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Central differences of `loss` at `at`, against its gradient.
fn check(at: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len());
    for (index, &gradient) in gradient.iter().enumerate() {
        let moved = |step: f64| {
            let mut at = at.to_vec();
            at[index] += step;
            loss(&at)
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!((difference - gradient).abs() < 1e-8, "value {index}: {gradient}, measured {difference}");
    }
    // Not a gradient that is zero everywhere.
    assert!(gradient.iter().map(|g| g.abs()).sum::<f64>() > 0.1);
}

/// `[batch, height, width, channels]`, `[kernel_height, kernel_width, outputs]`, `[stride, padding]`.
fn shape(image: [u32; 4], kernel: [u32; 3], [stride, padding]: [u32; 2]) -> convolution::Shape {
    let ([batch, height, width, channels], [kernel_height, kernel_width, outputs]) = (image, kernel);
    convolution::Shape { batch, height, width, channels, kernel_height, kernel_width, outputs, stride, padding }
}

#[test]
fn gradients_of_convolutions_match_finite_differences() {
    for shape in [
        shape([2, 5, 6, 3], [3, 2, 4], [1, 0]),
        shape([2, 5, 6, 3], [3, 2, 4], [2, 1]),
        shape([1, 4, 4, 1], [2, 2, 1], [3, 2]),
        shape([3, 8, 9, 1], [5, 5, 2], [1, 2]),
    ] {
        let [inputs, weights, outputs] = shape.values();
        let (x, w, gradient) = (values(1, inputs), values(2, weights), values(3, outputs));
        let loss = |x: &[f64], w: &[f64]| dot(&gradient, &convolution_forward::reference(shape, Epilogue::None, x, w, &[]));
        check(&x, &convolution_input_gradient::reference(shape, &w, &gradient), |x| loss(x, &w));
        let partial = convolution_weight_gradient::reference(shape, &x, &gradient);
        let splits = convolution_weight_gradient::splits(shape).count as usize;
        check(&w, &column_sum::reference(splits, weights as usize, &partial), |w| loss(&x, w));
    }
    let cut = shape([3, 8, 9, 1], [5, 5, 2], [1, 2]);
    assert!(convolution_weight_gradient::splits(cut).count > 1, "one of them has several splits");
}

#[test]
fn gradients_of_pools_match_finite_differences() {
    for (window, stride, padding) in [(2, 2, 0), (3, 1, 1), (3, 2, 1), (2, 3, 0)] {
        let shape = pool::Shape { batch: 2, height: 6, width: 5, channels: 3, window, stride, padding };
        let [inputs, outputs] = shape.values();
        let (x, gradient) = (values(4, inputs), values(5, outputs));
        let places = max_pool_forward::reference(shape, &x).places;
        let max = |x: &[f64]| dot(&gradient, &max_pool_forward::reference(shape, x).y);
        check(&x, &max_pool_backward::reference(shape, &gradient, &places), max);
        let average = |x: &[f64]| dot(&gradient, &average_pool_forward::reference(shape, x));
        check(&x, &average_pool_backward::reference(shape, &gradient), average);
    }
}

#[test]
fn convolutions_by_hand() {
    let x: Vec<f64> = (1..=9).map(f64::from).collect();
    let one = shape([1, 3, 3, 1], [2, 2, 1], [1, 0]);
    let y = |shape, epilogue| convolution_forward::reference(shape, epilogue, &x, &[1.0, 0.0, 0.0, 10.0], &[-70.0]);
    assert_eq!(y(one, Epilogue::None), [51.0, 62.0, 84.0, 95.0]);
    assert_eq!(y(one, Epilogue::BiasRelu), [0.0, 0.0, 14.0, 25.0]);
    // Stride 2 from one row and column before the image: it sees 1, 3, 7 and 9 at its lower right.
    let padded = convolution::Shape { padding: 1, stride: 2, ..one };
    assert_eq!(y(padded, Epilogue::Bias), [-60.0, -40.0, 0.0, 25.0]);
    // Channels run fastest, then columns; outputs run fastest in w.
    let two = shape([1, 1, 1, 2], [1, 1, 2], [1, 0]);
    let y = convolution_forward::reference(two, Epilogue::None, &[1.0, 2.0], &[1.0, 10.0, 100.0, 1000.0], &[]);
    assert_eq!(y, [201.0, 2010.0]);
}

#[test]
fn pools_by_hand() {
    let shape = pool::Shape { batch: 1, height: 2, width: 3, channels: 1, window: 2, stride: 1, padding: 0 };
    let pooled = max_pool_forward::reference(shape, &[1.0, 5.0, 5.0, 0.0, 2.0, 5.0]);
    assert_eq!((pooled.y, pooled.places), (vec![5.0, 5.0], vec![1, 0]));
    assert_eq!(max_pool_backward::reference(shape, &[3.0, 4.0], &[1, 0]), [0.0, 7.0, 0.0, 0.0, 0.0, 0.0]);
    // The padding takes no part in a maximum, and counts as zeros in an average.
    let padded = pool::Shape { height: 1, width: 1, padding: 1, ..shape };
    let pooled = max_pool_forward::reference(padded, &[-4.0]);
    assert_eq!((pooled.y, pooled.places), (vec![-4.0; 4], vec![3, 2, 1, 0]));
    assert_eq!(average_pool_forward::reference(padded, &[-4.0]), [-1.0; 4]);
    assert_eq!(average_pool_backward::reference(padded, &[1.0, 2.0, 3.0, 4.0]), [2.5]);
}
