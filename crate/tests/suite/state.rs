//! What a run hands on from step to step and what can be seen of a step on its way: the same bits however the work is
//! cut and memory shared, and what the reference sees.

use std::collections::BTreeSet;

use manyhands::control::Control;
use manyhands::engine::states::{Layout, Tensors, initial_state, leaves_of, shown_tensors};
use manyhands::engine::{Engine, init_parameters};
use manyhands::plan::{CALL_FLOP_MAX, Placement, State, StateKind, Traced, TrainPlan, What};
use manyhands::tensors::read_f32;
use manyhands::tuner::tasks;
use manyhands_protocol::model::{Layer, Model};
use manyhands_protocol::states::{Tree, root};
use manyhands_protocol::work::{InnerOptimizer, TrainWork, Work};
use manyhands_shaders::compare::relative_distance;
use manyhands_shaders::matmul::Variant;
use sha2::{Digest as _, Sha256};

use super::models::{CLIPPED_SGD, SGD, adamw, dropping, examples, images, text};
use super::{model, work};

/// Units of every kind of layer and both optimisers, large enough to be cut.
fn units() -> [TrainWork; 5] {
    let unit = |model: Model, batch, optimizer| TrainWork { optimizer, ..work(model, batch, 3) };
    [
        unit(model(&[96]), 130, SGD),
        unit(model(&[96]), 66, adamw(0.1)),
        unit(images(), 5, adamw(0.0)),
        unit(text(16, 2), 9, CLIPPED_SGD),
        unit(dropping(), 130, adamw(0.0)),
    ]
}

