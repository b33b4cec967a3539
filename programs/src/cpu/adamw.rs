//! AdamW in f32; see `adamw.wgsl` for the formula.

use manyhands_shaders::adamw::Rates;

use super::widest::widest;
use crate::Buffer;

pub fn advance(rates: Rates, powers: &mut [f32]) {
    powers[0] *= rates.beta1;
    powers[1] *= rates.beta2;
}

/// `updated` are both moments and the parameter.
pub fn run(rates: Rates, powers: Buffer, gradient: Buffer, updated: [Buffer; 3], buffers: &mut [Vec<f32>]) {
    let [mut first, mut second, mut parameter] = updated.map(|buffer| std::mem::take(&mut buffers[buffer.0]));
    let powers = [buffers[powers.0][0], buffers[powers.0][1]];
    let gradient = &buffers[gradient.0];
    step(rates, powers, gradient, [&mut first, &mut second, &mut parameter]);
    for (buffer, values) in updated.into_iter().zip([first, second, parameter]) {
        buffers[buffer.0] = values;
    }
}

widest!(fn step(rates: Rates, powers: [f32; 2], gradient: &[f32], updated: [&mut [f32]; 3]) = step_in);

/// One root and one division a value: the divisions by 1 − βᵗ are products with their reciprocals.
#[inline(always)]
fn step_in(rates: Rates, powers: [f32; 2], gradient: &[f32], updated: [&mut [f32]; 3]) {
    let Rates { learning_rate, beta1, beta2, epsilon, weight_decay } = rates;
    let [first, second, parameter] = updated;
    let [by_c1, by_c2] = powers.map(|power| 1.0 / (1.0 - power));
    let (rest1, rest2) = (1.0 - beta1, 1.0 - beta2);
    for (((g, m), v), p) in gradient.iter().zip(first).zip(second).zip(parameter) {
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * (g * g);
        let change = (*m * by_c1) / ((*v * by_c2).sqrt() + epsilon);
        *p -= learning_rate * (change + weight_decay * *p);
    }
}
