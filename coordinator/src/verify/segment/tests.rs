//! Segments of each optimiser: honest ones pass, and what is made up in them does not, however small it looks beside all the rest.

use manyhands::engine::states::Snapshot;
use manyhands::init_parameters;
use manyhands_protocol::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};

use super::*;

const SGD: InnerOptimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.0 };
const ADAMW: InnerOptimizer =
    InnerOptimizer::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1.0 };
/// Three segments: 0 to 4, 4 to 8, 8 to 10.
const STEPS: u32 = 10;
const EVERY: u32 = 4;

struct Unit {
    work: TrainWork,
    checkpoint: Vec<Vec<f32>>,
    shard: Shard,
    delta: Vec<Vec<f32>>,
    kept: Vec<Snapshot>,
}

fn model(vocabulary: bool) -> Model {
    let layers = match vocabulary {
        // Bytes of which the shard holds a few: most rows of the embedding never learn.
        true => {
            vec![Layer::Embedding { vocabulary: 64, width: 4 }, Layer::Dropout { rate: 0.1 }, Layer::Projection { outputs: 64 }]
        }
        false => vec![Layer::Dense { outputs: 8 }, Layer::Relu, Layer::Dense { outputs: 3 }],
    };
    let (shape, dtype) = if vocabulary { (vec![5], InputType::U8) } else { (vec![6], InputType::F32) };
    Model { input: Input { shape, dtype, scale: 1.0, offset: 0.0 }, layers, loss: Loss::SoftmaxCrossEntropy }
}

impl Unit {
    fn new(vocabulary: bool, optimizer: InnerOptimizer) -> Unit {
        let model = model(vocabulary);
        let rows = 8 * STEPS as usize;
        let number = |i: usize| (i * 7 + i / 11) as u32 % 7;
        let x = |i| if vocabulary { f32::from_bits(number(i)) } else { number(i) as f32 / 3.5 - 1.0 };
        let x = (0..rows * model.input_values().unwrap() as usize).map(x).collect();
        let y = (0..rows * model.labels_count() as usize).map(|i| number(i) % model.classes()).collect();
        let checkpoint = init_parameters(&model, 3);
        let (checkpoint_hash, shard_hash) = (BlobHash([1; 32]), BlobHash([2; 32]));
        let (round, first_row, batch, inner_steps) = (0, 0, 8, STEPS);
        let work =
            TrainWork { model, checkpoint: checkpoint_hash, shard: shard_hash, round, first_row, batch, inner_steps, optimizer };
        let shard = Shard { rows, x, y };
        let trained = block_on(Engine::cpu().train_committed(&work, &checkpoint, &shard, EVERY, &Control::new())).unwrap();
        let (delta, kept) = (trained.0.delta, trained.1.snapshots);
        assert_eq!(kept.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 8]);
        Unit { work, checkpoint, shard, delta, kept }
    }

    fn all() -> Vec<Unit> {
        vec![Unit::new(false, SGD), Unit::new(false, ADAMW), Unit::new(true, SGD), Unit::new(true, ADAMW)]
    }

    /// The name of a parameter.
    fn first(&self) -> String {
        self.work.model.parameters().unwrap().remove(0).name
    }

    fn segment(&self, first_step: u32) -> Segment<'_> {
        let Unit { work, checkpoint, shard, delta, .. } = self;
        Segment { work, checkpoint, delta, shard, first_step, steps: EVERY.min(STEPS - first_step) }
    }

    fn ends(&self, first_step: u32) -> Ends {
        let at = |step| self.kept.iter().find(|(kept, _)| *kept == step).map(|(_, state)| state.clone());
        Ends { first: at(first_step), last: at(first_step + EVERY) }
    }

    /// Values of the embedding that nothing in the shard looks at.
    fn dead(&self) -> Vec<usize> {
        let state = &self.kept[1].1;
        let kind = if matches!(self.work.optimizer, InnerOptimizer::Sgd { .. }) { "velocity" } else { "second_moment" };
        let (_, values) = state.iter().find(|(name, _)| *name == format!("layers.0.token.{kind}")).unwrap();
        let dead: Vec<_> = values.iter().enumerate().filter(|(_, value)| **value == 0.0).map(|(i, _)| i).collect();
        assert!(!dead.is_empty());
        dead
    }

    fn set(&self, state: &mut Option<Tensors>, name: &str, at: usize, value: f32) {
        let (_, values) = state.as_mut().unwrap().iter_mut().find(|(other, _)| other == name).unwrap();
        values[at] = value;
    }

    /// What comes of the second segment when its last state is changed so.
    fn bent(&self, bend: impl Fn(&str, &mut Vec<f32>)) -> Result<Agreed, SegmentFault> {
        let mut ends = self.ends(4);
        ends.last.as_mut().unwrap().iter_mut().for_each(|(name, values)| bend(name, values));
        self.segment(4).check(ends)
    }
}

