//! Text written byte by byte with kept keys and values, against the forward pass of the whole window.

use manyhands::control::Control;
use manyhands::engine::{Engine, EngineError, Sampler, Sampling, init_parameters, known};
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_shaders::compare::relative_distance;

use super::models::text;
use super::{now_ms, println};

const HOW: Sampling = Sampling { temperature: 1.0, top_k: 5, seed: 3 };
/// Longer than two contexts of nine positions.
const PROMPT: [u8; 21] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 1, 2, 3, 5, 8, 2, 10, 1, 0];

/// Parameters away from their beginnings, so that every layer tells.
fn parameters(model: &Model) -> Vec<Vec<f32>> {
    let mut parameters = init_parameters(model, 11);
    for (stream, values) in parameters.iter_mut().enumerate() {
        let noise = known::values(70 + stream as u64, values.len());
        values.iter_mut().zip(noise).for_each(|(p, v)| *p += 0.3 * v);
    }
    parameters
}

/// Outputs for the byte after `window` from the pass over all positions, those behind it filled with anything.
async fn whole(engine: &Engine, model: &Model, parameters: &[Vec<f32>], window: &[u8]) -> Vec<f32> {
    let positions = model.labels_count() as usize;
    let ids: Vec<u32> = window.iter().map(|&byte| byte.into()).chain(std::iter::repeat(3)).take(positions).collect();
    let x: Vec<f32> = ids.into_iter().map(f32::from_bits).collect();
    let logits = engine.logits(model, parameters, &x, 1, &Control::new()).await.unwrap();
    let classes = model.classes() as usize;
    logits[(window.len() - 1) * classes..][..classes].to_vec()
}

/// Byte by byte the same outputs as `engine` gives for the whole window, over two slides of it.
pub async fn keeps(engine: &Engine, name: &str) {
    let model = text(16, 2);
    let parameters = parameters(&model);
    let mut sampler = Sampler::new(&model, &parameters).unwrap();
    let (mut worst, mut lengths, control) = (0.0f64, Vec::new(), Control::new());
    for (count, &byte) in PROMPT.iter().enumerate() {
        sampler.read(&[byte], &control).await.unwrap();
        let window = sampler.window().to_vec();
        assert_eq!(window, PROMPT[..=count][count + 1 - window.len()..], "the newest bytes");
        lengths.push(window.len());
        let expected = whole(engine, &model, &parameters, &window).await;
        let distance = relative_distance(&[sampler.logits().to_vec()], &[expected]).expect("outputs that are not zero");
        worst = worst.max(distance);
    }
    println(&format!("{name}: sampling, distance from the whole pass at most {worst:.1e}"));
    assert!(worst < 1e-5, "{worst}");
    assert_eq!(lengths, [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6], "half of a full window stays");
}

/// Equal seeds write equal texts, in one piece or two; a top of one takes the likeliest; what cannot be read is an error.
pub async fn writes() {
    let (model, control) = (text(16, 2), Control::new());
    let parameters = parameters(&model);
    let new = || Sampler::new(&model, &parameters).unwrap();
    let first = new().write(&PROMPT, 30, HOW, &control).await.unwrap();
    assert_eq!(first, new().write(&PROMPT, 30, HOW, &control).await.unwrap());
    assert_ne!(first, new().write(&PROMPT, 30, Sampling { seed: 4, ..HOW }, &control).await.unwrap());
    let mut pieces = new();
    let mut all = pieces.write(&PROMPT, 12, HOW, &control).await.unwrap();
    all.extend(pieces.write(&[], 18, HOW, &control).await.unwrap());
    assert_eq!(first, all);

    let mut greedy = new();
    let likeliest = Sampling { top_k: 1, ..HOW };
    for byte in new().write(&PROMPT, 9, likeliest, &control).await.unwrap() {
        let prompt = if greedy.window().is_empty() { &PROMPT[..] } else { &[] };
        greedy.read(prompt, &control).await.unwrap();
        let logits = greedy.logits();
        assert!(logits.iter().all(|&other| other <= logits[usize::from(byte)]));
        greedy.read(&[byte], &control).await.unwrap();
    }

    assert!(matches!(new().write(&[], 1, HOW, &control).await, Err(EngineError::Input(_))), "nothing to go on from");
    assert!(matches!(new().read(&[11], &control).await, Err(EngineError::Input(_))), "not in the vocabulary");
    control.stop();
    let stopped = new().write(&[1].repeat(40_000), 1, HOW, &control).await;
    assert!(matches!(stopped, Err(EngineError::Stopped)), "{stopped:?}");
}

/// Models and parameters that a sampler does not take.
pub fn refuses() {
    let model = text(16, 2);
    let good = parameters(&model);
    let refused = |model: &Model, parameters: &[Vec<f32>]| matches!(Sampler::new(model, parameters), Err(EngineError::Input(_)));
    assert!(refused(&super::model(&[8]), &init_parameters(&super::model(&[8]), 1)), "no model of text");
    assert!(refused(&model, &good[1..]) && refused(&model, &[]));
    let mut short = good.clone();
    short[1].pop();
    assert!(refused(&model, &short), "a position is missing");
    let mut wide = model.clone();
    *wide.layers.last_mut().unwrap() = Layer::Dense { outputs: 12 };
    assert!(refused(&wide, &init_parameters(&wide, 1)), "it could write what it cannot read");
}

/// The bundled text job's size, against the whole pass; prints how fast it writes.
pub async fn speed(engine: &Engine, name: &str) {
    let mut layers = vec![Layer::Embedding { vocabulary: 256, width: 128 }];
    for _ in 0..4 {
        layers.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads: 4 }]);
        let wide = Layer::Dense { outputs: 512 };
        layers.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, wide, Layer::Gelu, Layer::Dense { outputs: 128 }]);
    }
    layers.extend([Layer::LayerNorm, Layer::Projection { outputs: 256 }]);
    let input = Input { shape: vec![64], dtype: InputType::U8, scale: 1.0, offset: 0.0 };
    let model = Model { input, layers, loss: Loss::SoftmaxCrossEntropy };
    let (parameters, control) = (init_parameters(&model, 2), Control::new());
    let mut sampler = Sampler::new(&model, &parameters).unwrap();
    let (begun, count) = (now_ms(), 200);
    sampler.write(b"It is a truth universally acknowledged", count, HOW, &control).await.unwrap();
    println(&format!("{name}: {:.2} ms for each byte written", (now_ms() - begun) / count as f64));
    let expected = whole(engine, &model, &parameters, sampler.window()).await;
    let distance = relative_distance(&[sampler.logits().to_vec()], &[expected]).expect("outputs that are not zero");
    assert!(distance < 1e-5, "{distance}");
}
