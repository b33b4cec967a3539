//! Steps of every backend that this machine has, before the coordinator's check: honest ones pass on the CPU and on a GPU
//! (lavapipe where there is none), by each kind of kernel that a device may run. No adapter is a failure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use futures::executor::block_on;
use manyhands::control::Control;
use manyhands::engine::{Engine, GpuOptions, init_parameters, known};
use manyhands::tensors::Shard;
use manyhands_coordinator::verify::step::{Batch, Step, check_step};
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::{JobManifest, JobWork, parse_json};
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};

const ADAMW: InnerOptimizer =
    InnerOptimizer::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 0.5 };
const SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.02, momentum: 0.9, clip_norm: 0.0 };
const CLIPPED_SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.02, momentum: 0.9, clip_norm: 0.1 };

fn bundled(manifest: &str) -> Model {
    let manifest: JobManifest = parse_json(manifest.as_bytes()).unwrap();
    let JobWork::Train(recipe) = manifest.work else { panic!("a training job") };
    recipe.model
}

/// Strides, padding, both pools, and residuals that begin with each kind of layer.
fn images() -> Model {
    let convolution = |channels, kernel, stride, padding| Layer::Convolution { channels, kernel, stride, padding };
    let layers = vec![
        convolution(5, 3, 1, 1),
        Layer::Relu,
        Layer::MaxPool { size: 3, stride: 2 },
        Layer::Residual { layers: 1 },
        convolution(5, 3, 1, 1),
        Layer::Relu,
        convolution(8, 3, 2, 1),
        Layer::AveragePool { size: 2, stride: 1 },
        Layer::Dropout { rate: 0.2 },
        Layer::Dense { outputs: 10 },
    ];
    let input = Input { shape: vec![14, 12, 3], dtype: InputType::F32, scale: 1.0, offset: 0.0 };
    Model { input, layers, loss: Loss::SoftmaxCrossEntropy }
}

fn dropped(mut model: Model) -> Model {
    model.layers.insert(1, Layer::Dropout { rate: 0.1 });
    model
}

fn units() -> Vec<(&'static str, TrainWork)> {
    let text = bundled(include_str!("../../demo/austen-gpt/manifest.json"));
    let pictures = bundled(include_str!("../../demo/fashion-cnn/manifest.json"));
    let plain = bundled(include_str!("../../demo/fashion-mlp/manifest.json"));
    let unit = |model: Model, batch, optimizer| {
        let (checkpoint, shard) = (BlobHash([7; 32]), BlobHash([8; 32]));
        TrainWork { model, checkpoint, shard, round: 0, first_row: 0, batch, inner_steps: 20, optimizer }
    };
    vec![
        ("dense, SGD", unit(plain.clone(), 32, SGD)),
        ("dense, AdamW", unit(plain, 32, ADAMW)),
        ("pictures, SGD", unit(pictures.clone(), 16, SGD)),
        ("pictures, AdamW", unit(pictures, 16, ADAMW)),
        ("odd pictures, SGD", unit(images(), 5, SGD)),
        ("odd pictures, AdamW", unit(images(), 5, ADAMW)),
        ("text, AdamW", unit(text.clone(), 2, ADAMW)),
        ("text with dropout, clipped SGD", unit(dropped(text), 2, CLIPPED_SGD)),
    ]
}

fn examples(model: &Model, rows: usize, seed: u64) -> Shard {
    let noise = known::values(seed, rows * model.input_values().unwrap() as usize);
    let x = match model.vocabulary() {
        Some(ids) => noise.iter().map(|v| f32::from_bits(((v + 1.0) / 2.0 * ids as f32) as u32 % ids)).collect(),
        None => noise,
    };
    let labels = rows * model.labels_count() as usize;
    let y = known::values(seed + 1, labels).iter().map(|v| ((v + 1.0) * 500.0) as u32 % model.classes()).collect();
    Shard { rows, x, y }
}

/// Checks some steps of every unit, and prints the largest share of each tolerance that any used.
fn honest_steps_pass(engine: &Engine, name: &str, seeds: u64) {
    let mut used = BTreeMap::<&str, f64>::new();
    for (unit, work) in units() {
        for seed in 0..seeds {
            let (parameters, shard) = (init_parameters(&work.model, seed), examples(&work.model, 3 * work.batch as usize, seed));
            let mut run = block_on(engine.trainer(&work, &parameters, &shard)).unwrap();
            let mut done = 0;
            for number in [0, 1, 9] {
                block_on(run.run(number - done, &Control::new())).unwrap();
                let before = block_on(run.state()).unwrap();
                let trace = block_on(run.run_traced(&Control::new())).unwrap();
                let after = block_on(run.state()).unwrap();
                done = number + 1;
                let batch = Batch::of(&work, &shard, number).unwrap();
                let step = Step { work: &work, number, batch, before: &before, trace: &trace, after: &after, settled_from: None };
                let report = check_step(&step, &mut rand::rng()).unwrap_or_else(|e| panic!("{name}, {unit}, step {number}: {e}"));
                for (kind, share) in report.used {
                    let most = used.entry(kind).or_default();
                    *most = most.max(share);
                }
            }
        }
    }
    for (kind, share) in used {
        println!("{name}: {kind}: {share:.4}");
    }
}

#[test]
fn on_the_cpu() {
    honest_steps_pass(&Engine::cpu(), "native CPU", 3);
}

#[test]
fn on_the_gpu() {
    honest_steps_pass(&block_on(Engine::gpu_with(GpuOptions::default())).unwrap(), "GPU", 2);
}

#[test]
fn on_the_gpu_by_the_kernels_of_devices() {
    let options = GpuOptions { as_device: true, ..Default::default() };
    honest_steps_pass(&block_on(Engine::gpu_with(options)).unwrap(), "GPU as a device", 1);
}

#[test]
fn on_the_gpu_without_subgroups() {
    let options = GpuOptions { without_subgroups: true, ..Default::default() };
    honest_steps_pass(&block_on(Engine::gpu_with(options)).unwrap(), "GPU without subgroups", 1);
}