#[test]
fn honest_segments_pass() {
    for unit in Unit::all() {
        for first_step in [0, 4, 8] {
            let apart = unit.segment(first_step).check(unit.ends(first_step)).unwrap().apart;
            assert_eq!(apart.len(), if matches!(unit.work.optimizer, InnerOptimizer::Sgd { .. }) { 2 } else { 3 });
            assert!(apart.values().all(|apart| apart.share() < 1e-5), "{apart:?}");
        }
    }
}

/// A twentieth and a tenth of how far the segment moved, spread over the parameters or in one of them; and each kind of state.
#[test]
fn what_is_off_by_more_than_the_tolerance_is_found() {
    for unit in Unit::all() {
        let (before, after) = (&unit.kept[0].1, &unit.kept[1].1);
        let is_parameter = |name: &str| unit.work.model.parameters().unwrap().iter().any(|p| p.name == name);
        let moved: f64 = before
            .iter()
            .zip(after)
            .filter(|((name, _), _)| is_parameter(name))
            .flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)))
            .sum();
        let most = tolerance(&unit.work.model);
        for (share, passes) in [(0.9 * most, true), (1.1 * most, false), (0.1, false), (10.0, false)] {
            let got = unit.bent(|name, values| {
                if name == unit.first() {
                    values[0] += (share * moved.sqrt()) as f32;
                }
            });
            assert_eq!(got.is_ok(), passes, "{share}: {got:?}");
        }
        for kind in [".velocity", ".first_moment", ".second_moment"] {
            let has = after.iter().any(|(name, _)| name.ends_with(kind));
            for factor in [0.0, 0.5, 1.5, -1.0] {
                let got = unit.bent(|name, values| {
                    if name.ends_with(kind) {
                        values.iter_mut().for_each(|value| *value *= factor);
                    }
                });
                assert_eq!(got.is_err(), has, "{kind} times {factor}: {got:?}");
            }
        }
    }
}

/// Values that have not learnt yet step as far as any other once their moments say so: a millionth is enough, and it is nothing
/// beside what all moments come to. How far, the second moments say: without any, a first moment is none of training's.
#[test]
fn a_moment_is_measured_by_the_step_it_leads_to() {
    let unit = Unit::new(true, ADAMW);
    let dead = unit.dead();
    let got = unit.bent(|name, values| {
        let small = if name.ends_with("token.first_moment") { 5e-7 } else { 1e-12 };
        if name.starts_with("layers.0.token.") && name.ends_with("moment") {
            dead.iter().for_each(|&at| values[at] = small);
        }
    });
    assert!(matches!(&got, Err(SegmentFault::Elsewhere { kind: "the moments' directions", .. })), "{got:?}");
    for at_end in [false, true] {
        let mut ends = unit.ends(4);
        let state = if at_end { &mut ends.last } else { &mut ends.first };
        unit.set(state, "layers.0.token.first_moment", dead[0], 1e-6);
        let got = unit.segment(4).check(ends);
        assert!(matches!(&got, Err(SegmentFault::TooLarge("the moments", _))), "{got:?}");
    }
    // Small values of both moments, shrunk together: the direction stays, and no new gradient turns it.
    let got = unit.bent(|name, values| {
        let factor = if name.ends_with(".first_moment") {
            100.0
        } else if name.ends_with(".second_moment") {
            1e4
        } else {
            1.0
        };
        let small = name.ends_with("moment");
        values.iter_mut().skip(if small { 200 } else { usize::MAX }).for_each(|value| *value *= factor);
    });
    assert!(matches!(&got, Err(SegmentFault::Elsewhere { kind: "the second moments' roots", .. })), "{got:?}");
    let got = unit.bent(|name, values| {
        if name.ends_with(".second_moment") {
            values[0] = -values[0].max(1e-20);
        }
    });
    assert!(got.is_err(), "a root of less than nothing: {got:?}");
}

