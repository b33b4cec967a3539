//! Freivalds' check of a matrix product: `C·v` against `A·(B·v)` for secret random ±1 vectors `v`, in f64.
//!
//! It costs `O(n²)` per vector against the product's `O(n³)`. The tolerance is derived, not tuned: docs/verification.md
//! has the steps and the symbols (γ, τ, ε, α) used here. It repairs nothing and says nothing about errors below τ.

use gemm::Parallelism;
use manyhands_protocol::limits;
use rand::CryptoRng;

use super::Refusal;

/// Most f64 values in one scratch buffer of the check (32 MiB): deep or wide products are checked with fewer vectors
/// at a time, not with more memory.
const SCRATCH_VALUES_MAX: usize = 1 << 22;
/// Spacing of f32 above 1: WGSL lets an operation give either neighbour of the exact result, so the relative error of
/// one operation is below this whole spacing rather than half of it.
const UNIT_ROUNDOFF_F32: f64 = 1.0 / (1u32 << 23) as f64;
/// Relative error of one f64 operation, rounded to nearest.
pub(super) const UNIT_ROUNDOFF_F64: f64 = f64::EPSILON / 2.0;
/// Smallest normal f32, 2⁻¹²⁶: what flushing one denormal to zero may change.
pub(super) const FLUSHED_MAX: f64 = f32::MIN_POSITIVE as f64;

/// Extents of `C[m, n] = A[m, k] · B[k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductShape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// d: most f32 operations that a term passes through by the protocol's accumulation rule: one product, a chunk of
/// [`limits::MATMUL_K_CHUNK`] additions, one addition per chunk.
pub fn operations(k: usize) -> usize {
    let chunk = limits::MATMUL_K_CHUNK as usize;
    chunk + k.div_ceil(chunk) + 1
}

/// γ: relative error bound of a term that passes through [`operations`] of them.
pub fn rounding_bound(k: usize) -> f64 {
    gamma(operations(k) as f64, UNIT_ROUNDOFF_F32)
}

/// √(2 ln(2·m·R·2⁴⁰)): Hoeffding's factor for all `m` rows and all `R` vectors together.
pub fn hoeffding_factor(m: usize) -> f64 {
    hoeffding(m, limits::FREIVALDS_ROUNDS)
}

/// The same for another number of vectors.
pub(super) fn hoeffding(m: usize, rounds: u32) -> f64 {
    let (rows, rounds) = (m as f64, f64::from(rounds));
    (2.0 * ((2.0 * rows * rounds).ln() + 40.0 * std::f64::consts::LN_2)).sqrt()
}

/// τ_i / (‖a_i‖ · ‖b_j‖) where B's columns have equal norms: the figure that docs/verification.md prints per shape.
pub fn tolerance_ratio(shape: ProductShape) -> f64 {
    rounding_bound(shape.k) * hoeffding_factor(shape.m) * (shape.n as f64).sqrt()
}

/// γ_d = d·u / (1 − d·u), Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1. Infinite where it fails.
pub(super) fn gamma(d: f64, unit_roundoff: f64) -> f64 {
    let du = d * unit_roundoff;
    if du < 1.0 { du / (1.0 - du) } else { f64::INFINITY }
}

/// What a row of the product may be off by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowTolerance {
    /// τ_i: an entry off by more than this is refused but for a chance below 2⁻⁴⁰.
    pub tau: f64,
    /// What `|C·v − A·(B·v)|` is compared with: τ_i less the check's own rounding.
    threshold: f64,
    /// Largest `Σ_j |c_ij|` that an honest row can have.
    sum_max: f64,
}

/// The tolerance of a row of A with norm `a_norm`, against B with Frobenius norm `b_norm`.
pub fn row_tolerance(shape: ProductShape, a_norm: f64, b_norm: f64) -> RowTolerance {
    let (k, n) = (shape.k as f64, shape.n as f64);
    let gamma_f32 = rounding_bound(shape.k);
    let product = a_norm * b_norm;
    // Flushed denormals: one per input value and per intermediate value, at most 3k of these per entry.
    let alpha = FLUSHED_MAX * (1.0 + gamma_f32) * (n * k.sqrt() * a_norm + (k * n).sqrt() * b_norm + 3.0 * k * n);
    let sum_max = (1.0 + gamma_f32) * n.sqrt() * product + alpha;
    // The check's own f64 rounding in A·(B·v), in C·v and in their difference, with a few operations to spare for this
    // function's own arithmetic.
    let epsilon = 2.0 * gamma(k + n + 8.0, UNIT_ROUNDOFF_F64) * sum_max;
    let threshold = gamma_f32 * product * hoeffding_factor(shape.m) + alpha + epsilon;
    RowTolerance { tau: threshold + epsilon, threshold, sum_max }
}

