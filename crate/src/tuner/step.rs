//! Times of training steps on an engine, on made-up examples and on no more of them than occupy it. It decides nothing.

use manyhands_protocol::work::{Dtype, TrainWork};

use super::bench::{Unbroken, clock_step_ms};
use super::plan::Task;
use crate::control::Control;
use crate::engine::{Engine, EngineError, init_parameters, known};
use crate::plan::{Op, TrainPlan};
use crate::tensors::Shard;

/// Operations of the part that is measured first: some milliseconds on one core.
const PART_FLOP: u64 = 1 << 27;
/// A device is occupied by what takes so long; until then, or the whole unit's batch, the part grows by this factor.
const OCCUPIED_MS: f64 = 25.0;
const GROWTH: u32 = 4;
/// A measurement takes at least so long, and so many steps of the clock; where that would be longer than the last, none is made.
const MEASURE_MS_MIN: f64 = 4.0;
const MEASURED_STEPS_MIN: f64 = 32.0;
const MEASURE_MS_MAX: f64 = 40.0;
const RUNS_MAX: u32 = 1 << 12;
/// Measurements of which the fastest counts: what else runs on the processor disturbs.
const MEASUREMENTS: usize = 2;

/// Names work that takes a device the same time, by a step's calls and operations.
pub fn name(work: &TrainWork) -> Result<String, EngineError> {
    let ops = whole_calls(work)?;
    Ok(format!("step of {} calls, {} operations", ops.len(), flop(&ops)))
}

/// The least that a measurement takes by this clock; none where it is too coarse to tell.
pub(super) fn least_ms(clock: &Control) -> Option<f64> {
    let least_ms = MEASURE_MS_MIN.max(MEASURED_STEPS_MIN * clock_step_ms(clock)?);
    Some(least_ms).filter(|&least_ms| least_ms <= MEASURE_MS_MAX)
}

/// Examples of a step that takes some milliseconds on one core.
pub(super) fn first_part(work: &TrainWork) -> Result<u32, EngineError> {
    let each = flop(&whole_calls(work)?) / u64::from(work.batch).max(1);
    Ok(u32::try_from(PART_FLOP / each.max(1)).unwrap_or(work.batch).clamp(1, work.batch))
}

/// So many examples of a step that occupy the device, and milliseconds of that step; none where even the whole is too short to
/// measure. The device computes products as it was told to for the work itself.
pub(super) async fn occupied(
    engine: &Engine,
    work: &TrainWork,
    clock: &Control,
    least_ms: f64,
) -> Result<Option<(u32, f64)>, EngineError> {
    let mut examples = first_part(work)?;
    loop {
        let part = part_of(work, examples);
        choose_alike(engine, work, &part)?;
        let occupied_ms = if examples == work.batch { 0.0 } else { OCCUPIED_MS };
        match ms(engine, &part, clock, [occupied_ms, least_ms]).await? {
            Some(ms) => return Ok(Some((examples, ms))),
            None if examples == work.batch => return Ok(None),
            None => examples = examples.saturating_mul(GROWTH).min(work.batch),
        }
    }
}

/// Milliseconds of one training step among so many that they take `least_ms` together, after one that is not counted; none where
/// one takes less than `short_ms`, or too many were needed. Its pipelines have passed their self-test.
pub(super) async fn ms(
    engine: &Engine,
    work: &TrainWork,
    clock: &Control,
    bounds_ms: [f64; 2],
) -> Result<Option<f64>, EngineError> {
    engine.self_test_training(work).await?;
    let (parameters, shard) = (init_parameters(&work.model, 1), examples(work)?);
    let mut trainer = engine.trainer(work, &parameters, &shard).await?;
    let run = async |runs: u32| {
        let unbroken = Control::with_pace(Unbroken(clock.clone()));
        trainer.run(runs, &unbroken).await.map(drop)
    };
    timed(clock, bounds_ms, run).await
}

/// A step of the same work on so many examples.
pub(super) fn part_of(work: &TrainWork, examples: u32) -> TrainWork {
    TrainWork { batch: examples, first_row: 0, inner_steps: 1, ..work.clone() }
}

/// The calls of a step, none of them cut.
pub(super) fn whole_calls(work: &TrainWork) -> Result<Vec<Op>, EngineError> {
    Ok(TrainPlan::compile_cut(work, u64::MAX)?.program.ops)
}