/// What nothing depends on may move as it likes, and takes the rest of training nowhere. So how far that goes makes no room for it.
#[test]
fn a_dead_value_makes_no_room() {
    let unit = Unit::new(true, SGD);
    let (token, velocity, dead) = ("layers.0.token", "layers.0.token.velocity", unit.dead()[0]);
    let mut ends = unit.ends(4);
    unit.set(&mut ends.first, velocity, dead, 100.0);
    let (before, segment) = (ends.first.clone().unwrap(), unit.segment(4));
    let mut after = segment.replay(before.clone()).unwrap();
    ends.last = Some(after.clone());
    assert!(segment.check(ends.clone()).is_ok(), "the value itself is carried on as it should be");
    // All that learns stays where it was.
    let is_dead = |name: &str, i: usize| (name == token || name == velocity) && i == dead;
    let [mut moved, mut left_out] = [0.0; 2];
    for ((name, values), (_, before)) in after.iter_mut().zip(&before).filter(|((name, _), _)| name != "inner_step") {
        let is_parameter = unit.work.model.parameters().unwrap().iter().any(|p| p.name == *name);
        for (i, (value, before)) in values.iter_mut().zip(before).enumerate() {
            let square = if is_parameter { f64::from(*value - before).powi(2) } else { 0.0 };
            moved += square;
            if !is_dead(name, i) {
                left_out += square;
                *value = *before;
            }
        }
    }
    let [left_out, moved] = [left_out, moved].map(f64::sqrt);
    assert!(left_out < tolerance(&unit.work.model) * moved, "{left_out} beside {moved}, how far the one value went");
    ends.last = Some(after);
    let got = segment.check(ends);
    assert!(matches!(&got, Err(SegmentFault::Elsewhere { kind: "the parameters", .. })), "{got:?}");
}

/// Of values so large that what they are measured by is their own rounding.
#[test]
fn states_are_no_larger_than_training_makes_them() {
    let unit = Unit::new(true, SGD);
    for (name, kind) in [("layers.0.token", "the parameters"), ("layers.0.token.velocity", "the velocities")] {
        for (value, is_refused) in [(1e9, true), (f32::MAX, true), (1.0, false)] {
            for at_end in [false, true] {
                let mut ends = unit.ends(4);
                let state = if at_end { &mut ends.last } else { &mut ends.first };
                unit.set(state, name, unit.dead()[0], value);
                let refused = matches!(unit.segment(4).check(ends), Err(SegmentFault::TooLarge(found, _)) if found == kind);
                assert_eq!(refused, is_refused, "{name} of {value}, {at_end}");
            }
        }
    }
}