/// SHA-256 over a run's state, bit for bit.
fn hash(state: &[(State, Vec<f32>)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (of, values) in state {
        hash.update(format!("{of:?}"));
        values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize().into()
}

/// The state after each step, with kernel calls of at most so much work.
async fn states(engine: &Engine, work: &TrainWork, call_flop_max: u64) -> Vec<[u8; 32]> {
    let (parameters, shard) = (init_parameters(&work.model, 3), examples(&work.model, 2 * work.batch as usize));
    let mut run = engine.trainer_cut(work, &parameters, &shard, call_flop_max).await.unwrap();
    let mut states = vec![hash(&run.state().await.unwrap())];
    for _ in 0..work.inner_steps {
        run.run(1, &Control::new()).await.unwrap();
        states.push(hash(&run.state().await.unwrap()));
    }
    states
}

/// A throttled device cuts its work smaller: the state after every step stays the same, and so does a replay's.
pub async fn cuts_change_no_bits(engine: &Engine) {
    for work in units() {
        let calls = |most| TrainPlan::compile_cut(&work, most).unwrap().program.ops.len();
        assert!(calls(1) > calls(CALL_FLOP_MAX), "nothing was cut");
        let whole = states(engine, &work, CALL_FLOP_MAX).await;
        assert!(whole.windows(2).all(|pair| pair[0] != pair[1]), "every step changes the state");
        assert_eq!(states(engine, &work, 1).await, whole, "cut: {:?}", work.optimizer);
        assert_eq!(states(engine, &work, CALL_FLOP_MAX).await, whole, "again: {:?}", work.optimizer);
    }
}

/// The same of every variant of the product that the device offers.
pub async fn cuts_change_no_bits_of_any_variant(engine: &Engine) {
    if engine.tuned_adapter().is_none() {
        return;
    }
    // Extents that every variant takes, but for those of the last layer.
    let unit = TrainWork { optimizer: SGD, ..work(model(&[96]), 144, 2) };
    let products = tasks(&Work::Train(unit.clone())).unwrap();
    for variant in Variant::ALL.into_iter().filter(|&variant| engine.offers_variant(variant)) {
        let taken: Vec<_> = products.iter().filter(|task| task.may_run(variant)).collect();
        assert_eq!(taken.is_empty(), variant.reads_f16(), "{variant:?}");
        taken.iter().for_each(|task| engine.choose_variant(task, variant));
        let whole = states(engine, &unit, CALL_FLOP_MAX).await;
        assert_eq!(states(engine, &unit, 1).await, whole, "{variant:?}");
        taken.iter().for_each(|task| engine.choose_variant(task, engine.usual_variant(task)));
    }
}

/// A run that commits gives what one that does not gives; its states are told by a replay from the checkpoint and from each
/// state it kept; and the last one's parameters follow from the output.
pub async fn replays_are_what_was_committed_to(engine: &Engine) {
    let control = Control::new();
    for work in units() {
        let work = TrainWork { inner_steps: 5, ..work };
        let (parameters, shard) = (init_parameters(&work.model, 3), examples(&work.model, 2 * work.batch as usize));
        let plain = engine.train(&work, &parameters, &shard, &control).await.unwrap();
        let (trained, committed) = engine.train_committed(&work, &parameters, &shard, 2, &control).await.unwrap();
        assert_eq!(trained, plain, "{:?}", work.optimizer);
        assert_eq!((committed.states.len(), committed.snapshots.len()), (4, 2), "states 0, 2, 4 and 5");
        let all = engine.replay_states(&work, &parameters, &shard, None, [0, 5], &control).await.unwrap();
        assert_eq!(committed.states, [all[0], all[2], all[4], all[5]]);
        for snapshot in &committed.snapshots {
            let (at, steps) = (snapshot.0, work.inner_steps - snapshot.0);
            let rest = engine.replay_states(&work, &parameters, &shard, Some(snapshot), [at, steps], &control).await.unwrap();
            assert_eq!(rest, all[at as usize..], "from {at}");
        }
        let initial = initial_state(&work, &parameters).unwrap();
        assert_eq!(root(&leaves_of(Tree::State, &initial)), all[0]);
        let layout = Layout::of(&work).unwrap();
        let sizes = |tensors: &Tensors| tensors.iter().map(|(name, values)| (name.clone(), values.len())).collect::<Vec<_>>();
        for step in [0, 3, 4] {
            let from = committed.snapshots.iter().rfind(|(at, _)| *at <= step);
            let shown = engine.replay_step(&work, &parameters, &shard, from, step, &control).await.unwrap();
            let states = [&shown.before, &shown.after].map(|state| root(&leaves_of(Tree::State, state)));
            assert_eq!(states, [all[step as usize], all[step as usize + 1]], "step {step}");
            assert_eq!((sizes(&shown.before), sizes(&shown.trace)), (layout.state.clone(), layout.trace.clone()));
            let file = read_f32(&shown.write(), &shapes(&layout)).unwrap();
            assert_eq!(file.iter().map(|values| values.len() as u64 * 4).sum::<u64>(), layout.step_bytes());
            if step == 4 {
                assert_eq!(leaves_of(Tree::State, &shown.after), committed.end_leaves);
                for ((parameter, before), delta) in work.model.parameters().unwrap().iter().zip(&parameters).zip(&trained.delta) {
                    let (_, after) = shown.after.iter().find(|(name, _)| *name == parameter.name).unwrap();
                    assert!(before.iter().zip(delta).map(|(before, delta)| before - delta).eq(after.iter().copied()));
                }
            }
        }
    }
}

/// What a file that shows a step holds.
fn shapes(layout: &Layout) -> Vec<(&str, &[usize])> {
    // Leaked, for a test is short.
    let parts = [("before", layout.state.as_slice()), ("trace", &layout.trace), ("after", &layout.state)];
    shown_tensors(&parts).into_iter().map(|(name, values)| (&*name.leak(), &*vec![values].leak())).collect()
}

/// A step in shared memory and with joined calls, and the same program with a place for every buffer.
pub async fn shared_memory_changes_no_bits(engine: &Engine) {
    for work in units() {
        let (parameters, shard) = (init_parameters(&work.model, 3), examples(&work.model, work.batch as usize));
        let mut run = engine.trainer(&work, &parameters, &shard).await.unwrap();
        run.run(1, &Control::new()).await.unwrap();
        let plan = TrainPlan::compile(&work).unwrap();
        let shared = Placement::shared(&plan.program);
        let places: BTreeSet<_> = shared.spans.iter().map(|(buffer, _)| shared.place_of[buffer.0]).collect();
        assert!(places.len() < shared.spans.len(), "nothing shares its place");
        let labels = shard.y.iter().map(|&label| f32::from_bits(label)).collect();
        let mut buffers: Vec<_> = plan.program.values.iter().map(|&values| vec![0.0; values as usize]).collect();
        let contents = plan.forward.parameters.iter().copied().zip(parameters.clone());
        let contents = contents.chain([(plan.forward.x, shard.x.clone()), (plan.labels, labels)]).chain(plan.initial.clone());
        contents.for_each(|(buffer, values)| buffers[buffer.0] = values);
        let after = engine.run(&plan.program, buffers, &Control::new()).await.unwrap();
        for ((of, values), (_, buffer)) in run.state().await.unwrap().iter().zip(&plan.state) {
            assert_eq!(*values, after[buffer.0], "{of:?} by {:?}", work.optimizer);
        }
    }
}

/// Every layer's output, error and gradients in the middle of a run, as the reference sees them; and the gradients are
/// those that the update took.
pub async fn steps_can_be_seen(engine: &Engine) {
    let reference = Engine::reference();
    for model in [model(&[8]), images(), text(8, 2), dropping()] {
        let optimizer = InnerOptimizer::Sgd { learning_rate: 0.5, momentum: 0.0, clip_norm: 0.0 };
        let work = TrainWork { optimizer, ..work(model, 3, 2) };
        let (parameters, shard) = (init_parameters(&work.model, 3), examples(&work.model, 6));
        let mut seen = Vec::new();
        for engine in [engine, &reference] {
            let mut run = engine.trainer(&work, &parameters, &shard).await.unwrap();
            run.run(1, &Control::new()).await.unwrap();
            let before = run.state().await.unwrap();
            let traced = run.run_traced(&Control::new()).await.unwrap();
            updates_take_the_gradients(&before, &traced, &run.state().await.unwrap());
            seen.push(traced);
        }
        let [got, expected] = seen.try_into().unwrap();
        assert_eq!(got.len(), expected.len());
        for ((of, got), (other, expected)) in got.iter().zip(&expected) {
            assert_eq!(of, other);
            let distance = relative_distance(std::slice::from_ref(got), std::slice::from_ref(expected));
            assert!(distance.is_some_and(|distance| distance < 1e-4), "{of:?}: {distance:?}");
        }
        every_layer_is_seen(&work.model, &got);
    }
}

/// Plain SGD at a rate of a half moves each parameter by half of its gradient.
fn updates_take_the_gradients(before: &[(State, Vec<f32>)], traced: &[(Traced, Vec<f32>)], after: &[(State, Vec<f32>)]) {
    let moved = before.iter().zip(after).filter(|((of, _), _)| of.kind == StateKind::Parameter);
    for (index, ((_, before), (_, after))) in moved.enumerate() {
        let what = What::Gradient { parameter: index as u32 };
        let (_, gradient) = traced.iter().find(|(of, _)| of.what == what).expect("every parameter has a gradient");
        for ((before, after), gradient) in before.iter().zip(after).zip(gradient) {
            let expected = before - 0.5 * gradient;
            assert!((after - expected).abs() <= 2e-7 * (before.abs() + gradient.abs()) + 1e-30, "{after}, not {expected}");
        }
    }
}

/// Output and error of each layer, but for those whose ReLU is their epilogue; no error by what nothing learns from.
fn every_layer_is_seen(model: &Model, traced: &[(Traced, Vec<f32>)]) {
    let seen = |layer: usize, what| traced.iter().filter(|(of, _)| of.layer == layer as u32 && of.what == what).count();
    let first = model.trace().unwrap().iter().position(|layer| !layer.parameters.is_empty()).unwrap();
    for (index, layer) in model.layers.iter().enumerate() {
        let parts = if matches!(layer, Layer::Attention { .. }) { 3 } else { 1 };
        let fuses = matches!(layer, Layer::Dense { .. } | Layer::Convolution { .. } | Layer::Attention { .. });
        let ends_branch =
            (0..index).any(|r| matches!(model.layers[r], Layer::Residual { layers } if r + layers as usize == index));
        let fused = fuses && !ends_branch && model.layers.get(index + 1) == Some(&Layer::Relu);
        assert_eq!(seen(index, What::Output), parts - usize::from(fused), "layer {index}, {layer:?}");
        let errors = if index < first { 0 } else { parts };
        assert_eq!(seen(index, What::Error), errors, "layer {index}, {layer:?}");
    }
}
