//! Segments that a GPU computed, before the coordinator's check of a segment: the bundled jobs on their own data, in each of the
//! ways that a GPU of this machine may compute. Prints how far an honest backend is from the referee; no adapter is a failure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use futures::executor::block_on;
use manyhands::control::Control;
use manyhands::engine::states::{Ends, initial_state};
use manyhands::engine::{Engine, GpuOptions};
use manyhands::tensors::{self, Shard};
use manyhands_coordinator::verify::gradient;
use manyhands_coordinator::verify::segment::Segment;
use manyhands_coordinator::{cut, merge, scheduler};
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::{JobManifest, JobWork, TrainRecipe, parse_json};
use manyhands_protocol::rules::challenge::{states_count, step_of_state};
use manyhands_protocol::work::{TrainWork, Work};

/// A bundled job's recipe and its shards.
fn job(manifest: &str, folder: &str) -> (TrainRecipe, Vec<Shard>) {
    let manifest: JobManifest = parse_json(manifest.as_bytes()).unwrap();
    let JobWork::Train(recipe) = manifest.work else { panic!("a training job") };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo").join(folder);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let cut = match &recipe.text {
        Some(split) => cut::cut_text(&recipe, split, &read("text.txt")).unwrap(),
        None => cut::cut_train(&recipe, &read("train.safetensors"), &read("test.safetensors")).unwrap(),
    };
    let shards = cut.shards.iter().map(|shard| tensors::read_shard(shard, &recipe.model).unwrap()).collect();
    (recipe, shards)
}

fn unit(recipe: &TrainRecipe) -> (TrainWork, u32) {
    let unit = scheduler::round_units(recipe, &[BlobHash([0; 32])], BlobHash([1; 32]), 0).remove(0).work;
    let every = scheduler::states_every(&unit).unwrap();
    let Work::Train(work) = unit else { panic!("a training unit") };
    (work, every)
}

/// Checks every segment of a unit that `engine` computed, as the coordinator would. Notes the largest distance of each kind, and
/// how many segments only a neighbour of their first state leads to.
fn check(engine: &Engine, work: &TrainWork, every: u32, parameters: &[Vec<f32>], shard: &Shard, seen: &mut Seen) {
    let trained = block_on(engine.train_committed(work, parameters, shard, every, &Control::new())).unwrap();
    let (delta, committed) = (trained.0.delta, trained.1);
    let count = states_count(work.inner_steps, every);
    let at = |index| step_of_state(work.inner_steps, every, index);
    for index in 0..count - 1 {
        let (first_step, end) = (at(index), at(index + 1));
        let kept = |step| committed.snapshots.iter().find(|(kept, _)| *kept == step).map(|(_, state)| state.clone());
        let ends = Ends { first: kept(first_step), last: kept(end) };
        if (first_step > 0 && ends.first.is_none()) || (end < work.inner_steps && ends.last.is_none()) {
            continue;
        }
        let segment = Segment { work, checkpoint: parameters, delta: &delta, shard, first_step, steps: end - first_step };
        let distances = segment.check(ends).unwrap_or_else(|e| panic!("segment {first_step}: {e}"));
        seen.segments += 1;
        seen.by_rounding += u64::from(distances.run.is_some());
        if distances.run.is_none() {
            for (kind, apart) in distances.apart {
                seen.most.entry(kind).or_default().push(apart.share());
            }
        }
    }
}

#[derive(Default)]
struct Seen {
    most: BTreeMap<&'static str, Vec<f64>>,
    segments: u64,
    by_rounding: u64,
}

impl Seen {
    fn print(&mut self, what: &str) {
        assert!(self.segments > 0);
        println!("{what}: {} segments, {} of them only from a neighbour", self.segments, self.by_rounding);
        for (kind, shares) in &mut self.most {
            shares.sort_by(f64::total_cmp);
            let at = |share: f64| shares[((shares.len() - 1) as f64 * share) as usize];
            println!("{what}: {kind}: median {:.1e}, most {:.1e}", at(0.5), at(1.0));
        }
    }
}

/// Pictures: the first round's checkpoint, where rounding decides most, and one after it. Text: the unit's first segments.
fn backends_agree(options: GpuOptions, name: &str, shards_count: usize, text_segments: u32) {
    let engine = block_on(Engine::gpu_with(options)).unwrap();
    let (recipe, shards) = job(include_str!("../../demo/fashion-cnn/manifest.json"), "fashion-mlp");
    let (work, every) = unit(&recipe);
    let mut parameters = merge::initial_parameters(&recipe.model, recipe.seed);
    for round in 0..2 {
        let mut seen = Seen::default();
        for shard in shards.iter().take(shards_count) {
            check(&engine, &work, every, &parameters, shard, &mut seen);
        }
        seen.print(&format!("{name}: fashion-cnn, checkpoint {round}"));
        let delta = block_on(Engine::cpu().train(&work, &parameters, &shards[0], &Control::new())).unwrap().delta;
        for (parameter, delta) in parameters.iter_mut().zip(&delta) {
            parameter.iter_mut().zip(delta).for_each(|(p, d)| *p -= d);
        }
    }
    let (recipe, shards) = job(include_str!("../../demo/austen-gpt/manifest.json"), "austen-gpt");
    let (work, every) = unit(&recipe);
    let parameters = merge::initial_parameters(&recipe.model, recipe.seed);
    assert_eq!(initial_state(&work, &parameters).unwrap().len(), 3 * parameters.len() + 1);
    let shorter = TrainWork { inner_steps: every * text_segments, ..work };
    let mut seen = Seen::default();
    check(&engine, &shorter, every, &parameters, &shards[0], &mut seen);
    seen.print(&format!("{name}: austen-gpt"));
}

