//! Kernel calls in f32, fast: products through [`product`], the rest as loops the compiler vectorises. The formulas are
//! those of the shaders; see the headers there.

use manyhands_shaders::column_sum::CHUNK;
use manyhands_shaders::matmul::{Epilogue, Shape};
use manyhands_shaders::sgd_momentum::Rates;

use super::exponential::exp;
use super::widest::widest;
use crate::{EVERY_LAYER, Matmul, NOT_BUILT, Op};

/// Memory that products reuse from call to call.
#[derive(Default)]
pub struct Scratch {
    #[cfg(any(target_arch = "wasm32", not(feature = "gemm")))]
    panels: super::packed::Panels,
    sums: Vec<f32>,
    /// What C held before a product that accumulates.
    before: Vec<f32>,
    pub(super) sequence: super::sequence::Scratch,
    images: super::image::Scratch,
}

/// A matrix in memory: the value at row i, column j is `values[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// Runs one call on a program's buffers. What is written is taken out of the list meanwhile, so that the rest can be
/// read: no call reads a buffer it writes but the one it updates in place.
pub fn run(op: &Op, buffers: &mut [Vec<f32>], scratch: &mut Scratch) {
    match *op {
        Op::Matmul(op) => {
            let mut c = std::mem::take(&mut buffers[op.c.0]);
            matmul(&op, buffers, &mut c, scratch);
            buffers[op.c.0] = c;
        }
        _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
        Op::ColumnSum { x, sums, columns, .. } => {
            let mut out = std::mem::take(&mut buffers[sums.0]);
            column_sum(columns as usize, &buffers[x.0], &mut out, scratch);
            buffers[sums.0] = out;
        }
        Op::Clear { x, range } => buffers[x.0][range.first as usize..range.end as usize].fill(0.0),
        Op::Add { x, y, sum, .. } => {
            let mut out = std::mem::take(&mut buffers[sum.0]);
            add(&buffers[x.0], &buffers[y.0], &mut out);
            buffers[sum.0] = out;
        }
        Op::ReluForward { x, y, .. } => {
            let mut out = std::mem::take(&mut buffers[y.0]);
            relu_forward(&buffers[x.0], &mut out);
            buffers[y.0] = out;
        }
        Op::ReluBackward { activation, gradient, .. } => {
            let mut out = std::mem::take(&mut buffers[gradient.0]);
            relu_backward(&buffers[activation.0], &mut out);
            buffers[gradient.0] = out;
        }
        Op::SoftmaxCrossEntropy { logits, labels, gradient, losses, classes, .. } => {
            let (mut out, mut loss) = (std::mem::take(&mut buffers[gradient.0]), std::mem::take(&mut buffers[losses.0]));
            let labels = bytemuck::cast_slice(&buffers[labels.0]);
            softmax_cross_entropy(classes as usize, &buffers[logits.0], labels, &mut out, &mut loss);
            (buffers[gradient.0], buffers[losses.0]) = (out, loss);
        }
        Op::Accuracy { logits, labels, hits, classes, .. } => {
            let mut out = std::mem::take(&mut buffers[hits.0]);
            accuracy(classes as usize, &buffers[logits.0], bytemuck::cast_slice(&buffers[labels.0]), &mut out);
            buffers[hits.0] = out;
        }
        Op::SgdMomentum { gradient, velocity, parameter, rates, .. } => {
            let (mut v, mut p) = (std::mem::take(&mut buffers[velocity.0]), std::mem::take(&mut buffers[parameter.0]));
            sgd_momentum(rates, &buffers[gradient.0], &mut v, &mut p);
            (buffers[velocity.0], buffers[parameter.0]) = (v, p);
        }
        Op::AdamWAdvance { powers, rates } => super::adamw::advance(rates, &mut buffers[powers.0]),
        Op::AdamW { powers, gradient, first, second, parameter, rates, .. } => {
            super::adamw::run(rates, powers, gradient, [first, second, parameter], buffers)
        }
        Op::SquareSums { gradient, parts, first_part, .. } => super::clip::square_sums(gradient, parts, first_part, buffers),
        Op::Clip { squares, gradient, most, .. } => super::clip::clip(squares, gradient, most, buffers),
        Op::Dropout { step, x, y, mask, .. } => super::dropout::run(mask, step, [x, y], buffers),
        Op::DropoutAdvance { step } => super::dropout::advance(step, buffers),
        Op::Sequence(op) => super::sequence::run(&op, buffers, scratch),
        Op::Image(op) => super::image::run(&op, buffers, &mut scratch.images),
    }
}

