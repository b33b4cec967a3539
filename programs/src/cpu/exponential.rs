//! `exp` in f32 as a polynomial that the compiler vectorises on any target.

/// The largest argument of [`exp`] that is not held back: the result stays finite and normal.
const MOST: f32 = 88.0;
const LEAST: f32 = -87.0;
/// 1.5·2²³: adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `exp(x)` within 2⁻²² relatively for x on [−87, 88], beyond which it stays at the value there; NaN for NaN. `x` is split
/// into `n·ln 2 + r` with |r| ≤ ln 2 / 2, `exp(r)` is a polynomial (coefficients of Cephes' `expf`, S. Moshier), and 2ⁿ is
/// put together from bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written so that NaN passes, and as one instruction each.
    let x = if x > MOST { MOST } else { x };
    let x = if x < LEAST { LEAST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of few bits, so that n times it is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * (r * r) + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_as_stated() {
        let mut worst = 0.0f64;
        for i in 0..=4_000_000 {
            let x = LEAST + (MOST - LEAST) * i as f32 / 4e6;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst > 0.0 && worst < 1.0 / f64::from(1 << 22), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((exp(-1e30), exp(1e30)), (exp(LEAST), exp(MOST)));
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }
}
