//! AdamW through its reference functions.

use manyhands_shaders::{adamw, adamw_advance};

use super::{narrow, widen};
use crate::Buffer;

pub fn advance(powers: Buffer, rates: adamw::Rates, buffers: &mut [Vec<f32>]) {
    let params = adamw_advance::Params { beta1: rates.beta1, beta2: rates.beta2 };
    let before: [f64; 4] = std::array::from_fn(|i| f64::from(buffers[powers.0][i]));
    buffers[powers.0] = narrow(&adamw_advance::reference(params, before));
}

/// `updated` are both moments and the parameter.
pub fn run(powers: Buffer, gradient: Buffer, updated: [Buffer; 3], rates: adamw::Rates, buffers: &mut [Vec<f32>]) {
    let [gradient, first, second, parameter, powers] =
        [gradient, updated[0], updated[1], updated[2], powers].map(|buffer| widen(&buffers[buffer.0]));
    let before = adamw::Before { gradient: &gradient, first: &first, second: &second, parameter: &parameter };
    let after = adamw::reference(rates, [powers[0], powers[1]], before);
    for (buffer, values) in updated.into_iter().zip([after.first, after.second, after.parameter]) {
        buffers[buffer.0] = narrow(&values);
    }
}
