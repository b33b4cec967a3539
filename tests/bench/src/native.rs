//! The same engine natively, on one thread: products and training steps timed, one measurement per call, so that another
//! program can take turns with it. `product M K N MS` repeats a product for so long and prints GFLOP/s, `train MODEL MS`
//! training steps and prints steps per second; `scale MS` prints a JSON list of speed and memory against batch and width;
//! `turns` computes what it is told a line at a time (`turns.rs`).

mod gpu;
mod models;
mod turns;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use manyhands::control::Control;
use manyhands::engine::{Engine, MatmulShape};
use manyhands::init_parameters;
use manyhands::plan::TrainPlan;
use manyhands::tensors::Shard;
use manyhands_protocol::work::TrainWork;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["product", m, k, n, ms] => {
            let shape = MatmulShape { m: m.parse()?, k: k.parse()?, n: n.parse()? };
            println!("{}", pollster::block_on(product(shape, millis(ms)?))?);
        }
        ["train", name, ms] => {
            let none = models::work(name, 0).context("a model's name: mlp, cnn, gpt")?;
            let values = none.batch as usize * none.model.input_values()? as usize;
            let work = models::work(name, values * 4).context("a model")?;
            println!("{}", pollster::block_on(steps_per_s(&work, millis(ms)?))?);
        }
        ["turns"] => turns::answer(std::io::stdin().lock(), std::io::stdout().lock())?,
        ["gpu", folder, ref extents @ ..] => println!("{}", gpu::measure(std::path::Path::new(folder), extents)?),
        ["scale", ms] => println!("[{}]", scale(millis(ms)?)?.join(",")),
        _ => bail!("product M K N MS, train MODEL MS, scale MS, or turns"),
    }
    Ok(())
}

fn millis(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(text.parse()?))
}

/// Fixed values on [-1, 1).
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i.wrapping_mul(7919) % 2048) as f32 / 1024.0 - 1.0).collect()
}

async fn product(shape: MatmulShape, least: Duration) -> Result<f64> {
    let MatmulShape { m, k, n } = shape;
    let engine = Engine::cpu();
    let (program, [a, b, _]) = models::product(m as u32, k as u32, n as u32, None);
    let mut resident = engine.load(&program, &[(a, &values(m * k)), (b, &values(k * n))]).await?;
    let control = Control::new();
    resident.run(2, &control).await?;
    let (begun, mut times) = (Instant::now(), 0);
    while times == 0 || begun.elapsed() < least {
        resident.run(1, &control).await?;
        times += 1;
    }
    Ok(2.0 * m as f64 * k as f64 * n as f64 * f64::from(times) / begun.elapsed().as_secs_f64() / 1e9)
}

async fn steps_per_s(work: &TrainWork, least: Duration) -> Result<f64> {
    let engine = Engine::cpu();
    let rows = (work.batch * work.inner_steps) as usize;
    let inputs = work.model.input_values()? as usize;
    let plan = TrainPlan::compile(work)?;
    let labels = rows * plan.forward.labels as usize;
    let x = match work.model.vocabulary() {
        Some(vocabulary) => (0..rows * inputs).map(|i| f32::from_bits((i * 31) as u32 % vocabulary)).collect(),
        None => values(rows * inputs),
    };
    let shard = Shard { rows, x, y: (0..labels).map(|i| (i * 7) as u32 % plan.forward.classes).collect() };
    let parameters = init_parameters(&work.model, 1);
    let mut trainer = engine.trainer(work, &parameters, &shard).await?;
    let control = Control::new();
    trainer.run(2, &control).await?;
    let (begun, mut steps) = (Instant::now(), 0);
    while steps == 0 || begun.elapsed() < least {
        trainer.run(1, &control).await?;
        steps += 1;
    }
    Ok(f64::from(steps) / begun.elapsed().as_secs_f64())
}

/// Speed and memory of a step of 784-w-w-10 against w and the batch.
fn scale(least: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (width, batch) in [(128, 64), (256, 64), (512, 64), (1024, 64), (256, 16), (256, 32), (256, 128), (256, 256)] {
        let work = models::plain(width, batch);
        let plan = TrainPlan::compile(&work)?;
        let (memory, unshared) = (plan.memory(), plan.program.bytes(0));
        let parameters = memory.parameters / 4;
        let steps = pollster::block_on(steps_per_s(&work, least))?;
        lines.push(format!(
            r#"{{"width":{width},"batch":{batch},"parameters":{parameters},"steps_per_s":{steps:.3},"examples_per_s":{:.1},"allocated_bytes":{},"least_bytes":{},"unshared_bytes":{unshared},"parameters_optimizer_passing_bytes":{}}}"#,
            steps * f64::from(batch),
            memory.allocated,
            memory.least,
            memory.parameters + memory.optimizer + memory.passing,
        ));
    }
    Ok(lines)
}
