//! One product on one device: the usual variant's result and time, and tries of other variants against both. A try
//! compiles, computes, checks and measures; it decides nothing.
//!
//! **What counts as right.** Rows of the result, as many as are cheap, agree with the reference within its tolerance. Every
//! other entry agrees with the usual variant's, which passed the same check and its self-test before: two right results
//! are each within the tolerance of the exact one, and by Cauchy and Schwarz `(|A|·|B|)ᵢⱼ ≤ ‖aᵢ‖ ‖bⱼ‖` bounds that
//! tolerance without a product of its own.

use manyhands_protocol::work::Dtype;
use manyhands_shaders::compare::compare;
use manyhands_shaders::matmul::{self, Epilogue, Matrices, Rows, Shape, Transposed, Variant};
use manyhands_shaders::{FLUSH, UNIT_ROUNDOFF, binary16};

use super::plan::Task;
use crate::control::{Control, Pace, PaceFuture};
use crate::engine::{Engine, EngineError, known};
use crate::plan::{Buffer, Matmul, Op, Program};

/// Multiplications that the reference may take for one product: some 10 ms in a tab.
const REFERENCE_FLOP: u64 = 1 << 22;
/// A product of so many operations occupies a device as a larger one does.
const MEASURED_FLOP_MAX: u64 = 1 << 31;
/// A measurement of the usual variant takes at least so long, as far as repetition goes.
const MEASURE_MS_MIN: f64 = 4.0;
/// A power of four.
const RUNS_MAX: u32 = 64;
/// Of the clock: what a measurement may be off by is then as much as a variant must win by.
const MEASURED_STEPS_MIN: f64 = 32.0;
/// Readings that may pass until a clock has moved, a tenth of a second in a tab.
const CLOCK_READS_MAX: u32 = 1 << 20;
/// Moves of a clock of which the least counts: another may have been held up.
const CLOCK_MOVES: usize = 2;
/// Measurements of which the fastest counts.
const MEASUREMENTS: usize = 2;
/// With the bias, and with what C held before.
const SUM_ROUNDINGS: f64 = 2.0;
/// GELU's own tolerance as roundings of its argument x: `σ·((1 − σ)·(3 + 10|w|) + 5)` is at most 8, as `|w|·σ·(1 − σ)` is at most
/// 0.23.
const GELU_ROUNDINGS: f64 = 9.0;

/// The usual variant's result and time for one product.
pub struct Bench {
    shape: Shape,
    transposed: Transposed,
    dtype: Dtype,
    usual: Variant,
    /// A, B and bias.
    inputs: [Vec<f32>; 3],
    /// A and B for variants that read f16, where those are tried: the same values.
    packed: [Vec<f32>; 2],
    /// What C holds before.
    before: Vec<f32>,
    answers: Vec<Answer>,
    /// `‖aᵢ‖` and `‖bⱼ‖`.
    norms: [Vec<f64>; 2],
    runs: u32,
    pub usual_ms: f64,
}

/// What is known of the result under one epilogue.
struct Answer {
    epilogue: Epilogue,
    /// By the reference, in these rows.
    rows: Vec<usize>,
    expected: Vec<f64>,
    tolerance: Vec<f64>,
    /// By the usual variant, in all rows.
    usual: Vec<f32>,
}

/// The clock of a pace without its breaks, which would be measured, too. A try is short.
pub(super) struct Unbroken(pub Control);

impl Pace for Unbroken {
    fn now_ms(&self) -> f64 {
        self.0.now_ms()
    }

    fn breathe(&self) -> PaceFuture {
        Box::pin(std::future::ready(()))
    }
}

