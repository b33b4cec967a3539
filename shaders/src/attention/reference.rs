//! What the attention kernels compute, in f64, and how far f32 may be from it.

use super::{BLOCK, Shape};
use crate::rounding::gamma;
use crate::{FLUSH, UNIT_ROUNDOFF};

/// Slightly above the unit roundoff, for terms of second order.
const U: f64 = UNIT_ROUNDOFF * 1.01;

/// Where the parts of one head of one sequence begin.
#[derive(Clone, Copy)]
struct Head {
    shape: Shape,
    sequence: usize,
    head: usize,
}

impl Head {
    fn all(shape: Shape) -> impl Iterator<Item = Head> {
        (0..shape.sequences as usize)
            .flat_map(move |sequence| (0..shape.heads as usize).map(move |head| Head { shape, sequence, head }))
    }

    fn row(self, time: usize) -> usize {
        self.sequence * self.shape.time as usize + time
    }

    /// The index of a position in `[sequences, heads, time]`.
    fn statistic(self, time: usize) -> usize {
        (self.sequence * self.shape.heads as usize + self.head) * self.shape.time as usize + time
    }

    /// The indices of a head in an output row.
    fn out(self, time: usize) -> std::ops::Range<usize> {
        let (width, channels) = (self.shape.width as usize, self.shape.channels() as usize);
        let start = self.row(time) * channels + self.head * width;
        start..start + width
    }

    /// The indices of a head's query (part 0), key (1) or value (2) in a row of qkv.
    fn qkv(self, time: usize, part: usize) -> std::ops::Range<usize> {
        let (width, channels) = (self.shape.width as usize, self.shape.channels() as usize);
        let start = (self.row(time) * 3 + part) * channels + self.head * width;
        start..start + width
    }
}

/// Σ x·y, and Σ |x·y|.
fn dot(x: &[f64], y: &[f64]) -> (f64, f64) {
    let products = x.iter().zip(y).map(|(x, y)| x * y);
    (products.clone().sum(), products.map(f64::abs).sum())
}

/// Relative to Σ|x·y|: a dot product over a head passes at most 64 + 2 additions, whatever its order: by fours along the
/// width in WGSL, in sequence with half the roundoff on the CPU.
fn dot_gamma() -> f64 {
    gamma(68.0)
}

/// A score and the error of a computed one: the dot product, the scale and its own rounding.
fn score(shape: Shape, query: &[f64], key: &[f64]) -> (f64, f64) {
    let scale = 1.0 / f64::from(shape.width).sqrt();
    let (value, size) = dot(query, key);
    (scale * value, scale * size * (dot_gamma() + 3.0 * U) + f64::from(shape.width) * FLUSH)
}

/// What forward writes; or its tolerances.
pub struct Forward {
    pub out: Vec<f64>,
    pub logsumexp: Vec<f64>,
}

impl Forward {
    fn zeros(shape: Shape) -> Self {
        let rows = shape.rows() as usize;
        Self { out: vec![0.0; rows * shape.channels() as usize], logsumexp: vec![0.0; rows * shape.heads as usize] }
    }

    pub fn reference(shape: Shape, qkv: &[f64]) -> Self {
        let mut forward = Self::zeros(shape);
        for head in Head::all(shape) {
            for i in 0..shape.time as usize {
                let scores: Vec<f64> = (0..=i).map(|j| score(shape, &qkv[head.qkv(i, 0)], &qkv[head.qkv(j, 1)]).0).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (j, score) in scores.iter().enumerate() {
                    let p = (score - largest).exp() / sum;
                    for (o, v) in head.out(i).zip(head.qkv(j, 2)) {
                        forward.out[o] += p * qkv[v];
                    }
                }
                forward.logsumexp[head.statistic(i)] = largest + sum.ln();
            }
        }
        forward
    }

    /// A weight `exp(s − m)` is off by its score's error, by the roundings of `s − m` and by `exp`'s 3 + 2|s − m| units;
    /// when the running maximum grows, which happens at most once per block, all are multiplied by another such
    /// exponential. The differences along that way add up to the last maximum less s. Sums of weights and of weighted
    /// values pass two roundings a block and those inside one, or on the CPU those of runs of 64; then a division.
    pub fn tolerance(shape: Shape, qkv: &[f64]) -> Self {
        let mut bounds = Self::zeros(shape);
        for head in Head::all(shape) {
            for i in 0..shape.time as usize {
                let scores: Vec<_> = (0..=i).map(|j| score(shape, &qkv[head.qkv(i, 0)], &qkv[head.qkv(j, 1)])).collect();
                let largest = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s.0 - largest).exp()).sum();
                let blocks = (scores.len() as f64 / f64::from(BLOCK)).ceil();
                let relative = |(s, error): (f64, f64)| {
                    let spread = largest - s;
                    (error + (4.0 + 3.0 * spread + 5.0 * blocks) * U) * (1.0 + error)
                };
                let weight = |s: f64| (s - largest).exp() / sum;
                let sums = gamma(64.0 + 2.0 * blocks);
                let average: f64 = sums + scores.iter().map(|&s| weight(s.0) * relative(s)).sum::<f64>();
                for (j, &s) in scores.iter().enumerate() {
                    let factor = weight(s.0) * (relative(s) + average + sums + 4.0 * U) + 2.0 * FLUSH;
                    for (o, v) in head.out(i).zip(head.qkv(j, 2)) {
                        bounds.out[o] += factor * 1.001 * qkv[v].abs() + FLUSH;
                    }
                }
                let log = (1.0 / f64::from(1u32 << 21)).max(3.0 * U * sum.ln());
                let error = scores.iter().map(|s| s.1).fold(0.0, f64::max);
                bounds.logsumexp[head.statistic(i)] = average * 1.001 + error + log + 2.0 * U * (largest.abs() + sum.ln());
            }
        }
        bounds
    }
}

