//! Checks a product by whichever of two ways costs less: Freivalds' vectors, or the product itself in f64. Both refuse
//! nothing that an honest device may return, and any block with an entry off by more than its row's tolerance
//! (docs/verification.md derives both bounds).

use manyhands_protocol::limits;
use rand::CryptoRng;

use super::Refusal;
use super::freivalds::{self, FLUSHED_MAX, ProductShape, UNIT_ROUNDOFF_F64, gamma, norm, rounding_bound, times, within};

/// How a product is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Freivalds,
    Direct,
}

/// Floating-point operations of a check: multiplications and additions of the products with the vectors, or of the product
/// itself with one comparison of each entry.
pub fn flop(method: Method, shape: ProductShape) -> u64 {
    let [m, k, n] = [shape.m, shape.k, shape.n].map(|extent| extent as u64);
    match method {
        Method::Freivalds => 2 * u64::from(limits::FREIVALDS_ROUNDS) * (m * n + m * k + k * n),
        Method::Direct => 2 * m * k * n + 3 * m * n,
    }
}

/// The cheaper one.
pub fn method(shape: ProductShape) -> Method {
    if flop(Method::Direct, shape) <= flop(Method::Freivalds, shape) { Method::Direct } else { Method::Freivalds }
}

/// What the cheaper one costs.
pub fn check_flop(shape: ProductShape) -> u64 {
    flop(method(shape), shape)
}

/// Checks that `c` is `a · b` up to f32 rounding. All row-major. See [`freivalds::check_product`] for `rng`.
pub fn check(shape: ProductShape, a: &[f32], b: &[f32], c: &[f32], rng: &mut (impl CryptoRng + ?Sized)) -> Result<(), Refusal> {
    match method(shape) {
        Method::Freivalds => freivalds::check_product(shape, a, b, c, rng),
        Method::Direct => check_direct(shape, a, b, c),
    }
}

/// Right lengths, finite values.
pub(super) fn check_values(shape: ProductShape, a: &[f32], b: &[f32], c: &[f32]) -> Result<(), Refusal> {
    let ProductShape { m, k, n } = shape;
    for (tensor, values, rows, columns) in [("a", a, m, k), ("b", b, k, n), ("c", c, m, n)] {
        let expected = rows.saturating_mul(columns);
        if values.len() != expected {
            return Err(Refusal::Length { tensor, got: values.len(), expected });
        }
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Refusal::NotFinite { tensor, index });
        }
    }
    Ok(())
}

/// What one entry may be off by, and what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntryTolerance {
    /// An entry off by more than this is refused for certain.
    pub tau: f64,
    threshold: f64,
}

/// The tolerance of the entry of a row of A and a column of B with these norms: steps 3, 6 and 7 of the derivation for one
/// entry in place of a row.
pub fn entry_tolerance(k: usize, a_norm: f64, b_norm: f64) -> EntryTolerance {
    let (gamma_f32, k) = (rounding_bound(k), k as f64);
    let product = a_norm * b_norm;
    let alpha = FLUSHED_MAX * (1.0 + gamma_f32) * (k.sqrt() * (a_norm + b_norm) + 3.0 * k);
    // The check's own product is off by at most this.
    let epsilon = gamma(k + 8.0, UNIT_ROUNDOFF_F64) * ((1.0 + gamma_f32) * product + alpha);
    let threshold = gamma_f32 * product + alpha + epsilon;
    EntryTolerance { tau: threshold + epsilon, threshold }
}

