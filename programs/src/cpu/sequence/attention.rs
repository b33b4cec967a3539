//! Causal attention in f32, as small products per head of each sequence and block of queries. A block of probabilities
//! is `[BLOCK, keys]`, so that memory grows with time, not with its square.

use manyhands_shaders::attention::{Pairs, Shape};
use manyhands_shaders::matmul;

use super::super::exponential::exp;
use super::super::kernels::{self, Finish, Strided, product};
use super::super::widest::widest;
use crate::{AttentionBackward, SequenceOp};

/// Queries of a block.
const BLOCK: usize = 64;
/// Partial sums side by side, for the compiler to keep in registers.
const LANES: usize = 16;

/// Memory that calls reuse.
#[derive(Default)]
pub struct Scratch {
    /// Scores, then probabilities, of a block.
    p: Vec<f32>,
    /// Gradients of the scores of a block.
    ds: Vec<f32>,
    /// A product on its way into rows that are further apart.
    part: Vec<f32>,
    /// Reciprocal sums, one per query of a block.
    column: Vec<f32>,
    /// Keys and values as columns, `[width, time]` each: products take them faster than rows far apart.
    key: Vec<f32>,
    value: Vec<f32>,
}

pub fn run(op: &SequenceOp, buffers: &mut [Vec<f32>], scratch: &mut kernels::Scratch) {
    let mut own = std::mem::take(&mut scratch.sequence.attention);
    match *op {
        SequenceOp::AttentionForward { qkv, out, logsumexp, shape, pairs } => {
            let mut written = [out, logsumexp].map(|buffer| std::mem::take(&mut buffers[buffer.0]));
            let [to, l] = written.each_mut();
            for head in heads(shape, pairs) {
                forward(head, &buffers[qkv.0], to, l, &mut own, scratch);
            }
            [buffers[out.0], buffers[logsumexp.0]] = written;
        }
        SequenceOp::AttentionDelta { out, d_out, delta, shape } => {
            let mut written = std::mem::take(&mut buffers[delta.0]);
            let (out, d_out) = (&buffers[out.0], &buffers[d_out.0]);
            delta_of(shape, out, d_out, &mut written);
            buffers[delta.0] = written;
        }
        SequenceOp::AttentionKeyGradient { backward: b, shape, pairs } => {
            let mut written = std::mem::take(&mut buffers[b.d_qkv.0]);
            for head in heads(shape, pairs) {
                backward(head, b, buffers, &mut written, &mut own, scratch);
            }
            buffers[b.d_qkv.0] = written;
        }
        _ => {}
    }
    scratch.sequence.attention = own;
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head {
    shape: Shape,
    sequence: usize,
    head: usize,
    time: usize,
    width: usize,
}

fn heads(shape: Shape, pairs: Pairs) -> impl Iterator<Item = Head> {
    let (heads, time, width) = (shape.heads as usize, shape.time as usize, shape.width as usize);
    (pairs.first as usize..pairs.end as usize).map(move |pair| Head {
        shape,
        sequence: pair / heads,
        head: pair % heads,
        time,
        width,
    })
}

impl Head {
    /// Where the head begins at time `first` in rows of `of` parts, and how far rows are apart.
    fn at(self, first: usize, part: usize, of: usize) -> (usize, usize) {
        let channels = self.shape.channels() as usize;
        (((self.sequence * self.time + first) * of + part) * channels + self.head * self.width, of * channels)
    }

    /// Rows of a head from time `first` on: `[time, width]`.
    fn rows<'a>(self, values: &'a [f32], first: usize, (part, of): (usize, usize)) -> Strided<'a> {
        let (start, row) = self.at(first, part, of);
        Strided { values: &values[start..], row, column: 1 }
    }

    /// The head's values of each row from time `first` on.
    fn rows_mut(self, values: &mut [f32], first: usize, (part, of): (usize, usize)) -> impl Iterator<Item = &mut [f32]> {
        let (start, row) = self.at(first, part, of);
        values[start..].chunks_mut(row).map(move |row| &mut row[..self.width])
    }

    /// The head's place in `[sequences, heads, time]`.
    fn statistics(self) -> std::ops::Range<usize> {
        let start = (self.sequence * self.shape.heads as usize + self.head) * self.time;
        start..start + self.time
    }

    /// First query and number of each block, and the keys it sees.
    fn blocks(self) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.time).step_by(BLOCK).map(move |first| {
            let count = BLOCK.min(self.time - first);
            (first, count, first + count)
        })
    }
}

