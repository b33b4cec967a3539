//! `cargo xtask bench …`: measurements. Each prints a table for people and one JSON object as its last line. None of
//! them judges: the status is 0 when the measurement was made, whatever it shows.

mod commit;
mod compare;
mod converge;
mod gpu;
mod log;
mod module;
mod size;
mod step_check;
mod visit;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{setup, web};

#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Train a bundled job's model centrally, on the native CPU path, and print how well it does on held-out data.
    Converge {
        #[arg(long, value_enum)]
        job: converge::Job,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What committing to training states costs a volunteer, and how large a step is that is shown, for the bundled jobs.
    Commit {
        /// Units of each job with and without.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Matrix products beside TensorFlow.js and jax-js: WebGPU, wasm on one thread, natively.
    Matmul {
        /// Other shapes, each MxKxN.
        #[arg(long, value_delimiter = ',', value_parser = compare::shape)]
        shapes: Vec<[u32; 3]>,
        /// f16: on WebGPU also our blocked variant on operands in f16, beside the same on f32.
        #[arg(long, default_value = "f32", value_parser = ["f32", "f16"])]
        dtype: String,
        #[command(flatten)]
        options: compare::Options,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Training steps beside TensorFlow.js and jax-js, on three models.
    Train {
        /// Of mlp, cnn and gpt.
        #[arg(long, value_delimiter = ',', default_value = "mlp,cnn,gpt")]
        models: Vec<String>,
        /// Also how speed and memory grow with parameters and batch.
        #[arg(long)]
        scale: bool,
        #[command(flatten)]
        options: compare::Options,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// The engine on the machine's GPU, natively, beside PyTorch in f32 where that is installed: products and training steps.
    Gpu {
        /// Steps alone, of a transformer of so much TIME WIDTH LAYERS HEADS BATCH.
        #[arg(long, num_args = 5)]
        extents: Vec<u32>,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What a second worker gains in one page, beside a second native process: training steps on three models.
    Workers {
        /// Of mlp, cnn and gpt.
        #[arg(long, value_delimiter = ',', default_value = "mlp,cnn,gpt")]
        models: Vec<String>,
        /// Samples of one and of two, in the page and natively.
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// How long a sample lasts, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        least_ms: u32,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What checking one revealed step costs beside the step, how much of each tolerance honest steps use, and how much room
    /// the bounds leave, per bundled job on the native CPU path.
    StepCheck {
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// How soon a volunteer that fabricates a share of its steps is caught, by the share of units that are challenged.
    Detection {
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// How many statements a second the coordinator appends to its public log, and how long other writes take meanwhile.
    Log {
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What a tab takes to check a receipt of the public log, and that the log only grew, on a log of a million entries.
    Receipts {
        /// Samples of each check.
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Build the engine as a module for a benchmark's page, beside tests/bench/ours.mjs; measures nothing.
    Module,
    /// Bytes that a visitor downloads before Start, until the first unit's result, and to train.
    Size {
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Measure dist/ as it is.
        #[arg(long)]
        no_build: bool,
    },
    /// Time from Start to the first product and to the first accepted unit, in headless Chromium on WebGPU; then how much of
    /// the device a visit takes, and of the frames of the page around.
    Visit {
        /// Visits, each with a fresh profile.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds over which a share of the device is measured; 0 leaves that and the frames out.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(..=3600))]
        window: u32,
        /// Also write the JSON object here.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Serve dist/ as it is.
        #[arg(long)]
        no_build: bool,
    },
}

pub fn main(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Matmul { shapes, dtype, options, json } => {
            let mut given = vec![("dtype", serde_json::json!(dtype))];
            given.extend((!shapes.is_empty()).then(|| ("shapes", serde_json::json!(shapes))));
            emit(&compare::measure("matmul", options, &given)?, json.as_deref())
        }
        Bench::Train { models, scale, options, json } => {
            let mut measured = compare::measure("train", options, &[("models", serde_json::json!(models))])?;
            if *scale {
                measured["scale"] = compare::scale(options.least_ms())?;
            }
            emit(&measured, json.as_deref())
        }
        Bench::Gpu { extents, json } => emit(&gpu::measure(extents)?, json.as_deref()),
        Bench::Workers { models, rounds, least_ms, json } => {
            let options = compare::Options::wasm(*rounds, *least_ms);
            emit(&compare::measure("workers", &options, &[("models", serde_json::json!(models))])?, json.as_deref())
        }
        Bench::StepCheck { json } => emit(&step_check::measure()?, json.as_deref()),
        Bench::Detection { json } => emit(&step_check::detection()?, json.as_deref()),
        Bench::Log { json } => emit(&log::measure()?, json.as_deref()),
        Bench::Receipts { rounds, json } => {
            emit(&compare::measure("receipts", &compare::Options::wasm_alone(*rounds), &[])?, json.as_deref())
        }
        Bench::Module => {
            setup::set_up(setup::Purpose::Web)?;
            module::build()
        }
        Bench::Commit { rounds, json } => emit(&commit::measure(*rounds)?, json.as_deref()),
        Bench::Converge { job, json } => emit(&converge::measure(*job)?, json.as_deref()),
        Bench::Size { json, no_build } => {
            if !no_build {
                setup::set_up(setup::Purpose::Web)?;
                web::build()?;
            }
            let report = size::measure(&web::dist())?;
            print!("{}", report.table());
            emit(&report.json(), json.as_deref())
        }
        Bench::Visit { rounds, window, json, no_build } => {
            setup::set_up(setup::Purpose::Visitors)?;
            if !no_build {
                web::build()?;
            }
            let report = visit::measure(*rounds, *window)?;
            print!("{}", report.table());
            emit(&report.json(), json.as_deref())
        }
    }
}

/// The last line on standard output, and the file.
fn emit(value: &serde_json::Value, file: Option<&Path>) -> Result<()> {
    if let Some(file) = file {
        std::fs::write(file, format!("{value}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("{value}");
    Ok(())
}