fn matmul(op: &Matmul, buffers: &[Vec<f32>], c: &mut [f32], scratch: &mut Scratch) {
    let Shape { m, k, n } = op.shape;
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let (first, end) = (op.rows.first as usize, op.rows.end as usize);
    let bias = if op.epilogue.takes_bias() { op.bias.map_or(&[][..], |bias| &buffers[bias.0]) } else { &[][..] };
    let finish = Finish { bias, relu: op.epilogue == Epilogue::BiasRelu };
    let count = op.matrices.end as usize;
    let (all_a, all_b) = (op.operand(op.a, count * m * k, buffers), op.operand(op.b, count * k * n, buffers));
    for matrix in op.matrices.first as usize..count {
        let (row, column) = if op.transposed.a { (1, m) } else { (k, 1) };
        let a = Strided { values: all_a.get(matrix * m * k + first * row..).unwrap_or_default(), row, column };
        let (row, column) = if op.transposed.b { (1, k) } else { (n, 1) };
        let b = Strided { values: &all_b[matrix * k * n..], row, column };
        let c = &mut c[(matrix * m + first) * n..(matrix * m + end) * n];
        if op.epilogue.accumulates() {
            scratch.before.clear();
            scratch.before.extend_from_slice(c);
        }
        product(Shape { m: (end - first) as u32, ..op.shape }, a, b, c, finish, scratch);
        if op.epilogue.accumulates() {
            c.iter_mut().zip(&scratch.before).for_each(|(c, before)| *c += before);
        }
        if EVERY_LAYER && op.epilogue == Epilogue::BiasGelu {
            super::sequence::gelu(c);
        }
    }
}

widest!(fn add(x: &[f32], y: &[f32], sum: &mut [f32]) = add_in);

#[inline(always)]
fn add_in(x: &[f32], y: &[f32], sum: &mut [f32]) {
    for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
        *sum = x + y;
    }
}

widest!(fn relu_forward(x: &[f32], y: &mut [f32]) = relu_forward_in);

#[inline(always)]
fn relu_forward_in(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = relu(*x);
    }
}

widest!(fn relu_backward(activation: &[f32], gradient: &mut [f32]) = relu_backward_in);

#[inline(always)]
fn relu_backward_in(activation: &[f32], gradient: &mut [f32]) {
    for (g, y) in gradient.iter_mut().zip(activation) {
        *g = if *y > 0.0 { *g } else { 0.0 };
    }
}

/// Zero for NaN; a comparison, which is one instruction where the maximum of IEEE 754 is not.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// What follows the sums of a product: a bias per column, where there is one, and ReLU.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    pub bias: &'a [f32],
    pub relu: bool,
}

impl Finish<'_> {
    pub const NOTHING: Finish<'static> = Finish { bias: &[], relu: false };

    /// Of sums side by side; `bias` begins with theirs, and may end before they do.
    #[cfg(any(target_arch = "wasm32", not(feature = "gemm"), test))]
    #[inline(always)]
    pub fn run<const N: usize>(self, mut sums: [f32; N], bias: &[f32]) -> [f32; N] {
        match bias.first_chunk::<N>() {
            Some(bias) => sums = std::array::from_fn(|j| sums[j] + bias[j]),
            None => sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias),
        }
        if self.relu { sums.map(relu) } else { sums }
    }

    /// Of whole rows.
    pub fn rows(self, c: &mut [f32], n: usize) {
        if n == 0 || self.bias.is_empty() && !self.relu {
            return;
        }
        finish_rows(c, n, self.bias, self.relu);
    }
}

widest!(fn finish_rows(c: &mut [f32], n: usize, bias: &[f32], with_relu: bool) = finish_rows_in);

#[inline(always)]
fn finish_rows_in(c: &mut [f32], n: usize, bias: &[f32], with_relu: bool) {
    for row in c.chunks_exact_mut(n) {
        for (c, bias) in row.iter_mut().zip(bias) {
            let sum = *c + bias;
            *c = if with_relu { relu(sum) } else { sum };
        }
    }
}

