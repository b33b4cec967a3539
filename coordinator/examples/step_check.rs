//! What checking a revealed step of a job costs beside the step, how much of each tolerance honest steps use and how much
//! room these leave: `step_check MANIFEST FOLDER` trains on the job's data on the native CPU path and checks steps on the way;
//! `step_check detection` prints how soon fabricated steps are found. One line of JSON each. Nothing is stored or served.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use futures::executor::block_on;
use manyhands::plan::{StateKind, Traced, What};
use manyhands::tensors::{self, Shard};
use manyhands::{Control, Engine};
use manyhands_coordinator::verify::detection::{caught_within, found_with_repetitions, rate_for, units_expected};
use manyhands_coordinator::verify::step::{Batch, Report, Room, Step, Tensor, check_step, cost};
use manyhands_coordinator::{cut, merge, scheduler};
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::{JobManifest, JobWork, parse_json};
use manyhands_protocol::rules::challenge::CHALLENGE_RATE;
use manyhands_protocol::work::{InnerOptimizer, TrainWork, Work};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Steps that are timed together, times a check is timed, and the steps of a unit that are checked.
const TIMED_STEPS: u32 = 20;
const TIMED_CHECKS: usize = 5;
/// Most steps of a unit that are taken with and without a push.
const PUSHED_STEPS: u32 = 31;
const CHECKED: [u32; 5] = [0, 1, 5, 15, 30];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["detection"] => Ok(detection()),
        [manifest, folder] => measure(Path::new(manifest), Path::new(folder)),
        _ => Err("usage: step_check MANIFEST FOLDER, or step_check detection".into()),
    };
    match done {
        Ok(value) => println!("{value}"),
        Err(failure) => {
            eprintln!("error: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The job's first unit and its shard.
fn unit(manifest: &Path, folder: &Path) -> Result<(TrainWork, Vec<u8>, u64), Failure> {
    let manifest: JobManifest = parse_json(&std::fs::read(manifest)?)?;
    manifest.validate()?;
    let JobWork::Train(recipe) = manifest.work else { return Err("only training has steps".into()) };
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{name}: {e}"));
    let cut = match &recipe.text {
        Some(split) => cut::cut_text(&recipe, split, &read("text.txt")?)?,
        None => cut::cut_train(&recipe, &read("train.safetensors")?, &read("test.safetensors")?)?,
    };
    let places = vec![BlobHash([0; 32]); cut.shards.len()];
    let units = scheduler::round_units(&recipe, &places, BlobHash([1; 32]), 0);
    let work = units.into_iter().find_map(|unit| match unit.work {
        Work::Train(work) => Some(work),
        Work::Matmul(_) => None,
    });
    Ok((work.ok_or("no unit")?, cut.shards.into_iter().next().ok_or("no shard")?, recipe.seed))
}

fn measure(manifest: &Path, folder: &Path) -> Result<Value, Failure> {
    let (work, shard, seed) = unit(manifest, folder)?;
    let shard = tensors::read_shard(&shard, &work.model)?;
    let (engine, control) = (Engine::cpu(), Control::new());
    let parameters = merge::initial_parameters(&work.model, seed);
    let mut run = block_on(engine.trainer(&work, &parameters, &shard))?;
    let (mut used, mut rooms, mut checks, mut bytes) = (BTreeMap::<&str, f64>::new(), [0.0f64; 4], Vec::new(), 0);
    let (mut done, mut pushes) = (0, BTreeMap::new());
    for number in CHECKED.into_iter().filter(|&number| number < work.inner_steps) {
        block_on(run.run(number - done, &control))?;
        let before = block_on(run.state())?;
        let trace = block_on(run.run_traced(&control))?;
        let after = block_on(run.state())?;
        done = number + 1;
        let batch = Batch::of(&work, &shard, number).ok_or("the shard is not of this work")?;
        let step = Step { work: &work, number, batch, before: &before, trace: &trace, after: &after, settled_from: None };
        for _ in 0..TIMED_CHECKS {
            let begun = Instant::now();
            let report = check_step(&step, &mut ChaCha20Rng::seed_from_u64(number.into()))?;
            checks.push(begun.elapsed().as_secs_f64() * 1e3);
            for (kind, share) in &report.used {
                let most = used.entry(kind).or_default();
                *most = most.max(*share);
            }
            let outputs = largest_room(&report, |what| what == What::Output);
            let errors = largest_room(&report, |what| what == What::Error);
            let found = [gradient_room(&report), update_room(&report, &step), outputs, errors];
            for (of, room) in &report.rooms {
                if let Tensor::Trace(Traced { what: What::Gradient { parameter }, .. }) = *of {
                    let most = pushes.entry(parameter).or_insert(0.0f64);
                    *most = most.max(room.share());
                }
            }
            rooms.iter_mut().zip(found).for_each(|(most, room)| *most = most.max(room));
        }
        let lengths = before.iter().chain(&after).map(|(_, values)| values.len());
        bytes = 4 * lengths.chain(trace.iter().map(|(_, values)| values.len())).sum::<usize>();
    }
    let begun = Instant::now();
    block_on(run.run(TIMED_STEPS, &control))?;
    let step_ms = begun.elapsed().as_secs_f64() * 1e3 / f64::from(TIMED_STEPS);
    checks.sort_by(f64::total_cmp);
    let check_ms = checks[checks.len() / 2];
    let cost = cost::cost(&work)?;
    let honest = pushed_parameters(&work, &parameters, &shard, &BTreeMap::new())?;
    let pushed = pushed_parameters(&work, &parameters, &shard, &pushes)?;
    Ok(json!({
        "step_ms": step_ms,
        "check_ms": check_ms,
        "check_per_step": check_ms / step_ms,
        "check_per_unit": check_ms / step_ms / f64::from(work.inner_steps),
        "inner_steps": work.inner_steps,
        "step_flop": cost.step,
        "check_flop": cost.check,
        "direct_flop": cost.direct,
        "chance_flop": cost.chance,
        "reveal_bytes": bytes,
        "gradient_room": rooms[0],
        "update_room": rooms[1],
        "largest_output_room": rooms[2],
        "largest_error_room": rooms[3],
        "update_moved_by_push": distance(&pushed, &honest) / distance(&honest, &parameters),
        "tolerance_used": used,
    }))
}

/// What all gradients together might have been off by, as a share of their norm.
fn gradient_room(report: &Report) -> f64 {
    let gradients = |of: &Tensor| matches!(of, Tensor::Trace(Traced { what: What::Gradient { .. }, .. }));
    report.rooms.iter().filter(|(of, _)| gradients(of)).map(|(_, room)| *room).sum::<Room>().share()
}

/// The largest share of its norm that any one tensor of a kind might have been off by.
fn largest_room(report: &Report, kind: impl Fn(What) -> bool) -> f64 {
    let of = |of: &Tensor| matches!(of, Tensor::Trace(of) if kind(of.what));
    report.rooms.iter().filter(|(tensor, _)| of(tensor)).map(|(_, room)| room.share()).fold(0.0, f64::max)
}

/// What all parameters together might have been off by after the step, as a share of how far it moved them.
fn update_room(report: &Report, step: &Step) -> f64 {
    let parameters = |of: &Tensor| matches!(of, Tensor::After(of) if of.kind == StateKind::Parameter);
    let room: Room = report.rooms.iter().filter(|(of, _)| parameters(of)).map(|(_, room)| *room).sum();
    let moved = step.before.iter().zip(step.after).filter(|((of, _), _)| of.kind == StateKind::Parameter);
    let squares = moved.flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)));
    Room { values: squares.sum(), ..room }.share()
}

