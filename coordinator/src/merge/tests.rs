//! The outer step by hand, in any order of arrival, and the files around it.

use manyhands_protocol::model::{Input, InputType, Layer, Loss};
use proptest::prelude::*;

use super::*;

const OUTER: OuterOptimizer = OuterOptimizer::Nesterov { learning_rate: 0.5, momentum: 0.5 };

/// The plain mean of updates of equal weight.
fn step(outer: &OuterOptimizer, state: &OuterState, updates: &[(UnitId, Vec<Vec<f32>>)]) -> OuterState {
    let updates: Vec<Update> =
        updates.iter().map(|(unit, tensors)| Update { unit: *unit, weight: 1.0, tensors: tensors.clone() }).collect();
    super::step(MergeRule::Mean, outer, state, &updates)
}

fn model() -> Model {
    Model {
        input: Input { shape: vec![3], dtype: InputType::F32, scale: 1.0, offset: 0.0 },
        layers: vec![Layer::Dense { outputs: 2 }],
        loss: Loss::SoftmaxCrossEntropy,
    }
}

/// Two rounds with learning rate ½ and momentum ½, worked out on paper.
#[test]
fn two_steps_by_hand() {
    let start = OuterState::new(vec![vec![1.0, -2.0], vec![4.0]]);
    let updates = [(UnitId(2), vec![vec![1.0, 0.0], vec![-2.0]]), (UnitId(1), vec![vec![3.0, 4.0], vec![6.0]])];
    // g = (2, 2, 2); v = g; p ← p − ½ (g + ½ v) = p − 1.5
    let first = step(&OUTER, &start, &updates);
    assert_eq!(first.velocity, [vec![2.0, 2.0], vec![2.0]]);
    assert_eq!(first.parameters, [vec![-0.5, -3.5], vec![2.5]]);
    // g = (1, 0, −4); v ← ½·2 + g = (2, 1, −3); p ← p − ½ (g + ½ v) = p − (1, 0.25, −2.75)
    let second = step(&OUTER, &first, &[(UnitId(3), vec![vec![1.0, 0.0], vec![-4.0]])]);
    assert_eq!(second.velocity, [vec![2.0, 1.0], vec![-3.0]]);
    assert_eq!(second.parameters, [vec![-1.5, -3.75], vec![5.25]]);
}

#[test]
fn without_updates_nothing_moves() {
    let state = OuterState { parameters: vec![vec![1.0]], velocity: vec![vec![2.0]] };
    assert_eq!(step(&OUTER, &state, &[]), state);
}

/// Values whose f32 sums differ by order: adding in order of arrival would show.
#[test]
fn sums_are_canonical_where_order_would_matter() {
    let update = |unit, value| (UnitId(unit), vec![vec![value]]);
    let state = OuterState::new(vec![vec![0.0f32]]);
    let updates = [update(1, 1e30), update(2, -1e30), update(3, 1.0)];
    let mut other = updates.clone();
    other.rotate_left(1); // −1e30 + 1 + 1e30 is 0 in f64
    let merged = step(&OUTER, &state, &updates);
    assert_eq!(merged, step(&OUTER, &state, &other));
    assert_eq!(merged.velocity, [vec![1.0f32 / 3.0]]);
}

/// Four updates that f32 would lose one by one beside the first.
#[test]
fn sums_keep_what_f32_would_drop() {
    let tiny = 2f32.powi(-25);
    let updates: Vec<_> = (0..5).map(|i| (UnitId(i), vec![vec![if i == 0 { 1.0 } else { tiny }]])).collect();
    let merged = step(&OUTER, &OuterState::new(vec![vec![0.0f32]]), &updates);
    assert_eq!(merged.velocity, [vec![((1.0 + 2f64.powi(-23)) / 5.0) as f32]]);
    assert_ne!(merged.velocity, [vec![0.2f32]]);
}

proptest! {
    #[test]
    fn arrival_order_never_changes_a_byte(
        seed in prop::collection::vec(prop::collection::vec(-1e3f32..1e3, 8), 1..7),
        order in any::<prop::sample::Index>(),
        swap in any::<prop::sample::Index>(),
        start in prop::collection::vec(-10f32..10.0, 8),
        velocity in prop::collection::vec(-10f32..10.0, 8),
    ) {
        let split = |values: &[f32]| vec![values[..6].to_vec(), values[6..].to_vec()];
        let updates: Vec<_> = seed.iter().enumerate().map(|(i, v)| (UnitId(i as u64), split(v))).collect();
        let mut permuted = updates.clone();
        permuted.rotate_left(order.index(updates.len()));
        permuted.swap(0, swap.index(updates.len()));
        let state = OuterState { parameters: split(&start), velocity: split(&velocity) };
        let bytes = |updates: &[(UnitId, Vec<Vec<f32>>)]| {
            let next = step(&OUTER, &state, updates);
            (write_tensors(&model(), &next.parameters), write_tensors(&model(), &next.velocity))
        };
        prop_assert_eq!(bytes(&updates), bytes(&permuted));
    }

    /// Nesterov with momentum 0 is plain SGD on the mean, and equal updates merge as one.
    #[test]
    fn without_momentum_it_is_sgd(update in prop::collection::vec(-1f32..1.0, 4), copies in 1u64..5) {
        let plain = OuterOptimizer::Nesterov { learning_rate: 1.0, momentum: 0.0 };
        let state = OuterState::new(vec![vec![0.0; 4]]);
        let updates: Vec<_> = (0..copies).map(|i| (UnitId(i), vec![update.clone()])).collect();
        let next = step(&plain, &state, &updates);
        for (p, u) in next.parameters[0].iter().zip(&update) {
            prop_assert!((p + u).abs() <= 1e-6 * u.abs());
        }
    }
}

#[test]
fn tensors_round_trip_and_foreign_ones_are_refused() {
    let parameters = initial_parameters(&model(), 5);
    let bytes = write_tensors(&model(), &parameters);
    assert_eq!(read_tensors(&model(), &bytes), Ok(parameters.clone()));
    assert_eq!(bytes, write_tensors(&model(), &parameters));
    let wider = Model { layers: vec![Layer::Dense { outputs: 3 }], ..model() };
    assert!(matches!(read_tensors(&wider, &bytes), Err(TensorError::Shape { .. })));
    assert!(read_tensors(&model(), &bytes[..bytes.len() - 4]).is_err());
}
