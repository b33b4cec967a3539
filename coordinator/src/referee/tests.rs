//! The referee against plain f64 loops written here.

use manyhands_protocol::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss};
use manyhands_protocol::work::InnerOptimizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::verify::gradient::compare;

const INPUTS: usize = 6;
const HIDDEN: usize = 5;
const CLASSES: usize = 3;

fn model() -> Model {
    Model {
        input: Input { shape: vec![INPUTS as u32], dtype: InputType::U8, scale: 1.0 / 255.0, offset: -0.5 },
        layers: vec![Layer::Dense { outputs: HIDDEN as u32 }, Layer::Relu, Layer::Dense { outputs: CLASSES as u32 }],
        loss: Loss::SoftmaxCrossEntropy,
    }
}

struct Examples {
    x: Vec<u8>,
    y: Vec<u8>,
}

impl Examples {
    fn random(rows: usize, seed: u64) -> Examples {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        Examples {
            x: (0..rows * INPUTS).map(|_| rng.random()).collect(),
            y: (0..rows).map(|_| rng.random_range(0..CLASSES as u8)).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let x = TensorView::new(Dtype::U8, vec![self.y.len(), INPUTS], &self.x).unwrap();
        let y = TensorView::new(Dtype::U8, vec![self.y.len()], &self.y).unwrap();
        safetensors::serialize([("x", x), ("y", y)], None).unwrap()
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.x[row * INPUTS..][..INPUTS].iter().map(|&v| f64::from(v) / 255.0 - 0.5).collect()
    }
}

/// `x · weight + bias`.
fn dense(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let outputs = bias.len();
    (0..outputs).map(|o| bias[o] + x.iter().enumerate().map(|(i, v)| v * weight[i * outputs + o]).sum::<f64>()).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|v| v.exp()).sum();
    logits.iter().map(|v| v.exp() / sum).collect()
}

fn logits(p: &[Vec<f64>], x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let hidden: Vec<f64> = dense(x, &p[0], &p[1]).into_iter().map(|v| v.max(0.0)).collect();
    let logits = dense(&hidden, &p[2], &p[3]);
    (hidden, logits)
}

/// The unit by its definition in the protocol, in f64.
fn expected_update(work: &TrainWork, start: &[Vec<f32>], data: &Examples) -> Vec<Vec<f32>> {
    let InnerOptimizer::Sgd { learning_rate, momentum } = work.optimizer;
    let wide: Vec<Vec<f64>> = start.iter().map(|t| t.iter().map(|&v| f64::from(v)).collect()).collect();
    let mut p = wide.clone();
    let mut velocity: Vec<Vec<f64>> = p.iter().map(|t| vec![0.0; t.len()]).collect();
    let batch = work.batch as usize;
    for step in 0..work.inner_steps as usize {
        let mut gradient: Vec<Vec<f64>> = p.iter().map(|t| vec![0.0; t.len()]).collect();
        for r in 0..batch {
            let row = (work.first_row as usize + step * batch + r) % data.y.len();
            let x = data.row(row);
            let (hidden, logits) = logits(&p, &x);
            let mut dz = softmax(&logits);
            dz[data.y[row] as usize] -= 1.0;
            for h in 0..HIDDEN {
                let dh: f64 = (0..CLASSES).map(|c| dz[c] * p[2][h * CLASSES + c]).sum();
                let dh = if hidden[h] > 0.0 { dh } else { 0.0 };
                (0..INPUTS).for_each(|i| gradient[0][i * HIDDEN + h] += x[i] * dh / batch as f64);
                gradient[1][h] += dh / batch as f64;
                (0..CLASSES).for_each(|c| gradient[2][h * CLASSES + c] += hidden[h] * dz[c] / batch as f64);
            }
            (0..CLASSES).for_each(|c| gradient[3][c] += dz[c] / batch as f64);
        }
        for t in 0..p.len() {
            for i in 0..p[t].len() {
                velocity[t][i] = f64::from(momentum) * velocity[t][i] + gradient[t][i];
                p[t][i] -= f64::from(learning_rate) * velocity[t][i];
            }
        }
    }
    wide.iter().zip(&p).map(|(w, p)| w.iter().zip(p).map(|(w, p)| (w - p) as f32).collect()).collect()
}