/// `C = A · B`, C row-major. Sums over k run in chunks of 128: this arithmetic rounds to nearest, so that meets the
/// numerics contract of `manyhands_shaders::matmul`.
#[cfg(all(feature = "gemm", not(target_arch = "wasm32")))]
pub(super) fn product(shape: Shape, a: Strided, b: Strided, c: &mut [f32], finish: Finish, _scratch: &mut Scratch) {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    if m == 0 || n == 0 || k == 0 {
        c.fill(0.0);
        return finish.rows(c, n);
    }
    let last = |rows: usize, columns: usize, x: Strided| (rows - 1) * x.row + (columns - 1) * x.column;
    assert!(last(m, k, a) < a.values.len() && last(k, n, b) < b.values.len() && m * n <= c.len());
    let chunk = manyhands_shaders::matmul::K_CHUNK_IEEE as usize;
    for first in (0..k).step_by(chunk) {
        // SAFETY: every index i·row + j·column with i, j inside the extents is within its slice, as asserted, and so is
        // `first` moved along k; C is not aliased, being borrowed mutably; strides fit isize because slices do.
        unsafe {
            gemm::gemm(
                m,
                n,
                chunk.min(k - first),
                c.as_mut_ptr(),
                1,
                n as isize,
                first > 0,
                a.values.as_ptr().add(first * a.column),
                a.column as isize,
                a.row as isize,
                b.values.as_ptr().add(first * b.row),
                b.column as isize,
                b.row as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
    finish.rows(c, n);
}

#[cfg(any(target_arch = "wasm32", not(feature = "gemm")))]
pub(super) fn product(shape: Shape, a: Strided, b: Strided, c: &mut [f32], finish: Finish, scratch: &mut Scratch) {
    super::packed::product(shape, a, b, c, finish, &mut scratch.panels);
}

fn column_sum(columns: usize, x: &[f32], sums: &mut [f32], scratch: &mut Scratch) {
    scratch.sums.resize(columns, 0.0);
    column_sums(columns, x, sums, &mut scratch.sums);
}

widest!(fn column_sums(columns: usize, x: &[f32], sums: &mut [f32], chunk: &mut [f32]) = column_sums_in);

/// `chunk` holds the sums of one chunk of rows.
#[inline(always)]
fn column_sums_in(columns: usize, x: &[f32], sums: &mut [f32], chunk: &mut [f32]) {
    sums.fill(0.0);
    if columns == 0 {
        return;
    }
    for rows in x.chunks(columns * CHUNK as usize) {
        chunk.fill(0.0);
        for row in rows.chunks_exact(columns) {
            for (sum, x) in chunk.iter_mut().zip(row) {
                *sum += x;
            }
        }
        for (total, sum) in sums.iter_mut().zip(&*chunk) {
            *total += sum;
        }
    }
}

widest!(
    fn softmax_cross_entropy(classes: usize, logits: &[f32], labels: &[u32], gradient: &mut [f32], losses: &mut [f32]) =
        softmax_cross_entropy_in
);

/// Sums side by side, for the compiler to keep in registers.
const LANES: usize = 16;

#[inline(always)]
fn softmax_cross_entropy_in(classes: usize, logits: &[f32], labels: &[u32], gradient: &mut [f32], losses: &mut [f32]) {
    let rows = labels.len() as f32;
    let each = logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes));
    for (((z, gradient), &label), loss) in each.zip(labels).zip(losses) {
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (e, z) in gradient.iter_mut().zip(z) {
            *e = exp(z - largest);
        }
        let mut lanes = [0.0f32; LANES];
        let (whole, rest) = gradient.as_chunks::<LANES>();
        for e in whole {
            for i in 0..LANES {
                lanes[i] += e[i];
            }
        }
        for (sum, e) in lanes.iter_mut().zip(rest) {
            *sum += e;
        }
        let sum: f32 = lanes.iter().sum();
        for (j, g) in gradient.iter_mut().enumerate() {
            let hit = if j == label as usize { 1.0 } else { 0.0 };
            *g = (*g / sum - hit) / rows;
        }
        *loss = (sum.ln() + (largest - z[label as usize])) / rows;
    }
}

fn accuracy(classes: usize, logits: &[f32], labels: &[u32], hits: &mut [f32]) {
    for ((z, &label), hit) in logits.chunks_exact(classes).zip(labels).zip(hits) {
        let is_hit = z.get(label as usize).is_some_and(|&own| {
            let (before, others) = z.split_at(label as usize);
            before.iter().all(|&other| other < own) && others.iter().all(|&other| other <= own)
        });
        *hit = if is_hit { 1.0 } else { 0.0 };
    }
}

widest!(fn sgd_momentum(rates: Rates, gradient: &[f32], velocity: &mut [f32], parameter: &mut [f32]) = sgd_momentum_in);

#[inline(always)]
fn sgd_momentum_in(rates: Rates, gradient: &[f32], velocity: &mut [f32], parameter: &mut [f32]) {
    for ((g, v), p) in gradient.iter().zip(velocity).zip(parameter) {
        *v = rates.momentum * *v + g;
        *p -= rates.learning_rate * *v;
    }
}
