//! Whether a device is slower than the CPU path at a unit's training, by measuring both: a step of few examples on the one, of as
//! many as occupy the other. It measures; what follows is the visit's business.

use manyhands_protocol::work::{Dtype, TrainWork};

use super::bench::{Unbroken, clock_step_ms};
use super::plan::Task;
use crate::control::Control;
use crate::engine::{Engine, EngineError, init_parameters, known};
use crate::plan::{Op, TrainPlan};
use crate::tensors::Shard;

/// A device is left where the CPU path takes at most this much of its time, in thousandths: two thirds. What is closer may
/// come out otherwise the next time, and a device leaves the processor to the visitor.
const CPU_SHARE_MAX: u32 = 667;
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
/// Works that are remembered for one device.
const WORKS_MAX: usize = 64;

/// What the CPU path took of a device's time, in thousandths, by the name of the work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares(Vec<(String, u32)>);

impl Shares {
    /// Reads a text; lines that say nothing are passed over.
    pub fn parse(text: &str) -> Shares {
        let mut shares = Shares::default();
        for line in text.lines().take(WORKS_MAX) {
            if let Some((work, share)) = line.rsplit_once(' ')
                && let Ok(share) = share.parse()
            {
                shares.add(work, share);
            }
        }
        shares
    }

    pub fn text(&self) -> String {
        self.0.iter().map(|(work, share)| format!("{work} {share}\n")).collect()
    }

    /// In the place of an earlier one of the same work, or of the oldest where there are too many.
    pub fn add(&mut self, work: &str, share: u32) {
        self.0.retain(|(name, _)| name != work);
        if self.0.len() >= WORKS_MAX {
            self.0.remove(0);
        }
        self.0.push((work.to_owned(), share));
    }

    pub fn get(&self, work: &str) -> Option<u32> {
        self.0.iter().find(|(name, _)| name == work).map(|(_, share)| *share)
    }
}

/// Whether a device of which the CPU path takes this share is left for it.
pub fn is_left(share: u32) -> bool {
    share <= CPU_SHARE_MAX
}

/// Names work that takes a device the same time, by a step's calls and operations.
pub fn name(work: &TrainWork) -> Result<String, EngineError> {
    let ops = whole_calls(work)?;
    Ok(format!("step of {} calls, {} operations", ops.len(), flop(&ops)))
}

/// The CPU path's time as a share of the device's, in thousandths; none where the clock is too coarse to tell. The device
/// computes products as it was told to for the work itself.
pub async fn share(engine: &Engine, work: &TrainWork, clock: &Control) -> Result<Option<u32>, EngineError> {
    let Some(step_ms) = clock_step_ms(clock) else { return Ok(None) };
    let least_ms = MEASURE_MS_MIN.max(MEASURED_STEPS_MIN * step_ms);
    if least_ms > MEASURE_MS_MAX {
        return Ok(None);
    }
    let whole = work.batch;
    let each = flop(&whole_calls(work)?) / u64::from(whole).max(1);
    let mut part = u32::try_from(PART_FLOP / each.max(1)).unwrap_or(whole).clamp(1, whole);
    let Some(cpu_ms) = run_ms(&Engine::cpu(), &part_of(work, part), clock, [0.0, least_ms]).await? else { return Ok(None) };
    let cpu_row_ms = cpu_ms / f64::from(part);
    loop {
        let sample = part_of(work, part);
        choose_alike(engine, work, &sample)?;
        let occupied_ms = if part == whole { 0.0 } else { OCCUPIED_MS };
        match run_ms(engine, &sample, clock, [occupied_ms, least_ms]).await? {
            Some(device_ms) => {
                let share = cpu_row_ms * f64::from(part) / device_ms;
                return Ok(Some((share * 1e3).clamp(1.0, f64::from(u32::MAX)) as u32));
            }
            None if part == whole => return Ok(None),
            None => part = part.saturating_mul(GROWTH).min(whole),
        }
    }
}

fn flop(ops: &[Op]) -> u64 {
    ops.iter().map(Op::flop).sum()
}

/// The calls of a step, none of them cut.
fn whole_calls(work: &TrainWork) -> Result<Vec<Op>, EngineError> {
    Ok(TrainPlan::compile_cut(work, u64::MAX)?.program.ops)
}

/// A step of the same work on so many examples.
fn part_of(work: &TrainWork, examples: u32) -> TrainWork {
    TrainWork { batch: examples, first_row: 0, inner_steps: 1, ..work.clone() }
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

/// Milliseconds of one training step; see [`timed`].
async fn run_ms(engine: &Engine, work: &TrainWork, clock: &Control, bounds_ms: [f64; 2]) -> Result<Option<f64>, EngineError> {
    engine.self_test_training(work).await?;
    let (parameters, shard) = (init_parameters(&work.model, 1), examples(work)?);
    let mut trainer = engine.trainer(work, &parameters, &shard).await?;
    let run = async |runs: u32| {
        let unbroken = Control::with_pace(Unbroken(clock.clone()));
        trainer.run(runs, &unbroken).await.map(drop)
    };
    timed(clock, bounds_ms, run).await
}

/// Milliseconds of one run among so many that they take `least_ms` together, after one that is not counted; none where one
/// takes less than `short_ms`, or too many were needed.
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
mod tests {
    use manyhands_protocol::ids::BlobHash;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
    use manyhands_protocol::work::{InnerOptimizer, Work};

    use super::*;

    fn works() -> Vec<TrainWork> {
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

    /// The references stand for a slow device: they take hundreds of times as long as the CPU path.
    #[test]
    fn a_slow_device_is_left_and_no_equal_one() {
        let clock = Control::new();
        for work in works() {
            let share = pollster::block_on(share(&Engine::reference(), &work, &clock)).unwrap().expect("a clock");
            assert!(is_left(share), "{share} of {}", name(&work).unwrap());
        }
        assert!(is_left(CPU_SHARE_MAX) && !is_left(CPU_SHARE_MAX + 1) && !is_left(1000));
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

    #[test]
    fn shares_survive_their_text_and_nonsense_does_not() {
        let mut shares = Shares::default();
        shares.add("step of 16 calls, 9 operations", 80);
        shares.add("64x32x48 nn", 1200);
        shares.add("64x32x48 nn", 700);
        assert_eq!(Shares::parse(&shares.text()), shares);
        assert_eq!((shares.get("64x32x48 nn"), shares.get("64x32x48")), (Some(700), None));
        for nonsense in ["", "x", "a b", "a -5", "a 1.5"] {
            assert_eq!(Shares::parse(nonsense), Shares::default(), "{nonsense}");
        }
        for work in 0..2 * WORKS_MAX {
            shares.add(&work.to_string(), 5);
        }
        assert_eq!((shares.0.len(), shares.get("0"), shares.get("127")), (WORKS_MAX, None, Some(5)));
        let long: String = (0..3 * WORKS_MAX).map(|i| format!("{i} 5\n")).collect();
        assert_eq!(Shares::parse(&long).0.len(), WORKS_MAX);
    }
}
