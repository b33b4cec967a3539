//! Updates that must and must not be taken, and pairs that must and must not agree.

use manyhands::tensors;
use manyhands_protocol::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::problem::Code;
use manyhands_protocol::work::InnerOptimizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

fn model() -> Model {
    Model {
        input: Input { shape: vec![6], dtype: InputType::F32, scale: 1.0, offset: 0.0 },
        layers: vec![Layer::Dense { outputs: 5 }, Layer::Relu, Layer::Dense { outputs: 3 }],
        loss: Loss::SoftmaxCrossEntropy,
    }
}

fn work() -> TrainWork {
    TrainWork {
        model: model(),
        checkpoint: BlobHash([0; 32]),
        shard: BlobHash([0; 32]),
        round: 0,
        first_row: 0,
        batch: 4,
        inner_steps: 1,
        optimizer: InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.0, clip_norm: 0.0 },
    }
}

fn random(seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    [30, 5, 15, 3].iter().map(|&count| (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()).collect()
}

fn scaled(tensors: &[Vec<f32>], factor: f64) -> Vec<Vec<f32>> {
    tensors.iter().map(|t| t.iter().map(|&v| (f64::from(v) * factor) as f32).collect()).collect()
}

/// `tensors` with a random direction of `share` of their norm added.
fn perturbed(tensors: &[Vec<f32>], share: f64, seed: u64) -> Vec<Vec<f32>> {
    let direction = random(seed);
    let step = scaled(&direction, share * norm(tensors) / norm(&direction));
    tensors.iter().zip(&step).map(|(t, s)| t.iter().zip(s).map(|(t, s)| t + s).collect()).collect()
}

/// The pair of a model without an embedding.
fn compare(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    super::compare(a, b, limits::GRADIENT_TOLERANCE)
}

fn code(delta_bytes: &[u8]) -> Option<Code> {
    check_update(&work(), &random(1), delta_bytes).err().map(|refusal| refusal.code())
}

#[test]
fn a_sound_update_is_read_in_the_models_order() {
    let delta = scaled(&random(2), 0.1);
    let bytes = crate::merge::write_tensors(&model(), &delta);
    assert_eq!(check_update(&work(), &random(1), &bytes), Ok(delta));
}

#[test]
fn names_shapes_and_types_are_checked() {
    let delta = random(2);
    let names = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"];
    let shapes: [&[usize]; 4] = [&[6, 5], &[5], &[5, 3], &[3]];
    let write = |count: usize, names: [&str; 4], shapes: [&[usize]; 4]| {
        let tensors: Vec<_> = (0..count).map(|i| (names[i], shapes[i], delta[i].as_slice())).collect();
        tensors::write_f32(&tensors)
    };
    assert_eq!(code(&write(4, names, shapes)), None);
    assert_eq!(code(&write(3, names, shapes)), Some(Code::WrongTensor));
    assert_eq!(code(&write(4, ["layers.0.weight", "bias", names[2], names[3]], shapes)), Some(Code::WrongTensor));
    assert_eq!(code(&write(4, names, [&[5, 6], shapes[1], shapes[2], shapes[3]])), Some(Code::WrongTensor));
    let whole = write(4, names, shapes);
    assert_eq!(code(&whole[..whole.len() - 1]), Some(Code::BadTensorFile));
    assert_eq!(code(&[]), Some(Code::BadTensorFile));
    assert_eq!(code(b"not a tensor file, but long enough to be taken for one"), Some(Code::BadTensorFile));
}

#[test]
fn nan_and_infinity_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut delta = random(2);
        delta[3][2] = bad;
        assert_eq!(code(&crate::merge::write_tensors(&model(), &delta)), Some(Code::NotFinite), "{bad}");
    }
}

#[test]
fn the_norm_bound_decides() {
    let checkpoint = random(1);
    let most = limits::UPDATE_NORM_RATIO_MAX * (norm(&checkpoint) + 1.0);
    let at = |share: f64| {
        let delta = scaled(&random(2), share * most / norm(&random(2)));
        check_update(&work(), &checkpoint, &crate::merge::write_tensors(&model(), &delta))
    };
    assert!(at(0.999).is_ok());
    assert!(matches!(at(1.001), Err(Refusal::UpdateTooLarge { .. })));
    // The squares of the largest f32 overflow f32, not f64.
    let largest: Vec<Vec<f32>> = random(2).iter().map(|t| vec![f32::MAX; t.len()]).collect();
    let refusal = check_update(&work(), &checkpoint, &crate::merge::write_tensors(&model(), &largest));
    assert!(matches!(refusal, Err(Refusal::UpdateTooLarge { .. })));
}

#[test]
fn a_checkpoint_of_another_model_is_our_fault() {
    let bytes = crate::merge::write_tensors(&model(), &random(2));
    let refusal = check_update(&work(), &random(1)[..3], &bytes).unwrap_err();
    assert_eq!(refusal.code(), Code::Internal);
}

#[test]
fn fixed_perturbations() {
    let honest = random(2);
    for seed in 10..20 {
        assert!(compare(&honest, &perturbed(&honest, 0.005, seed)));
        assert!(!compare(&honest, &perturbed(&honest, 0.05, seed)));
        assert!(!compare(&honest, &perturbed(&honest, 0.10, seed)));
    }
    assert!(compare(&honest, &honest));
    for factor in [0.9, 0.95, 1.05, 1.10, -1.0, 0.0] {
        assert!(!compare(&honest, &scaled(&honest, factor)), "times {factor}");
        assert!(!compare(&scaled(&honest, factor), &honest), "times {factor}");
    }
    assert!(!compare(&honest, &random(3)), "another unit's update, or a stale one");
}

/// A transformer's cap is wider, and as strict about what a lie needs.
#[test]
fn fixed_perturbations_of_a_sequence() {
    let (honest, tolerance) = (random(2), limits::GRADIENT_TOLERANCE_SEQUENCE);
    for seed in 10..20 {
        assert!(super::compare(&honest, &perturbed(&honest, 0.04, seed), tolerance));
        assert!(!super::compare(&honest, &perturbed(&honest, 0.10, seed), tolerance));
    }
    for factor in [0.9, 1.10, -1.0, 0.0] {
        assert!(!super::compare(&honest, &scaled(&honest, factor), tolerance), "times {factor}");
    }
}

#[test]
fn a_small_tensor_hides_nothing_that_matters() {
    // The bias alone sign-flipped changes the whole by more than the tolerance.
    let honest = random(2);
    let mut lie = honest.clone();
    lie[1].iter_mut().for_each(|v| *v = -*v);
    assert!(!compare(&honest, &lie));
}

#[test]
fn zero_nan_infinity_and_other_shapes() {
    let (honest, zero) = (random(2), scaled(&random(2), 0.0));
    assert!(compare(&zero, &zero));
    assert!(!compare(&zero, &honest) && !compare(&honest, &zero));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut broken = honest.clone();
        broken[0][0] = bad;
        assert!(!compare(&honest, &broken) && !compare(&broken, &honest) && !compare(&broken, &broken), "{bad}");
    }
    assert!(!compare(&honest, &honest[..3]));
    assert!(!compare(&[], &honest) && !compare(&honest, &[]));
    let mut short = honest.clone();
    short[0].pop();
    assert!(!compare(&honest, &short) && !compare(&short, &honest));
}
