//! Is one stretch of a unit's training an honest one? The coordinator computes it again from the state that a volunteer showed
//! before it, and compares what it comes to with the state shown after it: parameters by how far the stretch moved them, the
//! optimiser's state by what it does to the steps that follow. What it is measured by comes from the state that was shown, so that
//! state must be one that training can lead to. docs/verification.md, "Challenged segments", has the bounds.
//!
//! It blocks for as long as that takes. Whether what is shown is what was committed to is its caller's question.

use std::collections::BTreeMap;

use futures::executor::block_on;
use manyhands::engine::states::{Ends, Tensors, initial_state, keyed_state};
use manyhands::plan::{State, StateKind};
use manyhands::tensors::Shard;
use manyhands::{Control, Engine, EngineError};
use manyhands_protocol::limits::UPDATE_NORM_RATIO_MAX;
use manyhands_protocol::rules::settle::{ROUNDING_RUNS, agree, may_be_rounding, tolerance};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::{FLUSH, UNIT_ROUNDOFF};

use super::freivalds::gamma;
use super::gradient;
use crate::referee::neighbour;

/// Times as far as its own gradients moved it that a segment may be measured by. The rest is what a velocity from before carries
/// on, of which the gradients tell nothing: four times as much is usual for a momentum of 0.9 over four steps.
const CARRIED_MAX: f64 = 4.0;
/// What an optimiser's state may exceed its bound by: far more than the rounding of any unit's steps.
const ROUNDED: f64 = 1e-3;

/// Why a segment is not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SegmentFault {
    #[error("the segment cannot be computed from its first state: {0}")]
    Replay(String),
    #[error("{0} of the segment's {1} state is not that of its step")]
    Counter(&'static str, &'static str),
    #[error("{0} of the segment's {1} state are larger than training makes them")]
    TooLarge(&'static str, &'static str),
    #[error("the segment's last state is not where its first leads: {kind} differ by {share:.3} of what is expected")]
    Elsewhere { kind: &'static str, share: f64 },
    #[error("the model cannot be run: {0}")]
    Model(String),
}

/// A segment as it was shown, and what the coordinator has.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub work: &'a TrainWork,
    /// The unit's checkpoint and its update, in the model's order.
    pub checkpoint: &'a [Vec<f32>],
    pub delta: &'a [Vec<f32>],
    pub shard: &'a Shard,
    pub first_step: u32,
    pub steps: u32,
}

/// A difference, and the norm it is measured by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Apart {
    pub difference: f64,
    pub norm: f64,
}

impl Apart {
    /// Of pairs of a difference and what it is measured by.
    fn of(pairs: impl Iterator<Item = [f64; 2]>) -> Apart {
        let [difference, norm] = pairs.fold([0.0; 2], |[a, b], [difference, norm]| [a + difference.powi(2), b + norm.powi(2)]);
        Apart { difference: difference.sqrt(), norm: norm.sqrt() }
    }

    /// Of quadruples: a value before, where it had come to without any gradient, the coordinator's own and the one shown.
    fn moved(values: impl Iterator<Item = [f64; 4]>) -> Apart {
        let sums = values.fold([0.0; 3], |[apart, moved, driven], [before, coasted, own, shown]| {
            [apart + (own - shown).powi(2), moved + (own - before).powi(2), driven + (own - coasted).powi(2)]
        });
        let [difference, moved, driven] = sums.map(f64::sqrt);
        Apart { difference, norm: moved.min(CARRIED_MAX * driven) }
    }

    pub fn share(self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { self.difference / self.norm }
    }
}

/// How far a state is from the expected one, by kind.
pub type Distances = BTreeMap<&'static str, Apart>;

/// What a check that passed has to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreed {
    /// From the execution that it agreed with.
    pub apart: Distances,
    /// Of the neighbour of the first state which that execution began with, where it began with one.
    pub run: Option<u64>,
}

type Keyed = BTreeMap<State, Vec<f32>>;

