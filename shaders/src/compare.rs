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
                let [got, expected, tolerance] = [f64::from(*got), *expected, *tolerance].map(Digits);
                write!(f, "value {index} is {got}, expected {expected} within {tolerance}")
            }
        }
    }
}

/// A number in six digits, as in `-1.50000e-3`. The standard library's way to write numbers is a twentieth of the program
/// that a visit begins with, which needs it for nothing else.
struct Digits(f64);

impl core::fmt::Display for Digits {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if !self.0.is_finite() {
            let sign = if self.0 < 0.0 { "-" } else { "" };
            return write!(f, "{sign}{}", if self.0.is_nan() { "NaN" } else { "inf" });
        }
        let (mut value, mut exponent) = (self.0.abs(), 0);
        while value >= 10.0 {
            (value, exponent) = (value / 10.0, exponent + 1);
        }
        while value > 0.0 && value < 1.0 {
            (value, exponent) = (value * 10.0, exponent - 1);
        }
        let mut digits = (value * 1e5 + 0.5) as u32;
        if digits == 1_000_000 {
            (digits, exponent) = (100_000, exponent + 1);
        }
        let sign = if self.0 < 0.0 { "-" } else { "" };
        write!(f, "{sign}{}.{:05}e{exponent}", digits / 100_000, digits % 100_000)
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
    fn a_mismatch_tells_its_numbers() {
        let check = |value: f64, expected: &str| assert_eq!(Digits(value).to_string(), expected);
        check(0.0, "0.00000e0");
        check(-1.5e-3, "-1.50000e-3");
        check(123_456.7, "1.23457e5");
        check(9.999_999_9, "1.00000e1");
        check(f64::MAX, "1.79769e308");
        check(5e-324, "4.94066e-324");
        check(f64::NEG_INFINITY, "-inf");
        check(f64::NAN, "NaN");
        let mismatch = compare(&[2.5], &[2.0], &[0.125]).unwrap_err();
        assert_eq!(mismatch.to_string(), "value 0 is 2.50000e0, expected 2.00000e0 within 1.25000e-1");
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
