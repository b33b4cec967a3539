//! A training unit by its definition in the protocol: f64, one example after another, no library. For a model of one
//! hidden layer; slow and plain on purpose.

use manyhands::Shard;
use manyhands_protocol::work::{InnerOptimizer, TrainWork};

pub fn widen(tensors: &[Vec<f32>]) -> Vec<Vec<f64>> {
    tensors.iter().map(|t| t.iter().map(|&v| f64::from(v)).collect()).collect()
}

/// `x · weight + bias`.
fn dense(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut y = bias.to_vec();
    for (v, row) in x.iter().zip(weight.chunks_exact(bias.len())) {
        y.iter_mut().zip(row).for_each(|(y, w)| *y += v * w);
    }
    y
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|v| v.exp()).sum();
    logits.iter().map(|v| v.exp() / sum).collect()
}

/// Hidden activations and logits of one example.
pub fn logits(p: &[Vec<f64>], x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let hidden: Vec<f64> = dense(x, &p[0], &p[1]).into_iter().map(|v| v.max(0.0)).collect();
    let logits = dense(&hidden, &p[2], &p[3]);
    (hidden, logits)
}

/// Adds one example's share of the gradient.
fn add_gradient(gradient: &mut [Vec<f64>], p: &[Vec<f64>], x: &[f64], label: usize, share: f64) {
    let (hidden, logits) = logits(p, x);
    let (inner, classes) = (hidden.len(), logits.len());
    let mut dz = softmax(&logits);
    dz[label] -= 1.0;
    dz.iter_mut().for_each(|v| *v *= share);
    let row = |h: usize| &p[2][h * classes..][..classes];
    let dh: Vec<f64> =
        (0..inner).map(|h| if hidden[h] > 0.0 { row(h).iter().zip(&dz).map(|(w, d)| w * d).sum() } else { 0.0 }).collect();
    for (v, row) in x.iter().zip(gradient[0].chunks_exact_mut(inner)) {
        row.iter_mut().zip(&dh).for_each(|(g, d)| *g += v * d);
    }
    gradient[1].iter_mut().zip(&dh).for_each(|(g, d)| *g += d);
    for (v, row) in hidden.iter().zip(gradient[2].chunks_exact_mut(classes)) {
        row.iter_mut().zip(&dz).for_each(|(g, d)| *g += v * d);
    }
    gradient[3].iter_mut().zip(&dz).for_each(|(g, d)| *g += d);
}

/// `checkpoint − parameters after the last step`.
pub fn update(work: &TrainWork, start: &[Vec<f32>], shard: &Shard) -> Vec<Vec<f32>> {
    let InnerOptimizer::Sgd { learning_rate, momentum, clip_norm: 0.0 } = work.optimizer else {
        panic!("only SGD is written down here")
    };
    let (learning_rate, momentum) = (f64::from(learning_rate), f64::from(momentum));
    let wide = widen(start);
    let zero: Vec<Vec<f64>> = wide.iter().map(|t| vec![0.0; t.len()]).collect();
    let (mut p, mut velocity) = (wide.clone(), zero.clone());
    let (batch, width) = (work.batch as usize, shard.x.len() / shard.rows);
    for step in 0..work.inner_steps as usize {
        let mut gradient = zero.clone();
        for example in 0..batch {
            let row = (work.first_row as usize + step * batch + example) % shard.rows;
            let x: Vec<f64> = shard.x[row * width..][..width].iter().map(|&v| f64::from(v)).collect();
            add_gradient(&mut gradient, &p, &x, shard.y[row] as usize, 1.0 / batch as f64);
        }
        for ((p, v), g) in p.iter_mut().zip(&mut velocity).zip(&gradient) {
            for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
                *v = momentum * *v + g;
                *p -= learning_rate * *v;
            }
        }
    }
    wide.iter().zip(&p).map(|(w, p)| w.iter().zip(p).map(|(w, p)| (w - p) as f32).collect()).collect()
}
