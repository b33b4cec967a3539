//! Products of a revealed step: computed again in f64 where that is cheaper, else Freivalds' check (see
//! [`freivalds`](crate::verify::freivalds)). The left operand is read in strips, so that a convolution is a product whose
//! rows are its patches and are never stored.

use std::ops::Range;

use manyhands_shaders::convolution;
use manyhands_shaders::{FLUSH, UNIT_ROUNDOFF};
use rand::CryptoRng;

use super::{Checker, Room, StepRefusal, Tensor};
use crate::verify::freivalds::{draw_signs, gamma, hoeffding, multiply};

/// Vectors of one check: a wrong product passes with probability below 2⁻²⁰, far below the chance that a step is not
/// challenged at all.
pub const ROUNDS: u32 = 20;
/// Most f64 values of a strip of the left operand.
const STRIP_VALUES: usize = 1 << 18;
/// What the check's own f64 arithmetic, and terms of second order, add to a bound, relatively.
const OWN: f64 = 1.0 + 1e-4;

/// A left operand `[rows, columns]`, made as it is read.
pub trait Rows {
    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    /// Appends some rows.
    fn read(&self, rows: Range<usize>, to: &mut Vec<f64>);
}

/// A matrix as it is stored.
pub struct Plain<'a> {
    pub values: &'a [f32],
    pub columns: usize,
}

impl Rows for Plain<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<f64>) {
        to.extend(self.values[rows.start * self.columns..rows.end * self.columns].iter().map(|&v| f64::from(v)));
    }
}

/// What lies under the window at each output pixel, taps by channels, zeros in the padding.
pub struct Patches<'a> {
    pub shape: convolution::Shape,
    pub x: &'a [f32],
}

impl Rows for Patches<'_> {
    fn rows(&self) -> usize {
        self.shape.batch as usize * self.shape.plane() as usize
    }

    fn columns(&self) -> usize {
        self.shape.terms() as usize
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<f64>) {
        let s = self.shape;
        let [width, channels] = [s.width, s.channels].map(|v| v as usize);
        let under = |at: u32, tap: u32, extent: u32| (at * s.stride + tap).checked_sub(s.padding).filter(|&at| at < extent);
        for row in rows {
            let plane = s.plane() as usize;
            let (image, pixel) = (row / plane, (row % plane) as u32);
            let (i, j) = (pixel / s.out_width(), pixel % s.out_width());
            for tap in 0..s.kernel_height * s.kernel_width {
                let (ky, kx) = (tap / s.kernel_width, tap % s.kernel_width);
                match (under(i, ky, s.height), under(j, kx, s.width)) {
                    (Some(y), Some(x)) => {
                        let at = ((image * s.height as usize + y as usize) * width + x as usize) * channels;
                        to.extend(self.x[at..at + channels].iter().map(|&v| f64::from(v)));
                    }
                    _ => to.extend(std::iter::repeat_n(0.0, channels)),
                }
            }
        }
    }
}

/// The errors of the outputs that each input pixel went into, taps by outputs, zeros where a tap led to none.
pub struct Reached<'a> {
    pub shape: convolution::Shape,
    pub error: &'a [f32],
}

impl Rows for Reached<'_> {
    fn rows(&self) -> usize {
        [self.shape.batch, self.shape.height, self.shape.width].map(|v| v as usize).iter().product()
    }

    fn columns(&self) -> usize {
        (self.shape.kernel_height * self.shape.kernel_width * self.shape.outputs) as usize
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<f64>) {
        let s = self.shape;
        let outputs = s.outputs as usize;
        let reached = |at: u32, tap: u32, extent: u32| {
            let moved = (at + s.padding).checked_sub(tap)?;
            (moved.is_multiple_of(s.stride) && moved / s.stride < extent).then_some((moved / s.stride) as usize)
        };
        for row in rows {
            let plane = s.height as usize * s.width as usize;
            let (image, pixel) = (row / plane, (row % plane) as u32);
            let (y, x) = (pixel / s.width, pixel % s.width);
            for tap in 0..s.kernel_height * s.kernel_width {
                let (ky, kx) = (tap / s.kernel_width, tap % s.kernel_width);
                match (reached(y, ky, s.out_height()), reached(x, kx, s.out_width())) {
                    (Some(i), Some(j)) => {
                        let at = ((image * s.out_height() as usize + i) * s.out_width() as usize + j) * outputs;
                        to.extend(self.error[at..at + outputs].iter().map(|&v| f64::from(v)));
                    }
                    _ => to.extend(std::iter::repeat_n(0.0, outputs)),
                }
            }
        }
    }
}

