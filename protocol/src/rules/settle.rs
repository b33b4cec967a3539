//! When a unit is settled, and by whom. A product with a result needs no decision: it is checked at once.

use crate::limits;

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
        0 if unit.leases_ended_count >= limits::LEASES_ENDED_MAX && unit.live_leases_count == 0 => Step::Referee,
        0 => Step::Wait { until_ms: u64::MAX },
        1 if now_ms < until_ms => Step::Wait { until_ms },
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

    const WAITS: Waits = Waits { replica_ms: 10, leased_ms: 40 };

    #[test]
    fn waits_then_calls_the_referee() {
        let unit = |results_count, live_leases_count| Waiting {
            results_count,
            first_result_ms: 100,
            live_leases_count,
            leases_ended_count: 0,
        };
        assert_eq!(next_step(unit(0, 0), 500, WAITS), Step::Wait { until_ms: u64::MAX });
        assert_eq!(next_step(unit(1, 0), 109, WAITS), Step::Wait { until_ms: 110 });
        assert_eq!(next_step(unit(1, 0), 110, WAITS), Step::Referee);
        assert_eq!(next_step(unit(1, 1), 110, WAITS), Step::Wait { until_ms: 140 });
        assert_eq!(next_step(unit(1, 1), 140, WAITS), Step::Referee);
        assert_eq!(next_step(unit(1, 1), 500, Waits { replica_ms: u64::MAX, ..WAITS }), Step::Wait { until_ms: u64::MAX });
        assert_eq!(next_step(unit(2, 0), 100, WAITS), Step::Compare);
    }

    #[test]
    fn what_nobody_computes_the_referee_does() {
        let ended = |leases_ended_count, live_leases_count| {
            next_step(Waiting { results_count: 0, first_result_ms: 0, live_leases_count, leases_ended_count }, 5, WAITS)
        };
        assert_eq!(ended(limits::LEASES_ENDED_MAX - 1, 0), Step::Wait { until_ms: u64::MAX });
        assert_eq!(ended(limits::LEASES_ENDED_MAX, 1), Step::Wait { until_ms: u64::MAX });
        assert_eq!(ended(limits::LEASES_ENDED_MAX, 0), Step::Referee);
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
