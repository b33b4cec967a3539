//! How well a job's recipe learns, without a network: `converge MANIFEST FOLDER` cuts the data, computes the rounds' units one
//! after another as the referee does, and merges and evaluates as the driver does. Prints one JSON line for each
//! evaluation: after each round, and where the job evaluates on a part of what is held out, on all of it at the end. It leases nothing, verifies nothing and stores nothing.
//!
//! Changes to the manifest are the caller's; `cargo xtask bench converge` makes them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use manyhands_coordinator::merge::{self, OuterState, Update};
use manyhands_coordinator::{cut, referee, scheduler};
use manyhands_protocol::manifest::{JobManifest, JobWork, TextRecipe, TrainRecipe, bits, parse_json};
use manyhands_protocol::work::Work;
use manyhands_protocol::{BlobHash, UnitId};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [manifest, folder] => run(Path::new(manifest), Path::new(folder)),
        _ => Err("usage: converge MANIFEST FOLDER".into()),
    };
    if let Err(failure) = done {
        eprintln!("error: {failure}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(manifest: &Path, folder: &Path) -> Result<(), Failure> {
    let manifest: JobManifest = parse_json(&std::fs::read(manifest)?)?;
    manifest.validate()?;
    let JobWork::Train(recipe) = manifest.work else { return Err("only training converges".into()) };
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{name}: {e}"));
    let cut = match &recipe.text {
        Some(split) => cut::cut_text(&recipe, split, &read("text.txt")?)?,
        None => cut::cut_train(&recipe, &read("train.safetensors")?, &read("test.safetensors")?)?,
    };
    // Shards are told apart by their place alone: nothing fetches them.
    let places: Vec<BlobHash> = (0..cut.shards.len()).map(place).collect();
    let mut state = OuterState::new(merge::initial_parameters(&recipe.model, recipe.seed));
    let begun = Instant::now();
    for round in 0..recipe.rounds_max {
        let checkpoint = merge::write_tensors(&recipe.model, &state.parameters);
        let mut updates = Vec::new();
        for unit in scheduler::round_units(&recipe, &places, BlobHash([0; 32]), round) {
            let Work::Train(work) = unit.work else { continue };
            let shard = places.iter().position(|hash| *hash == work.shard).ok_or("a unit of no shard")?;
            let tensors = referee::compute_update(&work, &checkpoint, &cut.shards[shard])?;
            updates.push(Update { unit: UnitId(updates.len() as u64), weight: 1.0, tensors });
        }
        state = merge::step(recipe.merge, &recipe.outer_optimizer, &state, &updates);
        report(&recipe, &state, &cut.test, round + 1, begun)?;
    }
    if let Some(split @ TextRecipe { evaluation_rows_max: Some(_), .. }) = &recipe.text {
        let all = TextRecipe { evaluation_rows_max: None, ..split.clone() };
        let test = cut::cut_text(&recipe, &all, &read("text.txt")?)?.test;
        report(&recipe, &state, &test, recipe.rounds_max, begun)?;
    }
    Ok(())
}

fn place(index: usize) -> BlobHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_le_bytes());
    BlobHash(bytes)
}

fn report(recipe: &TrainRecipe, state: &OuterState, test: &[u8], round: u32, begun: Instant) -> Result<(), Failure> {
    let rows = manyhands::tensors::read_shard(test, &recipe.model)?.rows;
    let seconds = begun.elapsed().as_secs_f64();
    let found = referee::evaluate(&recipe.model, &merge::write_tensors(&recipe.model, &state.parameters), test)?;
    let steps = u64::from(round) * u64::from(recipe.inner_steps);
    let (bits, loss, accuracy) = (bits(found.loss), found.loss, found.accuracy);
    println!(
        r#"{{"round":{round},"steps":{steps},"seconds":{seconds:.1},"rows":{rows},"loss":{loss:.6},"bits":{bits:.5},"accuracy":{accuracy:.5}}}"#
    );
    Ok(())
}
