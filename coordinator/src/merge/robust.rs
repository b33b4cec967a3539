//! What a round's updates come to: centred clipping, a trimmed mean, or the plain mean. Pure and canonical: f64 sums in the
//! order given, additions, products, quotients and square roots alone, all of which IEEE 754 fixes to the bit.
//!
//! It judges no update: what is far from the others counts for less, whoever is right.

use manyhands_protocol::manifest::MergeRule;

use super::Update;

/// Clipped is what is further from the centre than this many times the median distance. Honest updates of one round are
/// about equally far from it; docs/verification.md says what a lie inside the radius can gain.
const CLIP_RADIUS: f64 = 2.0;

type Tensors = Vec<Vec<f64>>;

/// The round's pseudo-gradient. Panics without updates, and where their tensors differ in size.
pub fn combine(rule: MergeRule, updates: &[&Update]) -> Tensors {
    match rule {
        MergeRule::Mean => weighted_mean(updates),
        MergeRule::TrimmedMean { percent } => trimmed_mean(updates, percent),
        MergeRule::CenteredClipping => centered_clipping(updates),
    }
}

fn weights_sum(updates: &[&Update]) -> f64 {
    updates.iter().map(|update| update.weight).sum()
}

fn weighted_mean(updates: &[&Update]) -> Tensors {
    let all = weights_sum(updates);
    let mut sums: Tensors = updates[0].tensors.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
    for update in updates {
        for (sums, tensor) in sums.iter_mut().zip(&update.tensors) {
            assert_eq!(sums.len(), tensor.len(), "values of an update's tensor");
            sums.iter_mut().zip(tensor).for_each(|(sum, &value)| *sum += update.weight * f64::from(value));
        }
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= all);
    sums
}

/// Per coordinate the mean of what is left when the `percent` smallest and the `percent` largest are gone, rounded up, as
/// long as something is left (Yin et al., Byzantine-Robust Distributed Learning, 2018).
fn trimmed_mean(updates: &[&Update], percent: u32) -> Tensors {
    let trimmed = (updates.len() * percent as usize).div_ceil(100).min((updates.len() - 1) / 2);
    each_coordinate(updates, |column| {
        let kept = &column[trimmed..column.len() - trimmed];
        let all: f64 = kept.iter().map(|&(_, weight)| weight).sum();
        kept.iter().map(|&(value, weight)| weight * f64::from(value)).sum::<f64>() / all
    })
}

/// One step of centred clipping (Karimireddy et al., Learning from History for Byzantine Robust Optimization, 2021) from the
/// coordinate-wise median: `c + Σ wᵢ (xᵢ − c) min(1, r/‖xᵢ − c‖) / Σ wᵢ`.
fn centered_clipping(updates: &[&Update]) -> Tensors {
    let mut merged = centre(updates);
    let distances: Vec<f64> = updates.iter().map(|update| distance(update, &merged)).collect();
    let (radius, all) = (CLIP_RADIUS * median(&distances), weights_sum(updates));
    let shares: Vec<f64> = updates.iter().zip(&distances).map(|(u, &d)| u.weight * clip_factor(d, radius) / all).collect();
    for (at, centre) in merged.iter_mut().enumerate() {
        for (i, value) in centre.iter_mut().enumerate() {
            let offsets = updates.iter().zip(&shares).map(|(update, share)| share * (f64::from(update.tensors[at][i]) - *value));
            *value += offsets.sum::<f64>();
        }
    }
    merged
}

/// The median of each coordinate.
fn centre(updates: &[&Update]) -> Tensors {
    each_coordinate(updates, |column| {
        let (lower, upper) = (column[(column.len() - 1) / 2].0, column[column.len() / 2].0);
        (f64::from(lower) + f64::from(upper)) / 2.0
    })
}

/// Between 0 and 1: no update counts for more than its weight, or against its direction.
fn clip_factor(distance: f64, radius: f64) -> f64 {
    if distance <= radius { 1.0 } else { radius / distance }
}

fn distance(update: &Update, centre: &Tensors) -> f64 {
    let pairs = update.tensors.iter().flatten().zip(centre.iter().flatten());
    let squares = pairs.map(|(&value, &centre)| (f64::from(value) - centre) * (f64::from(value) - centre));
    squares.sum::<f64>().sqrt()
}

/// The lower of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// Applies `of` to each coordinate's values in ascending order, equal ones in the order given, each with its weight.
fn each_coordinate(updates: &[&Update], of: impl Fn(&[(f32, f64)]) -> f64) -> Tensors {
    let mut column = Vec::with_capacity(updates.len());
    let tensors = updates[0].tensors.iter().enumerate();
    tensors
        .map(|(at, tensor)| {
            assert!(updates.iter().all(|u| u.tensors[at].len() == tensor.len()), "values of an update's tensor");
            (0..tensor.len())
                .map(|i| {
                    column.clear();
                    column.extend(updates.iter().map(|update| (update.tensors[at][i], update.weight)));
                    column.sort_by(|a, b| a.0.total_cmp(&b.0));
                    of(&column)
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests;
