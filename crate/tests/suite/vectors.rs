//! Whole models against the losses, gradients and steps of tests/vectors/models.py, which computed them with numpy
//! from its own forward pass. What no kernel's own test can see shows here: a term left out, a buffer mistaken, a layout
//! understood in the same wrong way by kernel and reference.

use manyhands::control::Control;
use manyhands::engine::Engine;
use manyhands::tensors::Shard;
use manyhands_protocol::ids::BlobHash;
use manyhands_protocol::model::{InputType, Layer, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use safetensors::tensor::{Dtype, SafeTensors};

use super::models::{dense, model};
use super::{println, work};

const VECTORS: &[u8] = include_bytes!("../../../tests/vectors/models.safetensors");

/// How far a loss or the gradient of one parameter may be from the vector's, as a share of its norm. The longest path, the
/// transformer's from an embedding to the loss and back, passes about 1,100 f32 operations (each layer's sums count their
/// terms, and backward is twice forward), each off by u = 2⁻²³ at most. Their errors do not know of each other and add up
/// like √1100 · u = 4e-6; this is two and a half times that. What is measured is printed.
pub const TOLERANCE: f64 = 1e-5;
/// Learning rate of the step that shows the gradient: a power of two, so large that the parameter itself, which the
/// update is rounded with, is nothing beside it.
const SHOWING: f32 = (1 << 20) as f32;
/// Steps and rates of the script's AdamW.
const STEPS: u32 = 3;
const RATE: f32 = 0.01;
const EPSILON: f32 = 0.01;

fn adamw(clip_norm: f32) -> InnerOptimizer {
    InnerOptimizer::AdamW { learning_rate: RATE, beta1: 0.9, beta2: 0.95, epsilon: EPSILON, weight_decay: 0.1, clip_norm }
}

/// And of its SGD, large enough for an update to stand out of the rounding of the parameter.
const SGD_RATE: f32 = 0.25;
const CLIP_NORM: f32 = 0.25;
const CLIPPED_SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: SGD_RATE, momentum: 0.5, clip_norm: CLIP_NORM };

/// The script's models and the rows of their batches.
fn models() -> [(&'static str, Model, usize); 4] {
    let convolution = |channels, kernel, stride, padding| Layer::Convolution { channels, kernel, stride, padding };
    let mlp = vec![dense(9), Layer::Relu, dense(6), Layer::Relu, dense(4)];
    let cnn = vec![
        convolution(4, 3, 1, 1),
        Layer::Relu,
        Layer::MaxPool { size: 3, stride: 2 },
        convolution(6, 3, 2, 1),
        Layer::Relu,
        Layer::AveragePool { size: 2, stride: 1 },
        dense(5),
    ];
    let mut gpt = vec![Layer::Embedding { vocabulary: 13, width: 8 }];
    for _ in 0..2 {
        gpt.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads: 2 }]);
        gpt.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, dense(16), Layer::Gelu, dense(8)]);
    }
    gpt.extend([Layer::LayerNorm, Layer::Projection { outputs: 13 }]);
    let dropped = vec![
        Layer::Embedding { vocabulary: 5, width: 8 },
        Layer::Dropout { rate: 0.1 },
        Layer::Residual { layers: 3 },
        Layer::LayerNorm,
        Layer::Attention { heads: 2 },
        Layer::Dropout { rate: 0.5 },
        Layer::LayerNorm,
        dense(7),
        Layer::Relu,
        Layer::Dropout { rate: 0.3 },
        dense(5),
    ];
    [
        ("mlp", model(&[7], InputType::F32, mlp), 6),
        ("cnn", model(&[9, 8, 2], InputType::F32, cnn), 4),
        ("gpt", model(&[6], InputType::U8, gpt), 3),
        ("dropout", model(&[6], InputType::U8, dropped), 3),
    ]
}

/// A tensor of the file, whatever its element type. Panics where it is missing or of another shape.
fn tensor(file: &SafeTensors, name: &str, shape: &[usize]) -> Vec<f64> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.shape(), shape, "{name}");
    let data = view.data();
    match view.dtype() {
        Dtype::U8 => data.iter().map(|&v| v.into()).collect(),
        Dtype::F32 => data.chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap()).into()).collect(),
        Dtype::F64 => data.chunks_exact(8).map(|v| f64::from_le_bytes(v.try_into().unwrap())).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

