//! Whole models of every kind of layer: training units against the reference, and the reference's gradients against
//! finite differences of its own losses.

use manyhands::control::Control;
use manyhands::engine::{Engine, EngineError, init_parameters, known};
use manyhands::tensors::Shard;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::compare::relative_distance;

use super::{println, work};

pub fn dense(outputs: u32) -> Layer {
    Layer::Dense { outputs }
}

pub fn model(shape: &[u32], dtype: InputType, layers: Vec<Layer>) -> Model {
    let input = Input { shape: shape.to_vec(), dtype, scale: 1.0, offset: 0.0 };
    Model { input, layers, loss: Loss::SoftmaxCrossEntropy }
}

/// Convolutions with and without padding and stride, both pools, ReLU as an epilogue and by itself.
pub fn images() -> Model {
    let convolution = |channels, kernel, stride, padding| Layer::Convolution { channels, kernel, stride, padding };
    let layers = vec![
        convolution(5, 3, 1, 1),
        Layer::Relu,
        Layer::MaxPool { size: 2, stride: 2 },
        Layer::Residual { layers: 1 },
        convolution(5, 3, 1, 1),
        Layer::Relu,
        convolution(8, 3, 2, 0),
        Layer::AveragePool { size: 2, stride: 1 },
        dense(10),
    ];
    model(&[14, 12, 3], InputType::F32, layers)
}

/// The net of the measured job on colour pictures of 32 by 32.
fn colour() -> Model {
    let convolution = |channels| Layer::Convolution { channels, kernel: 5, stride: 1, padding: 0 };
    let pool = Layer::MaxPool { size: 2, stride: 2 };
    let layers = vec![convolution(8), Layer::Relu, pool.clone(), convolution(16), Layer::Relu, pool, dense(10)];
    let model = model(&[32, 32, 3], InputType::F32, layers);
    assert_eq!(model.parameters().unwrap()[4].shape, [5 * 5 * 16, 10], "28, 14, 10 and 5 pixels a side");
    model
}

/// A transformer of two blocks, one with norms that open the branches, one without.
pub fn text(width: u32, heads: u32) -> Model {
    let layers = vec![
        Layer::Embedding { vocabulary: 11, width },
        Layer::Residual { layers: 2 },
        Layer::LayerNorm,
        Layer::Attention { heads },
        Layer::Residual { layers: 4 },
        Layer::LayerNorm,
        dense(3 * width),
        Layer::Gelu,
        dense(width),
        Layer::Residual { layers: 1 },
        Layer::Attention { heads },
        Layer::Relu,
        Layer::LayerNorm,
        dense(11),
    ];
    model(&[9], InputType::U8, layers)
}

/// A net with dropout in every place it may stand: of its input, before and behind a ReLU, where a residual ends and where
/// one begins.
pub fn dropping() -> Model {
    let dropout = Layer::Dropout { rate: 0.2 };
    let layers = vec![
        dropout.clone(),
        dense(24),
        Layer::Relu,
        dropout.clone(),
        Layer::Residual { layers: 3 },
        dense(24),
        Layer::Gelu,
        dropout.clone(),
        Layer::Residual { layers: 2 },
        dropout.clone(),
        dense(24),
        dropout,
        Layer::Relu,
        dense(5),
    ];
    model(&[37], InputType::F32, layers)
}

/// Random examples that a model takes.
pub fn examples(model: &Model, rows: usize) -> Shard {
    let values = model.input_values().unwrap() as usize;
    let noise = known::values(50, rows * values);
    let x = match model.vocabulary() {
        Some(ids) => noise.iter().map(|v| f32::from_bits(((v + 1.0) / 2.0 * ids as f32) as u32 % ids)).collect(),
        None => noise,
    };
    let labels = rows * model.labels_count() as usize;
    let y = known::values(51, labels).iter().map(|v| ((v + 1.0) * 500.0) as u32 % model.classes()).collect();
    Shard { rows, x, y }
}

