//! Loss curves: from the same seed and on the same data, 200 steps of a backend stay within a band about the reference's
//! that rounding alone explains, and that one percent of the learning rate or one step left out leaves.
//!
//! **The band.** In each step a backend commits rounding errors. Of its update's relative error (√D · u = 4e-6 for a path
//! of D operations, see `vectors`) little arrives, for an update is at most some hundredths of the parameters; rounding
//! the parameters themselves after the step and the product before it is u = 2⁻²³ each. So a step moves the parameters θ
//! by at most ρ‖θ‖, ρ = 2u, from where exact arithmetic would have put them. What that does to the losses after it, the
//! reference tells: it is run again from parameters moved by δ‖θ‖, δ = 10⁻³, at random, which separates the curves by
//! s_t at step t. An error of ρ‖θ‖ in an earlier step separates them by no more than ρ/δ · max_{s ≤ t} s_s, having less time
//! to grow; t such errors, even if all point one way, by
//!
//! band_t = t · ρ/δ · max_{s ≤ t} s_s + rounding of the loss itself.
//!
//! Three random moves are made and the widest counts, since one may miss the direction that grows most. They are a sample
//! and no bound on all directions, but the rounding errors are no worse than a sample either, and point 200 ways.

use manyhands::control::Control;
use manyhands::engine::{Engine, init_parameters, known};
use manyhands::tensors::Shard;
use manyhands_protocol::model::{InputType, Layer, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};

use super::models::{dense, model};
use super::{println, vectors, work};

const STEPS: u32 = 200;
/// The step that is left out.
const SKIPPED: usize = 100;
/// What one step's rounding moves the parameters by, as a share of their norm: ρ.
const ROUNDING: f64 = 2.0 * manyhands_shaders::UNIT_ROUNDOFF;
/// What the reference's are moved by: δ.
const MOVE: f64 = 1e-3;
const MOVES: u64 = 3;

/// A run: its work and, for each step, a batch of its own.
struct Run {
    kind: &'static str,
    work: TrainWork,
    parameters: Vec<Vec<f32>>,
    shard: Shard,
}

fn run(kind: &'static str, model: Model, batch: u32, optimizer: InnerOptimizer, shard: Shard) -> Run {
    let parameters = init_parameters(&model, 11);
    Run { kind, work: TrainWork { optimizer, ..work(model, batch, STEPS) }, parameters, shard }
}

/// One of each family; the transformer by AdamW with clipping, and with dropout.
fn runs() -> [Run; 3] {
    let convolution = |channels, stride| Layer::Convolution { channels, kernel: 3, stride, padding: 1 };
    let sgd = |learning_rate| InnerOptimizer::Sgd { learning_rate, momentum: 0.9, clip_norm: 0.0 };
    let mlp = model(&[20], InputType::F32, vec![dense(24), Layer::Relu, dense(16), Layer::Relu, dense(10)]);
    let pool = [Layer::MaxPool { size: 2, stride: 2 }, Layer::AveragePool { size: 2, stride: 2 }];
    let [largest, mean] = pool;
    let cnn = vec![convolution(4, 1), Layer::Relu, largest, convolution(6, 1), Layer::Relu, mean, dense(10)];
    let cnn = model(&[8, 8, 2], InputType::F32, cnn);
    let block = |layers: Vec<Layer>| {
        let mut branch = vec![Layer::Residual { layers: layers.len() as u32 + 2 }, Layer::LayerNorm];
        branch.extend(layers);
        branch.push(Layer::Dropout { rate: 0.1 });
        branch
    };
    let mut gpt = vec![Layer::Embedding { vocabulary: 11, width: 16 }];
    gpt.extend(block(vec![Layer::Attention { heads: 2 }]));
    gpt.extend(block(vec![dense(32), Layer::Gelu, dense(16)]));
    gpt.extend([Layer::LayerNorm, Layer::Projection { outputs: 11 }]);
    let adamw =
        InnerOptimizer::AdamW { learning_rate: 3e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-3, weight_decay: 0.1, clip_norm: 0.5 };
    [
        run("mlp", mlp, 8, sgd(0.01), examples(STEPS as usize * 8, 20)),
        run("cnn", cnn, 4, sgd(0.01), examples(STEPS as usize * 4, 128)),
        run("gpt", model(&[8], InputType::U8, gpt), 2, adamw, sequences(STEPS as usize * 2)),
    ]
}

/// Ten prototypes under noise of the same size.
fn examples(rows: usize, inputs: usize) -> Shard {
    let (prototypes, noise) = (known::values(94, 10 * inputs), known::values(95, rows * inputs));
    let y: Vec<u32> = (0..rows).map(|row| (row * 7 % 10) as u32).collect();
    let x = (0..rows * inputs).map(|i| prototypes[y[i / inputs] as usize * inputs + i % inputs] + noise[i]).collect();
    Shard { rows, x, y }
}

/// Ids that go up by three, now and then by more; a label is the next id.
fn sequences(rows: usize) -> Shard {
    let noise = known::values(90, rows * 9);
    let mut ids = Vec::with_capacity(rows * 9);
    for (i, noise) in noise.iter().enumerate() {
        let before = if i % 9 == 0 { i as u32 } else { ids[i - 1] };
        ids.push((before + if *noise > 0.8 { 5 } else { 3 }) % 11);
    }
    let part = |from: usize| ids.chunks(9).flat_map(move |row| row[from..from + 8].to_vec());
    Shard { rows, x: part(0).map(f32::from_bits).collect(), y: part(1).collect() }
}

