//! What no rule may do: depend on the order, reward a sign, or follow one liar however loud.

use manyhands_protocol::UnitId;
use proptest::prelude::*;

use super::*;
use crate::keys::sha256;

const RULES: [MergeRule; 3] = [MergeRule::Mean, MergeRule::TrimmedMean { percent: 20 }, MergeRule::CenteredClipping];
const ROBUST: [MergeRule; 2] = [MergeRule::TrimmedMean { percent: 34 }, MergeRule::CenteredClipping];

fn updates(values: &[Vec<f32>]) -> Vec<Update> {
    let update = |(unit, values): (usize, &Vec<f32>)| {
        let (head, tail) = values.split_at(values.len() / 2);
        Update { unit: UnitId(unit as u64), weight: 1.0, tensors: vec![head.to_vec(), tail.to_vec()] }
    };
    values.iter().enumerate().map(update).collect()
}

fn merged(rule: MergeRule, updates: &[Update]) -> Vec<f64> {
    combine(rule, &updates.iter().collect::<Vec<_>>()).concat()
}

fn distance_of(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[test]
fn by_hand() {
    let of = |values: &[f32]| updates(&values.iter().map(|&v| vec![v, 0.0]).collect::<Vec<_>>());
    assert_eq!(merged(MergeRule::Mean, &of(&[1.0, 2.0, 6.0])), [3.0, 0.0]);
    // One from each end.
    assert_eq!(merged(MergeRule::TrimmedMean { percent: 20 }, &of(&[0.0, 1.0, 2.0, 900.0, -900.0])), [1.0, 0.0]);
    // The centre is 1, distances are 1, 0, 1, 99, their median 1: the last is clipped to 2 beyond the centre.
    let clipped = merged(MergeRule::CenteredClipping, &of(&[0.0, 1.0, 2.0, 100.0, 1.0]));
    assert_eq!(clipped, [1.0 + 2.0 / 5.0, 0.0]);
    // Half the weight, half the pull.
    let mut lighter = of(&[0.0, 3.0]);
    lighter[1].weight = 0.5;
    assert_eq!(merged(MergeRule::Mean, &lighter), [1.0, 0.0]);
}

#[test]
fn one_or_two_updates_are_their_mean() {
    for rule in RULES {
        assert_eq!(merged(rule, &updates(&[vec![3.0, -1.0]])), [3.0, -1.0], "{rule:?}");
        assert_eq!(merged(rule, &updates(&[vec![3.0, -1.0], vec![1.0, 1.0]])), [2.0, 0.0], "{rule:?}");
    }
}

/// What the robust rules are for, and that the test below can fail: one loud liar moves the plain mean as far as it likes.
#[test]
fn the_plain_mean_follows_one_liar() {
    let mut values = vec![vec![0.0, 1.0], vec![0.1, 1.0], vec![0.0, 0.9], vec![0.1, 0.9]];
    values.push(vec![1e6, -1e6]);
    assert!(merged(MergeRule::Mean, &updates(&values))[0] > 1e5);
    for rule in ROBUST {
        assert!(merged(rule, &updates(&values))[0] < 0.2, "{rule:?}");
    }
}

/// The bytes that any machine must get.
#[test]
fn the_same_bytes_everywhere() {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut all = updates(&(0..7).map(|_| (0..64).map(|_| next()).collect()).collect::<Vec<Vec<f32>>>());
    all[3].weight = 0.75;
    all[5].tensors[1].iter_mut().for_each(|v| *v *= 40.0);
    let digests = RULES.map(|rule| {
        let bytes: Vec<u8> = merged(rule, &all).iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
        hex::encode(&sha256(&bytes)[..8])
    });
    assert_eq!(digests, ["776489ff87fa3e83", "69c78a1597f0cdc4", "ac8da21376205c62"]);
}

/// Between 3 and 9 honest updates, and the values of liars, fewer than half.
fn rounds() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<Vec<f32>>)> {
    let honest = prop::collection::vec(prop::collection::vec(-1f32..1.0, 6), 3..10);
    honest.prop_flat_map(|honest| {
        let most = (honest.len() - 1) / 2;
        let lies = prop::collection::vec(prop::collection::vec(-1e20f32..1e20, 6), 0..=most);
        (Just(honest), lies)
    })
}