pub const fn adamw(clip_norm: f32) -> InnerOptimizer {
    InnerOptimizer::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, clip_norm }
}

pub const SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.5, clip_norm: 0.0 };
/// Below the norm of every gradient that these models begin with.
pub const CLIPPED_SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.5, clip_norm: 0.1 };

/// Units of each model by each optimiser, on `engine` and on the reference.
pub async fn units(engine: &Engine, name: &str) {
    let cases = [
        ("images", images(), 8),
        ("colour", colour(), 7),
        ("text", text(16, 2), 12),
        ("text, odd", text(12, 1), 12),
        ("dropout", dropping(), 24),
    ];
    for (kind, model, steps) in cases {
        for (optimizer, most) in [(SGD, 1e-4), (CLIPPED_SGD, 1e-4), (adamw(0.0), 2e-3), (adamw(0.1), 2e-3)] {
            let work = TrainWork { optimizer, first_row: 3, ..work(model.clone(), 3, steps) };
            let (parameters, shard, control) = (init_parameters(&model, 3), examples(&model, 9), Control::new());
            let got = engine.train(&work, &parameters, &shard, &control).await.unwrap();
            let expected = Engine::reference().train(&work, &parameters, &shard, &control).await.unwrap();
            let distance = relative_distance(&got.delta, &expected.delta).expect("an update that is finite and not zero");
            println(&format!("{name}: {kind}, {:?}: distance {distance:.1e}", work.optimizer));
            assert!(distance < most, "{kind} {:?}: {distance}", work.optimizer);
            assert!(expected.losses.last() < expected.losses.first(), "{kind} learns: {:?}", expected.losses);
        }
        let (parameters, shard) = (init_parameters(&model, 3), examples(&model, 5));
        let got = engine.logits(&model, &parameters, &shard.x, 5, &Control::new()).await.unwrap();
        let expected = Engine::reference().logits(&model, &parameters, &shard.x, 5, &Control::new()).await.unwrap();
        assert_eq!(got.len(), 5 * (model.labels_count() * model.classes()) as usize);
        assert!(relative_distance(&[got], &[expected]).expect("logits") < 1e-5);
    }
}

/// The loss at the parameters moved by `step` along `direction`, each parameter tensor by itself; and the gradient's
/// component along it, from one step of plain SGD.
pub async fn gradients(engine: &Engine) {
    let net = model(&[12], InputType::F32, vec![dense(9), Layer::Relu, dense(7), Layer::Relu, dense(10)]);
    for model in [net, images(), text(8, 2)] {
        let optimizer = InnerOptimizer::Sgd { learning_rate: 1.0, momentum: 0.0, clip_norm: 0.0 };
        let work = TrainWork { optimizer, ..work(model.clone(), 4, 1) };
        let (shard, control) = (examples(&model, 4), Control::new());
        let mut parameters = init_parameters(&model, 9);
        // Away from zeros and ones, where errors could hide.
        for (stream, values) in parameters.iter_mut().enumerate() {
            let noise = known::values(60 + stream as u64, values.len());
            values.iter_mut().zip(noise).for_each(|(p, v)| *p += 0.1 * v);
        }
        let gradient = engine.train(&work, &parameters, &shard, &control).await.unwrap().delta;
        let names = model.parameters().unwrap();
        for (index, name) in names.iter().map(|p| &p.name).enumerate() {
            let norm = gradient[index].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 0.0, "{name} has no gradient");
            let step = 3e-4 / norm.max(0.05);
            let mut losses = [0.0; 2];
            for (loss, sign) in losses.iter_mut().zip([-1.0, 1.0]) {
                let mut moved = parameters.clone();
                for (p, g) in moved[index].iter_mut().zip(&gradient[index]) {
                    *p += (sign * step * f64::from(*g)) as f32;
                }
                *loss = loss_of(engine, &model, &moved, &shard).await;
            }
            let slope = (losses[1] - losses[0]) / (2.0 * step);
            let error = (slope / norm.powi(2) - 1.0).abs();
            assert!(error < 0.02, "{name}: slope {slope}, the gradient says {}", norm.powi(2));
        }
    }
}

