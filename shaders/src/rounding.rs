//! The one formula that tolerances share.

use crate::UNIT_ROUNDOFF;

/// `γ = ρu / (1 − ρu)`: the relative error of a value that passes at most ρ roundings (Higham, Accuracy and Stability of
/// Numerical Algorithms, 2nd ed., §3.1).
pub(crate) fn gamma(roundings: f64) -> f64 {
    roundings * UNIT_ROUNDOFF / (1.0 - roundings * UNIT_ROUNDOFF)
}

/// Roundings a term of a sum of `count` passes where runs of 64 are summed and their sums added up.
pub(crate) fn chunked(count: usize) -> f64 {
    64.0 + (count as f64 / 64.0).ceil()
}