impl Segment<'_> {
    /// Computes the segment and compares.
    pub fn check(&self, ends: Ends) -> Result<Agreed, SegmentFault> {
        let model = |e: EngineError| SegmentFault::Model(e.to_string());
        let keyed = |state: Tensors| Ok(keyed_state(self.work, state).map_err(model)?.into_iter().collect::<Keyed>());
        let first = match ends.first {
            Some(first) => first,
            None => initial_state(self.work, self.checkpoint).map_err(model)?,
        };
        let before = keyed(first.clone())?;
        let last = match ends.last {
            Some(last) => keyed(last)?,
            None => self.output(),
        };
        let end = self.first_step + self.steps;
        for (state, step, which) in [(&before, self.first_step, "first"), (&last, end, "last")] {
            self.check_counters(state, step, which)?;
            self.check_sizes(state, step, which)?;
        }
        let own = keyed(self.replay(first.clone())?)?;
        let apart = self.distances(&before, &own, &last);
        let Some((kind, share)) = self.beyond(&apart) else { return Ok(Agreed { apart, run: None }) };
        // Where rounding decides what a ReLU lets through, honest executions differ by more: see `referee::rounding_gives`.
        if apart.values().all(|apart| may_be_rounding(apart.share())) {
            for run in 0..ROUNDING_RUNS {
                let Ok(near) = self.replay(self.neighbour(&first, run)) else { continue };
                let apart = self.distances(&before, &keyed(near)?, &last);
                if self.beyond(&apart).is_none() {
                    return Ok(Agreed { apart, run: Some(run) });
                }
            }
        }
        Err(SegmentFault::Elsewhere { kind, share })
    }

    /// The parameters of the unit's last state, of which nothing else has an effect.
    fn output(&self) -> Keyed {
        let subtract = |(before, delta): (&Vec<f32>, &Vec<f32>)| before.iter().zip(delta).map(|(a, b)| a - b).collect();
        let after = self.checkpoint.iter().zip(self.delta).map(subtract);
        (0..).map(|parameter| State { parameter: Some(parameter), kind: StateKind::Parameter }).zip(after).collect()
    }

    fn replay(&self, first: Tensors) -> Result<Tensors, SegmentFault> {
        let (engine, control, from) = (Engine::cpu(), Control::new(), (self.first_step, first));
        let run = engine.run_from(self.work, self.checkpoint, self.shard, &from, self.steps, &control);
        block_on(run).map_err(|e| match e {
            EngineError::NotFinite(_) => SegmentFault::Replay(e.to_string()),
            // Not the volunteer's fault.
            other => SegmentFault::Model(other.to_string()),
        })
    }

    /// The state with each parameter moved by its last bit.
    fn neighbour(&self, first: &Tensors, run: u64) -> Tensors {
        let names: Vec<_> = self.work.model.parameters().unwrap_or_default().into_iter().map(|p| p.name).collect();
        let moved = |(name, values): &(String, Vec<f32>)| match names.contains(name) {
            true => (name.clone(), neighbour(std::slice::from_ref(values), run).remove(0)),
            false => (name.clone(), values.clone()),
        };
        first.iter().map(moved).collect()
    }

    /// What counts steps is known beforehand: the optimiser's running powers within a rounding for each step, dropout's counter
    /// to the bit.
    fn check_counters(&self, state: &Keyed, step: u32, which: &'static str) -> Result<(), SegmentFault> {
        let of = |kind| state.get(&State { parameter: None, kind });
        if let (Some(powers), InnerOptimizer::AdamW { beta1, beta2, .. }) = (of(StateKind::Powers), &self.work.optimizer) {
            let rounded = gamma(f64::from(step), UNIT_ROUNDOFF);
            let expected = [*beta1, *beta2].map(|beta| f64::from(beta).powi(step as i32));
            let near = |(power, expected): (&f32, &f64)| (f64::from(*power) - expected).abs() <= rounded * expected + FLUSH;
            if !(powers.iter().zip(&expected).all(near) && powers[2..].iter().all(|&rest| rest == 0.0)) {
                return Err(SegmentFault::Counter("the powers", which));
            }
        }
        if let Some(counter) = of(StateKind::InnerStep)
            && !counter.iter().map(|word| word.to_bits()).eq([step, 0, 0, 0])
        {
            return Err(SegmentFault::Counter("the counter", which));
        }
        Ok(())
    }

    /// Parameters are as near the checkpoint as those of an update must be, and so is where SGD's velocities would carry them until the
    /// unit's end. AdamW's first moments are as small beside the second ones as the same gradients make both. Where gradients are
    /// clipped, neither optimiser's state is larger than that lets it be.
    fn check_sizes(&self, state: &Keyed, step: u32, which: &'static str) -> Result<(), SegmentFault> {
        let of = |kind| state.iter().filter(move |(state, _)| state.kind == kind).map(|(_, values)| values);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value.powi(2)).sum::<f64>().sqrt();
        let most = UPDATE_NORM_RATIO_MAX * (gradient::norm(self.checkpoint) + 1.0);
        let pairs = of(StateKind::Parameter).flatten().zip(self.checkpoint.iter().flatten());
        let far = norm(&mut pairs.map(|(&value, &checkpoint)| f64::from(value) - f64::from(checkpoint)));
        // Of NaN as well.
        let is_too_large = |norm: f64| !norm.is_finite() || norm > most;
        if is_too_large(far) {
            return Err(SegmentFault::TooLarge("the parameters", which));
        }
        match self.work.optimizer {
            InnerOptimizer::Sgd { learning_rate, momentum, clip_norm } => {
                let [rate, momentum, clip] = [learning_rate, momentum, clip_norm].map(f64::from);
                let speed = norm(&mut of(StateKind::Velocity).flatten().map(|&value| f64::from(value)));
                let left: f64 = (1..=self.work.inner_steps.saturating_sub(step) as i32).map(|step| momentum.powi(step)).sum();
                let clipped = clip * (1.0 - momentum.powi(step as i32)) / (1.0 - momentum) * (1.0 + ROUNDED);
                if is_too_large(rate * left * speed) || (clip > 0.0 && speed > clipped) {
                    return Err(SegmentFault::TooLarge("the velocities", which));
                }
            }
            InnerOptimizer::AdamW { beta1, beta2, clip_norm, .. } => {
                let sum: f64 = of(StateKind::SecondMoment).flatten().map(|&v| f64::from(v)).sum();
                let clipped = f64::from(clip_norm).powi(2) * (1.0 - f64::from(beta2).powi(step as i32)) * (1.0 + ROUNDED);
                if clip_norm > 0.0 && sum > clipped {
                    return Err(SegmentFault::TooLarge("the second moments", which));
                }
                let ratio = moments_ratio([beta1, beta2].map(f64::from), step) * (1.0 + ROUNDED);
                // What small squares of gradients lost to flushing, in all.
                let flushed = 2.0 * FLUSH / (1.0 - f64::from(beta2));
                let sane = |(&m, &v): (&f32, &f32)| f64::from(m).abs() <= ratio * (f64::from(v) + flushed).sqrt();
                if !of(StateKind::FirstMoment).flatten().zip(of(StateKind::SecondMoment).flatten()).all(sane) {
                    return Err(SegmentFault::TooLarge("the moments", which));
                }
            }
        }
        Ok(())
    }

    /// The first kind that is further apart than the tolerance.
    fn beyond(&self, apart: &Distances) -> Option<(&'static str, f64)> {
        let most = tolerance(&self.work.model);
        let beyond = |(_, apart): &(&&'static str, &Apart)| !agree(apart.difference, apart.norm, most);
        apart.iter().find(beyond).map(|(kind, apart)| (*kind, apart.share()))
    }

    /// How far `last` is from `own`, both after `before`; of the optimiser's state only where `last` has it.
    fn distances(&self, before: &Keyed, own: &Keyed, last: &Keyed) -> Distances {
        let values = |of: &Keyed, state: State| of.get(&state).cloned().unwrap_or_default();
        // Of all values of a kind: before, the velocity before, own, last.
        let of = |kind: StateKind| {
            let states = own.keys().filter(move |state| state.kind == kind && last.contains_key(state));
            states.flat_map(move |&state| {
                let velocity = values(before, State { kind: StateKind::Velocity, ..state });
                let [before, own, last] = [before, own, last].map(|of| values(of, state));
                let velocity = move |i| velocity.get(i).copied().unwrap_or_default();
                (0..own.len()).map(move |i| [before[i], velocity(i), own[i], last[i]].map(f64::from))
            })
        };
        let mut distances = Distances::new();
        match self.work.optimizer {
            InnerOptimizer::Sgd { learning_rate, momentum, .. } => {
                let [rate, momentum] = [learning_rate, momentum].map(f64::from);
                let way: f64 = (1..=self.steps as i32).map(|step| rate * momentum.powi(step)).sum();
                let left = momentum.powi(self.steps as i32);
                let moved = |[before, velocity, own, last]: [f64; 4]| [before, before - way * velocity, own, last];
                distances.insert("the parameters", Apart::moved(of(StateKind::Parameter).map(moved)));
                let moved = |[before, _, own, last]: [f64; 4]| [before, left * before, own, last];
                distances.insert("the velocities", Apart::moved(of(StateKind::Velocity).map(moved)));
            }
            InnerOptimizer::AdamW { beta1, beta2, epsilon, .. } => {
                let end = (self.first_step + self.steps) as i32;
                // Its moments cannot carry a value further than gradients do: `check_sizes`.
                let moved = |[before, _, own, last]: [f64; 4]| [before, before, own, last];
                distances.insert("the parameters", Apart::moved(of(StateKind::Parameter).map(moved)));
                let [first, second] = [beta1, beta2].map(|beta| 1.0 - f64::from(beta).powi(end));
                let root = |v: f64| (v / second).sqrt() + f64::from(epsilon);
                let moments = of(StateKind::FirstMoment).zip(of(StateKind::SecondMoment));
                // What the moments are for: the direction of a step, and how soon new gradients turn it. A value that hardly
                // learns counts like any other, for its next step is no smaller.
                let direction = |([.., own_m, m], [.., own_v, v]): ([f64; 4], [f64; 4])| {
                    let [own, shown] = [own_m / first / root(own_v), m / first / root(v)];
                    [own - shown, own]
                };
                let scale = |[.., own, last]: [f64; 4]| {
                    let [own, last] = [root(own), root(last)];
                    [(own - last) / own.max(last), 1.0]
                };
                distances.insert("the moments' directions", Apart::of(moments.map(direction)));
                distances.insert("the second moments' roots", Apart::of(of(StateKind::SecondMoment).map(scale)));
            }
        }
        distances
    }
}

/// Most that the first moment of AdamW is beside the root of the second after `steps`: with m = Σ aᵢgᵢ and v = Σ bᵢgᵢ² of the same
/// gradients, m² ≤ v Σ aᵢ²/bᵢ (Cauchy and Schwarz); aᵢ = (1 − β₁)β₁ⁱ, bᵢ = (1 − β₂)β₂ⁱ.
fn moments_ratio([beta1, beta2]: [f64; 2], steps: u32) -> f64 {
    // Without a bound where only the last square is kept.
    let each = if beta1 == 0.0 { 0.0 } else { beta1.powi(2) / beta2 };
    let sum: f64 = (0..steps as i32).map(|i| each.powi(i)).sum();
    ((1.0 - beta1).powi(2) / (1.0 - beta2) * sum).sqrt()
}

#[cfg(test)]
mod tests;
