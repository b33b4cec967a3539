//! When a gradient unit is settled, and by whom.

use crate::limits;

/// What should happen to an unsettled unit with results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait for a second key, at most until this time.
    Wait { until_ms: u64 },
    /// Compare the first two results.
    Compare,
    /// Let the coordinator's referee compute the unit.
    Referee,
}

/// `results_count` structurally valid results of different keys, the first received at `first_result_ms`. A live lease of another
/// key does not prolong the wait: one volunteer that stalls must not hold a round.
pub fn next_step(results_count: u32, first_result_ms: u64, now_ms: u64, wait_ms: u64) -> Step {
    match results_count {
        0 => Step::Wait { until_ms: u64::MAX },
        1 if now_ms < first_result_ms.saturating_add(wait_ms) => Step::Wait { until_ms: first_result_ms.saturating_add(wait_ms) },
        1 => Step::Referee,
        _ => Step::Compare,
    }
}

/// Whether two executions of one gradient unit agree: `‖a − b‖ ≤ tolerance · ‖a‖`.
/// A NaN anywhere disagrees.
pub fn agree(difference_norm: f64, update_norm: f64) -> bool {
    difference_norm <= limits::GRADIENT_TOLERANCE * update_norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_then_calls_the_referee() {
        assert_eq!(next_step(0, 0, 5, 10), Step::Wait { until_ms: u64::MAX });
        assert_eq!(next_step(1, 100, 109, 10), Step::Wait { until_ms: 110 });
        assert_eq!(next_step(1, 100, 110, 10), Step::Referee);
        assert_eq!(next_step(2, 100, 100, 10), Step::Compare);
    }

    #[test]
    fn five_percent_and_nan_disagree() {
        assert!(agree(0.0, 1.0));
        assert!(agree(0.0199, 1.0));
        assert!(!agree(0.05, 1.0));
        assert!(!agree(0.10, 1.0));
        assert!(!agree(f64::NAN, 1.0));
        assert!(!agree(0.0, f64::NAN));
    }
}
