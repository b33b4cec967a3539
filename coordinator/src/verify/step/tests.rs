//! Steps of every kind of layer and both optimisers: honest ones pass, whatever the point of training; every tensor of them
//! is falsified in turn.

mod bias;
mod lies;

use futures::executor::block_on;
use manyhands::control::Control;
use manyhands::{Engine, init_parameters};
use manyhands_protocol::ids::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::InnerOptimizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

const SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.0 };

const CLIPPED_SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.05 };

const fn adamw(clip_norm: f32) -> InnerOptimizer {
    InnerOptimizer::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, clip_norm }
}

fn dense(outputs: u32) -> Layer {
    Layer::Dense { outputs }
}

fn model(shape: &[u32], dtype: InputType, layers: Vec<Layer>) -> Model {
    let input = Input { shape: shape.to_vec(), dtype, scale: 1.0, offset: 0.0 };
    Model { input, layers, loss: Loss::SoftmaxCrossEntropy }
}

fn mlp() -> Model {
    model(&[20], InputType::F32, vec![dense(24), Layer::Relu, dense(16), Layer::Relu, dense(10)])
}

/// Convolutions with and without padding and stride, both pools, ReLU as an epilogue, twice, and by itself; a residual.
fn cnn() -> Model {
    let convolution = |channels, kernel, stride, padding| Layer::Convolution { channels, kernel, stride, padding };
    let layers = vec![
        convolution(5, 3, 1, 1),
        Layer::Relu,
        Layer::MaxPool { size: 3, stride: 2 },
        Layer::Residual { layers: 1 },
        convolution(5, 3, 1, 1),
        Layer::Relu,
        convolution(8, 3, 2, 1),
        Layer::Relu,
        Layer::Relu,
        Layer::AveragePool { size: 2, stride: 1 },
        dense(10),
    ];
    model(&[14, 12, 3], InputType::F32, layers)
}

/// A transformer with branches that begin with a norm, with attention, with dropout and with a dense layer.
fn gpt() -> Model {
    let width = 16;
    let layers = vec![
        Layer::Embedding { vocabulary: 11, width },
        Layer::Dropout { rate: 0.1 },
        Layer::Residual { layers: 3 },
        Layer::LayerNorm,
        Layer::Attention { heads: 2 },
        Layer::Dropout { rate: 0.2 },
        Layer::Residual { layers: 4 },
        Layer::LayerNorm,
        dense(3 * width),
        Layer::Gelu,
        dense(width),
        Layer::Residual { layers: 1 },
        Layer::Attention { heads: 1 },
        Layer::Relu,
        Layer::Residual { layers: 2 },
        Layer::Dropout { rate: 0.2 },
        dense(width),
        Layer::Residual { layers: 1 },
        dense(width),
        Layer::LayerNorm,
        Layer::Projection { outputs: 11 },
    ];
    model(&[9], InputType::U8, layers)
}

/// Dropout before anything trains, products large enough to be checked by chance, GELU behind a ReLU.
fn wide() -> Model {
    let layers = vec![
        Layer::Dropout { rate: 0.2 },
        Layer::Residual { layers: 1 },
        Layer::Dropout { rate: 0.2 },
        dense(96),
        Layer::Gelu,
        Layer::Residual { layers: 3 },
        dense(96),
        Layer::Gelu,
        Layer::Dropout { rate: 0.2 },
        dense(80),
        Layer::Relu,
        Layer::Gelu,
        dense(7),
    ];
    model(&[88], InputType::F32, layers)
}

fn work(model: Model, batch: u32, optimizer: InnerOptimizer, seed: u8) -> TrainWork {
    TrainWork {
        model,
        checkpoint: BlobHash([seed; 32]),
        shard: BlobHash([!seed; 32]),
        round: 0,
        first_row: batch,
        batch,
        inner_steps: 40,
        optimizer,
    }
}

const OPTIMIZERS: [InnerOptimizer; 4] = [SGD, CLIPPED_SGD, adamw(0.0), adamw(0.05)];

/// A unit of each family by each optimiser.
fn works(seed: u8) -> Vec<TrainWork> {
    let families = [(mlp(), 6), (cnn(), 3), (gpt(), 3), (wide(), 96)];
    let each =
        families.into_iter().flat_map(|(model, batch)| OPTIMIZERS.map(|optimizer| work(model.clone(), batch, optimizer, seed)));
    each.collect()
}