#[test]
fn on_the_gpu() {
    backends_agree(GpuOptions::default(), "GPU", 1, 1);
}

#[test]
#[ignore = "whole shards in each way are a matter of long runs"]
fn on_the_gpu_in_every_way() {
    let as_device = GpuOptions { as_device: true, ..Default::default() };
    let without_subgroups = GpuOptions { without_subgroups: true, ..Default::default() };
    for (options, name) in [(GpuOptions::default(), "GPU"), (as_device, "as a device"), (without_subgroups, "without subgroups")]
    {
        backends_agree(options, name, 10, 3);
    }
}

/// The volunteer that passes: at the end of each segment it pushes every parameter, and SGD's velocities so that they push on, by
/// all that the tolerance lets it, the same way each time. Every segment of it passes; how far its update is from the honest one is
/// printed, as a share.
fn push_below_the_tolerance(name: &str, manifest: &str, folder: &str, push: f64) {
    let (engine, control) = (Engine::cpu(), Control::new());
    let (recipe, shards) = job(manifest, folder);
    let (work, every) = unit(&recipe);
    let (parameters, shard) = (merge::initial_parameters(&recipe.model, recipe.seed), &shards[0]);
    let names: Vec<_> = recipe.model.parameters().unwrap().into_iter().map(|p| p.name).collect();
    let honest = block_on(engine.train(&work, &parameters, shard, &control)).unwrap().delta;
    let (mut state, mut states, mut step) = (initial_state(&work, &parameters).unwrap(), Vec::new(), 0);
    while step < work.inner_steps {
        let steps = every.min(work.inner_steps - step);
        let mut after = block_on(engine.run_from(&work, &parameters, shard, &(step, state.clone()), steps, &control)).unwrap();
        for (sign, is_kind) in [
            (1.0, &(|name: &str| names.iter().any(|n| n == name)) as &dyn Fn(&str) -> bool),
            (-1.0, &|name: &str| name.ends_with(".velocity")),
        ] {
            let of_kind = || state.iter().zip(&after).filter(|((name, _), _)| is_kind(name));
            let moved = of_kind().flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(a, b)| f64::from(b - a).powi(2)));
            let (moved, count) = (moved.sum::<f64>().sqrt(), of_kind().map(|((_, a), _)| a.len()).sum::<usize>());
            let each = (sign * push * moved / (count as f64).sqrt()) as f32;
            after.iter_mut().filter(|(name, _)| is_kind(name)).flat_map(|(_, values)| values).for_each(|value| *value += each);
        }
        states.push((step, std::mem::replace(&mut state, after)));
        step += steps;
    }
    let end = |name: &str| &state.iter().find(|(other, _)| other == name).unwrap().1;
    let minus = |(name, before): (&String, &Vec<f32>)| before.iter().zip(end(name)).map(|(a, b)| a - b).collect::<Vec<_>>();
    let delta: Vec<Vec<f32>> = names.iter().zip(&parameters).map(minus).collect();
    for (index, (first_step, first)) in states.iter().enumerate() {
        let (first_step, last) = (*first_step, states.get(index + 1).map(|(_, state)| state.clone()));
        let (work, steps) = (&work, every.min(work.inner_steps - first_step));
        let segment = Segment { work, checkpoint: &parameters, delta: &delta, shard, first_step, steps };
        let first = (first_step > 0).then(|| first.clone());
        segment.check(Ends { first, last }).unwrap_or_else(|e| panic!("segment {first_step}: {e}"));
    }
    let distance = gradient::distance(&honest, &delta);
    println!("{name}: pushed by {push} of each segment, the update is {distance:.4} from the honest one");
    assert!(distance.is_finite() && distance > push / 2.0);
}

#[test]
fn what_a_push_below_the_tolerance_comes_to() {
    push_below_the_tolerance("fashion-cnn", include_str!("../../demo/fashion-cnn/manifest.json"), "fashion-mlp", 0.0199);
}

#[test]
#[ignore = "a whole unit of the transformer, twice, is a matter of long runs"]
fn what_a_push_below_the_tolerance_comes_to_in_text() {
    push_below_the_tolerance("austen-gpt", include_str!("../../demo/austen-gpt/manifest.json"), "austen-gpt", 0.0499);
}
