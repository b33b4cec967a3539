//! Dishonest steps: tensors falsified one by one, and whole steps of something else.

use super::*;

/// A step of every family by every optimiser, in the middle of training, so that no tensor is zero for want of a past.
fn middles() -> Vec<Revealed> {
    works(1).iter().map(|work| Revealed::honest(work, 1, 3)).collect()
}

fn refused(result: Option<Result<Report, Refusal>>, what: &str) {
    if let Some(result) = result {
        assert!(matches!(result, Err(Refusal::Step(_))), "{what}: {result:?}");
    }
}

#[test]
fn a_tensor_scaled_turned_or_emptied_is_refused() {
    for revealed in middles() {
        for tensor in revealed.tensors() {
            let counter = matches!(tensor, Tensor::Before(of) | Tensor::After(of) if of.kind == StateKind::InnerStep);
            let changes = [("a hundredth more", 1.01), ("turned", -1.0), ("zero", 0.0)];
            for (name, factor) in changes {
                if counter && name == "a hundredth more" {
                    continue;
                }
                refused(
                    revealed.check_with(tensor, |values| values.iter_mut().for_each(|v| *v *= factor)),
                    &format!("{tensor}, {name}"),
                );
            }
        }
    }
}

/// One value of each tensor that is the outcome of a check, ten tolerances off; and the refusal names that tensor, so that no
/// check is left to another.
#[test]
fn one_value_off_is_refused_where_it_is() {
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    for revealed in middles() {
        for tensor in revealed.tensors().into_iter().filter(|tensor| !matches!(tensor, Tensor::Before(_))) {
            let index = rng.random_range(0..revealed.clone().tensor(tensor).len());
            // Far off first, which tells how far is too far.
            let refusal = revealed.check_with(tensor, |values| values[index] += 1.0 + values[index].abs());
            let off = match refusal.unwrap() {
                Err(Refusal::Step(StepRefusal::Value { tensor: named, index: at, expected, tolerance, .. })) => {
                    assert_eq!((named, at), (tensor, index));
                    (expected + 10.0 * tolerance.max(f64::from(f32::MIN_POSITIVE))) as f32
                }
                Err(Refusal::Step(StepRefusal::Product { tensor: named, tolerance, .. })) => {
                    assert_eq!(named, tensor);
                    revealed.clone().tensor(tensor)[index] + 10.0 * tolerance as f32
                }
                other => panic!("{tensor}: {other:?}"),
            };
            // Where even ten tolerances are lost in rounding, the neighbour.
            let off = |value: f32| if value == off { value.next_up() } else { off };
            match revealed.check_with(tensor, |values| values[index] = off(values[index])) {
                Some(Err(Refusal::Step(
                    StepRefusal::Value { tensor: named, .. } | StepRefusal::Product { tensor: named, .. },
                ))) => {
                    assert_eq!(named, tensor);
                }
                other => panic!("{tensor}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_missing_or_no_number_is_refused() {
    for revealed in [&middles()[3], &middles()[11]] {
        for tensor in revealed.tensors() {
            for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "−infinity")] {
                let last = |values: &mut Vec<f32>| *values.last_mut().unwrap() = value;
                let result = revealed.check_with(tensor, last).unwrap();
                let is = |named: Tensor| named == tensor;
                assert!(matches!(result, Err(Refusal::Step(StepRefusal::NotFinite { tensor, .. })) if is(tensor)), "{name}");
            }
            for (change, name) in
                [((|v| v.push(0.0)) as fn(&mut Vec<f32>), "long"), (|v| v.truncate(v.len() - 1), "short"), (Vec::clear, "empty")]
            {
                let mut changed = revealed.clone();
                change(changed.tensor(tensor));
                assert!(matches!(changed.check(), Err(Refusal::Step(StepRefusal::Length { .. }))), "{tensor} {name}");
            }
            for largest in [f32::MAX, f32::MIN] {
                refused(revealed.check_with(tensor, |values| values.fill(largest)), &format!("{tensor}, huge"));
            }
        }
        let check = |change: fn(&mut Revealed)| {
            let mut changed = revealed.clone();
            change(&mut changed);
            match changed.check() {
                Err(Refusal::Step(refusal)) => refusal,
                other => panic!("{other:?}"),
            }
        };
        assert!(matches!(check(|r| drop(r.before.pop())), StepRefusal::Missing(Tensor::Before(_))));
        assert!(matches!(check(|r| drop(r.trace.remove(3))), StepRefusal::Missing(Tensor::Trace(_))));
        assert!(matches!(check(|r| drop(r.after.remove(0))), StepRefusal::Missing(Tensor::After(_))));
        assert!(matches!(check(|r| r.trace.push(r.trace[0].clone())), StepRefusal::Extra(Tensor::Trace(_))));
        assert!(matches!(check(|r| r.after.push(r.after[0].clone())), StepRefusal::Extra(Tensor::After(_))));
        assert!(matches!(check(|r| r.trace[0].0.layer = 99), StepRefusal::Extra(Tensor::Trace(_))));
        assert!(matches!(check(|r| r.number = r.work.inner_steps), StepRefusal::Number { .. }));
        assert!(matches!(check(|r| r.work.model.layers.clear()), StepRefusal::Work(_)));
        let rate = |learning_rate| InnerOptimizer::Sgd { learning_rate, momentum: 0.0, clip_norm: 0.0 };
        let wild = Revealed { work: TrainWork { optimizer: rate(f32::NAN), ..revealed.work.clone() }, ..revealed.clone() };
        assert!(matches!(wild.check(), Err(Refusal::Step(StepRefusal::Work(_)))), "a rate that is no number");
        assert!(matches!(check(|r| r.shard.y.fill(1000)), StepRefusal::Batch(_)));
    }
    let words = middles()[0].clone();
    let batch = Batch::of(&words.work, &words.shard, 3).unwrap();
    for batch in
        [Batch { x: &batch.x[1..], ..batch }, Batch { y: &batch.y[1..], ..batch }, Batch { x: &[f32::NAN; 120], ..batch }]
    {
        let step = Step {
            work: &words.work,
            number: 3,
            batch,
            before: &words.before,
            trace: &words.trace,
            after: &words.after,
            settled_from: None,
        };
        let result = check_step(&step, &mut ChaCha20Rng::seed_from_u64(0));
        assert!(matches!(result, Err(Refusal::Step(StepRefusal::Batch(_)))), "{result:?}");
    }
}

/// The order of tensors says nothing.
#[test]
fn tensors_may_come_in_any_order() {
    let mut revealed = middles().swap_remove(10);
    revealed.before.reverse();
    revealed.trace.reverse();
    revealed.after.rotate_left(2);
    revealed.check().unwrap();
}

/// Whole steps, each consistent in itself, that are not the step asked for.
#[test]
fn a_step_of_something_else_is_refused() {
    for work in works(2) {
        let rows = 5 * work.batch as usize;
        let shard = examples(&work.model, rows, 2);
        let refuse = |name: &str, run_by: &TrainWork, trained_on: &Shard| {
            let result = Revealed::of(&work, run_by, trained_on, shard.clone(), 2, 3).check();
            assert!(matches!(result, Err(Refusal::Step(_))), "{name}, {:?}: {result:?}", work.optimizer);
        };
        Revealed::of(&work, &work, &shard, shard.clone(), 2, 3).check().unwrap();
        let mut other = shard.clone();
        let classes = work.model.classes();
        other.y.iter_mut().for_each(|label| *label = (*label + 1) % classes);
        refuse("other labels", &work, &other);
        let mut one = shard.clone();
        let rows_before = (work.batch as usize + 3 * work.batch as usize) % rows * work.model.labels_count() as usize;
        one.y[rows_before] = (one.y[rows_before] + 1) % classes;
        refuse("one label", &work, &one);
        let mut shifted = shard.clone();
        shifted.x.rotate_left(shard.x.len() / rows);
        shifted.y.rotate_left(shard.y.len() / rows);
        refuse("rows shifted by one", &work, &shifted);
        refuse("the batch before", &TrainWork { first_row: 0, ..work.clone() }, &shard);
        refuse("other data", &work, &examples(&work.model, rows, 77));
        for (name, optimizer) in other_optimizers(&work.optimizer) {
            refuse(name, &TrainWork { optimizer, ..work.clone() }, &shard);
        }
        if work.model.layers.iter().any(|layer| matches!(layer, Layer::Dropout { .. })) {
            refuse("masks of another unit", &TrainWork { checkpoint: BlobHash([77; 32]), ..work.clone() }, &shard);
        }
        // The same step said to be the one that comes a whole round of the shard later.
        let later = Revealed { number: 8, ..Revealed::of(&work, &work, &shard, shard.clone(), 2, 3) };
        let counts = !matches!(work.optimizer, InnerOptimizer::Sgd { .. })
            || work.model.layers.iter().any(|layer| matches!(layer, Layer::Dropout { .. }));
        assert_eq!(later.check().is_err(), counts, "a step that counts itself");
    }
}

fn other_optimizers(optimizer: &InnerOptimizer) -> Vec<(&'static str, InnerOptimizer)> {
    match *optimizer {
        InnerOptimizer::Sgd { learning_rate, momentum, clip_norm } => {
            let turned = if clip_norm > 0.0 { 0.0 } else { 0.05 };
            let mut others = vec![
                ("another rate", InnerOptimizer::Sgd { learning_rate: learning_rate * 1.001, momentum, clip_norm }),
                ("no momentum", InnerOptimizer::Sgd { learning_rate, momentum: 0.0, clip_norm }),
                ("a little less momentum", InnerOptimizer::Sgd { learning_rate, momentum: momentum * 0.999, clip_norm }),
                ("clipping turned round", InnerOptimizer::Sgd { learning_rate, momentum, clip_norm: turned }),
            ];
            if clip_norm > 0.0 {
                let wider = clip_norm * 1.01;
                others.push(("clipped a little less", InnerOptimizer::Sgd { learning_rate, momentum, clip_norm: wider }));
            }
            others
        }
        InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm } => {
            let base = (learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm);
            let of = |(learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm)| InnerOptimizer::AdamW {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                clip_norm,
            };
            vec![
                ("another rate", of((learning_rate * 1.001, base.1, base.2, base.3, base.4, base.5))),
                ("no first moment", of((base.0, 0.0, base.2, base.3, base.4, base.5))),
                ("another second moment", of((base.0, base.1, beta2 * 0.999, base.3, base.4, base.5))),
                ("a larger ε", of((base.0, base.1, base.2, 1e-4, base.4, base.5))),
                ("no decay", of((base.0, base.1, base.2, base.3, 0.0, base.5))),
                ("clipping turned round", of((base.0, base.1, base.2, base.3, base.4, if clip_norm > 0.0 { 0.0 } else { 0.05 }))),
            ]
        }
    }
}

/// Tensors of one honest step among those of another.
#[test]
fn parts_of_two_steps_are_refused() {
    for work in works(3) {
        let [third, fourth] = [3, 4].map(|number| Revealed::honest(&work, 3, number));
        let mixed = [
            ("the state before", Revealed { before: fourth.before.clone(), ..third.clone() }),
            ("the trace", Revealed { trace: fourth.trace.clone(), ..third.clone() }),
            ("the state after", Revealed { after: fourth.after.clone(), ..third.clone() }),
            ("nothing done", Revealed { after: third.before.clone(), ..third.clone() }),
        ];
        for (name, mixed) in mixed {
            assert!(matches!(mixed.check(), Err(Refusal::Step(_))), "{name}");
        }
        let mut gradients = third.clone();
        for (of, values) in &mut gradients.trace {
            if matches!(of.what, What::Gradient { .. }) {
                *values = fourth.trace.iter().find(|(other, _)| other == of).unwrap().1.clone();
            }
        }
        assert!(matches!(gradients.check(), Err(Refusal::Step(_))), "another batch's gradients");
        let mut nothing = third.clone();
        nothing.trace.iter_mut().for_each(|(_, values)| values.fill(0.0));
        nothing.after = third.before.clone();
        assert!(matches!(nothing.check(), Err(Refusal::Step(_))), "all zero");
        let mut state = third.clone();
        for tensor in third.tensors().into_iter().filter(|tensor| matches!(tensor, Tensor::Before(_))) {
            *state.tensor(tensor) = fourth.clone().tensor(tensor).clone();
        }
        assert!(matches!(state.check(), Err(Refusal::Step(_))), "from another state");
    }
}