/// The parameters after a unit by the first part of its optimiser's rule (SGD with momentum, or AdamW without decay and
/// clipping) where in every step every value of every gradient that is not zero is pushed the same way, by its tensor's share of
/// what the tensor's values are on average: more than what a cheater may do that stays within the bounds of every step.
fn pushed_parameters(
    work: &TrainWork,
    start: &[Vec<f32>],
    shard: &Shard,
    shares: &BTreeMap<u32, f64>,
) -> Result<Vec<Vec<f32>>, Failure> {
    let (engine, mut parameters) = (Engine::cpu(), start.to_vec());
    let zeros: Vec<Vec<f64>> = start.iter().map(|p| vec![0.0; p.len()]).collect();
    let (mut first, mut second) = (zeros.clone(), zeros);
    for step in 0..work.inner_steps.min(PUSHED_STEPS) {
        let one = TrainWork { first_row: work.first_row + step * work.batch, ..work.clone() };
        let traced = block_on(block_on(engine.trainer(&one, &parameters, shard))?.run_traced(&Control::new()))?;
        for (of, gradient) in traced {
            let What::Gradient { parameter } = of.what else { continue };
            let at = parameter as usize;
            let squares: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
            let share = shares.get(&parameter).copied().unwrap_or(0.0);
            let push = share * (squares / gradient.len() as f64).sqrt();
            for (i, &g) in gradient.iter().enumerate() {
                let push = if g == 0.0 { 0.0 } else { push };
                let (g, m, v) = (f64::from(g) + push, &mut first[at][i], &mut second[at][i]);
                let moved = match work.optimizer {
                    InnerOptimizer::Sgd { learning_rate, momentum, .. } => {
                        *m = f64::from(momentum) * *m + g;
                        f64::from(learning_rate) * *m
                    }
                    InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, .. } => {
                        let [beta1, beta2, t] = [beta1.into(), beta2.into(), f64::from(step + 1)];
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        let root = (*v / (1.0 - beta2.powf(t))).sqrt() + f64::from(epsilon);
                        f64::from(learning_rate) * *m / (1.0 - beta1.powf(t)) / root
                    }
                };
                parameters[at][i] = (f64::from(parameters[at][i]) - moved) as f32;
            }
        }
    }
    Ok(parameters)
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Chance to be caught within so many units, by the share of steps that are fabricated and the share of units challenged.
fn detection() -> Value {
    let default = rate_for(100, 0.5, 0.99, 0.0);
    let rates = [0.01, 0.02, 0.05, default.unwrap_or(0.09), 0.2, 1.0];
    let mut curve = Vec::new();
    for fabricated in [0.01, 0.05, 0.1, 0.25, 0.5, 1.0] {
        for rate in rates {
            let caught = [10, 100, 1000].map(|units| caught_within(units, fabricated, rate, 0.0));
            let [ten, hundred, thousand] = caught;
            let expected = units_expected(fabricated, rate, 0.0);
            curve.push(json!({
                "fabricated": fabricated,
                "rate": rate,
                "caught_within_10": ten,
                "caught_within_100": hundred,
                "caught_within_1000": thousand,
                "units_expected": expected,
            }));
        }
    }
    let mut segments = Vec::new();
    for of_eight in [1, 2, 4, 8] {
        for rate in [CHALLENGE_RATE / 4.0, CHALLENGE_RATE / 2.0, CHALLENGE_RATE, 0.2, 1.0] {
            let fabricated = f64::from(of_eight) / 8.0;
            let within = |each| caught_within(100, each, 1.0, 0.0);
            segments.push(json!({
                "segments_of_eight": of_eight,
                "rate": rate,
                "caught_within_100": caught_within(100, fabricated, rate, 0.0),
                "with_repetitions": within(found_with_repetitions(fabricated, rate, false)),
                "with_audits_alone": within(found_with_repetitions(fabricated, rate, true)),
            }));
        }
    }
    json!({ "rate_for_half_in_100": default, "curve": curve, "segments": segments })
}
