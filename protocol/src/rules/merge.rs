//! Whether a merge made the model worse.

/// How many standard errors a held-out loss may rise before its merge is undone.
pub const NOISE_ERRORS: f64 = 3.0;

/// A held-out loss with its standard error, which is missing where there are too few examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    pub mean: f64,
    pub error: Option<f64>,
}

/// Whether the loss rose beyond noise: by more than [`NOISE_ERRORS`] standard errors of the difference, the two taken as
/// independent. On the same examples they are not, and the true error is smaller: so a small rise is let pass. Without an
/// error nothing is worse.
pub fn is_worse(before: Loss, after: Loss) -> bool {
    let (Some(a), Some(b)) = (before.error, after.error) else { return false };
    after.mean - before.mean > NOISE_ERRORS * (a * a + b * b).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rise_beyond_noise_is_worse() {
        let loss = |mean, error| Loss { mean, error };
        let before = loss(1.0, Some(0.03));
        // The error of the difference is 0.05.
        assert!(is_worse(before, loss(1.151, Some(0.04))));
        assert!(!is_worse(before, loss(1.149, Some(0.04))));
        assert!(!is_worse(before, loss(0.5, Some(0.04))));
        assert!(!is_worse(before, loss(9.0, None)) && !is_worse(loss(1.0, None), loss(9.0, Some(0.1))));
        assert!(!is_worse(before, loss(f64::NAN, Some(0.04))));
    }
}
