//! The referee against plain f64 loops.

mod definition;
mod drift;

use manyhands_protocol::limits::GRADIENT_TOLERANCE;
use manyhands_protocol::model::{Input, InputType, Layer, Loss};
use manyhands_protocol::work::{self, InnerOptimizer};
use manyhands_protocol::{BlobHash, UnitId};
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
        optimizer: InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.9, clip_norm: 0.0 },
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
        let shard = tensors::read_shard(&data.bytes(), &model()).unwrap();
        let expected = definition::update(&work, &start, &shard);
        assert!(compare(&got, &expected, GRADIENT_TOLERANCE), "from row {first_row}, {inner_steps} steps");
        let largest = expected.iter().flatten().fold(0.0f32, |most, v| most.max(v.abs()));
        for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
            assert!((got - expected).abs() <= 1e-4 * largest, "{got} for {expected}");
        }
    }
    let update = |first_row| compute_update(&work(first_row, 2), &checkpoint, &data.bytes()).unwrap();
    assert!(!compare(&update(0), &update(4), GRADIENT_TOLERANCE), "the batch's rows matter");
}

/// What a neighbour of the checkpoint does says nothing against the job, and each result is told of by itself.
#[test]
fn rounding_gives_what_an_execution_gives() {
    let (work, shard) = (work(0, 3), Examples::random(12, 1).bytes());
    let start = merge::initial_parameters(&model(), 2);
    let checkpoint = merge::write_tensors(&model(), &start);
    let near = compute_update(&work, &merge::write_tensors(&model(), &neighbour(&start, ROUNDING_RUNS - 1)), &shard).unwrap();
    let far: Vec<Vec<f32>> = near.iter().map(|tensor| tensor.iter().map(|value| 1.05 * value).collect()).collect();
    assert_eq!(rounding_gives(&work, &checkpoint, &shard, &[far.clone(), near]).unwrap(), [false, true]);
    let vast: Vec<Vec<f32>> = start.iter().map(|tensor| tensor.iter().map(|value| 1e38 * value).collect()).collect();
    let vast = merge::write_tensors(&model(), &vast);
    assert!(compute_update(&work, &vast, &shard).is_err(), "it leaves the finite numbers");
    assert_eq!(rounding_gives(&work, &vast, &shard, &[far]).unwrap(), [false]);
}

#[test]
fn neighbours_differ_by_a_bit_and_keep_zero() {
    let start = vec![vec![0.0, 1.0, -1.0, 0.5], vec![f32::MIN_POSITIVE]];
    let moved = neighbour(&start, 3);
    assert_eq!(moved, neighbour(&start, 3));
    for (before, after) in start.iter().flatten().zip(moved.iter().flatten()) {
        assert!(if *before == 0.0 { *after == 0.0 } else { [before.next_up(), before.next_down()].contains(after) });
    }
}

#[test]
fn evaluation_is_that_of_plain_loops() {
    let data = Examples::random(EVALUATION_ROWS * 2 + 77, 3);
    let mut parameters = merge::initial_parameters(&model(), 4);
    parameters[3] = vec![0.1, -0.2, 0.05];
    let wide = definition::widen(&parameters);
    let (mut loss, mut right) = (0.0, 0);
    for (row, &label) in data.y.iter().enumerate() {
        let x: Vec<f64> = data.x[row * INPUTS..][..INPUTS].iter().map(|&v| f64::from(v) / 255.0 - 0.5).collect();
        let (_, logits) = definition::logits(&wide, &x);
        loss -= definition::softmax(&logits)[label as usize].ln();
        right += usize::from((0..CLASSES).all(|c| logits[c] <= logits[label as usize]));
    }
    let rows = data.y.len() as f64;
    let got = evaluate(&model(), &merge::write_tensors(&model(), &parameters), &data.bytes()).unwrap();
    assert!((got.loss - loss / rows).abs() < 1e-5, "{got:?}, loss {}", loss / rows);
    assert!((got.accuracy - right as f64 / rows).abs() <= 1.0 / rows, "{got:?}, {right} right of {rows}");
}

#[test]
fn losses_of_odd_logits() {
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

/// The last row is subnormal in f16 and counts in full.
#[test]
fn products_of_f16_are_those_of_the_exact_values() {
    let file = |name, shape: [usize; 2], patterns: &[u16]| {
        let data: Vec<u8> = patterns.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        safetensors::serialize([(name, TensorView::new(Dtype::F16, shape.to_vec(), &data).unwrap())], None).unwrap()
    };
    let a = file("a", [2, 3], &[0x3C00, 0x4000, 0xC200, 0x0001, 0x0002, 0x8003]);
    let b = file("b", [3, 1], &[0x4400, 0x3800, 0x3C00]);
    let nothing = BlobHash([0; 32]);
    let work = MatmulWork { a: nothing, b: nothing, m: 2, k: 3, n: 1, dtype: work::Dtype::F16 };
    let c = compute_product(&work, &a, &b).unwrap();
    let smallest = 2f32.powi(-24);
    assert_eq!(tensors::read_f32(&c, &[("c", &[2, 1])]).unwrap()[0], [4.0 + 1.0 - 3.0, (4.0 + 1.0 - 3.0) * smallest]);
    let as_f32 = MatmulWork { dtype: work::Dtype::F32, ..work };
    assert!(matches!(compute_product(&as_f32, &a, &b), Err(RefereeError::Panel(TensorError::ElementType { .. }))));
}