fn work(first_row: u32, inner_steps: u32) -> TrainWork {
    TrainWork {
        model: model(),
        checkpoint: BlobHash([0; 32]),
        shard: BlobHash([0; 32]),
        round: 0,
        first_row,
        batch: 4,
        inner_steps,
        optimizer: InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.9 },
    }
}

#[test]
fn updates_are_those_of_the_definition() {
    let data = Examples::random(12, 1);
    let start = merge::initial_parameters(&model(), 2);
    let checkpoint = merge::write_tensors(&model(), &start);
    for (first_row, inner_steps) in [(0, 1), (4, 2), (8, 7)] {
        let work = work(first_row, inner_steps);
        let got = compute_update(&work, &checkpoint, &data.bytes()).unwrap();
        let expected = expected_update(&work, &start, &data);
        assert!(compare(&got, &expected), "from row {first_row}, {inner_steps} steps");
        let largest = expected.iter().flatten().fold(0.0f32, |most, v| most.max(v.abs()));
        for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
            assert!((got - expected).abs() <= 1e-4 * largest, "{got} for {expected}");
        }
    }
    let update = |first_row| compute_update(&work(first_row, 2), &checkpoint, &data.bytes()).unwrap();
    assert!(!compare(&update(0), &update(4)), "the batch's rows matter");
}

#[test]
fn evaluation_is_that_of_plain_loops() {
    let data = Examples::random(EVALUATION_ROWS * 2 + 77, 3);
    let mut parameters = merge::initial_parameters(&model(), 4);
    parameters[3] = vec![0.1, -0.2, 0.05];
    let wide: Vec<Vec<f64>> = parameters.iter().map(|t| t.iter().map(|&v| f64::from(v)).collect()).collect();
    let (mut loss, mut right) = (0.0, 0);
    for (row, &label) in data.y.iter().enumerate() {
        let (_, logits) = logits(&wide, &data.row(row));
        loss -= softmax(&logits)[label as usize].ln();
        right += usize::from((0..CLASSES).all(|c| logits[c] <= logits[label as usize]));
    }
    let rows = data.y.len() as f64;
    let got = evaluate(&model(), &merge::write_tensors(&model(), &parameters), &data.bytes()).unwrap();
    assert!((got.loss - loss / rows).abs() < 1e-5, "{got:?}, loss {}", loss / rows);
    assert!((got.accuracy - right as f64 / rows).abs() <= 1.0 / rows, "{got:?}, {right} right of {rows}");
}

#[test]
fn losses_and_winners_of_odd_logits() {
    assert_eq!(largest(&[1.0, 3.0, 3.0]), Some(1));
    assert_eq!(largest(&[1.0, f32::NAN]), None);
    assert_eq!(largest(&[]), None);
    assert!((cross_entropy(&[1000.0, 0.0], 0)).abs() < 1e-12, "no overflow");
    assert!((cross_entropy(&[0.0, 0.0], 1) - 2f64.ln()).abs() < 1e-12);
    assert!(cross_entropy(&[f32::NAN, 0.0], 1).is_nan());
}

#[test]
fn our_own_broken_blobs_are_errors() {
    let data = Examples::random(8, 5).bytes();
    let checkpoint = merge::write_tensors(&model(), &merge::initial_parameters(&model(), 6));
    assert!(matches!(compute_update(&work(0, 1), &checkpoint[1..], &data), Err(RefereeError::Checkpoint(_))));
    assert!(matches!(compute_update(&work(0, 1), &checkpoint, &data[1..]), Err(RefereeError::Examples(_))));
    assert!(matches!(evaluate(&model(), &checkpoint, &[]), Err(RefereeError::Examples(_))));
    assert!(matches!(evaluate(&model(), &[], &data), Err(RefereeError::Checkpoint(_))));
}