/// Compares every entry with the product in f64.
pub fn check_direct(shape: ProductShape, a: &[f32], b: &[f32], c: &[f32]) -> Result<(), Refusal> {
    check_values(shape, a, b, c)?;
    let ProductShape { m, k, n } = shape;
    let b_wide: Vec<f64> = b.iter().map(|&v| f64::from(v)).collect();
    let mut product = vec![0.0; m * n];
    times(a, k, &b_wide, n, &mut product);
    let column_norm = |column: usize| norm(&b.iter().skip(column).step_by(n).copied().collect::<Vec<f32>>());
    let b_norms: Vec<f64> = (0..n).map(column_norm).collect();
    for row in 0..m {
        let a_norm = norm(&a[row * k..][..k]);
        for (column, &b_norm) in b_norms.iter().enumerate() {
            let at = row * n + column;
            let (residual, tolerance) = ((f64::from(c[at]) - product[at]).abs(), entry_tolerance(k, a_norm, b_norm).threshold);
            if !within(residual, tolerance) {
                return Err(Refusal::WrongEntry { row, column, residual, tolerance });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    use super::super::freivalds::row_tolerance;
    use super::*;

    fn shape(m: usize, k: usize, n: usize) -> ProductShape {
        ProductShape { m, k, n }
    }

    fn random(count: usize, rng: &mut ChaCha20Rng) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    /// The worst WGSL allows: every operation gives the neighbour below.
    fn rounded_down(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
        let round = |x: f64| if f64::from(x as f32) > x { (x as f32).next_down() } else { x as f32 };
        let chunk = limits::MATMUL_K_CHUNK as usize;
        let entry = |at: usize| {
            let part = |from: usize| {
                (from..s.k.min(from + chunk)).fold(0.0f32, |sum, p| {
                    let product = round(f64::from(a[at / s.n * s.k + p]) * f64::from(b[p * s.n + at % s.n]));
                    round(f64::from(sum) + f64::from(product))
                })
            };
            (0..s.k).step_by(chunk).fold(0.0f32, |sum, from| round(f64::from(sum) + f64::from(part(from))))
        };
        (0..s.m * s.n).map(entry).collect()
    }

    #[test]
    fn the_cheaper_way_is_taken() {
        assert_eq!(method(shape(32, 128, 128)), Method::Direct, "an opening unit");
        assert_eq!(method(shape(64, 64, 64)), Method::Direct);
        assert_eq!(method(shape(256, 256, 256)), Method::Freivalds);
        assert_eq!(method(shape(1024, 1024, 1024)), Method::Freivalds);
        assert_eq!(flop(Method::Freivalds, shape(256, 256, 256)), 82 * 3 * 65_536);
        assert_eq!(check_flop(shape(2, 3, 4)), 2 * 24 + 3 * 8);
    }

    #[test]
    fn honest_products_pass_and_one_entry_past_tau_never_does() {
        for (seed, s) in (0..).zip([shape(1, 1, 1), shape(5, 7, 6), shape(32, 128, 128), shape(3, 300, 2)]) {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let (a, b) = (random(s.m * s.k, &mut rng), random(s.k * s.n, &mut rng));
            let honest = rounded_down(s, &a, &b);
            assert_eq!(check_direct(s, &a, &b, &honest), Ok(()), "{s:?}");
            let exact: Vec<f64> = (0..s.m * s.n)
                .map(|at| (0..s.k).map(|p| f64::from(a[at / s.n * s.k + p]) * f64::from(b[p * s.n + at % s.n])).sum())
                .collect();
            for at in [0, s.m * s.n - 1] {
                let column: Vec<f32> = (0..s.k).map(|p| b[p * s.n + at % s.n]).collect();
                let tau = entry_tolerance(s.k, norm(&a[at / s.n * s.k..][..s.k]), norm(&column)).tau;
                for sign in [-1.0, 1.0] {
                    let mut wrong = honest.clone();
                    wrong[at] = (exact[at] + sign * 1.01 * tau) as f32;
                    assert!(matches!(check_direct(s, &a, &b, &wrong), Err(Refusal::WrongEntry { .. })), "{s:?} {at}");
                }
            }
        }
    }

    /// What is refused for certain here is no more than what Freivalds' check refuses but for 2⁻⁴⁰.
    #[test]
    fn the_tolerance_is_within_the_row_s() {
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        for s in [shape(1, 1, 1), shape(5, 7, 6), shape(32, 128, 128)] {
            let (a, b) = (random(s.k, &mut rng), random(s.k * s.n, &mut rng));
            let column: Vec<f32> = b.iter().step_by(s.n).copied().collect();
            assert!(entry_tolerance(s.k, norm(&a), norm(&column)).tau <= row_tolerance(s, norm(&a), norm(&b)).tau, "{s:?}");
        }
    }

    #[test]
    fn nan_lengths_and_nothing() {
        let s = shape(2, 2, 2);
        let ones = vec![1.0f32; 4];
        assert!(matches!(check_direct(s, &ones, &ones, &[2.0, 2.0, f32::NAN, 2.0]), Err(Refusal::NotFinite { .. })));
        assert!(matches!(check_direct(s, &ones, &ones, &[2.0; 3]), Err(Refusal::Length { .. })));
        assert_eq!(check_direct(s, &ones, &ones, &[2.0; 4]), Ok(()));
        assert!(check_direct(s, &ones, &ones, &[0.0; 4]).is_err());
        assert_eq!(check_direct(shape(0, 2, 0), &[], &[], &[]), Ok(()));
    }
}