/// Hits are those of the logits, of equals the first, in whole batches and in what is left of one; and what is refused.
pub async fn evaluation(engine: &Engine) {
    let net = super::model(&[16]);
    let flat = |model: &Model| init_parameters(model, 3).into_iter().map(|p| vec![0.0; p.len()]).collect::<Vec<_>>();
    for (model, rows) in [(net.clone(), 600), (net.clone(), 256), (net.clone(), 1), (images(), 5), (text(8, 2), 3)] {
        let (shard, control) = (examples(&model, rows), Control::new());
        for parameters in [init_parameters(&model, 3), flat(&model)] {
            let got = engine.evaluate(&model, &parameters, &shard.x, &shard.y, &control).await.unwrap();
            assert_eq!(got.logits, engine.logits(&model, &parameters, &shard.x, rows, &control).await.unwrap());
            let answers = got.logits.chunks_exact(model.classes() as usize).map(|z| {
                let larger = |best: usize, i: usize| if z[i] > z[best] { i } else { best };
                (0..z.len()).fold(0, larger) as u32
            });
            let hits = answers.zip(&shard.y).filter(|(answer, label)| answer == *label).count() as u64;
            assert_eq!(got.hits, hits, "{rows} rows, {} layers", model.layers.len());
        }
    }
    let (model, control) = (text(8, 2), Control::new());
    let (parameters, shard) = (init_parameters(&model, 3), examples(&model, 3));
    for (x, y) in [(&shard.x[1..], &shard.y[..]), (&shard.x[..], &shard.y[1..]), (&shard.x[..], &[])] {
        let got = engine.evaluate(&model, &parameters, x, y, &control).await;
        assert!(matches!(got, Err(EngineError::Input(_))), "{got:?}");
    }
}

/// Mean loss in f64 from the engine's logits.
async fn loss_of(engine: &Engine, model: &Model, parameters: &[Vec<f32>], shard: &Shard) -> f64 {
    let logits = engine.logits(model, parameters, &shard.x, shard.rows, &Control::new()).await.unwrap();
    let rows = logits.chunks_exact(model.classes() as usize).zip(&shard.y);
    let losses = rows.map(|(z, &label)| {
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = z.iter().map(|&z| f64::from(z - largest).exp()).sum();
        sum.ln() + f64::from(largest) - f64::from(z[label as usize])
    });
    losses.sum::<f64>() / shard.y.len() as f64
}

/// Clipping is by the norm of all gradients together: a step of SGD at rate 1 is the clipped gradient. One of plain AdamW
/// divides every gradient by its own size, so that it shows in ε alone; with a large ε the step is the clipped gradient.
pub async fn clipping(engine: &Engine) {
    let model = text(8, 2);
    let sgd = |clip_norm| InnerOptimizer::Sgd { learning_rate: 1.0, momentum: 0.0, clip_norm };
    let adamw = |clip_norm| InnerOptimizer::AdamW {
        learning_rate: 1.0,
        beta1: 0.0,
        beta2: 0.0,
        epsilon: 0.999,
        weight_decay: 0.0,
        clip_norm,
    };
    let (parameters, shard, control) = (init_parameters(&model, 3), examples(&model, 4), Control::new());
    for (optimizers, scale) in [([0.0, 1e-3, 1e9].map(sgd), 1.0), ([0.0, 1e-3, 1e9].map(adamw), 0.999)] {
        let mut norms = Vec::new();
        for optimizer in optimizers {
            let work = TrainWork { optimizer, ..work(model.clone(), 4, 1) };
            let delta = engine.train(&work, &parameters, &shard, &control).await.unwrap().delta;
            norms.push(delta.iter().flatten().map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt());
        }
        assert!((norms[1] / 1e-3 * scale - 1.0).abs() < 0.01, "clipped to {}", norms[1]);
        assert!(norms[0] > 0.01 && norms[0] == norms[2], "{norms:?}");
    }
}
