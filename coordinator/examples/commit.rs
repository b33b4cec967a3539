//! What committing to training states costs a volunteer: `commit MANIFEST ROUNDS` computes a unit of the job on made-up rows with
//! and without a commitment, in turn, and one challenge of it. Prints one JSON object. It leases nothing and stores nothing.

use std::process::ExitCode;
use std::time::Instant;

use futures::executor::block_on;
use manyhands::engine::states::Layout;
use manyhands::{Control, Engine, Shard};
use manyhands_coordinator::{merge, scheduler};
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::{JobManifest, JobWork, parse_json};
use manyhands_protocol::rules::challenge::segment_of;
use manyhands_protocol::work::Work;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [manifest, rounds] => rounds.parse().map_err(Into::into).and_then(|rounds| run(manifest, rounds)),
        _ => Err("usage: commit MANIFEST ROUNDS".into()),
    };
    if let Err(failure) = done {
        eprintln!("error: {failure}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(manifest: &str, rounds: usize) -> Result<(), Failure> {
    let manifest: JobManifest = parse_json(&std::fs::read(manifest)?)?;
    let JobWork::Train(recipe) = manifest.work else { return Err("only training is committed to".into()) };
    let nothing = BlobHash([0; 32]);
    let unit = scheduler::round_units(&recipe, &[nothing], nothing, 0).remove(0).work;
    let every = scheduler::states_every(&unit);
    let Work::Train(work) = unit else { return Err("no training unit".into()) };
    let rows = recipe.rows_per_shard as usize;
    let values = rows * work.model.input_values()? as usize;
    let number = |i: usize| (i * 31 + i / 7) as u32 % 64;
    let x = |i| if work.model.vocabulary().is_some() { f32::from_bits(number(i)) } else { number(i) as f32 / 64.0 };
    let y = (0..rows * work.model.labels_count() as usize).map(|i| number(i) % work.model.classes()).collect();
    let shard = Shard { rows, x: (0..values).map(x).collect(), y };
    let (engine, control) = (Engine::cpu(), Control::new());
    let parameters = merge::initial_parameters(&work.model, recipe.seed);
    let layout = Layout::of(&work)?;
    let k = every.unwrap_or(work.inner_steps);
    let (mut plain, mut committed, mut replays) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        block_on(engine.train(&work, &parameters, &shard, &control))?;
        plain.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        block_on(engine.train_committed(&work, &parameters, &shard, k, &control))?;
        committed.push(begun.elapsed().as_secs_f64() * 1e3);
        let (_, first, steps) = segment_of(work.inner_steps, k, 0);
        let begun = Instant::now();
        block_on(engine.replay_states(&work, &parameters, &shard, None, [first, steps], &control))?;
        replays.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let [plain, committed, replay] = [plain, committed, replays].map(median);
    let figures = serde_json::json!({
        "job": manifest.name, "inner_steps": work.inner_steps, "every": every, "state_bytes": layout.state_bytes(),
        "reveal_bytes": layout.step_bytes(), "unit_ms": plain, "committed_unit_ms": committed,
        "share": committed / plain - 1.0, "segment_replay_ms": replay,
    });
    println!("{figures}");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