/// Copies `count` rows of a matrix into columns.
fn copy_turned(x: Strided, count: usize, width: usize, to: &mut Vec<f32>) {
    to.resize(count * width, 0.0);
    for (index, row) in x.values.chunks(x.row).take(count).enumerate() {
        for (column, value) in to.chunks_exact_mut(count).zip(row) {
            column[index] = *value;
        }
    }
}

/// The same matrix, rows for columns.
fn turned(x: Strided) -> Strided {
    Strided { values: x.values, row: x.column, column: x.row }
}

fn extents(m: usize, k: usize, n: usize) -> matmul::Shape {
    matmul::Shape { m: m as u32, k: k as u32, n: n as u32 }
}

fn forward(head: Head, qkv: &[f32], out: &mut [f32], logsumexp: &mut [f32], own: &mut Scratch, scratch: &mut kernels::Scratch) {
    let (width, scale) = (head.width, head.shape.scale());
    let logsumexp = &mut logsumexp[head.statistics()];
    if head.time > 0 {
        copy_turned(head.rows(qkv, 0, (1, 3)), head.time, width, &mut own.key);
    }
    for (first, count, keys) in head.blocks() {
        own.p.resize((count * keys).max(own.p.len()), 0.0);
        own.part.resize((count * width).max(own.part.len()), 0.0);
        own.column.resize(BLOCK, 0.0);
        let (p, part) = (&mut own.p[..count * keys], &mut own.part[..count * width]);
        let key = Strided { values: &own.key, row: head.time, column: 1 };
        product(extents(count, width, keys), head.rows(qkv, first, (0, 3)), key, p, Finish::NOTHING, scratch);
        let l = &mut logsumexp[first..keys];
        softmax(keys, first, scale, p, l, &mut own.column);
        let p = Strided { values: p, row: keys, column: 1 };
        product(extents(count, keys, width), p, head.rows(qkv, 0, (2, 3)), part, Finish::NOTHING, scratch);
        let rows = head.rows_mut(out, first, (0, 1)).zip(part.chunks_exact(width));
        for ((to, from), by_sum) in rows.zip(&own.column) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * by_sum);
        }
    }
}

widest!(
    fn softmax(keys: usize, first: usize, scale: f32, p: &mut [f32], logsumexp: &mut [f32], by_sum: &mut [f32]) = softmax_in
);

/// Scores of queries from `first` on become `exp(scale·s − max)`, zero past the query; their sum goes into its reciprocal
/// and into the logarithm.
#[inline(always)]
fn softmax_in(keys: usize, first: usize, scale: f32, p: &mut [f32], logsumexp: &mut [f32], by_sum: &mut [f32]) {
    for (r, ((row, l), by_sum)) in p.chunks_exact_mut(keys).zip(logsumexp).zip(by_sum).enumerate() {
        let visible = first + r + 1;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (whole, rest) = row[..visible].as_chunks::<LANES>();
        for x in whole {
            for i in 0..LANES {
                lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
            }
        }
        for (most, &x) in lanes.iter_mut().zip(rest) {
            *most = if x > *most { x } else { *most };
        }
        let largest = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale;
        weigh(row, visible, scale, largest);
        // What is not visible is zero.
        let mut lanes = [0.0f32; LANES];
        let (whole, rest) = row[..visible.next_multiple_of(LANES).min(keys)].as_chunks::<LANES>();
        for x in whole {
            for i in 0..LANES {
                lanes[i] += x[i];
            }
        }
        for (sum, x) in lanes.iter_mut().zip(rest) {
            *sum += x;
        }
        let sum: f32 = lanes.iter().sum();
        (*l, *by_sum) = (largest + sum.ln(), 1.0 / sum);
    }
}

/// `exp(scale·s − shift)` of the first `visible` scores, zero for the rest. Whole lanes are computed.
#[inline(always)]
fn weigh(row: &mut [f32], visible: usize, scale: f32, shift: f32) {
    let whole = visible.next_multiple_of(LANES).min(row.len());
    for s in &mut row[..whole] {
        *s = exp(*s * scale - shift);
    }
    row[visible..].fill(0.0);
}

widest!(fn delta_of(shape: Shape, out: &[f32], d_out: &[f32], delta: &mut [f32]) = delta_in);