/// What the file holds of one model.
struct Vectors {
    names: Vec<String>,
    parameters: Vec<Vec<f32>>,
    shard: Shard,
    loss: f64,
    gradient: Vec<Vec<f64>>,
    /// Parameters before minus those after the steps: AdamW without and with clipping, SGD with it.
    adamw: Vec<Vec<f64>>,
    clipped: Vec<Vec<f64>>,
    clipped_sgd: Vec<Vec<f64>>,
}

impl Vectors {
    fn read(file: &SafeTensors, kind: &str, model: &Model, rows: usize) -> Self {
        let parameters = model.parameters().unwrap();
        let all = |set: &str| -> Vec<Vec<f64>> {
            let shape = |shape: &[u32]| shape.iter().map(|&d| d as usize).collect::<Vec<_>>();
            parameters.iter().map(|p| tensor(file, &format!("{kind}/{set}/{}", p.name), &shape(&p.shape))).collect()
        };
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let before = all("parameters");
        let moved = |set: &str| -> Vec<Vec<f64>> {
            before.iter().zip(all(set)).map(|(b, a)| b.iter().zip(a).map(|(b, a)| b - a).collect()).collect()
        };
        let mut extents = vec![rows];
        extents.extend(model.input.shape.iter().map(|&d| d as usize));
        let x = tensor(file, &format!("{kind}/x"), &extents);
        let labels = if model.vocabulary().is_some() { &extents[..] } else { &extents[..1] };
        let y = tensor(file, &format!("{kind}/y"), labels).into_iter().map(|v| v as u32).collect();
        let x = match model.vocabulary() {
            Some(_) => x.into_iter().map(|id| f32::from_bits(id as u32)).collect(),
            None => narrow(x),
        };
        Self {
            names: parameters.iter().map(|p| p.name.clone()).collect(),
            parameters: before.iter().cloned().map(narrow).collect(),
            shard: Shard { rows, x, y },
            loss: tensor(file, &format!("{kind}/loss"), &[1])[0],
            gradient: all("gradient"),
            adamw: moved("adamw"),
            clipped: moved("clipped"),
            clipped_sgd: moved("clipped-sgd"),
        }
    }

    /// The update after some steps, divided by `scale`, and the loss before the first.
    async fn update(&self, engine: &Engine, work: TrainWork, scale: f32) -> (Vec<Vec<f64>>, f64) {
        let trained = engine.train(&unit(work), &self.parameters, &self.shard, &Control::new()).await.unwrap();
        let wide = |delta: &Vec<f32>| delta.iter().map(|&d| f64::from(d) / f64::from(scale)).collect();
        (trained.delta.iter().map(wide).collect(), trained.losses[0].into())
    }

    /// What AdamW may be off by: a step moves by at most `RATE / EPSILON` of what its gradient is off by, by way of the
    /// first moment and again of the second; and each step rounds a parameter a few times.
    fn adamw_bounds(&self) -> Vec<f64> {
        let slope = 2.0 * f64::from(RATE / EPSILON) * TOLERANCE;
        let rounding = 4.0 * manyhands_shaders::UNIT_ROUNDOFF;
        let bound = |(g, p): (&Vec<f64>, &Vec<f32>)| {
            let p: Vec<f64> = p.iter().map(|&p| p.into()).collect();
            f64::from(STEPS) * (slope * norm(g) + rounding * norm(&p))
        };
        self.gradient.iter().zip(&self.parameters).map(bound).collect()
    }

    /// What SGD with clipping may be off by: a step moves by at most `2 · SGD_RATE` of the clipped gradient, whose parts are off
    /// by themselves and by the norm of all, and rounds a parameter a few times.
    fn clipped_sgd_bounds(&self) -> Vec<f64> {
        let all = self.gradient.iter().map(|g| norm(g).powi(2)).sum::<f64>().sqrt();
        let slope = 2.0 * f64::from(SGD_RATE) * 2.0 * TOLERANCE * f64::from(CLIP_NORM) / all;
        let rounding = 4.0 * manyhands_shaders::UNIT_ROUNDOFF;
        let bound = |(g, p): (&Vec<f64>, &Vec<f32>)| {
            let p: Vec<f64> = p.iter().map(|&p| p.into()).collect();
            f64::from(STEPS) * (slope * norm(g) + rounding * norm(&p))
        };
        self.gradient.iter().zip(&self.parameters).map(bound).collect()
    }
}