impl Bench {
    /// Runs the usual variant; an error if even that is wrong, none where the clock is too coarse for such a product.
    /// `clock` steers nothing here.
    pub async fn open(engine: &Engine, task: &Task, usual: Variant, clock: &Control) -> Result<Option<Bench>, EngineError> {
        let Some(step_ms) = clock_step_ms(clock) else { return Ok(None) };
        let shape = first_call(task, engine.call_flop_max().min(MEASURED_FLOP_MAX));
        let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
        let (a, b, packed) = match task.dtype {
            Dtype::F32 => (known::values(1, m * k), known::values(2, k * n), Default::default()),
            Dtype::F16 => {
                let [a, b] = known::patterns(1, shape, task.transposed);
                (known::widened(&a), known::widened(&b), [a, b].map(|patterns| binary16::pack(&patterns)))
            }
        };
        let inputs = [a, b, known::values(3, n)];
        let norms = [norms(&inputs[0], m, k, !task.transposed.a), norms(&inputs[1], n, k, task.transposed.b)];
        let (transposed, before, answers) = (task.transposed, known::values(4, m * n), Vec::new());
        let mut bench =
            Bench { shape, transposed, dtype: task.dtype, usual, inputs, packed, before, answers, norms, runs: 1, usual_ms: 0.0 };
        bench.answers = task.epilogues.iter().map(|&epilogue| bench.answer(epilogue)).collect();
        let results = bench.compute(engine, usual, clock).await?;
        for (answer, result) in bench.answers.iter_mut().zip(results) {
            answer.usual = result;
        }
        for answer in &bench.answers {
            bench.check(answer, &answer.usual).map_err(|detail| wrong(usual, detail))?;
        }
        bench.usual_ms = bench.time(engine, usual, clock).await?;
        let least_ms = MEASURED_STEPS_MIN * step_ms;
        while bench.measured_ms() < least_ms.max(MEASURE_MS_MIN) && bench.runs < RUNS_MAX {
            bench.runs *= 4;
            bench.usual_ms = bench.time(engine, usual, clock).await?;
        }
        Ok((bench.measured_ms() >= least_ms).then_some(bench))
    }

    fn measured_ms(&self) -> f64 {
        self.usual_ms * f64::from(self.runs)
    }

    /// The variant's time as a share of the usual one's, in thousandths. [`EngineError::SelfTest`] where it is wrong.
    pub async fn attempt(&self, engine: &Engine, variant: Variant, clock: &Control) -> Result<u32, EngineError> {
        let task = Task { shape: self.shape, transposed: self.transposed, dtype: self.dtype, epilogues: Vec::new() };
        if !task.may_run(variant) {
            return Err(wrong(variant, "it does not take the product".to_owned()));
        }
        let results = self.compute(engine, variant, clock).await?;
        for (answer, result) in self.answers.iter().zip(&results) {
            self.check(answer, result).map_err(|detail| wrong(variant, detail))?;
        }
        let share = self.time(engine, variant, clock).await? / self.usual_ms;
        // A share of zero could not be beaten.
        Ok((share * 1e3).clamp(1.0, f64::from(u32::MAX)) as u32)
    }

    /// The result under each epilogue.
    async fn compute(&self, engine: &Engine, variant: Variant, clock: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut results = Vec::new();
        let unbroken = Control::with_pace(Unbroken(clock.clone()));
        for answer in &self.answers {
            let (program, c) = self.program(variant, answer.epilogue);
            let mut resident = engine.load(&program, &self.loads(variant, answer.epilogue)).await?;
            resident.run(1, &unbroken).await?;
            results.push(resident.read(&[c]).await?.swap_remove(0));
        }
        Ok(results)
    }

    /// Milliseconds of one run under the first epilogue, the fastest of some measurements.
    async fn time(&self, engine: &Engine, variant: Variant, clock: &Control) -> Result<f64, EngineError> {
        let Some(answer) = self.answers.first() else { return Ok(0.0) };
        let unbroken = Control::with_pace(Unbroken(clock.clone()));
        let (program, _) = self.program(variant, answer.epilogue);
        let mut resident = engine.load(&program, &self.loads(variant, answer.epilogue)).await?;
        let mut best_ms = f64::INFINITY;
        for _ in 0..MEASUREMENTS {
            let start_ms = clock.now_ms();
            resident.run(self.runs, &unbroken).await?;
            best_ms = best_ms.min((clock.now_ms() - start_ms) / f64::from(self.runs));
        }
        Ok(best_ms)
    }