#[inline(always)]
fn delta_in(shape: Shape, out: &[f32], d_out: &[f32], delta: &mut [f32]) {
    let (heads, width, time) = (shape.heads as usize, shape.width as usize, shape.time as usize);
    let slices = out.chunks_exact(width.max(1)).zip(d_out.chunks_exact(width.max(1)));
    for (index, (out, d_out)) in slices.enumerate() {
        let (row, head) = (index / heads, index % heads);
        let mut lanes = [0.0f32; LANES];
        let ((x, x_rest), (y, y_rest)) = (out.as_chunks::<LANES>(), d_out.as_chunks::<LANES>());
        for (x, y) in x.iter().zip(y) {
            for i in 0..LANES {
                lanes[i] += x[i] * y[i];
            }
        }
        for ((sum, x), y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
            *sum += x * y;
        }
        delta[(row / time * heads + head) * time + row % time] = lanes.iter().sum();
    }
}

fn backward(
    head: Head,
    read: AttentionBackward,
    buffers: &[Vec<f32>],
    d_qkv: &mut [f32],
    own: &mut Scratch,
    scratch: &mut kernels::Scratch,
) {
    let (width, scale) = (head.width, head.shape.scale());
    let [qkv, d_out] = [read.qkv, read.d_out].map(|buffer| &buffers[buffer.0]);
    let [l, delta] = [read.logsumexp, read.delta].map(|buffer| &buffers[buffer.0][head.statistics()]);
    if head.time > 0 {
        copy_turned(head.rows(qkv, 0, (1, 3)), head.time, width, &mut own.key);
        copy_turned(head.rows(qkv, 0, (2, 3)), head.time, width, &mut own.value);
    }
    for (first, count, keys) in head.blocks() {
        own.p.resize((count * keys).max(own.p.len()), 0.0);
        own.ds.resize((count * keys).max(own.ds.len()), 0.0);
        own.part.resize((keys * width).max(own.part.len()), 0.0);
        let (p, ds) = (&mut own.p[..count * keys], &mut own.ds[..count * keys]);
        let [key, value] = [&own.key, &own.value].map(|values| Strided { values, row: head.time, column: 1 });
        let (query, d_out) = (head.rows(qkv, first, (0, 3)), head.rows(d_out, first, (0, 1)));
        product(extents(count, width, keys), query, key, p, Finish::NOTHING, scratch);
        product(extents(count, width, keys), d_out, value, ds, Finish::NOTHING, scratch);
        score_gradient(keys, first, scale, p, ds, [&l[first..keys], &delta[first..keys]]);
        let [p, ds] = [p, ds].map(|values| Strided { values, row: keys, column: 1 });
        let part = &mut own.part[..count * width];
        product(extents(count, keys, width), ds, head.rows(qkv, 0, (1, 3)), part, Finish::NOTHING, scratch);
        put(head.rows_mut(d_qkv, first, (0, 3)), part, width, 0);
        let part = &mut own.part[..keys * width];
        product(extents(keys, count, width), turned(ds), query, part, Finish::NOTHING, scratch);
        put(head.rows_mut(d_qkv, 0, (1, 3)), part, width, first);
        product(extents(keys, count, width), turned(p), d_out, part, Finish::NOTHING, scratch);
        put(head.rows_mut(d_qkv, 0, (2, 3)), part, width, first);
    }
}

widest!(
    fn score_gradient(keys: usize, first: usize, scale: f32, p: &mut [f32], ds: &mut [f32], saved: [&[f32]; 2]) = score_gradient_in
);

/// Scores become probabilities, and gradients of probabilities become those of scores times the scale.
#[inline(always)]
fn score_gradient_in(keys: usize, first: usize, scale: f32, p: &mut [f32], ds: &mut [f32], [l, delta]: [&[f32]; 2]) {
    let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys));
    for (r, ((p, ds), (l, delta))) in rows.zip(l.iter().zip(delta)).enumerate() {
        weigh(p, first + r + 1, scale, *l);
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = *p * (*ds - delta) * scale;
        }
    }
}

/// Adds to the first `there` rows, which earlier blocks have written, and writes the others.
fn put<'a>(rows: impl Iterator<Item = &'a mut [f32]>, from: &[f32], width: usize, there: usize) {
    for (index, (to, from)) in rows.zip(from.chunks_exact(width)).enumerate() {
        if index < there {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        } else {
            to.copy_from_slice(from);
        }
    }
}