fn examples(model: &Model, rows: usize, seed: u64) -> Shard {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let values = rows * model.input_values().unwrap() as usize;
    let x = match model.vocabulary() {
        Some(ids) => (0..values).map(|_| f32::from_bits(rng.random_range(0..ids))).collect(),
        None => (0..values).map(|_| rng.random_range(-1.0f32..1.0)).collect(),
    };
    let labels = rows * model.labels_count() as usize;
    let y = (0..labels).map(|_| rng.random_range(0..model.classes())).collect();
    Shard { rows, x, y }
}

/// One step with all that was revealed of it.
#[derive(Clone)]
struct Revealed {
    work: TrainWork,
    shard: Shard,
    number: u32,
    before: Vec<(State, Vec<f32>)>,
    trace: Vec<(Traced, Vec<f32>)>,
    after: Vec<(State, Vec<f32>)>,
}

impl Revealed {
    /// Step `number` of a run of `work` from initial parameters, by `run_by` on `trained_on`; checked against `shard`.
    fn of(work: &TrainWork, run_by: &TrainWork, trained_on: &Shard, shard: Shard, seed: u64, number: u32) -> Self {
        let engine = Engine::cpu();
        let parameters = init_parameters(&work.model, seed);
        let mut run = block_on(engine.trainer(run_by, &parameters, trained_on)).unwrap();
        block_on(run.run(number, &Control::new())).unwrap();
        let before = block_on(run.state()).unwrap();
        let trace = block_on(run.run_traced(&Control::new())).unwrap();
        let after = block_on(run.state()).unwrap();
        Self { work: work.clone(), shard, number, before, trace, after }
    }

    fn honest(work: &TrainWork, seed: u64, number: u32) -> Self {
        let shard = examples(&work.model, 5 * work.batch as usize, seed);
        Self::of(work, work, &shard, shard.clone(), seed, number)
    }

    fn check(&self) -> Result<Report, Refusal> {
        self.check_from(None)
    }

    /// The same where the parameters after it are settled from a checkpoint.
    fn check_from(&self, settled_from: Option<&[Vec<f32>]>) -> Result<Report, Refusal> {
        let batch = Batch::of(&self.work, &self.shard, self.number).unwrap();
        let Self { work, number, before, trace, after, .. } = self;
        let step = Step { work, number: *number, batch, before, trace, after, settled_from };
        check_step(&step, &mut ChaCha20Rng::seed_from_u64(99))
    }

    fn tensors(&self) -> Vec<Tensor> {
        let before = self.before.iter().map(|(of, _)| Tensor::Before(*of));
        let trace = self.trace.iter().map(|(of, _)| Tensor::Trace(*of));
        before.chain(trace).chain(self.after.iter().map(|(of, _)| Tensor::After(*of))).collect()
    }

    fn tensor(&mut self, tensor: Tensor) -> &mut Vec<f32> {
        fn find<N: PartialEq>(tensors: &mut [(N, Vec<f32>)], of: N) -> &mut Vec<f32> {
            &mut tensors.iter_mut().find(|(name, _)| *name == of).unwrap().1
        }
        match tensor {
            Tensor::Before(of) => find(&mut self.before, of),
            Tensor::Trace(of) => find(&mut self.trace, of),
            Tensor::After(of) => find(&mut self.after, of),
        }
    }

    /// What is said of it with one tensor changed; none where the change changes nothing.
    fn check_with(&self, tensor: Tensor, change: impl Fn(&mut Vec<f32>)) -> Option<Result<Report, Refusal>> {
        let mut changed = self.clone();
        let values = changed.tensor(tensor);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let was = bits(values);
        change(values);
        (bits(values) != was).then(|| changed.check())
    }
}

/// The largest share of each tolerance.
fn join(all: &mut BTreeMap<&'static str, f64>, report: Report) {
    for (kind, share) in report.used {
        let most = all.entry(kind).or_default();
        *most = most.max(share);
    }
}

#[test]
fn honest_steps_pass_at_any_point_of_training() {
    let mut all = BTreeMap::new();
    for seed in 0..3u8 {
        for work in works(seed) {
            for number in [0, 1, 2, 17] {
                let revealed = Revealed::honest(&work, seed.into(), number);
                match revealed.check() {
                    Ok(report) => join(&mut all, report),
                    Err(e) => panic!("seed {seed}, step {number}, {:?}, {} layers: {e}", work.optimizer, work.model.layers.len()),
                }
            }
        }
    }
    for (kind, share) in &all {
        println!("{kind}: {share:.4}");
        assert!(*share <= 1.0);
    }
    let expected = [
        "adamw",
        "attention",
        "attention's error",
        "average pool",
        "average pool's error",
        "bias gradient",
        "convolution",
        "convolution's input error",
        "convolution's weight gradient",
        "dropout",
        "embedding",
        "embedding's gradient",
        "gelu",
        "gelu's error",
        "input error",
        "layer norm",
        "layer norm's error",
        "layer norm's gradient",
        "loss",
        "max pool",
        "max pool's error",
        "moments",
        "powers",
        "product",
        "relu",
        "sgd",
        "sum",
        "velocity",
        "weight gradient",
    ];
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), expected);
}