/// `δ = dout·out` per position of each pair.
pub fn delta_reference(shape: Shape, out: &[f64], d_out: &[f64]) -> Vec<f64> {
    positions(shape).map(|(head, i)| dot(&out[head.out(i)], &d_out[head.out(i)]).0).collect()
}

pub fn delta_tolerance(shape: Shape, out: &[f64], d_out: &[f64]) -> Vec<f64> {
    let bound = |(head, i): (Head, usize)| dot_gamma() * dot(&out[head.out(i)], &d_out[head.out(i)]).1;
    positions(shape).map(|at| bound(at) + f64::from(shape.width) * FLUSH).collect()
}

fn positions(shape: Shape) -> impl Iterator<Item = (Head, usize)> {
    Head::all(shape).flat_map(move |head| (0..shape.time as usize).map(move |i| (head, i)))
}

/// What backward reads: forward's input and l, δ, and the gradient of the output.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    pub shape: Shape,
    pub qkv: &'a [f64],
    pub logsumexp: &'a [f64],
    pub delta: &'a [f64],
    pub d_out: &'a [f64],
}

/// How far the log-sums and row sums that backward reads may be from those that it is given here.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub logsumexp: &'a [f64],
    pub delta: &'a [f64],
}

/// One (query, key) pair's probability and score gradient (times the scale), with the errors of computed ones.
struct Entry {
    p: f64,
    p_error: f64,
    ds: f64,
    ds_error: f64,
}

impl Backward<'_> {
    /// p is off by its score's error, the roundings of `s − l` and `exp`'s 3 + 2|s − l| units; `dout·v − δ` by the dot
    /// product's error and one rounding; two products and the scale's rounding follow.
    fn entry(&self, head: Head, i: usize, j: usize, saved: Option<Saved>) -> Entry {
        let shape = self.shape;
        let scale = 1.0 / f64::from(shape.width).sqrt();
        let (s, s_error) = score(shape, &self.qkv[head.qkv(i, 0)], &self.qkv[head.qkv(j, 1)]);
        let (l, delta) = (self.logsumexp[head.statistic(i)], self.delta[head.statistic(i)]);
        let [l_error, delta_error] =
            saved.map_or([0.0; 2], |saved| [saved.logsumexp[head.statistic(i)], saved.delta[head.statistic(i)]]);
        let s_error = s_error + l_error;
        let p = (s - l).exp();
        let p_error = p * (s_error + (4.0 + 3.0 * (s - l).abs()) * U) * (1.0 + s_error) + FLUSH;
        let (dp, dp_size) = dot(&self.d_out[head.out(i)], &self.qkv[head.qkv(j, 2)]);
        let rest = dp - delta;
        let rest_error = dp_size * dot_gamma() + delta_error + U * (dp_size + delta.abs()) + f64::from(shape.width) * FLUSH;
        let size = (p + p_error) * (rest.abs() + rest_error);
        let ds_error = scale * (p * rest_error + p_error * (rest.abs() + rest_error) + 4.0 * U * size) + 2.0 * FLUSH;
        Entry { p, p_error, ds: scale * p * rest, ds_error }
    }

    /// Gradient of qkv, `[rows, 3·channels]`.
    pub fn reference(&self) -> Vec<f64> {
        let mut d_qkv = vec![0.0; self.qkv.len()];
        for (head, i) in positions(self.shape) {
            for j in 0..=i {
                let entry = self.entry(head, i, j, None);
                let parts = [(entry.ds, 0, i, self.qkv, head.qkv(j, 1)), (entry.ds, 1, j, self.qkv, head.qkv(i, 0))];
                for (factor, part, time, from, at) in parts.into_iter().chain([(entry.p, 2, j, self.d_out, head.out(i))]) {
                    for (to, from) in head.qkv(time, part).zip(&from[at]) {
                        d_qkv[to] += factor * from;
                    }
                }
            }
        }
        d_qkv
    }

    /// Each term's error, and two roundings a block and those inside one, or on the CPU those of runs of 64.
    pub fn tolerance(&self) -> Vec<f64> {
        self.bounds(None)
    }

    /// The same where a log-sum or a row sum was not given but computed, and is off by so much: by the log-sum's error each
    /// probability as by its score's.
    pub fn tolerance_from(&self, saved: Saved) -> Vec<f64> {
        self.bounds(Some(saved))
    }

    fn bounds(&self, saved: Option<Saved>) -> Vec<f64> {
        let mut bounds = vec![0.0; self.qkv.len()];
        let sums = gamma(66.0 + (f64::from(self.shape.time) / f64::from(BLOCK)).ceil());
        for (head, i) in positions(self.shape) {
            for j in 0..=i {
                let Entry { p, p_error, ds, ds_error } = self.entry(head, i, j, saved);
                let ds = ds_error + sums * (ds.abs() + ds_error);
                let p = p_error + sums * (p + p_error);
                let parts = [(ds, 0, i, self.qkv, head.qkv(j, 1)), (ds, 1, j, self.qkv, head.qkv(i, 0))];
                for (factor, part, time, from, at) in parts.into_iter().chain([(p, 2, j, self.d_out, head.out(i))]) {
                    for (to, from) in head.qkv(time, part).zip(&from[at]) {
                        bounds[to] += factor * from.abs() + FLUSH;
                    }
                }
            }
        }
        bounds
    }
}
