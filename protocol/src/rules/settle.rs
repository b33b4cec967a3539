//! When a unit is settled, and by whom. A product with a result needs no decision: it is checked at once.

use crate::limits;
use crate::model::Model;

/// What the store knows of an unsettled unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Structurally valid results of different keys.
    pub results_count: u32,
    /// When the first of them was received; irrelevant without one.
    pub first_result_ms: u64,
    /// Live leases of keys that have no result for it.
    pub live_leases_count: u32,
    /// Leases that lapsed or were given back.
    pub leases_ended_count: u32,
    /// Its draw fell on the referee.
    pub audit: bool,
}

/// How long a gradient unit waits after its first result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// For a second key to take it.
    pub replica_ms: u64,
    /// For the result of a second key that has taken it; no shorter than the other.
    pub leased_ms: u64,
}

/// What should happen to an unsettled unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait for a key's result, at most until this time.
    Wait { until_ms: u64 },
    /// Compare the first two results.
    Compare,
    /// Let the coordinator's referee compute the unit.
    Referee,
}

/// A second key at work on the unit gets longer for its result than there is for one to come, and no more than that: one that
/// stalls must not hold a round.
/// A unit that its keys let go again and again is one that none of them can compute, or wants to.
pub fn next_step(unit: Waiting, now_ms: u64, waits: Waits) -> Step {
    let wait_ms = if unit.live_leases_count > 0 { waits.replica_ms.max(waits.leased_ms) } else { waits.replica_ms };
    let until_ms = unit.first_result_ms.saturating_add(wait_ms);
    match unit.results_count {
        _ if unit.audit => Step::Referee,
        0 if unit.leases_ended_count >= limits::LEASES_ENDED_MAX && unit.live_leases_count == 0 => Step::Referee,
        0 => Step::Wait { until_ms: u64::MAX },
        1 if now_ms < until_ms => Step::Wait { until_ms },
        1 => Step::Referee,
        _ => Step::Compare,
    }
}

/// How far two executions of a unit of this model may be apart. A cap: where honest ones drift further, the referee decides.
pub fn tolerance(model: &Model) -> f64 {
    if model.vocabulary().is_some() { limits::GRADIENT_TOLERANCE_SEQUENCE } else { limits::GRADIENT_TOLERANCE }
}

/// Whether two executions of one gradient unit agree: `‖a − b‖ ≤ tolerance · ‖a‖`.
/// A NaN or an infinity anywhere disagrees.
pub fn agree(difference_norm: f64, update_norm: f64, tolerance: f64) -> bool {
    update_norm.is_finite() && difference_norm <= tolerance * update_norm
}

/// Executions from the checkpoint's neighbours that the referee tries before it says that a result is a lie.
pub const ROUNDING_RUNS: u64 = 8;
/// A result that is further than this from the referee's is one without that, as a share of the update's norm: what is
/// nobody's work must not cost so much.
const ROUNDING_DISTANCE_MAX: f64 = 0.25;

/// Whether rounding may be all that a result at this distance from the referee's is off by. NaN is not.
pub fn may_be_rounding(distance: f64) -> bool {
    distance <= ROUNDING_DISTANCE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Input, InputType, Layer, Loss};

    const WAITS: Waits = Waits { replica_ms: 10, leased_ms: 40 };

    #[test]
    fn waits_then_calls_the_referee() {
        let unit = |results_count, live_leases_count| Waiting {
            results_count,
            first_result_ms: 100,
            live_leases_count,
            leases_ended_count: 0,
            audit: false,
        };
        assert_eq!(next_step(unit(0, 0), 500, WAITS), Step::Wait { until_ms: u64::MAX });
        assert_eq!(next_step(unit(1, 0), 109, WAITS), Step::Wait { until_ms: 110 });
        assert_eq!(next_step(unit(1, 0), 110, WAITS), Step::Referee);
        assert_eq!(next_step(unit(1, 1), 110, WAITS), Step::Wait { until_ms: 140 });
        assert_eq!(next_step(unit(1, 1), 140, WAITS), Step::Referee);
        assert_eq!(next_step(unit(1, 1), 500, Waits { replica_ms: u64::MAX, ..WAITS }), Step::Wait { until_ms: u64::MAX });
        assert_eq!(next_step(unit(2, 0), 100, WAITS), Step::Compare);
        for results_count in 0..3 {
            assert_eq!(next_step(Waiting { audit: true, ..unit(results_count, 1) }, 100, WAITS), Step::Referee);
        }
    }

    #[test]
    fn what_nobody_computes_the_referee_does() {
        let ended = |leases_ended_count, live_leases_count| {
            next_step(
                Waiting { results_count: 0, first_result_ms: 0, live_leases_count, leases_ended_count, audit: false },
                5,
                WAITS,
            )
        };
        assert_eq!(ended(limits::LEASES_ENDED_MAX - 1, 0), Step::Wait { until_ms: u64::MAX });
        assert_eq!(ended(limits::LEASES_ENDED_MAX, 1), Step::Wait { until_ms: u64::MAX });
        assert_eq!(ended(limits::LEASES_ENDED_MAX, 0), Step::Referee);
    }

    #[test]
    fn perturbations_past_the_cap_and_nan_disagree() {
        for tolerance in [limits::GRADIENT_TOLERANCE, limits::GRADIENT_TOLERANCE_SEQUENCE] {
            assert!(agree(0.0, 1.0, tolerance));
            assert!(agree(0.999 * tolerance, 1.0, tolerance));
            assert!(!agree(1.001 * tolerance, 1.0, tolerance));
            assert!(!agree(0.10, 1.0, tolerance));
            assert!(!agree(f64::NAN, 1.0, tolerance));
            assert!(!agree(0.0, f64::NAN, tolerance));
            assert!(!agree(f64::INFINITY, f64::INFINITY, tolerance));
        }
        assert!(!agree(0.05, 1.0, limits::GRADIENT_TOLERANCE));
    }

    #[test]
    fn each_family_has_its_cap() {
        let model = |dtype, layers| Model {
            input: Input { shape: vec![4], dtype, scale: 1.0, offset: 0.0 },
            layers,
            loss: Loss::SoftmaxCrossEntropy,
        };
        let dense = Layer::Dense { outputs: 3 };
        assert_eq!(tolerance(&model(InputType::F32, vec![dense])), 0.02);
        assert_eq!(tolerance(&model(InputType::U8, vec![Layer::Embedding { vocabulary: 8, width: 4 }])), 0.05);
    }
}
