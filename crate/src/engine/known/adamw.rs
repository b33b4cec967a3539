//! Known answers of AdamW.

use manyhands_shaders::adamw::{self, Before, Rates};
use manyhands_shaders::adamw_advance;

use super::{Case, values, wide};
use crate::plan::Op;

const RATES: Rates = Rates { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01 };

pub fn adamw_advance() -> Case {
    let mut case = Case::new(format!("{} once", adamw_advance::KERNEL.name));
    let powers = [0.81, 0.9025, 3.0, 4.0];
    let params = adamw_advance::Params { beta1: RATES.beta1, beta2: RATES.beta2 };
    let exact = powers.map(|power: f32| f64::from(power));
    let buffer = case.input(powers.to_vec());
    case.program.ops.push(Op::AdamWAdvance { powers: buffer, rates: RATES });
    case.expect(buffer, adamw_advance::reference(params, exact).to_vec(), adamw_advance::tolerance(params, exact).to_vec());
    case
}

/// Step number `step`, from 1 on. Gradients span twelve decades and some are zero; before the first step moments are zero.
pub fn adamw_step(count: usize, step: i32) -> Case {
    let mut case = Case::new(format!("{} {count}, step {step}", adamw::KERNEL.name));
    let powers = [RATES.beta1.powi(step), RATES.beta2.powi(step), 0.0, 0.0];
    let decades = |stream: u64| (0..).map(move |i| 10f32.powi((i * 7 + stream as i32) % 13 - 8));
    let spread = |stream: u64| values(stream, count).into_iter().zip(decades(stream)).map(|(v, scale)| v * scale);
    let zero_at = |i: usize, v: f32| if i % 11 == 3 { 0.0 } else { v };
    let g: Vec<f32> = spread(50).enumerate().map(|(i, v)| zero_at(i, v)).collect();
    let moved = if step == 1 { 0.0 } else { 0.1 };
    let m: Vec<f32> = spread(51).enumerate().map(|(i, v)| moved * zero_at(i, v)).collect();
    let v: Vec<f32> = spread(51).enumerate().map(|(i, v)| moved * zero_at(i, v * v)).collect();
    let p = values(52, count);
    let [wg, wm, wv, wp] = [&g, &m, &v, &p].map(|values| wide(values));
    let before = Before { gradient: &wg, first: &wm, second: &wv, parameter: &wp };
    let exact = [powers[0], powers[1]].map(f64::from);
    let expected = adamw::reference(RATES, exact, before);
    let tolerance = adamw::tolerance(RATES, exact, before);
    let [powers, gradient, first, second, parameter] = [powers.to_vec(), g, m, v, p].map(|values| case.input(values));
    let values = count as u32;
    case.program.ops.push(Op::AdamW { powers, gradient, first, second, parameter, values, rates: RATES });
    case.expect(first, expected.first, tolerance.first);
    case.expect(second, expected.second, tolerance.second);
    case.expect(parameter, expected.parameter, tolerance.parameter);
    case
}