/// The script's unit, which dropout's masks depend on.
fn unit(work: TrainWork) -> TrainWork {
    let hash = |first: usize| BlobHash(std::array::from_fn(|i| (first + i) as u8));
    TrainWork { checkpoint: hash(0), shard: hash(100), first_row: 2 * work.batch, ..work }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest share of a tensor's bound that `‖got − expected‖` is; the first tensor that is past it, of another length
/// or not finite is named.
fn compare(names: &[String], got: &[Vec<f64>], expected: &[Vec<f64>], bounds: &[f64]) -> Result<f64, String> {
    if [got.len(), expected.len(), bounds.len()] != [names.len(); 3] || names.is_empty() {
        return Err(format!("{} tensors, {} expected", got.len(), expected.len()));
    }
    let mut worst = 0.0f64;
    for (index, name) in names.iter().enumerate() {
        let (got, expected, bound) = (&got[index], &expected[index], bounds[index]);
        if got.len() != expected.len() {
            return Err(format!("{name}: {} values, {} expected", got.len(), expected.len()));
        }
        let error = norm(&got.iter().zip(expected).map(|(a, b)| a - b).collect::<Vec<_>>());
        // Written so that NaN on either side fails.
        #[allow(clippy::neg_cmp_op_on_partial_ord)]
        if !(error <= bound) || bound == 0.0 {
            return Err(format!("{name}: off by {error:e}, {bound:e} allowed"));
        }
        worst = worst.max(error / bound);
    }
    Ok(worst)
}

/// Losses, gradients and updates of the models.
pub async fn agree(engine: &Engine, name: &str) {
    let file = SafeTensors::deserialize(VECTORS).unwrap();
    for (kind, model, rows) in models() {
        let vectors = Vectors::read(&file, kind, &model, rows);
        let showing = InnerOptimizer::Sgd { learning_rate: SHOWING, momentum: 0.0, clip_norm: 0.0 };
        let one = TrainWork { optimizer: showing, ..work(model.clone(), rows as u32, 1) };
        let (gradient, loss) = vectors.update(engine, one, SHOWING).await;
        assert!((loss / vectors.loss - 1.0).abs() <= TOLERANCE, "{kind}: loss {loss}, {} expected", vectors.loss);
        let bounds: Vec<f64> = vectors.gradient.iter().map(|g| TOLERANCE * norm(g)).collect();
        let worst = compare(&vectors.names, &gradient, &vectors.gradient, &bounds).unwrap();
        let mut used = vec![worst];
        let adamw_bounds = vectors.adamw_bounds();
        for (optimizer, expected, bounds) in [
            (adamw(0.0), &vectors.adamw, &adamw_bounds),
            (adamw(CLIP_NORM), &vectors.clipped, &adamw_bounds),
            (CLIPPED_SGD, &vectors.clipped_sgd, &vectors.clipped_sgd_bounds()),
        ] {
            let steps = TrainWork { optimizer, ..work(model.clone(), rows as u32, STEPS) };
            let (update, _) = vectors.update(engine, steps, 1.0).await;
            used.push(compare(&vectors.names, &update, expected, bounds).unwrap_or_else(|e| panic!("{kind}: {e}")));
            differences_are_seen(&vectors.names, &update, expected, bounds);
        }
        differences_are_seen(&vectors.names, &gradient, &vectors.gradient, &bounds);
        println(&format!("{name}: {kind} against numpy: {used:.3?} of what is allowed"));
    }
}

/// The comparison fails on each tensor that is a hundredth wrong, has one NaN or is cut short, and on none at all.
fn differences_are_seen(names: &[String], right: &[Vec<f64>], expected: &[Vec<f64>], bounds: &[f64]) {
    for index in 0..names.len() {
        let wrong: [fn(&mut Vec<f64>); 4] =
            [|t| t.iter_mut().for_each(|v| *v *= 1.01), |t| t[0] = f64::NAN, |t| t.truncate(1.max(t.len()) - 1), Vec::clear];
        for change in wrong {
            let mut got = right.to_vec();
            change(&mut got[index]);
            assert!(compare(names, &got, expected, bounds).is_err(), "{}", names[index]);
        }
    }
    assert!(compare(names, &right[1..], expected, bounds).is_err());
    assert!(compare(&[], &[], &[], &[]).is_err());
}