/// Checks that `c` is `a · b` up to f32 rounding. All row-major.
///
/// The vectors are drawn from `rng` here: call it after `c` is stored, with a generator whose state nobody else knows.
/// An honest block is refused with probability below 2⁻⁴⁰; one with an entry off by more than its row's
/// [`RowTolerance::tau`] passes with probability below 2⁻⁴⁰.
pub fn check_product(
    shape: ProductShape,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<(), Refusal> {
    let ProductShape { m, k, n } = shape;
    super::product::check_values(shape, a, b, c)?;
    let b_norm = norm(b);
    let mut tolerances = Vec::with_capacity(m);
    for row in 0..m {
        let tolerance = row_tolerance(shape, norm(&a[row * k..][..k]), b_norm);
        let sum: f64 = c[row * n..][..n].iter().map(|&v| f64::from(v.abs())).sum();
        if !within(sum, tolerance.sum_max * (1.0 + gamma(n as f64 + 8.0, UNIT_ROUNDOFF_F64))) {
            return Err(Refusal::RowTooLarge { row, sum, most: tolerance.sum_max });
        }
        tolerances.push(tolerance);
    }
    let rounds = limits::FREIVALDS_ROUNDS as usize;
    let at_once = (SCRATCH_VALUES_MAX / m.max(k).max(n).max(1)).clamp(1, rounds);
    let mut left = rounds;
    while left > 0 {
        let group = at_once.min(left);
        let signs = draw_signs(n * group, rng);
        let residuals = residuals(shape, a, b, c, &signs, group);
        for (row, tolerance) in tolerances.iter().enumerate() {
            for &residual in &residuals[row * group..][..group] {
                if !within(residual.abs(), tolerance.threshold) {
                    return Err(Refusal::WrongProduct { row, residual, tolerance: tolerance.threshold });
                }
            }
        }
        left -= group;
    }
    Ok(())
}

/// False for NaN on either side, so that a check which asks for it fails.
pub(super) fn within(value: f64, most: f64) -> bool {
    value <= most
}

/// `C·V − A·(B·V)`, `[m, group]`, for `signs` = V `[n, group]`.
fn residuals(shape: ProductShape, a: &[f32], b: &[f32], c: &[f32], signs: &[f64], group: usize) -> Vec<f64> {
    let ProductShape { m, k, n } = shape;
    let mut bv = vec![0.0; k * group];
    times(b, n, signs, group, &mut bv);
    let mut abv = vec![0.0; m * group];
    times(a, k, &bv, group, &mut abv);
    let mut cv = vec![0.0; m * group];
    times(c, n, signs, group, &mut cv);
    cv.iter_mut().zip(&abv).for_each(|(c, ab)| *c -= ab);
    cv
}

/// `out[rows, group] = left[rows, columns] · right[columns, group]` in f64, in strips of rows, so that the f64 copy of
/// `left` stays small. Rows are `out.len() / group`.
pub(super) fn times(left: &[f32], columns: usize, right: &[f64], group: usize, out: &mut [f64]) {
    if columns == 0 || group == 0 {
        return;
    }
    let strip_rows = (SCRATCH_VALUES_MAX / columns).clamp(1, 64);
    let mut strip = Vec::with_capacity(strip_rows * columns);
    for (left, out) in left.chunks(strip_rows * columns).zip(out.chunks_mut(strip_rows * group)) {
        strip.clear();
        strip.extend(left.iter().map(|&v| f64::from(v)));
        let rows = strip.len() / columns;
        multiply(&strip, false, right, out, [rows, columns, group], false);
    }
}

/// `out = left · right`, or that added to `out`, all row-major: `right` `[depth, columns]`, `left` `[rows, depth]`, or
/// `[depth, rows]` where it is stored transposed.
pub(super) fn multiply(
    left: &[f64],
    transposed: bool,
    right: &[f64],
    out: &mut [f64],
    [rows, depth, columns]: [usize; 3],
    accumulate: bool,
) {
    assert!(left.len() == rows * depth && right.len() == depth * columns && out.len() == rows * columns);
    let (left_column, left_row) = if transposed { (rows, 1) } else { (1, depth) };
    // SAFETY: the strides describe matrices that fill the three slices, as asserted above; `out` is borrowed mutably and
    // overlaps neither input.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            columns as isize,
            accumulate,
            left.as_ptr(),
            left_column as isize,
            left_row as isize,
            right.as_ptr(),
            1,
            columns as isize,
            if accumulate { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Upper bound of the Euclidean norm: the f64 sum, where squares of finite f32 neither overflow nor vanish, with its
/// own rounding added.
pub(super) fn norm(values: &[f32]) -> f64 {
    let squares: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    squares.sqrt() * (1.0 + gamma(values.len() as f64 + 4.0, UNIT_ROUNDOFF_F64))
}

/// `count` independent fair signs.
pub(super) fn draw_signs(count: usize, rng: &mut (impl CryptoRng + ?Sized)) -> Vec<f64> {
    let mut signs = Vec::with_capacity(count);
    while signs.len() < count {
        let word = rng.next_u64();
        let take = (count - signs.len()).min(64);
        signs.extend((0..take).map(|bit| if word >> bit & 1 == 1 { 1.0 } else { -1.0 }));
    }
    signs
}

#[cfg(test)]
mod tests;
