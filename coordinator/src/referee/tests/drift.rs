//! How far honest and dishonest updates of the demo job are from the referee's: the measurement behind the tolerance
//! (docs/verification.md). `cargo test -p manyhands-coordinator drift -- --nocapture` prints it.

use manyhands_protocol::manifest::{JobManifest, JobWork, TrainRecipe, parse_json};

use super::*;
use crate::verify::gradient::norm;
use crate::{cut, merge};

/// What an honest backend may drift by at most, relative to the update's norm. Two of them then differ by at most
/// twice this, a hundredth of the tolerance.
const HONEST_DRIFT_MAX: f64 = 1e-4;

fn recipe() -> TrainRecipe {
    let json = include_bytes!("../../../../demo/fashion-mlp/manifest.json");
    let manifest: JobManifest = parse_json(json).unwrap();
    match manifest.work {
        JobWork::Train(recipe) => recipe,
        JobWork::Matmul(_) => panic!("the demo job trains a model"),
    }
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let difference: Vec<Vec<f32>> = a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect();
    norm(&difference) / norm(b)
}

fn unit(recipe: &TrainRecipe, round: u32) -> TrainWork {
    TrainWork {
        model: recipe.model.clone(),
        checkpoint: BlobHash([0; 32]),
        shard: BlobHash([0; 32]),
        round,
        first_row: 0,
        batch: recipe.batch,
        inner_steps: recipe.inner_steps,
        optimizer: recipe.inner_optimizer.clone(),
    }
}

#[test]
fn honest_drift_is_far_below_the_tolerance_and_lies_are_above() {
    let recipe = recipe();
    let (train, test) = (
        include_bytes!("../../../../demo/fashion-mlp/train.safetensors"),
        include_bytes!("../../../../demo/fashion-mlp/test.safetensors"),
    );
    let cut = cut::cut_train(&recipe, train, test).unwrap();
    let checked_rounds = [0, 1, 4, 12];
    let mut state = merge::OuterState::new(merge::initial_parameters(&recipe.model, recipe.seed));
    let mut stale = None;
    for round in 0..=12 {
        let checkpoint = merge::write_tensors(&recipe.model, &state.parameters);
        let work = unit(&recipe, round);
        let shard = |i: u32| &cut.shards[(round * recipe.units_per_round + i) as usize % cut.shards.len()];
        let updates: Vec<_> = (0..recipe.units_per_round)
            .map(|i| {
                let tensors = compute_update(&work, &checkpoint, shard(i)).unwrap();
                merge::Update { unit: UnitId(u64::from(i)), weight: 1.0, tensors }
            })
            .collect();
        if checked_rounds.contains(&round) {
            let (ours, examples) = (&updates[0].tensors, tensors::read_shard(shard(0), &recipe.model).unwrap());
            let drift = distance(ours, &definition::update(&work, &state.parameters, &examples));
            let fewer = TrainWork { inner_steps: recipe.inner_steps - 1, ..work.clone() };
            let fewer = compute_update(&fewer, &checkpoint, shard(0)).unwrap();
            let from_stale = stale.as_ref().map(|old: &Vec<u8>| compute_update(&work, old, shard(0)).unwrap());
            let stale_distance = from_stale.as_ref().map_or(f64::NAN, |update| distance(update, ours));
            println!(
                "round {round}: f64 definition {drift:.1e}, one step fewer {:.3}, previous checkpoint {stale_distance:.2}, norm {:.2}",
                distance(&fewer, ours),
                norm(ours)
            );
            assert!(drift <= HONEST_DRIFT_MAX, "round {round}: {drift:e}");
            assert!(!compare(ours, &fewer, GRADIENT_TOLERANCE), "round {round}: a step left out");
            assert!(from_stale.is_none_or(|update| !compare(ours, &update, GRADIENT_TOLERANCE)), "round {round}: stale");
            assert!(!compare(ours, &updates[1].tensors, GRADIENT_TOLERANCE), "round {round}: another unit's update");
        }
        stale = Some(checkpoint);
        state = merge::step(recipe.merge, &recipe.outer_optimizer, &state, &updates);
    }
}