    /// A and B as the variant reads them, the bias and what C holds before.
    fn contents(&self, variant: Variant) -> [&[f32]; 4] {
        let [a, b, bias] = &self.inputs;
        let [a, b] = if variant.reads_f16() { [&self.packed[0], &self.packed[1]] } else { [a, b] };
        [a, b, bias, &self.before]
    }

    /// What of these is read.
    fn loads(&self, variant: Variant, epilogue: Epilogue) -> Vec<(Buffer, &[f32])> {
        let all = self.contents(variant).into_iter().enumerate().map(|(i, values)| (Buffer(i), values));
        let needed = [true, true, epilogue.takes_bias(), epilogue.accumulates()];
        all.zip(needed).filter_map(|(load, needed)| needed.then_some(load)).collect()
    }

    fn program(&self, variant: Variant, epilogue: Epilogue) -> (Program, Buffer) {
        let mut program = Program::default();
        let [a, b, bias, c] = self.contents(variant).map(|values| program.buffer(values.len() as u64));
        let bias = Some(bias).filter(|_| epilogue.takes_bias());
        let (shape, transposed) = (self.shape, self.transposed);
        let rows = Rows { first: 0, end: shape.m };
        let matrices = Matrices::ONE;
        let product = Matmul { a, b, bias, c, shape, transposed, epilogue, rows, matrices, variant: Some(variant) };
        program.ops.push(Op::Matmul(product));
        (program, c)
    }

