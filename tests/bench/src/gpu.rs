//! The engine on the fastest adapter there is, natively: what its multipliers reach, what each variant of the product
//! reaches beside that, and training steps of a wide transformer, with what each kernel takes of them. Prints one JSON
//! object, and leaves the transformer's parameters and batches in a folder, for another program to train the same
//! (`../torch_step.py`).

mod peak;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use manyhands::control::Control;
use manyhands::engine::{AdapterChoice, Engine, init_parameters, known};
use manyhands::plan::{Buffer, Matmul, Op, Program, Sharing, TrainPlan};
use manyhands::tensors::Shard;
use manyhands::tuner::sharing::Sharings;
use manyhands::tuner::{AdapterClass, Budget, Task, Tuner, is_offered, tasks};
use manyhands_protocol::work::{Dtype, InnerOptimizer, TrainWork, Work};
use manyhands_shaders::binary16;
use manyhands_shaders::matmul::{Epilogue, Matrices, Rows, Shape, Transposed, Variant, gamma};
use serde_json::{Value, json};

use crate::models;

/// How long one sample lasts, as far as repetition goes.
const SAMPLE_MS: f64 = 40.0;
const SAMPLES: usize = 5;
/// Entries of a product that are compared with f64.
const ENTRIES: usize = 500;
/// First losses that are kept.
const LOSSES: u32 = 8;
/// What the tuner may take.
const TUNING_MS: f64 = 20_000.0;
/// Steps of one sample.
const STEPS: u32 = 10;

const N: Transposed = Transposed { a: false, b: false };
const TN: Transposed = Transposed { a: true, b: false };
const NT: Transposed = Transposed { a: false, b: true };

/// m, k and n: cubes, and what other comparisons measure.
const SHAPES: [[u32; 3]; 9] = [
    [256, 256, 256],
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [4096, 4096, 4096],
    [64, 784, 256],
    [784, 64, 256],
    [256, 256, 1024],
    [1024, 384, 1536],
];

/// Everything; with extents of a transformer its steps alone; on an adapter that stands in for a device a small part.
pub fn measure(folder: &Path, extents: &[&str]) -> Result<Value> {
    let dims = dims(extents)?;
    let engine: &'static Arc<Engine> = Box::leak(Box::new(Arc::new(pollster::block_on(Engine::gpu(AdapterChoice::Fastest))?)));
    let software = engine.is_software_adapter();
    let peak = pollster::block_on(peak::fma_gflops(if software { 4 } else { 4096 }, SAMPLES))?;
    eprintln!("{}: {} GFLOP/s", engine.device_class().adapter, peak[SAMPLES / 2]);
    let mut products = Vec::new();
    let shapes = if extents.is_empty() { &SHAPES[..] } else { &[] };
    for &[m, k, n] in shapes.iter().filter(|extents| !software || extents.iter().product::<u32>() <= 1 << 27) {
        let square = m == k && k == n;
        for transposed in if square { &[N, NT, TN][..] } else { &[N][..] } {
            products.push(pollster::block_on(product(engine, Shape { m, k, n }, *transposed))?);
        }
    }
    let train = pollster::block_on(train(engine, folder, dims, software))?;
    Ok(json!({
        "adapter": engine.device_class().adapter,
        "software": software,
        "fma_peak_gflops": peak,
        "products": products,
        "train": train,
    }))
}