/// Second moments so large that gradients do nothing would carry a made-up state through all segments; clipping bounds them.
#[test]
fn optimiser_states_are_no_larger_than_clipping_lets_them_be() {
    let sgd = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.01 };
    for (optimizer, kind, value) in [
        (ADAMW, "layers.0.token.second_moment", 1.0),
        (ADAMW, "layers.0.token.second_moment", 1e38),
        (sgd, "layers.0.token.velocity", 0.1),
    ] {
        let unit = Unit::new(true, optimizer);
        let mut ends = unit.ends(4);
        assert!(unit.segment(4).check(ends.clone()).is_ok());
        unit.set(&mut ends.first, kind, unit.dead()[0], value);
        let got = unit.segment(4).check(ends);
        assert!(matches!(got, Err(SegmentFault::TooLarge(..))), "{kind} {value}: {got:?}");
    }
}

/// The same gradient over and over, none but the first, and those that the bound is reached by.
#[test]
fn moments_of_the_same_gradients_keep_their_ratio() {
    for betas in [[0.9, 0.95], [0.9, 0.999], [0.0, 0.9], [0.5, 0.0], [0.99, 0.5]] {
        for steps in [1, 2, 7, 100] {
            let ratio = moments_ratio(betas, steps);
            let [a, b] = betas.map(|beta: f64| (0..steps).map(|i| (1.0 - beta) * beta.powi(i as i32)).collect::<Vec<_>>());
            let reach = |g: &[f64]| {
                let sum = |weights: &[f64], power| weights.iter().zip(g).map(|(w, g)| w * g.powi(power)).sum::<f64>();
                sum(&a, 1).abs() / sum(&b, 2).sqrt()
            };
            let one = |at: usize| (0..steps as usize).map(|i| f64::from(i == at)).collect::<Vec<_>>();
            let most: Vec<f64> = a.iter().zip(&b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect();
            for gradients in [vec![1.0; steps as usize], one(0), most.clone()] {
                assert!(reach(&gradients) <= ratio * (1.0 + 1e-12), "{betas:?} {steps}: {} {ratio}", reach(&gradients));
            }
            assert!(ratio.is_infinite() || reach(&most) > 0.999 * ratio, "{betas:?} {steps}: {} {ratio}", reach(&most));
        }
    }
    assert_eq!(moments_ratio([0.9, 0.95], 0), 0.0);
}

#[test]
fn counters_are_those_of_their_steps() {
    let unit = Unit::new(true, ADAMW);
    for (name, index) in [("powers", 0), ("powers", 1), ("powers", 2), ("inner_step", 0), ("inner_step", 3)] {
        for first in [true, false] {
            let mut ends = unit.ends(4);
            let state = if first { &mut ends.first } else { &mut ends.last };
            let (_, values) = state.as_mut().unwrap().iter_mut().find(|(other, _)| other == name).unwrap();
            values[index] =
                if name == "powers" { values[index] * 1.001 + 1e-3 } else { f32::from_bits(values[index].to_bits() + 1) };
            let got = unit.segment(4).check(ends);
            assert!(
                matches!(&got, Err(SegmentFault::Counter(_, which)) if *which == if first { "first" } else { "last" }),
                "{got:?}"
            );
        }
    }
}

/// A first state that nobody trained: it leads elsewhere, or nowhere.
#[test]
fn a_made_up_first_state_does_not_lead_to_the_last() {
    for unit in Unit::all() {
        for factor in [0.0, 1.5, 1e30] {
            let mut ends = unit.ends(4);
            let first = ends.first.as_mut().unwrap().iter_mut();
            first.filter(|(name, _)| *name == unit.first()).for_each(|(_, values)| values.iter_mut().for_each(|v| *v *= factor));
            assert!(unit.segment(4).check(ends).is_err(), "{factor}");
        }
    }
}

/// The last segment ends where the output says, and its optimiser's state ends there, too.
#[test]
fn the_last_segment_ends_with_the_output() {
    let mut unit = Unit::new(false, SGD);
    unit.delta[0].iter_mut().for_each(|value| *value *= 1.5);
    assert!(matches!(unit.segment(8).check(unit.ends(8)), Err(SegmentFault::Elsewhere { kind: "the parameters", .. })));
    assert!(unit.segment(4).check(unit.ends(4)).is_ok());
}