/// A unit's last state is committed to with `checkpoint − delta`, which rounds twice and may be far from the parameter where that
/// crosses zero; nothing else is forgiven.
#[test]
fn the_last_state_may_be_settled_and_no_other() {
    let mut refused = 0;
    for work in works(3) {
        let mut last = Revealed::honest(&work, 1, 2);
        let checkpoint = init_parameters(&work.model, 1);
        for (of, values) in &mut last.after {
            let (StateKind::Parameter, Some(parameter)) = (of.kind, of.parameter) else { continue };
            for (value, before) in values.iter_mut().zip(&checkpoint[parameter as usize]) {
                *value = before - (before - *value);
            }
        }
        let settled = last.check_from(Some(&checkpoint));
        assert!(settled.is_ok(), "{settled:?}");
        let plain = last.check();
        refused += usize::from(matches!(plain, Err(Refusal::Step(StepRefusal::Value { tensor: Tensor::After(_), .. }))));
        let lie = Revealed { before: last.after.clone(), ..last.clone() };
        assert!(lie.check_from(Some(&checkpoint)).is_err(), "a step not done");
    }
    assert!(refused > 0, "some parameter crosses zero in one of these");
}

/// The names that the check asks for are those that the plan gives, in the same lengths.
#[test]
fn names_are_those_of_the_plan() {
    for work in works(0) {
        let revealed = Revealed::honest(&work, 0, 0);
        let network = Network::of(&work).unwrap();
        let lengths = |tensors: &[(Traced, Vec<f32>)]| -> BTreeMap<Traced, usize> {
            tensors.iter().map(|(of, values)| (*of, values.len())).collect()
        };
        assert_eq!(network.trace(), lengths(&revealed.trace));
        let state: BTreeMap<State, usize> = revealed.before.iter().map(|(of, values)| (*of, values.len())).collect();
        assert_eq!(network.state(&work.optimizer), state);
    }
}

#[test]
fn batches_are_the_rows_that_the_work_names() {
    let work = TrainWork { first_row: 8, ..work(mlp(), 4, SGD, 0) };
    let shard = examples(&work.model, 12, 1);
    for (step, row) in [(0, 8), (1, 0), (2, 4), (3, 8), (32, 4)] {
        let batch = Batch::of(&work, &shard, step).unwrap();
        assert_eq!(batch, Batch { x: &shard.x[row * 20..(row + 4) * 20], y: &shard.y[row..row + 4] }, "step {step}");
    }
    let odd = Shard { rows: 11, ..shard.clone() };
    assert_eq!(Batch::of(&work, &odd, 0), None);
    assert_eq!(Batch::of(&work, &Shard { rows: 0, x: vec![], y: vec![] }, 0), None);
    assert_eq!(Batch::of(&TrainWork { first_row: 3, ..work.clone() }, &shard, 0), None);
}

/// The nets' products, counted by hand: two of the first layer, three of each other.
#[test]
fn costs_are_counted() {
    let work = work(mlp(), 6, SGD, 0);
    let cost = cost::cost(&work).unwrap();
    assert_eq!((cost.direct, cost.chance), (2 * 6 * (2 * 20 * 24 + 3 * 24 * 16 + 3 * 16 * 10), 0));
    assert!(cost.check > cost.direct && cost.step > cost.direct && cost.ratio() > 0.0);
    // Forward through a ReLU is computed again whatever its size, and so is what ends in ten classes; the rest is large enough.
    let large = |batch| {
        let layers = vec![dense(512), Layer::Relu, dense(512), Layer::Relu, dense(10)];
        cost::cost(&TrainWork { batch, ..self::work(model(&[512], InputType::F32, layers), batch, SGD, 0) }).unwrap()
    };
    let (small, wide) = (large(16), large(512));
    assert_eq!(small.chance, 0);
    assert_eq!(wide.direct, 2 * 512 * (2 * 512 * 512 + 3 * 512 * 10));
    assert_eq!(wide.chance, 3 * 2 * 20 * (3 * 512 * 512));
    assert!(wide.ratio() < small.ratio());
}