/// What follows a product before it is stored.
#[derive(Clone, Copy)]
pub enum After<'a> {
    Nothing,
    Bias(&'a [f32]),
    BiasRelu(&'a [f32]),
    /// Added to what was there, which variants that fold the depth round so often.
    Added {
        before: &'a [f32],
        folds: f64,
    },
}

/// A revealed product: which tensor it is, and how many roundings a term passes on any backend.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub kind: &'static str,
    pub tensor: Tensor,
    pub c: &'a [f32],
    pub roundings: f64,
}

/// Whether `C[m, n] = A[m, k] · B[k, n]` takes fewer operations to compute than to check with [`ROUNDS`] vectors.
pub fn direct_is_cheaper([m, k, n]: [usize; 3]) -> bool {
    direct_flop([m, k, n]) <= freivalds_flop([m, k, n])
}

pub fn direct_flop([m, k, n]: [usize; 3]) -> u64 {
    2 * m as u64 * k as u64 * n as u64
}

pub fn freivalds_flop([m, k, n]: [usize; 3]) -> u64 {
    let [m, k, n] = [m, k, n].map(|d| d as u64);
    2 * u64::from(ROUNDS) * (m * k + k * n + m * n)
}

/// Sums of squares to norms.
fn roots(squares: &[f64]) -> Vec<f64> {
    squares.iter().map(|s| s.sqrt()).collect()
}

/// Adds the squares of each column to `squares`.
fn add_squares(values: &[f64], squares: &mut [f64]) {
    for row in values.chunks_exact(squares.len()) {
        squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * v);
    }
}

/// What flushed denormals may change in an entry whose row and column have these norms.
fn flushed(k: usize, a: f64, b: f64) -> f64 {
    let k = k as f64;
    FLUSH * (k.sqrt() * (a + b) + 3.0 * k + 2.0)
}

/// A row of a revealed product, and what its residuals may be at most.
struct Row {
    index: usize,
    norm: f64,
    most: f64,
}

/// What one row of a product is compared with in Freivalds' check.
struct Threshold {
    gamma: f64,
    /// √(2 ln(…)), Hoeffding's factor over all rows and vectors.
    factor: f64,
    shape: [usize; 3],
}

impl Threshold {
    /// `rounded` is the Euclidean norm of the roundings that come on top of the product's own, `sizes` a bound on the sum of
    /// absolute values on either side of the comparison.
    fn of(&self, a_norm: f64, b_norm: f64, rounded: f64, sizes: f64) -> f64 {
        let [_, k, n] = self.shape;
        let chance = (self.gamma * a_norm * b_norm + rounded) * self.factor;
        let flush = n as f64 * flushed(k, a_norm, b_norm);
        (chance + flush) * OWN + 2.0 * gamma((k + n + 8) as f64, f64::EPSILON / 2.0) * sizes
    }
}

