//! The references of sequence models and of AdamW against finite differences in f64, and against values by hand. No
//! device.
#![allow(clippy::unwrap_used)]

use manyhands_shaders::attention::{self, Backward, Forward, Shape};
use manyhands_shaders::{adamw, adamw_advance, embedding, gelu, layer_norm};

const STEP: f64 = 1e-5;

/// Fixed values spread over (-1, 1).
fn values(seed: u32, count: u32) -> Vec<f64> {
    (0..count).map(|i| (f64::from(seed * 31 + i) * 12.9898).sin()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Compares a gradient with central differences of the loss in each value of `at`: the error is of order STEP² plus
/// rounding of order 1e-16 / STEP.
fn check(name: &str, at: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len(), "{name}");
    for (index, &gradient) in gradient.iter().enumerate() {
        let moved = |step: f64| {
            let mut moved = at.to_vec();
            moved[index] += step;
            loss(&moved)
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!((difference - gradient).abs() < 1e-7, "{name} {index}: {gradient}, measured {difference}");
    }
    assert!(gradient.iter().map(|g| g.abs()).sum::<f64>() > 0.1, "{name}: a gradient that is not zero everywhere");
}

#[test]
fn gelu_gradient() {
    let x: Vec<f64> = values(1, 40).iter().map(|v| 5.0 * v).collect();
    let weights = values(2, 40);
    let gradient = gelu::backward_reference(&x, &weights);
    check("gelu", &x, &gradient, |x| dot(&gelu::forward_reference(x), &weights));
    // The tanh form itself, where it does not cancel.
    for x in [-3.0f64, -1.0, 0.0, 0.5, 3.0] {
        let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        let expected = 0.5 * x * (1.0 + z.tanh());
        let got = gelu::forward_reference(&[x])[0];
        assert!((got - expected).abs() < 1e-14, "{x}: {got} {expected}");
    }
}

#[test]
fn layer_norm_gradients() {
    let (rows, channels) = (70, 5);
    let (x, gain, shift) = (values(3, rows * channels), values(4, channels), values(5, channels));
    let weights = values(6, rows * channels);
    let forward = layer_norm::forward_reference(&x, &gain, &shift);
    let saved = layer_norm::Saved { x: &x, mean: &forward.mean, rstd: &forward.rstd };
    let loss = |x: &[f64], gain: &[f64], shift: &[f64]| dot(&layer_norm::forward_reference(x, gain, shift).y, &weights);
    let d_x = layer_norm::backward_reference(saved, &gain, &weights, &[]);
    check("x", &x, &d_x, |x| loss(x, &gain, &shift));
    let added = layer_norm::backward_reference(saved, &gain, &weights, &x);
    assert!(added.iter().zip(&d_x).zip(&x).all(|((added, d), x)| (added - (d + x)).abs() < 1e-12));
    let partial = layer_norm::parameters_reference(channels as usize, saved, &weights);
    assert_eq!(partial.gain.len(), 10, "two chunks of rows");
    let total = |parts: &[f64]| parts[..5].iter().zip(&parts[5..]).map(|(a, b)| a + b).collect::<Vec<_>>();
    check("gain", &gain, &total(&partial.gain), |gain| loss(&x, gain, &shift));
    check("shift", &shift, &total(&partial.shift), |shift| loss(&x, &gain, shift));
}

#[test]
fn embedding_gradients() {
    let extents = embedding::Params { rows: 12, time: 4, vocabulary: 5, channels: 3 };
    let ids: Vec<u32> = (0..12).map(|i| i * i % 4).collect();
    let (token, position, weights) = (values(7, 15), values(8, 12), values(9, 36));
    let loss = |token: &[f64], position: &[f64]| dot(&embedding::forward_reference(extents, &ids, token, position), &weights);
    let by_token = embedding::token_reference(extents, &ids, &weights);
    check("token", &token, &by_token, |token| loss(token, &position));
    let by_position = embedding::position_reference(extents, &weights);
    check("position", &position, &by_position, |position| loss(&token, position));
}

#[test]
fn attention_gradient() {
    let shape = Shape { sequences: 2, time: 5, heads: 2, width: 4 };
    let (qkv, weights) = (values(10, 2 * 5 * 24), values(11, 2 * 5 * 8));
    let forward = Forward::reference(shape, &qkv);
    let delta = attention::delta::reference(shape, &forward.out, &weights);
    let backward = Backward { shape, qkv: &qkv, logsumexp: &forward.logsumexp, delta: &delta, d_out: &weights };
    check("qkv", &qkv, &backward.reference(), |qkv| dot(&Forward::reference(shape, qkv).out, &weights));
}

/// What a query sees ends with itself, and with one key it is that key's value.
#[test]
fn attention_is_causal() {
    let shape = Shape { sequences: 1, time: 4, heads: 1, width: 4 };
    let qkv = values(12, 48);
    let out = Forward::reference(shape, &qkv).out;
    assert_eq!(out[..4], qkv[8..12]);
    for time in 0..4 {
        let mut changed = qkv.clone();
        changed[time * 12..(time + 1) * 12].iter_mut().for_each(|v| *v += 1.0);
        let after = Forward::reference(shape, &changed).out;
        assert_eq!(after[..time * 4], out[..time * 4]);
        assert_ne!(after[time * 4..(time + 1) * 4], out[time * 4..(time + 1) * 4]);
    }
}

#[test]
fn adamw_by_hand() {
    let rates = adamw::Rates { learning_rate: 0.5, beta1: 0.5, beta2: 0.75, epsilon: 1.0, weight_decay: 0.25 };
    let params = adamw_advance::Params { beta1: 0.5, beta2: 0.75 };
    let powers = adamw_advance::reference(params, adamw_advance::START.map(f64::from));
    assert_eq!(powers, [0.5, 0.75, 0.0, 0.0]);
    let before = adamw::Before { gradient: &[3.0], first: &[0.0], second: &[0.0], parameter: &[8.0] };
    let after = adamw::reference(rates, [powers[0], powers[1]], before);
    // Both moments are unbiased at the first step: 3 and 9. 8 - 0.5 (3 / (3 + 1) + 0.25 · 8).
    assert_eq!((after.first, after.second, after.parameter), (vec![1.5], vec![2.25], vec![6.625]));
}

/// The tolerances are tight enough to mean something.
#[test]
fn tolerances_are_small() {
    let most = |bounds: &[f64]| bounds.iter().copied().fold(0.0, f64::max);
    let check = |name: &str, bounds: &[f64], limit: f64| {
        assert!(bounds.iter().all(|&b| b > 0.0) && most(bounds) < limit, "{name}: {:e}", most(bounds));
    };
    let shape = Shape { sequences: 1, time: 64, heads: 1, width: 32 };
    let (qkv, d_out) = (values(13, 64 * 96), values(14, 64 * 32));
    let (forward, bound) = (Forward::reference(shape, &qkv), Forward::tolerance(shape, &qkv));
    check("attention", &bound.out, 1e-4);
    check("logsumexp", &bound.logsumexp, 1e-4);
    let delta = attention::delta::reference(shape, &forward.out, &d_out);
    let backward = Backward { shape, qkv: &qkv, logsumexp: &forward.logsumexp, delta: &delta, d_out: &d_out };
    check("attention backward", &backward.tolerance(), 1e-3);
    let x = values(15, 128);
    let norm = layer_norm::forward_tolerance(&x, &values(16, 128), &values(17, 128));
    check("layer norm", &norm.y, 1e-4);
    check("gelu", &gelu::forward_tolerance(&x), 1e-5);
    check("gelu backward", &gelu::backward_tolerance(&x, &x), 1e-5);
}