/// Fixed values on [-1, 1), without a pattern that a sum would feel.
fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Milliseconds of one of the calls that `run` makes so many of, over [`SAMPLES`] samples, sorted.
async fn sampled(mut run: impl AsyncFnMut(u32) -> Result<()>) -> Result<Vec<f64>> {
    let mut time = async |count: u32| -> Result<f64> {
        let begun = Instant::now();
        run(count).await?;
        Ok(begun.elapsed().as_secs_f64() * 1e3 / f64::from(count))
    };
    time(1).await?;
    let once = time(3).await?;
    let count = (SAMPLE_MS / once).ceil().clamp(1.0, 5000.0) as u32;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        times.push(time(count).await?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// GFLOP/s of every variant that an adapter is offered, and how far off its worst entry is, as a share of the tolerance.
async fn product(engine: &Engine, shape: Shape, transposed: Transposed) -> Result<Value> {
    let Shape { m, k, n } = shape;
    let f32s = [values(1, (m * k) as usize), values(2, (k * n) as usize)];
    let f16s = known::patterns(1, shape, transposed);
    let mut variants = serde_json::Map::new();
    let task = Task { transposed, ..Task::plain(shape, Dtype::F32) };
    let usual = engine.usual_variant(&task);
    for variant in Variant::ALL {
        if !is_offered(variant, AdapterClass::Device) || !variant.takes(shape, transposed) || !engine.offers_variant(variant) {
            continue;
        }
        let mut program = Program::default();
        let (stored, [a, b], value_bytes) = match variant.reads_f16() {
            true => (f16s.clone().map(|p| binary16::pack(&p)), f16s.clone().map(|p| known::widened(&p)), 2),
            false => (f32s.clone(), f32s.clone(), 4),
        };
        let [ia, ib, ic] = [stored[0].len() as u64, stored[1].len() as u64, (m * n).into()].map(|values| program.buffer(values));
        program.ops.push(Op::Matmul(Matmul {
            a: ia,
            b: ib,
            bias: None,
            c: ic,
            shape,
            transposed,
            epilogue: Epilogue::None,
            rows: Rows { first: 0, end: m },
            matrices: Matrices::ONE,
            variant: Some(variant),
        }));
        let mut resident = engine.load(&program, &[(ia, &stored[0]), (ib, &stored[1])]).await?;
        let times = sampled(async |count| Ok(resident.replay(count).await?)).await?;
        let c = resident.read(&[ic]).await?.swap_remove(0);
        let share = worst(shape, transposed, &a, &b, &c);
        let gflops: Vec<f64> = times.iter().rev().map(|ms| f64::from(m) * f64::from(k) * f64::from(n) * 2e-6 / ms).collect();
        eprintln!(
            "{m}x{k}x{n} {transposed:?} {} {:.0} GFLOP/s, {share:.3} of the tolerance",
            variant.name(),
            gflops[SAMPLES / 2]
        );
        let operand_bytes = value_bytes * u64::from(m * k + k * n);
        let found = json!({
            "gflops": gflops, "share_of_tolerance": share, "usual": variant == usual, "operand_bytes": operand_bytes,
        });
        variants.insert(variant.name().to_owned(), found);
    }
    Ok(json!({ "m": m, "k": k, "n": n, "transposed_a": transposed.a, "transposed_b": transposed.b, "variants": variants }))
}

/// The largest error of some entries, corners among them, as a share of their tolerance; infinite for NaN.
fn worst(shape: Shape, transposed: Transposed, a: &[f32], b: &[f32], c: &[f32]) -> f64 {
    let [m, k, n] = [shape.m, shape.k, shape.n].map(|extent| extent as usize);
    let mut worst = 0.0_f64;
    for index in 0..ENTRIES {
        let (row, column) = (index * 7919 % m, (index * 104_729 + index / m) % n);
        let (row, column) = if index == 0 { (m - 1, n - 1) } else { (row, column) };
        let (mut sum, mut size) = (0.0, 0.0);
        for p in 0..k {
            let a = f64::from(a[if transposed.a { p * m + row } else { row * k + p }]);
            let b = f64::from(b[if transposed.b { column * k + p } else { p * n + column }]);
            sum += a * b;
            size += (a * b).abs();
        }
        let share = (f64::from(c[row * n + column]) - sum).abs() / (gamma(shape.k) * size);
        if share.is_nan() {
            return f64::INFINITY;
        }
        worst = worst.max(share);
    }
    worst
}

fn write<T: bytemuck::NoUninit>(folder: &Path, name: &str, values: &[T]) -> Result<()> {
    std::fs::write(folder.join(name), bytemuck::cast_slice(values)).with_context(|| format!("cannot write {name}"))
}

/// Steps of the wide transformer: the first losses, and what a step takes with and without all that surrounds its calls.
async fn train(engine: &'static Arc<Engine>, folder: &Path, dims: models::Dims, software: bool) -> Result<Value> {
    let work = models::wide(dims, 4);
    let plan = TrainPlan::compile_cut(&work, engine.call_flop_max())?;
    let rows = (work.batch * work.inner_steps) as usize;
    let count = rows * dims.time as usize;
    let ids =
        |seed: u32| values(seed, count).into_iter().map(|v| ((v + 1.0) * 128.0) as u32 % dims.vocabulary).collect::<Vec<_>>();
    let (x, y) = (ids(3), ids(4));
    let parameters = init_parameters(&work.model, 1);
    for (index, values) in parameters.iter().enumerate() {
        write(folder, &format!("p{index}"), values)?;
    }
    write(folder, "x", &x)?;
    write(folder, "y", &y)?;
    let InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = work.optimizer else {
        anyhow::bail!("the wide transformer trains by AdamW");
    };
    let models::Dims { time, width, layers, heads, batch, vocabulary } = dims;
    let steps = if software { 1 } else { STEPS };
    let products: Vec<_> = SHAPES.iter().filter(|_| !software).collect();
    let told = json!({
        "time": time, "width": width, "layers": layers, "heads": heads, "batch": batch, "vocabulary": vocabulary,
        "losses": LOSSES, "steps": steps, "samples": SAMPLES, "products": products,
        "adamw": {
            "learning_rate": learning_rate, "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": weight_decay,
        },
    });
    std::fs::write(folder.join("model.json"), told.to_string())?;
    let shard: &'static Shard = Box::leak(Box::new(Shard { rows, x: x.iter().map(|&id| f32::from_bits(id)).collect(), y }));
    let control = Control::new();
    let tuned = tune(engine, &work, &control).await?;
    let mut trainer = engine.trainer(&work, &parameters, shard).await?;
    let losses = trainer.run(LOSSES, &control).await?;
    let (mut step_ms, mut replay_ms) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        trainer.run(steps, &control).await?;
        step_ms.push(begun.elapsed().as_secs_f64() * 1e3 / f64::from(steps));
        let begun = Instant::now();
        trainer.replay(steps).await?;
        replay_ms.push(begun.elapsed().as_secs_f64() * 1e3 / f64::from(steps));
    }
    step_ms.sort_by(f64::total_cmp);
    replay_ms.sort_by(f64::total_cmp);
    eprintln!("step {step_ms:?} ms, replayed {replay_ms:?} ms, losses {losses:?}");
    let dispatches = trainer.dispatches()?;
    let calls = if software { Vec::new() } else { calls(engine, &plan.program).await? };
    let gflop = plan.program.ops.iter().filter(|op| matches!(op, Op::Matmul(_))).map(Op::flop).sum::<u64>() as f64 / 1e9;
    Ok(json!({
        "model": told, "losses": losses, "step_ms": step_ms, "replay_ms": replay_ms, "dispatches": dispatches,
        "products_gflop": gflop, "tuned": tuned, "calls": calls,
    }))
}

/// Has a step run as a visit's tuner finds, with more time than it has there: the variant of every product, by name, and how the
/// other calls share their work, with each way's time as thousandths of the usual one's.
async fn tune(engine: &Arc<Engine>, work: &TrainWork, control: &Control) -> Result<Value> {
    let (mut sharings, budget) = (Sharings::default(), Budget::of(TUNING_MS));
    sharings.settle(engine, work, control, &budget, async |_| ()).await?;
    let shares: Vec<_> = sharings.shares.text().lines().map(str::to_owned).collect();
    let work = Work::Train(work.clone());
    let class = if engine.is_software_adapter() { AdapterClass::Fallback } else { AdapterClass::Device };
    let (mut tuner, tasks) = (Tuner::new(class, "", ""), tasks(&work)?);
    tuner.measure(engine, &tasks, control, &Budget::of(TUNING_MS), async |_| ()).await?;
    tuner.settle(engine, &tasks, async |_| ()).await?;
    let kernels = engine.kernels(&work)?.context("a device has kernels")?;
    let named: Vec<_> =
        kernels.products.iter().map(|p| json!([p.m, p.k, p.n, p.transposed_a, p.transposed_b, p.kernel])).collect();
    Ok(json!({ "products": named, "sharing": shares }))
}

/// What the calls of a step take, each repeated by itself; alike ones are measured once. The costliest first.
async fn calls(engine: &Engine, program: &Program) -> Result<Vec<Value>> {
    let mut found: Vec<(String, &Op, u32)> = Vec::new();
    for op in &program.ops {
        let text = format!("{op:?}");
        let label: String = text.split("Buffer(").map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
        match found.iter_mut().find(|(known, ..)| *known == label) {
            Some((.., count)) => *count += 1,
            None => found.push((label, op, 1)),
        }
    }
    let mut rows = Vec::new();
    for (label, op, count) in found {
        let used: Vec<Buffer> = op.call(Sharing::Nothing, |_| Variant::Naive).buffers;
        let values = program.values.iter().enumerate();
        let values = values.map(|(index, &values)| if used.contains(&Buffer(index)) { values } else { 0 }).collect();
        let one = Program { ops: vec![*op], values, ..Program::default() };
        let mut resident = engine.load(&one, &[]).await?;
        let ms = sampled(async |count| Ok(resident.replay(count).await?)).await?[SAMPLES / 2];
        rows.push((
            ms * f64::from(count),
            json!({ "call": label, "count": count, "ms": ms, "gflops": op.flop() as f64 / ms / 1e6 }),
        ));
    }
    rows.sort_by(|(x, _), (y, _)| y.total_cmp(x));
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The wide transformer by default, or its extents as `TIME WIDTH LAYERS HEADS BATCH`.
fn dims(words: &[&str]) -> Result<models::Dims> {
    let read: Vec<u32> = words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
    match read[..] {
        [] => Ok(models::Dims::WIDE),
        [time, width, layers, heads, batch] => Ok(models::Dims { time, width, layers, heads, batch, ..models::Dims::WIDE }),
        _ => anyhow::bail!("TIME WIDTH LAYERS HEADS BATCH"),
    }
}