fn flop(ops: &[Op]) -> u64 {
    ops.iter().map(Op::flop).sum()
}

/// Has the products of the part run on what was chosen for those of the whole.
fn choose_alike(engine: &Engine, whole: &TrainWork, part: &TrainWork) -> Result<(), EngineError> {
    for (whole, part) in products(whole)?.iter().zip(&products(part)?) {
        if let Some(chosen) = engine.chosen_variant(whole).filter(|&variant| part.may_run(variant)) {
            engine.choose_variant(part, chosen);
        }
    }
    Ok(())
}

/// In the order of the calls.
fn products(work: &TrainWork) -> Result<Vec<Task>, EngineError> {
    let ops = whole_calls(work)?;
    let products = ops.iter().filter_map(|op| if let Op::Matmul(product) = op { Some(product) } else { None });
    Ok(products.map(|p| Task { transposed: p.transposed, ..Task::plain(p.shape, Dtype::F32) }).collect())
}

async fn timed(
    clock: &Control,
    [short_ms, least_ms]: [f64; 2],
    mut run: impl AsyncFnMut(u32) -> Result<(), EngineError>,
) -> Result<Option<f64>, EngineError> {
    run(1).await?;
    let mut runs = 1;
    loop {
        let start_ms = clock.now_ms();
        run(runs).await?;
        let took_ms = clock.now_ms() - start_ms;
        if took_ms >= short_ms && took_ms >= least_ms {
            let mut best_ms = took_ms;
            for _ in 1..MEASUREMENTS {
                let start_ms = clock.now_ms();
                run(runs).await?;
                best_ms = best_ms.min(clock.now_ms() - start_ms);
            }
            return Ok(Some(best_ms / f64::from(runs)));
        }
        if runs == 1 && took_ms < short_ms || runs >= RUNS_MAX {
            return Ok(None);
        }
        runs *= 4;
    }
}

/// One batch of made-up examples.
fn examples(work: &TrainWork) -> Result<Shard, EngineError> {
    let invalid = |e: manyhands_protocol::model::ModelError| EngineError::Input(e.to_string());
    let (model, rows) = (&work.model, work.batch as usize);
    let values = rows * model.input_values().map_err(invalid)? as usize;
    let x = match model.vocabulary() {
        Some(ids) => (0..values).map(|i| f32::from_bits(i as u32 % ids)).collect(),
        None => known::values(5, values),
    };
    let labels = rows * model.labels_count() as usize;
    let y = (0..labels).map(|i| i as u32 % model.classes()).collect();
    Ok(Shard { rows, x, y })
}

#[cfg(test)]
pub(super) mod tests {
    use manyhands_protocol::ids::BlobHash;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
    use manyhands_protocol::work::{InnerOptimizer, Work};

    use super::*;

    pub fn works() -> Vec<TrainWork> {
        let nothing = BlobHash([0; 32]);
        let train = |dtype, layers| {
            let model = Model {
                input: Input { shape: vec![12], dtype, scale: 1.0, offset: 0.0 },
                layers,
                loss: Loss::SoftmaxCrossEntropy,
            };
            let optimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.0 };
            let (round, first_row, batch, inner_steps) = (0, 64, 32, 7);
            TrainWork { model, checkpoint: nothing, shard: nothing, round, first_row, batch, inner_steps, optimizer }
        };
        vec![
            train(InputType::F32, vec![Layer::Dense { outputs: 16 }, Layer::Relu, Layer::Dense { outputs: 3 }]),
            train(InputType::U8, vec![Layer::Embedding { vocabulary: 9, width: 8 }, Layer::Dense { outputs: 9 }]),
        ]
    }

    #[test]
    fn works_are_told_apart_and_their_parts_are_valid() {
        let names: Vec<_> = works().iter().map(|work| name(work).unwrap()).collect();
        assert!((0..names.len()).all(|i| !names[..i].contains(&names[i])), "{names:?}");
        for work in works() {
            for rows in [1, 5] {
                let part = part_of(&work, rows);
                Work::Train(part.clone()).validate().unwrap();
                assert_eq!(products(&part).unwrap().len(), products(&work).unwrap().len());
                assert_ne!(name(&part).unwrap(), name(&work).unwrap());
            }
        }
    }
}
