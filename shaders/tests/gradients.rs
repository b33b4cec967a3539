//! The reference functions against finite differences in f64: a two-layer perceptron put together from them has the
//! gradient that its loss says. No device.
#![allow(clippy::unwrap_used)]

use manyhands_shaders::matmul::{self, Epilogue, Shape, Transposed};
use manyhands_shaders::{column_sum, relu_backward, sgd_momentum, softmax_cross_entropy};

const BATCH: u32 = 5;
const INPUTS: u32 = 7;
const HIDDEN: u32 = 6;
const CLASSES: u32 = 4;
const FORWARD: Transposed = Transposed { a: false, b: false };
const A_TRANSPOSED: Transposed = Transposed { a: true, b: false };
const B_TRANSPOSED: Transposed = Transposed { a: false, b: true };
const BOTH: Transposed = Transposed { a: true, b: true };
const STEP: f64 = 1e-5;

/// Fixed values spread over (-1, 1).
fn values(seed: u32, count: u32) -> Vec<f64> {
    (0..count).map(|i| (f64::from(seed * 31 + i) * 12.9898).sin()).collect()
}

struct Network {
    x: Vec<f64>,
    labels: Vec<u32>,
    /// Weight and bias of both layers.
    parameters: [Vec<f64>; 4],
}

fn network() -> Network {
    Network {
        x: values(1, BATCH * INPUTS),
        labels: (0..BATCH).map(|i| i * 3 % CLASSES).collect(),
        parameters: [values(2, INPUTS * HIDDEN), values(3, HIDDEN), values(4, HIDDEN * CLASSES), values(5, CLASSES)],
    }
}

const FIRST: Shape = Shape { m: BATCH, k: INPUTS, n: HIDDEN };
const SECOND: Shape = Shape { m: BATCH, k: HIDDEN, n: CLASSES };

impl Network {
    fn forward(&self) -> (Vec<f64>, softmax_cross_entropy::Batch) {
        let [w1, b1, w2, b2] = &self.parameters;
        let hidden = matmul::reference(FIRST, FORWARD, Epilogue::BiasRelu, &self.x, w1, b1);
        let logits = matmul::reference(SECOND, FORWARD, Epilogue::Bias, &hidden, w2, b2);
        (hidden, softmax_cross_entropy::reference(CLASSES as usize, &logits, &self.labels))
    }

    fn loss(&self) -> f64 {
        self.forward().1.losses.iter().sum()
    }

    fn gradients(&self) -> [Vec<f64>; 4] {
        let (hidden, batch) = self.forward();
        let d_logits = batch.gradient;
        let d_w2 =
            matmul::reference(Shape { m: HIDDEN, k: BATCH, n: CLASSES }, A_TRANSPOSED, Epilogue::None, &hidden, &d_logits, &[]);
        let back = Shape { m: BATCH, k: CLASSES, n: HIDDEN };
        let d_hidden = matmul::reference(back, B_TRANSPOSED, Epilogue::None, &d_logits, &self.parameters[2], &[]);
        let d_hidden = relu_backward::reference(&hidden, &d_hidden);
        let d_w1 =
            matmul::reference(Shape { m: INPUTS, k: BATCH, n: HIDDEN }, A_TRANSPOSED, Epilogue::None, &self.x, &d_hidden, &[]);
        [
            d_w1,
            column_sum::reference(BATCH as usize, HIDDEN as usize, &d_hidden),
            d_w2,
            column_sum::reference(BATCH as usize, CLASSES as usize, &d_logits),
        ]
    }
}

/// Central differences: the error is of order STEP² plus rounding of order 1e-16 / STEP.
#[test]
fn gradients_match_finite_differences() {
    let gradients = network().gradients();
    for (tensor, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), network().parameters[tensor].len());
        for (index, &gradient) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = network();
                moved.parameters[tensor][index] += step;
                moved.loss()
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!((difference - gradient).abs() < 1e-8, "tensor {tensor} value {index}: {gradient}, measured {difference}");
        }
    }
    // Not a gradient that is zero everywhere.
    assert!(gradients.iter().flatten().map(|g| g.abs()).sum::<f64>() > 1.0);
}

#[test]
fn transposed_operands_mean_the_same_product() {
    let shape = Shape { m: 3, k: 4, n: 2 };
    let transpose = |rows: usize, columns: usize, x: &[f64]| -> Vec<f64> {
        (0..columns).flat_map(|j| (0..rows).map(move |i| (i, j))).map(|(i, j)| x[i * columns + j]).collect()
    };
    let (a, b) = (values(6, 12), values(7, 8));
    let (at, bt) = (transpose(3, 4, &a), transpose(4, 2, &b));
    let expected = matmul::reference(shape, FORWARD, Epilogue::None, &a, &b, &[]);
    let direct: f64 = (0..4).map(|p| a[4 + p] * b[2 * p + 1]).sum();
    assert_eq!(expected[3], direct);
    assert_eq!(matmul::reference(shape, A_TRANSPOSED, Epilogue::None, &at, &b, &[]), expected);
    assert_eq!(matmul::reference(shape, B_TRANSPOSED, Epilogue::None, &a, &bt, &[]), expected);
    assert_eq!(matmul::reference(shape, BOTH, Epilogue::None, &at, &bt, &[]), expected);
}

#[test]
fn momentum_by_hand() {
    let rates = sgd_momentum::Rates { learning_rate: 0.5, momentum: 0.25 };
    let updated = sgd_momentum::reference(rates, &[2.0], &[4.0], &[10.0]);
    assert_eq!((updated.velocity, updated.parameter), (vec![3.0], vec![8.5]));
}

/// The tolerances are tight enough to mean something: a few hundred roundings of what they bound.
#[test]
fn tolerances_are_small() {
    let (a, b) = (values(8, 20 * 100), values(9, 100 * 20));
    let shape = Shape { m: 20, k: 100, n: 20 };
    let largest = matmul::tolerance(shape, FORWARD, Epilogue::None, &a, &b, &[]).into_iter().fold(0.0, f64::max);
    assert!(largest > 0.0 && largest < 1e-3, "{largest}");
    let logits = values(10, BATCH * CLASSES);
    let batch = softmax_cross_entropy::tolerance(CLASSES as usize, &logits, &network().labels);
    assert!(batch.gradient.iter().chain(&batch.losses).all(|&t| t > 0.0 && t < 1e-5));
}
