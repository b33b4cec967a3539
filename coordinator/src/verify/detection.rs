//! How soon fabricated steps and segments are found, in closed form: pure arithmetic for the choice of a challenge rate, and for
//! docs/verification.md, whose curve is printed from here.

use manyhands_protocol::rules::standing::{AUDIT_CHALLENGED, REPLICATION_CHALLENGED};

/// Probability that a volunteer which fabricates a share of the steps of each of its units is caught within so many units,
/// where each unit is challenged with probability `rate`, on its own, and a challenge checks one step drawn uniformly, or the
/// segment that holds it: `1 − (1 − p·f)ⁿ`. Of segments all steps of one that holds a fabricated step count as fabricated. `evaded` is the probability that a check passes a fabricated step all the same.
///
/// Shares and probabilities are held within [0, 1]; NaN counts as 0 detection.
pub fn caught_within(units: u32, fabricated: f64, rate: f64, evaded: f64) -> f64 {
    let share = |value: f64| if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) };
    let each = share(fabricated) * share(rate) * (1.0 - share(evaded));
    // ln_1p keeps the digits of small chances; a certain catch makes it −∞.
    if units == 0 { 0.0 } else { -(f64::from(units) * (-each).ln_1p()).exp_m1() }
}

/// The least rate at which it is caught within so many units with probability `wanted`. None where no rate is enough.
pub fn rate_for(units: u32, fabricated: f64, wanted: f64, evaded: f64) -> Option<f64> {
    let each = -((-wanted).ln_1p() / f64::from(units)).exp_m1();
    let rate = each / (fabricated * (1.0 - evaded));
    (0.0..=1.0).contains(&rate).then_some(rate)
}

/// The share of a trusted key's false updates that challenges of segments and what is repeated beside them find together: a
/// challenge at `rate` finds the share `fabricated` of the steps, and of what is not drawn a second key or the referee finds all.
/// `colluding` says that every second key lies with it.
pub fn found_with_repetitions(fabricated: f64, rate: f64, colluding: bool) -> f64 {
    let replicas = if colluding { 0.0 } else { (1.0 - AUDIT_CHALLENGED) * REPLICATION_CHALLENGED };
    rate * fabricated + (1.0 - rate) * (AUDIT_CHALLENGED + replicas)
}

/// Units until it is caught, on average: `1 / (p·f)`. What it may have handed in by then, each a share `fabricated` wrong.
pub fn units_expected(fabricated: f64, rate: f64, evaded: f64) -> f64 {
    1.0 / (fabricated * rate * (1.0 - evaded))
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::rules::challenge::CHALLENGE_RATE;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    use super::*;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-12 * expected.abs().max(1e-3), "{got}, not {expected}");
    }

    #[test]
    fn the_closed_form_is_the_product_of_chances() {
        close(caught_within(1, 0.5, 0.1, 0.0), 0.05);
        close(caught_within(2, 0.5, 0.1, 0.0), 1.0 - 0.95f64.powi(2));
        close(caught_within(3, 0.5, 0.1, 0.5), 1.0 - 0.975f64.powi(3));
        assert_eq!(caught_within(0, 1.0, 1.0, 0.0), 0.0);
        assert_eq!(caught_within(7, 1.0, 1.0, 0.0), 1.0);
        assert_eq!(caught_within(7, 0.0, 1.0, 0.0), 0.0);
        assert_eq!(caught_within(7, 1.0, 0.0, 0.0), 0.0);
        assert_eq!(caught_within(7, 1.0, 1.0, 1.0), 0.0);
        assert_eq!(caught_within(7, f64::NAN, 1.0, 0.0), 0.0);
        assert_eq!(caught_within(1, 2.0, 1.0, 0.0), 1.0, "shares are held within one");
        // Small chances keep their digits.
        close(caught_within(1, 1e-9, 1e-9, 0.0), 1e-18);
    }

    /// What the project promises: half of all steps fabricated, 100 units, 0.99.
    #[test]
    fn half_of_the_steps_are_found_within_a_hundred_units() {
        let rate = rate_for(100, 0.5, 0.99, 0.0).unwrap();
        assert!((0.089..0.091).contains(&rate), "{rate}");
        close(caught_within(100, 0.5, rate, 0.0), 0.99);
        assert!(caught_within(100, 0.5, rate * 0.99, 0.0) < 0.99);
        assert_eq!(rate_for(1, 0.5, 0.99, 0.0), None);
        close(units_expected(0.5, 0.1, 0.0), 20.0);
    }

    /// The same at the rate that is the default, alone and with what is repeated beside it.
    #[test]
    fn the_default_finds_half_of_the_steps_within_a_hundred_units() {
        let found =
            |fabricated, colluding| caught_within(100, found_with_repetitions(fabricated, CHALLENGE_RATE, colluding), 1.0, 0.0);
        assert!(caught_within(100, 0.5, CHALLENGE_RATE, 0.0) > 0.99);
        assert!(found(0.5, true) > 0.99 && found(0.5, false) > found(0.5, true));
        close(found_with_repetitions(0.0, 0.0, false), 0.0199);
        close(found_with_repetitions(1.0, 1.0, true), 1.0);
        assert!((found(0.125, false) - 0.95).abs() < 0.001, "one segment of eight: {}", found(0.125, false));
    }

    /// Against volunteers that are drawn: units of 31 steps of which a share is fabricated, one step of a challenged unit
    /// checked.
    #[test]
    fn drawn_volunteers_are_caught_as_often() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for (steps, wrong, rate, units) in [(31, 15, 0.09, 20), (8, 8, 0.02, 60), (100, 10, 0.3, 40)] {
            let volunteers = 20_000;
            let mut caught = 0;
            for _ in 0..volunteers {
                let found = |rng: &mut ChaCha20Rng| rng.random_bool(rate) && rng.random_range(0..steps) < wrong;
                caught += u32::from((0..units).any(|_| found(&mut rng)));
            }
            let expected = caught_within(units, f64::from(wrong) / f64::from(steps), rate, 0.0);
            let (got, deviation) =
                (f64::from(caught) / f64::from(volunteers), (expected * (1.0 - expected) / f64::from(volunteers)).sqrt());
            assert!((got - expected).abs() <= 5.0 * deviation, "{got}, not {expected} ± {deviation}");
        }
    }
}