    /// What the reference says of some rows, spread from the first to the last.
    fn answer(&self, epilogue: Epilogue) -> Answer {
        let (m, k, n) = (self.shape.m as usize, self.shape.k as usize, self.shape.n as usize);
        let count = (REFERENCE_FLOP / (k as u64 * n as u64).max(1)).clamp(1, m.max(1) as u64) as usize;
        let rows: Vec<usize> = (0..count).map(|i| if count == 1 { m - 1 } else { i * (m - 1) / (count - 1) }).collect();
        let [a, b, bias] = &self.inputs;
        let element = |row: usize, p: usize| if self.transposed.a { a[p * m + row] } else { a[row * k + p] };
        let a: Vec<f64> = rows.iter().flat_map(|&row| (0..k).map(move |p| f64::from(element(row, p)))).collect();
        let [b, bias] = [b, bias].map(|values| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        let shape = Shape { m: count as u32, ..self.shape };
        let transposed = Transposed { a: false, ..self.transposed };
        let expected = matmul::reference(shape, transposed, epilogue, &a, &b, &bias);
        let tolerance = matmul::tolerance(shape, transposed, epilogue, &a, &b, &bias);
        if !epilogue.accumulates() {
            return Answer { epilogue, rows, expected, tolerance, usual: Vec::new() };
        }
        let n = self.shape.n as usize;
        let before: Vec<f64> = rows.iter().flat_map(|&row| &self.before[row * n..][..n]).map(|&v| f64::from(v)).collect();
        let tolerance = matmul::accumulate_tolerance(self.shape.k, &before, &expected, &tolerance);
        Answer { epilogue, rows, expected: matmul::accumulate_reference(&before, &expected), tolerance, usual: Vec::new() }
    }

    /// See the head of this file.
    fn check(&self, answer: &Answer, result: &[f32]) -> Result<(), String> {
        let (m, n) = (self.shape.m as usize, self.shape.n as usize);
        if result.len() != m * n {
            return Err(format!("{} values, {} expected", result.len(), m * n));
        }
        let rows: Vec<f32> = answer.rows.iter().flat_map(|&row| &result[row * n..][..n]).copied().collect();
        compare(&rows, &answer.expected, &answer.tolerance).map_err(|e| e.to_string())?;
        let gamma = matmul::gamma(self.shape.k);
        let flushed = f64::from(self.shape.k + 2) * FLUSH;
        for (index, (&got, &usual)) in result.iter().zip(&answer.usual).enumerate() {
            let product = self.norms[0][index / n] * self.norms[1][index % n];
            let bias = f64::from(self.inputs[2][index % n].abs());
            let before = if answer.epilogue.accumulates() { f64::from(self.before[index].abs()) } else { 0.0 };
            let before = before * (1.0 + matmul::fold_roundings(self.shape.k));
            let sum = UNIT_ROUNDOFF * (product * (1.0 + gamma) + bias + before);
            let each = matmul::EPILOGUE_SLOPE * (gamma * product + SUM_ROUNDINGS * sum + flushed) + GELU_ROUNDINGS * sum;
            // Written so that NaN fails.
            #[allow(clippy::neg_cmp_op_on_partial_ord)]
            if !((f64::from(got) - f64::from(usual)).abs() <= 2.0 * each) {
                return Err(format!("value {index} is {got}, by {} it is {usual}", self.usual.name()));
            }
        }
        Ok(())
    }
}

/// By how much the clock moves at a time: browsers' clocks are coarse. None where it stands still.
pub(super) fn clock_step_ms(clock: &Control) -> Option<f64> {
    let mut last_ms = clock.now_ms();
    let moves = (0..CLOCK_READS_MAX).filter_map(|_| {
        let before_ms = std::mem::replace(&mut last_ms, clock.now_ms());
        Some(last_ms - before_ms).filter(|&ms| ms > 0.0)
    });
    moves.take(CLOCK_MOVES).reduce(f64::min)
}

/// The rows that the first call of the product computes: the others are as fast, and calls are timed by themselves.
fn first_call(task: &Task, call_flop_max: u64) -> Shape {
    let (shape, rows) = (task.shape, Rows { first: 0, end: task.shape.m });
    let mut program = Program { call_flop_max, ..Program::default() };
    let c = program.buffer(0);
    program.matmul(Matmul {
        a: c,
        b: c,
        bias: None,
        c,
        shape,
        transposed: task.transposed,
        epilogue: Epilogue::None,
        rows,
        matrices: Matrices::ONE,
        variant: None,
    });
    match program.ops.first() {
        Some(Op::Matmul(first)) => Shape { m: first.rows.end, ..shape },
        _ => shape,
    }
}

/// The norms of `count` vectors of `length` values, which lie one after another or side by side.
fn norms(values: &[f32], count: usize, length: usize, in_rows: bool) -> Vec<f64> {
    let value = |i: usize, p: usize| f64::from(if in_rows { values[i * length + p] } else { values[p * count + i] });
    (0..count).map(|i| (0..length).map(|p| value(i, p).powi(2)).sum::<f64>().sqrt()).collect()
}

fn wrong(variant: Variant, detail: String) -> EngineError {
    EngineError::SelfTest { kernel: variant.name().to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(transposed: Transposed, dtype: Dtype, [m, k, n]: [u32; 3]) -> Bench {
        let task = Task {
            shape: Shape { m, k, n },
            transposed,
            dtype,
            epilogues: vec![Epilogue::None, Epilogue::BiasRelu, Epilogue::Accumulate],
        };
        opened(&task, &Control::new()).expect("a clock")
    }

    fn opened(task: &Task, clock: &Control) -> Option<Bench> {
        pollster::block_on(Bench::open(&Engine::cpu(), task, Variant::Blocked, clock)).unwrap()
    }

    /// A clock that moves by whole steps, `pace` times as fast as time.
    struct Coarse {
        origin: std::time::Instant,
        pace: f64,
        step_ms: f64,
    }

    impl Pace for Coarse {
        fn now_ms(&self) -> f64 {
            let ms = self.origin.elapsed().as_secs_f64() * 1e3 * self.pace;
            (ms / self.step_ms).floor() * self.step_ms
        }

        fn breathe(&self) -> PaceFuture {
            Box::pin(std::future::ready(()))
        }
    }

    fn coarse(pace: f64, step_ms: f64) -> Control {
        Control::with_pace(Coarse { origin: std::time::Instant::now(), pace, step_ms })
    }

    /// By a coarse clock what is too short is not judged, and what is long enough is as by any other.
    #[test]
    fn a_coarse_clock_chooses_nothing_by_chance() {
        let task = |m, k, n| Task::plain(Shape { m, k, n }, Dtype::F32);
        for step_ms in [1.0, 17.0] {
            assert!(opened(&task(1, 1, 1), &coarse(1.0, step_ms)).is_none(), "microseconds by steps of {step_ms} ms");
            let slow = coarse(100.0, step_ms);
            let bench = opened(&task(256, 256, 256), &slow).expect("long enough, at a hundredth of the speed");
            assert!(bench.measured_ms() >= 32.0 * step_ms, "{} runs of {} ms", bench.runs, bench.usual_ms);
            let beside_slow = Bench { usual_ms: 1e12, ..bench };
            let share = pollster::block_on(beside_slow.attempt(&Engine::cpu(), Variant::BlockedVec4, &slow));
            assert_eq!(share, Ok(1), "no share of nothing");
        }
        assert!(opened(&task(32, 64, 16), &coarse(0.0, 1.0)).is_none(), "a clock that stands still");
    }

    /// Wrong anywhere, by a little or at all.
    #[test]
    fn a_wrong_result_is_seen_in_any_row() {
        let f32s = [(false, false), (true, false), (false, true), (true, true)].map(|(a, b)| (a, b, Dtype::F32));
        for (a, b, dtype) in f32s.into_iter().chain([(false, false, Dtype::F16), (true, true, Dtype::F16)]) {
            // Deep enough for the reference to know a few rows only.
            let bench = bench(Transposed { a, b }, dtype, [40, 1100, 520]);
            let answer = &bench.answers[0];
            assert!(answer.rows.len() < 40 && answer.rows.first() == Some(&0) && answer.rows.last() == Some(&39));
            let other = (0..40).find(|row| !answer.rows.contains(row)).unwrap();
            assert_eq!(bench.check(answer, &answer.usual), Ok(()));
            for row in [0, other, 39] {
                for change in [1e-2, f32::NAN, f32::INFINITY] {
                    let mut result = answer.usual.clone();
                    result[row * 520 + 77] += change;
                    assert!(bench.check(answer, &result).is_err(), "row {row} by {change}");
                }
            }
            assert!(bench.check(answer, &answer.usual[1..]).is_err());
            assert!(bench.check(answer, &[]).is_err());
            let unrelated = &bench.answers[1];
            assert!(bench.check(answer, &unrelated.usual).is_err(), "another epilogue's");
        }
    }

    #[test]
    fn a_large_product_is_measured_by_its_first_call() {
        use crate::plan::CALL_FLOP_MAX;
        let task = |m, k, n| Task::plain(Shape { m, k, n }, Dtype::F32);
        assert_eq!(first_call(&task(64, 784, 256), CALL_FLOP_MAX).m, 64);
        let cut = first_call(&task(4096, 1024, 1024), CALL_FLOP_MAX);
        assert!(cut.m < 4096 && cut.m.is_multiple_of(matmul::ROW_STEP) && (cut.k, cut.n) == (1024, 1024), "{cut:?}");
    }

    #[test]
    fn every_processor_can_be_measured() {
        let bench = bench(Transposed::default(), Dtype::F16, [32, 64, 16]);
        assert!(bench.usual_ms > 0.0 && bench.runs > 1);
        for variant in [Variant::BlockedVec4, Variant::BlockedVec4F16] {
            let got = pollster::block_on(bench.attempt(&Engine::cpu(), variant, &Control::new()));
            assert!(matches!(got, Ok(share) if share > 0), "{got:?}");
        }
        let bench = self::bench(Transposed::default(), Dtype::F32, [31, 63, 15]);
        for other in [Variant::BlockedVec4, Variant::BlockedF16] {
            let got = pollster::block_on(bench.attempt(&Engine::cpu(), other, &Control::new()));
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{got:?}");
        }
    }
}