impl Run {
    async fn losses(&self, engine: &Engine) -> Vec<f64> {
        let trained = engine.train(&self.work, &self.parameters, &self.shard, &Control::new()).await.unwrap();
        trained.losses.iter().map(|&loss| loss.into()).collect()
    }

    /// The same from parameters moved by `MOVE` of their norm.
    fn moved(&self, stream: u64) -> Run {
        let count = self.parameters.iter().map(Vec::len).sum::<usize>();
        let norm = self.parameters.iter().flatten().map(|&p| f64::from(p).powi(2)).sum::<f64>().sqrt();
        let noise = known::values(91 + stream, count);
        let noise_norm = noise.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let mut parameters = self.parameters.clone();
        for (p, noise) in parameters.iter_mut().flatten().zip(noise) {
            *p += (MOVE * norm / noise_norm * f64::from(noise)) as f32;
        }
        Run { work: self.work.clone(), shard: self.shard.clone(), parameters, ..*self }
    }

    /// The same at another learning rate.
    fn faster(&self, by: f32) -> Run {
        let mut work = self.work.clone();
        match &mut work.optimizer {
            InnerOptimizer::Sgd { learning_rate, .. } | InnerOptimizer::AdamW { learning_rate, .. } => *learning_rate *= by,
        }
        Run { work, shard: self.shard.clone(), parameters: self.parameters.clone(), ..*self }
    }

    /// The same without one step and its batch.
    fn skipping(&self) -> Run {
        let work = TrainWork { inner_steps: STEPS - 1, ..self.work.clone() };
        let (batch, rows) = (self.work.batch as usize, self.shard.rows);
        let (x, y) = (self.shard.x.len() / rows * batch, self.shard.y.len() / rows * batch);
        let mut shard = Shard { rows: rows - batch, ..self.shard.clone() };
        shard.x.drain(SKIPPED * x..(SKIPPED + 1) * x);
        shard.y.drain(SKIPPED * y..(SKIPPED + 1) * y);
        Run { work, shard, parameters: self.parameters.clone(), ..*self }
    }

    /// How far a loss may be from `expected`, step by step.
    async fn band(&self, expected: &[f64]) -> Vec<f64> {
        let mut separations = vec![0.0f64; expected.len()];
        for stream in 0..MOVES {
            let other = self.moved(stream).losses(&Engine::reference()).await;
            for (separation, (a, b)) in separations.iter_mut().zip(other.iter().zip(expected)) {
                *separation = separation.max((a - b).abs());
            }
        }
        let mut widest = 0.0f64;
        let bound = |(t, (&separation, loss)): (usize, (&f64, &f64))| {
            widest = widest.max(separation);
            // A loss near zero is the logarithm of a sum near one, which WGSL gives within 2⁻²¹.
            t as f64 * ROUNDING / MOVE * widest + vectors::TOLERANCE * (loss + 0.1)
        };
        separations.iter().zip(expected).enumerate().map(bound).collect()
    }
}

/// The largest share of the band used; or the first step outside, or a length that says that nothing was compared.
fn within(got: &[f64], expected: &[f64], band: &[f64]) -> Result<f64, usize> {
    if got.len() != expected.len() || got.len() != band.len() || got.is_empty() {
        return Err(usize::MAX);
    }
    let mut worst = 0.0f64;
    for (step, ((got, expected), band)) in got.iter().zip(expected).zip(band).enumerate() {
        // Written so that NaN on either side fails.
        #[allow(clippy::neg_cmp_op_on_partial_ord)]
        if !((got - expected).abs() <= *band) {
            return Err(step);
        }
        worst = worst.max((got - expected).abs() / band);
    }
    Ok(worst)
}

/// The curves of `engine`; and that the band is narrow.
pub async fn agree(engine: &Engine, name: &str) {
    for run in runs() {
        let expected = run.losses(&Engine::reference()).await;
        let band = run.band(&expected).await;
        let got = run.losses(engine).await;
        let used = within(&got, &expected, &band).unwrap_or_else(|step| panic!("{name}: {} leaves at {step}", run.kind));
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&expected[..20]), mean(&expected[180..]));
        assert!(last < 0.8 * first, "{} learns: {first} {last}", run.kind);

        let faster = run.faster(1.01).losses(&Engine::cpu()).await;
        // Also where the band is widest.
        assert!(within(&faster[SKIPPED..], &expected[SKIPPED..], &band[SKIPPED..]).is_err(), "another rate, late");
        let faster = within(&faster, &expected, &band).expect_err("another rate");
        let without = |values: &[f64]| [&values[..SKIPPED], &values[SKIPPED + 1..]].concat();
        let skipped = run.skipping().losses(&Engine::cpu()).await;
        let skipped = within(&skipped, &without(&expected), &without(&band)).expect_err("a step left out");
        assert!(skipped >= SKIPPED, "until then nothing differs");
        println(&format!(
            "{name}: {} loses {first:.3} to {last:.3}, at most {used:.3} of a band of {:.1e} at the end; 1 % of the rate \
             shows at step {faster}, step {SKIPPED} left out at {}",
            run.kind,
            band[199],
            skipped + 1
        ));
        let mut wrong = got.clone();
        wrong[150] = f64::NAN;
        assert_eq!(within(&wrong, &expected, &band), Err(150));
        assert!(within(&got[..199], &expected, &band).is_err() && within(&[], &[], &[]).is_err());
    }
}