impl<R: CryptoRng + ?Sized> Checker<'_, R> {
    /// `C = A·B`, and what follows; `b` is `[columns of A, n]`.
    pub fn across(&mut self, product: Product, a: &impl Rows, b: &[f64], after: After) -> Result<(), StepRefusal> {
        let (m, k) = (a.rows(), a.columns());
        let n = product.c.len() / m.max(1);
        let linear = !matches!(after, After::BiasRelu(_));
        if linear && !direct_is_cheaper([m, k, n]) {
            return self.across_by_chance(product, a, b, after, [m, k, n]);
        }
        let gamma = gamma(product.roundings, UNIT_ROUNDOFF);
        let mut squares = vec![0.0; n];
        add_squares(b, &mut squares);
        let b_norms = roots(&squares);
        let (mut strip, height) = (Vec::new(), strip_rows(k.max(n)));
        for first in (0..m).step_by(height) {
            let rows = first..m.min(first + height);
            strip.clear();
            a.read(rows.clone(), &mut strip);
            let mut expected = vec![0.0; rows.len() * n];
            multiply(&strip, false, b, &mut expected, [rows.len(), k, n], false);
            let mut tolerance = Vec::with_capacity(expected.len());
            for (i, values) in expected.chunks_exact_mut(n).enumerate() {
                let a_norm = norm(&strip[i * k..][..k]);
                for (j, (value, &b_norm)) in values.iter_mut().zip(&b_norms).enumerate() {
                    let bound = gamma * a_norm * b_norm + flushed(k, a_norm, b_norm);
                    let (added, folds) = match after {
                        After::Nothing => (None, 0.0),
                        After::Bias(bias) | After::BiasRelu(bias) => (Some(f64::from(bias[j])), 0.0),
                        After::Added { before, folds } => (Some(f64::from(before[(first + i) * n + j])), folds),
                    };
                    *value += added.unwrap_or(0.0);
                    let last = added.map_or(0.0, |added| UNIT_ROUNDOFF * (value.abs() + bound + folds * added.abs()));
                    tolerance.push((bound + last) * OWN);
                    if matches!(after, After::BiasRelu(_)) {
                        *value = value.max(0.0);
                    }
                }
            }
            self.compare(product.kind, product.tensor, first * n, &product.c[first * n..], &expected, &tolerance)?;
        }
        Ok(())
    }

    fn across_by_chance(
        &mut self,
        product: Product,
        a: &impl Rows,
        b: &[f64],
        after: After,
        shape: [usize; 3],
    ) -> Result<(), StepRefusal> {
        let [m, k, n] = shape;
        let rounds = ROUNDS as usize;
        let signs = draw_signs(n * rounds, self.rng);
        let threshold = Threshold { gamma: gamma(product.roundings, UNIT_ROUNDOFF), factor: hoeffding(m, ROUNDS), shape };
        let b_norm = norm(b);
        let mut bv = vec![0.0; k * rounds];
        multiply(b, false, &signs, &mut bv, [k, n, rounds], false);
        let (mut strip, height) = (Vec::new(), strip_rows(k.max(n)));
        for first in (0..m).step_by(height) {
            let rows = first..m.min(first + height);
            strip.clear();
            a.read(rows.clone(), &mut strip);
            let c: Vec<f64> = product.c[rows.start * n..rows.end * n].iter().map(|&v| f64::from(v)).collect();
            // What the product alone must have been.
            let mut alone = c.clone();
            let mut folded = vec![0.0; rows.len()];
            for (i, alone) in alone.chunks_exact_mut(n).enumerate() {
                let (added, folds) = match after {
                    After::Nothing => continue,
                    After::Bias(bias) | After::BiasRelu(bias) => (bias, 0.0),
                    After::Added { before, folds } => (&before[(first + i) * n..][..n], folds),
                };
                alone.iter_mut().zip(added).for_each(|(c, &added)| *c -= f64::from(added));
                folded[i] = folds * norm32(added) + norm(&c[i * n..][..n]);
            }
            let (mut left, mut right) = (vec![0.0; rows.len() * rounds], vec![0.0; rows.len() * rounds]);
            multiply(&alone, false, &signs, &mut left, [rows.len(), n, rounds], false);
            multiply(&strip, false, &bv, &mut right, [rows.len(), k, rounds], false);
            for i in 0..rows.len() {
                let a_norm = norm(&strip[i * k..][..k]);
                let sizes = (n as f64).sqrt() * (a_norm * b_norm + norm(&alone[i * n..][..n]));
                let most = threshold.of(a_norm, b_norm, UNIT_ROUNDOFF * folded[i] * OWN, sizes);
                let residuals = left[i * rounds..][..rounds].iter().zip(&right[i * rounds..][..rounds]);
                let row = Row { index: first + i, norm: norm(&c[i * n..][..n]), most };
                self.residuals(&product, row, residuals.map(|(left, right)| left - right))?;
            }
        }
        Ok(())
    }

    /// `C = Aᵀ·B`, a weight's gradient: `b` is `[rows of A, n]`, C `[columns of A, n]`.
    pub fn down(&mut self, product: Product, a: &impl Rows, b: &[f32]) -> Result<(), StepRefusal> {
        let (depth, m) = (a.rows(), a.columns());
        let n = b.len() / depth.max(1);
        let direct = direct_is_cheaper([m, depth, n]);
        let rounds = ROUNDS as usize;
        let width = if direct { n } else { rounds };
        let signs = if direct { Vec::new() } else { draw_signs(n * rounds, self.rng) };
        let mut sums = vec![0.0; m * width];
        let (mut a_squares, mut b_squares) = (vec![0.0; m], vec![0.0; n]);
        let (mut strip, height) = (Vec::new(), strip_rows(m.max(n)));
        for first in (0..depth).step_by(height) {
            let rows = first..depth.min(first + height);
            strip.clear();
            a.read(rows.clone(), &mut strip);
            let mut right: Vec<f64> = b[rows.start * n..rows.end * n].iter().map(|&v| f64::from(v)).collect();
            add_squares(&strip, &mut a_squares);
            add_squares(&right, &mut b_squares);
            if !direct {
                let mut signed = vec![0.0; rows.len() * rounds];
                multiply(&right, false, &signs, &mut signed, [rows.len(), n, rounds], false);
                right = signed;
            }
            multiply(&strip, true, &right, &mut sums, [m, rows.len(), width], true);
        }
        let (a_norms, b_norms) = (roots(&a_squares), roots(&b_squares));
        let gamma_f32 = gamma(product.roundings, UNIT_ROUNDOFF);
        if direct {
            let bound = |a: f64, b: f64| (gamma_f32 * a * b + flushed(depth, a, b)) * OWN;
            let tolerance: Vec<f64> = a_norms.iter().flat_map(|&a| b_norms.iter().map(move |&b| bound(a, b))).collect();
            return self.compare(product.kind, product.tensor, 0, product.c, &sums, &tolerance);
        }
        let threshold = Threshold { gamma: gamma_f32, factor: hoeffding(m, ROUNDS), shape: [m, depth, n] };
        let b_norm = norm(&b_norms);
        for first in (0..m).step_by(height) {
            let rows = first..m.min(first + height);
            let c: Vec<f64> = product.c[rows.start * n..rows.end * n].iter().map(|&v| f64::from(v)).collect();
            let mut left = vec![0.0; rows.len() * rounds];
            multiply(&c, false, &signs, &mut left, [rows.len(), n, rounds], false);
            for (i, c) in rows.zip(c.chunks_exact(n)) {
                let sizes = (n as f64).sqrt() * (a_norms[i] * b_norm + norm(c));
                let most = threshold.of(a_norms[i], b_norm, 0.0, sizes);
                let residuals = left[(i - first) * rounds..].iter().zip(&sums[i * rounds..][..rounds]);
                let row = Row { index: i, norm: norm(c), most };
                self.residuals(&product, row, residuals.map(|(left, right)| left - right))?;
            }
        }
        Ok(())
    }

    fn residuals(&mut self, product: &Product, row: Row, residuals: impl Iterator<Item = f64>) -> Result<(), StepRefusal> {
        let mut largest = 0.0f64;
        for residual in residuals {
            // Written so that NaN on either side fails.
            #[allow(clippy::neg_cmp_op_on_partial_ord)]
            if !(residual.abs() <= row.most) {
                return Err(StepRefusal::Product { tensor: product.tensor, row: row.index, residual, tolerance: row.most });
            }
            largest = largest.max(residual.abs());
        }
        let room = Room { tolerance: row.most * row.most, values: row.norm * row.norm };
        self.note(product.kind, product.tensor, if largest > 0.0 { largest / row.most } else { 0.0 }, room);
        Ok(())
    }
}

/// Rows of a strip of the left operand.
fn strip_rows(columns: usize) -> usize {
    (STRIP_VALUES / columns.max(1)).max(1)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn norm32(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}
