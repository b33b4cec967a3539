//! One side of a comparison between processes, as tests/bench/native.mjs asks for it. Each line asks one thing and is
//! answered by one line, or by one that begins with `error`:
//!
//! - `product M K N FOLDER` computes C once from the files `a` and `b` there, writes `c` and answers `ready`;
//! - `train MODEL STEPS FOLDER` runs so many steps from the files `p0`, `p1`, … (parameters), `x0`, … and `y0`, … (batches)
//!   and answers their losses;
//! - `run COUNT` repeats the last of these so often and answers the milliseconds by the clock and of processor time.
//!
//! Files hold 4-byte values as they lie in memory.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use manyhands::control::Control;
use manyhands::engine::{Engine, Resident, Trainer};
use manyhands::tensors::Shard;
use nix::time::{ClockId, clock_gettime};

use crate::models;

/// What `run` repeats.
enum Repeated {
    Nothing,
    Product(Resident<'static>),
    Steps(Trainer<'static>),
}

/// Answers until the lines end.
pub fn answer(lines: impl BufRead, mut answers: impl Write) -> Result<()> {
    // As long as the process.
    let engine: &'static Engine = Box::leak(Box::new(Engine::cpu()));
    let mut repeated = Repeated::Nothing;
    for line in lines.lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let told = pollster::block_on(turn(engine, &words, &mut repeated));
        writeln!(answers, "{}", told.unwrap_or_else(|error| format!("error {error:#}")))?;
        answers.flush()?;
    }
    Ok(())
}

async fn turn(engine: &'static Engine, words: &[&str], repeated: &mut Repeated) -> Result<String> {
    let control = Control::new();
    match *words {
        ["product", m, k, n, folder] => {
            let folder = Path::new(folder);
            let (program, [a, b, c]) = models::product(m.parse()?, k.parse()?, n.parse()?, None);
            let program = Box::leak(Box::new(program));
            let mut resident = engine.load(program, &[(a, &read(folder, "a")?), (b, &read(folder, "b")?)]).await?;
            resident.run(1, &control).await?;
            let product = resident.read(&[c]).await?.swap_remove(0);
            std::fs::write(folder.join("c"), bytemuck::cast_slice(&product))?;
            *repeated = Repeated::Product(resident);
            Ok("ready".to_owned())
        }
        ["train", name, steps, folder] => {
            let folder = Path::new(folder);
            let joined = |kind: &str| -> Result<Vec<f32>> {
                let batches: Result<Vec<_>> = files(folder, kind).map(|file| read(folder, &file)).collect();
                Ok(batches?.concat())
            };
            let (x, y) = (joined("x")?, joined("y")?.iter().map(|y| y.to_bits()).collect());
            let work = models::work(name, x.len()).context("a model's name: mlp, cnn, gpt")?;
            let parameters: Result<Vec<_>> = files(folder, "p").map(|file| read(folder, &file)).collect();
            let shard = Box::leak(Box::new(Shard { rows: (work.batch * work.inner_steps) as usize, x, y }));
            let mut trainer = engine.trainer(&work, &parameters?, shard).await?;
            let losses = trainer.run(steps.parse()?, &control).await?;
            *repeated = Repeated::Steps(trainer);
            Ok(losses.iter().map(f32::to_string).collect::<Vec<_>>().join(" "))
        }
        ["run", count] => {
            let count = count.parse()?;
            let (begun, used) = (Instant::now(), processor_time()?);
            match repeated {
                Repeated::Nothing => bail!("nothing to run"),
                Repeated::Product(resident) => resident.run(count, &control).await?,
                Repeated::Steps(trainer) => drop(trainer.run(count, &control).await?),
            }
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            Ok(format!("{} {}", ms(begun.elapsed()), ms(processor_time()?.saturating_sub(used))))
        }
        _ => bail!("product M K N FOLDER, train MODEL STEPS FOLDER, or run COUNT"),
    }
}

/// The names of the files of a kind.
fn files(folder: &Path, kind: &str) -> impl Iterator<Item = String> {
    (0..).map(move |index| format!("{kind}{index}")).take_while(|file| folder.join(file).is_file())
}

fn read(folder: &Path, file: &str) -> Result<Vec<f32>> {
    let bytes = std::fs::read(folder.join(file)).with_context(|| format!("cannot read {file}"))?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect())
}

/// How long this process has had a processor.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}
