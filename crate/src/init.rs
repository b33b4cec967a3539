//! Initial parameters: normal weights, zeros and ones from a counter-based generator, the same bits on every
//! platform. Not a source of secrets.
//!
//! Value `i` of parameter `p` under `seed` is a function of these three alone: `s = mix(seed) ⊕ mix(p + γ)`, word `j`
//! of the stream is `mix(s + (j + 1)·γ)`, where `mix` is the output function of SplitMix64 and γ its increment
//! (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). A normal value is the sum of
//! twelve uniforms minus six, as sums and products alone: logarithms and cosines differ between platforms in the last
//! bit.

use manyhands_protocol::model::{Init, Model, Parameter};

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Word `counter` of stream `stream` under `seed`.
pub fn word(seed: u64, stream: u64, counter: u64) -> u64 {
    let start = mix(seed) ^ mix(stream.wrapping_add(GAMMA));
    mix(start.wrapping_add(counter.wrapping_add(1).wrapping_mul(GAMMA)))
}

/// A value of mean 0 and variance 1 within ±6: the sum of twelve uniforms on [0, 1) of 16 bits each, centred
/// (Irwin-Hall). Exact integer arithmetic up to one rounding, hence the same everywhere.
fn normal(seed: u64, stream: u64, index: u64) -> f32 {
    let sum: u64 = (0..3)
        .map(|j| word(seed, stream, index.wrapping_mul(3).wrapping_add(j)))
        .flat_map(|w| [w & 0xFFFF, (w >> 16) & 0xFFFF, (w >> 32) & 0xFFFF, w >> 48])
        .sum();
    // Twelve uniforms u/2¹⁶ + 2⁻¹⁷ have mean 6 in all: (sum + 6)/2¹⁶ − 6, every term exact in f64.
    (((sum as f64) + 6.0) / 65536.0 - 6.0) as f32
}

/// Parameters in the model's order, as each one's `Init` says. Empty if the model is not valid.
pub fn init_parameters(model: &Model, seed: u64) -> Vec<Vec<f32>> {
    let parameters = model.parameters().unwrap_or_default();
    let fill = |(stream, parameter): (usize, &Parameter)| {
        let values = parameter.values_count();
        match parameter.init {
            Init::Zero => vec![0.0; values],
            Init::One => vec![1.0; values],
            Init::Normal { variance } => {
                // f64 division and square root are correctly rounded on every platform.
                let scale = variance.sqrt();
                (0..values as u64).map(|i| (f64::from(normal(seed, stream as u64, i)) * scale) as f32).collect()
            }
        }
    };
    parameters.iter().enumerate().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss};

    fn model() -> Model {
        Model {
            input: Input { shape: vec![784], dtype: InputType::U8, scale: 1.0 / 255.0, offset: 0.0 },
            layers: vec![Layer::Dense { outputs: 128 }, Layer::Relu, Layer::Dense { outputs: 10 }],
            loss: Loss::SoftmaxCrossEntropy,
        }
    }

    #[test]
    fn moments_and_determinism() {
        let a = init_parameters(&model(), 7);
        assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), [784 * 128, 128, 1280, 10]);
        let n = a[0].len() as f64;
        let mean = a[0].iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = a[0].iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 4.0 * (2.0f64 / 784.0).sqrt() / n.sqrt(), "mean {mean}");
        assert!((variance / (2.0 / 784.0) - 1.0).abs() < 0.02, "variance {variance}");
        assert!(a[1].iter().chain(&a[3]).all(|&v| v == 0.0));
        assert_eq!(a, init_parameters(&model(), 7));
        assert_ne!(a, init_parameters(&model(), 8));
        assert_ne!(a[0][..10], a[2][..10]);
    }

    /// The published first outputs of SplitMix64 from state 1234567 check `mix` and γ; the last
    /// word was computed by a program in another language from this file's head, as were the weights in the suite.
    #[test]
    fn known_words() {
        let splitmix = |i: u64| mix(1_234_567u64.wrapping_add((i + 1).wrapping_mul(GAMMA)));
        assert_eq!([splitmix(0), splitmix(1)], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_eq!(word(1, 2, 3), 0x4BFA_B641_0052_E221);
    }
}
