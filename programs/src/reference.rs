//! Kernel calls through the reference functions beside the shaders: f64 inside a call, f32 between calls. Slow and
//! clear; what the other backends are compared with.

mod adamw;
mod dropout;
mod image;
mod sequence;

use manyhands_shaders::gradient_norm::{clip, squares};
use manyhands_shaders::matmul::{self, Shape};
use manyhands_shaders::{accuracy, add, clear, column_sum, relu_backward, relu_forward, sgd_momentum, softmax_cross_entropy};

use crate::{Buffer, Matmul, Op};

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// Runs one call on a program's buffers.
pub fn run(op: &Op, buffers: &mut [Vec<f32>]) {
    let read = |buffer: Buffer| widen(&buffers[buffer.0]);
    match *op {
        Op::Matmul(product) => run_matmul(&product, buffers),
        Op::ColumnSum { x, sums, rows, columns } => {
            buffers[sums.0] = narrow(&column_sum::reference(rows as usize, columns as usize, &read(x)));
        }
        Op::Clear { x, range } => buffers[x.0] = narrow(&clear::reference(range, &read(x))),
        Op::Add { x, y, sum, .. } => buffers[sum.0] = narrow(&add::reference(&read(x), &read(y))),
        Op::ReluForward { x, y, .. } => buffers[y.0] = narrow(&relu_forward::reference(&read(x))),
        Op::ReluBackward { activation, gradient, .. } => {
            buffers[gradient.0] = narrow(&relu_backward::reference(&read(activation), &read(gradient)));
        }
        Op::SoftmaxCrossEntropy { logits, labels, gradient, losses, classes, .. } => {
            let labels: &[u32] = bytemuck::cast_slice(&buffers[labels.0]);
            let batch = softmax_cross_entropy::reference(classes as usize, &read(logits), labels);
            buffers[gradient.0] = narrow(&batch.gradient);
            buffers[losses.0] = narrow(&batch.losses);
        }
        Op::Accuracy { logits, labels, hits, classes, .. } => {
            let labels: &[u32] = bytemuck::cast_slice(&buffers[labels.0]);
            buffers[hits.0] = narrow(&accuracy::reference(classes as usize, &read(logits), labels));
        }
        Op::SgdMomentum { gradient, velocity, parameter, rates, .. } => {
            let updated = sgd_momentum::reference(rates, &read(gradient), &read(velocity), &read(parameter));
            buffers[velocity.0] = narrow(&updated.velocity);
            buffers[parameter.0] = narrow(&updated.parameter);
        }
        Op::AdamWAdvance { powers, rates } => adamw::advance(powers, rates, buffers),
        Op::AdamW { powers, gradient, first, second, parameter, rates, .. } => {
            adamw::run(powers, gradient, [first, second, parameter], rates, buffers)
        }
        Op::SquareSums { gradient, parts, first_part, .. } => {
            let sums = narrow(&squares::reference(&read(gradient)));
            buffers[parts.0][first_part as usize..][..sums.len()].copy_from_slice(&sums);
        }
        Op::Clip { squares, gradient, most, .. } => {
            buffers[gradient.0] = narrow(&clip::reference(most, read(squares)[0], &read(gradient)));
        }
        Op::Dropout { step, x, y, mask, .. } => dropout::run(mask, step, [x, y], buffers),
        Op::DropoutAdvance { step } => dropout::advance(step, buffers),
        Op::Sequence(op) => sequence::run(&op, buffers),
        Op::Image(op) => image::run(&op, buffers),
    }
}

/// The rows and the matrices that the call names. A transposed A has its rows as columns, so it is cut out column-wise.
fn run_matmul(op: &Matmul, buffers: &mut [Vec<f32>]) {
    let Shape { m, k, n } = op.shape;
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let rows = op.rows.first as usize..op.rows.end as usize;
    let bias = op.bias.map(|bias| widen(&buffers[bias.0])).unwrap_or_default();
    let shape = Shape { m: rows.len() as u32, ..op.shape };
    let matrices = op.matrices.first as usize..op.matrices.end as usize;
    for matrix in matrices.clone() {
        let a = widen(&op.operand(op.a, matrices.end * m * k, buffers)[matrix * m * k..][..m * k]);
        let b = widen(&op.operand(op.b, matrices.end * k * n, buffers)[matrix * k * n..][..k * n]);
        let a: Vec<f64> = if op.transposed.a {
            (0..k).flat_map(|p| &a[p * m + rows.start..p * m + rows.end]).copied().collect()
        } else {
            a[rows.start * k..rows.end * k].to_vec()
        };
        let mut product = matmul::reference(shape, op.transposed, op.epilogue, &a, &b, &bias);
        let c = &mut buffers[op.c.0][matrix * m * n..][rows.start * n..rows.end * n];
        if op.epilogue.accumulates() {
            product = matmul::accumulate_reference(&widen(c), &product);
        }
        c.copy_from_slice(&narrow(&product));
    }
}