proptest! {
    #[test]
    fn order_changes_no_bit(values in prop::collection::vec(prop::collection::vec(-1e3f32..1e3, 6), 1..9), turn in any::<prop::sample::Index>()) {
        for rule in RULES {
            let outer = manyhands_protocol::manifest::OuterOptimizer::Nesterov { learning_rate: 0.5, momentum: 0.5 };
            let state = super::super::OuterState::new(vec![vec![0.0; 3]; 2]);
            let sorted = updates(&values);
            let mut turned = updates(&values);
            turned.rotate_left(turn.index(values.len()));
            let step = |updates: &[Update]| super::super::step(rule, &outer, &state, updates);
            prop_assert_eq!(step(&sorted), step(&turned));
        }
    }

    #[test]
    fn equal_updates_are_their_own_merge(values in prop::collection::vec(-1e3f32..1e3, 6), count in 1usize..9) {
        let exact: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        for rule in ROBUST {
            let all = updates(&vec![values.clone(); count]);
            let got = merged(rule, &all);
            for (got, exact) in got.iter().zip(&exact) {
                prop_assert!((got - exact).abs() <= 1e-12 * exact.abs(), "{:?}", rule);
            }
        }
    }

    /// A minority moves the merge no further than a few times the honest updates' own spread, whatever it sends.
    #[test]
    fn a_minority_has_bounded_influence((honest, lies) in rounds()) {
        let box_diagonal = (0..6).map(|i| {
            let column = || honest.iter().map(|v| f64::from(v[i]));
            let width = column().fold(f64::MIN, f64::max) - column().fold(f64::MAX, f64::min);
            width * width
        }).sum::<f64>().sqrt();
        let reference = merged(MergeRule::Mean, &updates(&honest));
        let all = updates(&[honest.clone(), lies.clone()].concat());
        let clipped = distance_of(&merged(MergeRule::CenteredClipping, &all), &reference);
        prop_assert!(clipped <= (1.0 + 1.0 + CLIP_RADIUS) * box_diagonal + 1e-9, "{clipped} of {box_diagonal}");
        let percent = (100 * lies.len()).div_ceil(honest.len() + lies.len()) as u32;
        let trimmed = distance_of(&merged(MergeRule::TrimmedMean { percent }, &all), &reference);
        prop_assert!(trimmed <= box_diagonal + 1e-9, "{trimmed} of {box_diagonal}");
    }

    /// Neither a loud update nor its opposite pulls further than the radius.
    #[test]
    fn signs_gain_nothing(values in prop::collection::vec(prop::collection::vec(-1f32..1.0, 6), 3..8), scale in 1f32..1e6) {
        let mut loud = values.clone();
        loud.push(values[0].iter().map(|v| v * scale).collect());
        let mut flipped = values.clone();
        flipped.push(values[0].iter().map(|v| -v * scale).collect());
        for all in [updates(&loud), updates(&flipped)] {
            let plain = centre(&all.iter().collect::<Vec<_>>()).concat();
            let own = |u: &Update| distance_of(&u.tensors.concat().iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), &plain);
            let most = all[..values.len()].iter().map(own).fold(0.0, f64::max);
            let moved = distance_of(&merged(MergeRule::CenteredClipping, &all), &plain);
            prop_assert!(moved <= CLIP_RADIUS * most + 1e-9, "{moved} of {most}");
        }
        for distance in [0.0, 0.5, 1.0, 1e3, 1e300] {
            prop_assert!((0.0..=1.0).contains(&clip_factor(distance, 1.0)) && clip_factor(distance, 1.0) * distance <= 1.0 + 1e-12);
        }
    }
}
