//! The one comparison of a computed tensor with an expected one. It never passes on NaN, on another length, or on
//! nothing at all.

/// How a tensor differs from what was expected.
#[derive(Debug, Clone, PartialEq)]
pub enum Mismatch {
    /// Nothing was compared.
    Empty,
    Length {
        got: usize,
        expected: usize,
        tolerance: usize,
    },
    Value {
        index: usize,
        got: f32,
        expected: f64,
        tolerance: f64,
    },
}

impl core::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Mismatch::Empty => write!(f, "nothing to compare"),
            Mismatch::Length { got, expected, tolerance } => {
                write!(f, "{got} values, {expected} expected with {tolerance} tolerances")
            }
            Mismatch::Value { index, got, expected, tolerance } => {
                write!(f, "value {index} is {got}, expected {expected} within {tolerance:e}")
            }
        }
    }
}

/// Compares value by value: `|got − expected| ≤ tolerance`. Gives the largest share of its tolerance that any value used.
pub fn compare(got: &[f32], expected: &[f64], tolerance: &[f64]) -> Result<f64, Mismatch> {
    if got.len() != expected.len() || got.len() != tolerance.len() {
        return Err(Mismatch::Length { got: got.len(), expected: expected.len(), tolerance: tolerance.len() });
    }
    if got.is_empty() {
        return Err(Mismatch::Empty);
    }
    let mut worst = 0.0f64;
    for (index, ((&got, &expected), &tolerance)) in got.iter().zip(expected).zip(tolerance).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        // Written so that NaN on either side fails.
        #[allow(clippy::neg_cmp_op_on_partial_ord)]
        if !(difference <= tolerance) {
            return Err(Mismatch::Value { index, got, expected, tolerance });
        }
        if difference > 0.0 {
            worst = worst.max(difference / tolerance);
        }
    }
    Ok(worst)
}

/// `‖a − b‖ / ‖b‖` over all tensors together. `None` where that says nothing: other lengths, no values, a zero `b`, or
/// anything not finite.
pub fn relative_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> Option<f64> {
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
        return None;
    }
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for (&a, &b) in a.iter().flatten().zip(b.iter().flatten()) {
        difference += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    let ratio = (difference / norm).sqrt();
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_can_fail() {
        assert_eq!(compare(&[1.0, 2.0], &[1.0, 2.5], &[0.0, 1.0]), Ok(0.5));
        assert!(matches!(compare(&[1.0, 3.0], &[1.0, 2.0], &[0.5, 0.5]), Err(Mismatch::Value { index: 1, .. })));
        assert!(matches!(compare(&[f32::NAN], &[1.0], &[1e9]), Err(Mismatch::Value { .. })));
        assert!(matches!(compare(&[1.0], &[f64::NAN], &[1e9]), Err(Mismatch::Value { .. })));
        assert!(matches!(compare(&[1.0], &[1.0], &[f64::NAN]), Err(Mismatch::Value { .. })));
        assert!(matches!(compare(&[f32::INFINITY], &[f64::INFINITY], &[1.0]), Err(Mismatch::Value { .. })));
        assert!(matches!(compare(&[1.0], &[1.0, 1.0], &[1.0]), Err(Mismatch::Length { .. })));
        assert!(matches!(compare(&[1.0, 1.0], &[1.0, 1.0], &[1.0]), Err(Mismatch::Length { .. })));
        assert_eq!(compare(&[], &[], &[]), Err(Mismatch::Empty));
    }

    #[test]
    fn a_distance_says_when_it_means_nothing() {
        let check = |a: &[&[f32]], b: &[&[f32]], expected| {
            let own = |t: &[&[f32]]| t.iter().map(|v| v.to_vec()).collect::<Vec<_>>();
            assert_eq!(relative_distance(&own(a), &own(b)), expected);
        };
        check(&[&[3.0], &[5.0]], &[&[3.0], &[4.0]], Some(0.2));
        check(&[&[3.0]], &[&[3.0, 4.0]], None);
        check(&[&[3.0]], &[&[3.0], &[4.0]], None);
        check(&[&[f32::NAN]], &[&[1.0]], None);
        check(&[&[1.0]], &[&[f32::NAN]], None);
        check(&[&[1.0]], &[&[0.0]], None);
        check(&[], &[], None);
    }
}
