//! The engine: one front for the backends that compute work units. It checks that inputs fit the work and hands out
//! nothing that is not finite. It leases nothing, signs nothing and stores nothing.

mod error;
pub mod known;
mod resident;
mod sample;
#[cfg(feature = "every-layer")]
pub mod states;
mod trainer;
mod tuning;

pub use error::EngineError;
pub use resident::Resident;
pub use sample::{Sampler, Sampling};
pub use trainer::Trainer;
#[cfg(feature = "gpu")]
pub(crate) use trainer::brought;
pub use tuning::TunedAdapter;

pub use crate::init::init_parameters;

#[cfg(feature = "gpu")]
pub use crate::gpu::{AdapterChoice, GpuOptions};

use manyhands_programs::READS_F16;
use manyhands_protocol::model::Model;
use manyhands_protocol::statement::{Backend, DeviceClass};
use manyhands_protocol::work::{Dtype, TrainWork};
use manyhands_shaders::binary16;
use manyhands_shaders::matmul::{Epilogue, Matrices, Rows, Shape, Transposed, Variant};

use crate::control::Control;
use crate::cpu::{Arithmetic, CpuEngine};
#[cfg(feature = "gpu")]
use crate::gpu::GpuEngine;
#[cfg(feature = "gpu")]
use crate::plan::DEVICE_CALL_FLOP_MAX;
use crate::plan::{Buffer, CALL_FLOP_MAX, ForwardPlan, Matmul, Op, Program, TrainPlan, check_built};
use crate::tensors::{Operand, Shard};
use crate::tuner::Task;

/// Rows of one batch of [`Engine::logits`] and [`Engine::evaluate`].
const BATCH_MAX: usize = 256;

/// Extents of `C[m, n] = A[m, k] · B[k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulShape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

impl MatmulShape {
    /// The extents as kernels take them, if A and B have these numbers of values.
    fn checked(self, [a, b]: [usize; 2]) -> Result<Shape, EngineError> {
        let MatmulShape { m, k, n } = self;
        fits("a", a, m.checked_mul(k))?;
        fits("b", b, k.checked_mul(n))?;
        let extent = |d: usize| u32::try_from(d).ok().filter(|&d| d > 0);
        match (extent(m), extent(k), extent(n)) {
            (Some(m), Some(k), Some(n)) => Ok(Shape { m, k, n }),
            _ => Err(EngineError::Input(format!("extents {m}, {k}, {n} must be at least 1"))),
        }
    }
}

/// What a training unit gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Pseudo-gradient per parameter, in the model's order: checkpoint − parameters after the last step.
    pub delta: Vec<Vec<f32>>,
    /// Mean loss of each step's batch before the step.
    pub losses: Vec<f32>,
}

/// What a model makes of labelled examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// `[rows, labels, classes]`, before the softmax.
    pub logits: Vec<f32>,
    /// Labels whose class has the largest logit; of equals the first counts.
    pub hits: u64,
}

/// A backend that computes.
pub enum Engine {
    Cpu(CpuEngine),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuEngine>),
}

impl Engine {
    /// SIMD on this thread.
    pub fn cpu() -> Engine {
        Engine::Cpu(CpuEngine::new(Arithmetic::Fast))
    }

    /// The f64 loops beside the shaders: hundreds of times slower, for tests and known answers.
    #[cfg(any(not(target_arch = "wasm32"), feature = "reference"))]
    pub fn reference() -> Engine {
        Engine::Cpu(CpuEngine::new(Arithmetic::Reference))
    }

    /// A device of the adapter chosen. [`EngineError::NoAdapter`] where there is none.
    #[cfg(feature = "gpu")]
    pub async fn gpu(choice: AdapterChoice) -> Result<Engine, EngineError> {
        Self::gpu_with(GpuOptions { adapter: choice, ..Default::default() }).await
    }

    #[cfg(feature = "gpu")]
    pub async fn gpu_with(options: GpuOptions) -> Result<Engine, EngineError> {
        Ok(Engine::Gpu(Box::new(GpuEngine::open(options).await?)))
    }

    /// What result statements say of this engine.
    pub fn device_class(&self) -> DeviceClass {
        match self {
            Engine::Cpu(_) => {
                let backend = if cfg!(target_arch = "wasm32") { Backend::Wasm } else { Backend::NativeCpu };
                let adapter = format!("{} {}", std::env::consts::ARCH, manyhands_programs::cpu::instructions());
                DeviceClass { backend, adapter: adapter.trim_end().to_owned() }
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.device_class(),
        }
    }

    /// Most work of one kernel call here.
    pub fn call_flop_max(&self) -> u64 {
        match self {
            Engine::Cpu(_) => CALL_FLOP_MAX,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) if gpu.is_software() => CALL_FLOP_MAX,
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => DEVICE_CALL_FLOP_MAX,
        }
    }

    /// Whether the adapter says that it is a program, not a device: the CPU path is faster then. False for the CPU path.
    pub fn is_software_adapter(&self) -> bool {
        match self {
            Engine::Cpu(_) => false,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.is_software(),
        }
    }

    /// Known-answer test of every kernel there is; names the first that is wrong.
    pub async fn self_test(&self) -> Result<(), EngineError> {
        self.test(known::self_test_cases()).await
    }

    /// Known-answer test of the plain product, which is all that the first unit needs. A device compiles nothing else
    /// before that.
    pub async fn self_test_product(&self) -> Result<(), EngineError> {
        let fixed = match self {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.fixed().filter(|variant| READS_F16 && variant.reads_f16()),
        };
        let wished = fixed.map(|variant| known::variant_products(Transposed::default(), &[Epilogue::None], variant));
        self.test([known::plain_products(), wished.unwrap_or_default()].concat()).await
    }

    /// Known-answer test of what a training unit calls. A device compiles and tests a pipeline, a kernel with its constants, when
    /// the first unit needs it, and once; the CPU path compiles nothing and is tested whole when it is opened.
    pub async fn self_test_training(&self, work: &TrainWork) -> Result<(), EngineError> {
        check_built()?;
        self.test_new(&TrainPlan::compile(work)?.program.ops).await
    }

    async fn test_new(&self, ops: &[Op]) -> Result<(), EngineError> {
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            let (pipelines, calls): (Vec<_>, Vec<_>) = gpu.untested(ops).into_iter().unzip();
            self.test(known::cases_of(&calls)).await?;
            gpu.passed(pipelines);
            return Ok(());
        }
        let _ = ops;
        Ok(())
    }

    async fn test(&self, cases: Vec<known::Case>) -> Result<(), EngineError> {
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            gpu.prepare(cases.iter().map(|case| &case.program)).await?;
        }
        for case in &cases {
            self.answer(case).await?;
        }
        Ok(())
    }

    /// Runs one known-answer case; the largest share of its tolerance that any value used.
    pub async fn answer(&self, case: &known::Case) -> Result<f64, EngineError> {
        let buffers = self.run(&case.program, case.buffers.clone(), &Control::new()).await?;
        case.compare(&buffers).map_err(|detail| EngineError::SelfTest { kernel: case.name.clone(), detail })
    }

    /// Runs a program on the given contents, one `Vec` per buffer, and gives all of them back.
    pub async fn run(&self, program: &Program, buffers: Vec<Vec<f32>>, control: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        if program.values.len() != buffers.len() {
            return Err(EngineError::Input("the buffers are not those of the program".to_owned()));
        }
        let inputs: Vec<_> = buffers.iter().enumerate().map(|(i, values)| (Buffer(i), values.as_slice())).collect();
        let outputs: Vec<_> = (0..buffers.len()).map(Buffer).collect();
        let mut resident = self.load(program, &inputs).await?;
        resident.run(1, control).await?;
        resident.read(&outputs).await
    }

    /// `A · B`, all row-major, within the numerics contract of `manyhands_shaders::matmul`.
    pub async fn matmul(&self, shape: MatmulShape, a: &[f32], b: &[f32], control: &Control) -> Result<Vec<f32>, EngineError> {
        self.multiply(shape.checked([a.len(), b.len()])?, None, [a, b], control).await
    }

    /// [`Engine::matmul`] of operands as they are stored. In f16 both are handed to a kernel that reads them so where one was
    /// chosen, and are widened to f32 everywhere else, which changes no value.
    pub async fn product(&self, shape: MatmulShape, a: Operand, b: Operand, control: &Control) -> Result<Vec<f32>, EngineError> {
        let shape = shape.checked([a.values_count(), b.values_count()])?;
        let (a, b) = match (a, b) {
            (Operand::F16(a), Operand::F16(b)) => (a, b),
            (a, b) => return self.multiply(shape, None, [&a.widened(), &b.widened()], control).await,
        };
        let task = Task::plain(shape, Dtype::F16);
        let variant = self.chosen_variant(&task).unwrap_or_else(|| self.usual_variant(&task));
        let stored = |patterns: Vec<u16>| match READS_F16 && variant.reads_f16() {
            true => binary16::pack(&patterns),
            false => Operand::F16(patterns).widened(),
        };
        self.multiply(shape, Some(variant), [&stored(a), &stored(b)], control).await
    }

    /// A product of operands stored as the variant reads them.
    async fn multiply(
        &self,
        shape: Shape,
        variant: Option<Variant>,
        [a, b]: [&[f32]; 2],
        control: &Control,
    ) -> Result<Vec<f32>, EngineError> {
        let call_flop_max = self.call_flop_max().min(control.call_flop_max());
        let mut program = Program { call_flop_max, ..Program::default() };
        let c = u64::from(shape.m) * u64::from(shape.n);
        let [ia, ib, ic] = [a.len() as u64, b.len() as u64, c].map(|values| program.buffer(values));
        program.matmul(Matmul {
            a: ia,
            b: ib,
            bias: None,
            c: ic,
            shape,
            transposed: Transposed::default(),
            epilogue: Epilogue::None,
            rows: Rows { first: 0, end: shape.m },
            matrices: Matrices::ONE,
            variant,
        });
        control.set_progress(0, 1);
        let mut resident = self.load(&program, &[(ia, a), (ib, b)]).await?;
        resident.run(1, control).await?;
        let c = resident.read(&[ic]).await?.swap_remove(0);
        control.set_progress(1, 1);
        finite("c", &c)?;
        Ok(c)
    }

    /// The model's outputs before the softmax, `[rows, labels, classes]`, for `x` `[rows, input values]` as in a [`Shard`].
    pub async fn logits(
        &self,
        model: &Model,
        parameters: &[Vec<f32>],
        x: &[f32],
        rows: usize,
        control: &Control,
    ) -> Result<Vec<f32>, EngineError> {
        check_built()?;
        let plan = ForwardPlan::compile(model, rows.clamp(1, BATCH_MAX) as u32)?;
        fits("x", x.len(), rows.checked_mul(plan.inputs as usize))?;
        Ok(self.evaluate_by(&plan, parameters, x, &[], control).await?.logits)
    }

    /// The same, and how many of the examples' labels, as in a [`Shard`], the model answers.
    pub async fn evaluate(
        &self,
        model: &Model,
        parameters: &[Vec<f32>],
        x: &[f32],
        labels: &[u32],
        control: &Control,
    ) -> Result<Evaluated, EngineError> {
        check_built()?;
        let rows = labels.len() / (model.labels_count() as usize).max(1);
        let plan = ForwardPlan::compile(model, rows.clamp(1, BATCH_MAX) as u32)?.scored();
        fits("labels", labels.len(), rows.checked_mul(plan.labels as usize))?;
        fits("x", x.len(), rows.checked_mul(plan.inputs as usize))?;
        self.evaluate_by(&plan, parameters, x, labels, control).await
    }

    async fn evaluate_by(
        &self,
        plan: &ForwardPlan,
        parameters: &[Vec<f32>],
        x: &[f32],
        labels: &[u32],
        control: &Control,
    ) -> Result<Evaluated, EngineError> {
        parameters_fit(&plan.program, &plan.parameters, parameters)?;
        let evaluated = match self {
            Engine::Cpu(cpu) => cpu.evaluate(plan, parameters, x, labels, control).await?,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.evaluate(plan, parameters, x, labels, control).await?,
        };
        finite("logits", &evaluated.logits)?;
        Ok(evaluated)
    }
}

fn fits(name: &str, got: usize, expected: Option<usize>) -> Result<(), EngineError> {
    if expected == Some(got) {
        return Ok(());
    }
    Err(EngineError::Input(format!("{name} has {got} values, its extents say {expected:?}")))
}

fn parameters_fit(program: &Program, buffers: &[Buffer], parameters: &[Vec<f32>]) -> Result<(), EngineError> {
    let expected: Vec<u64> = buffers.iter().map(|b| program.values[b.0]).collect();
    let got: Vec<u64> = parameters.iter().map(|p| p.len() as u64).collect();
    if got != expected {
        return Err(EngineError::Input(format!("parameters have {got:?} values, the model takes {expected:?}")));
    }
    Ok(())
}

fn shard_fits(work: &TrainWork, plan: &TrainPlan, shard: &Shard) -> Result<(), EngineError> {
    let (rows, batch) = (shard.rows, work.batch as usize);
    if rows == 0 || !rows.is_multiple_of(batch) {
        return Err(EngineError::Input(format!("a shard of {rows} rows is not a multiple of the batch of {batch}")));
    }
    fits("x", shard.x.len(), rows.checked_mul(plan.forward.inputs as usize))?;
    fits("y", shard.y.len(), rows.checked_mul(plan.forward.labels as usize))?;
    let vocabulary = work.model.vocabulary().unwrap_or(u32::MAX);
    if work.model.vocabulary().is_some()
        && let Some(id) = shard.x.iter().map(|id| id.to_bits()).find(|&id| id >= vocabulary)
    {
        return Err(EngineError::Input(format!("id {id} of a vocabulary of {vocabulary}")));
    }
    match shard.y.iter().find(|&&label| label >= plan.forward.classes) {
        Some(label) => Err(EngineError::Input(format!("label {label} of {} classes", plan.forward.classes))),
        None => Ok(()),
    }
}

fn finite(name: &str, values: &[f32]) -> Result<(), EngineError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(EngineError::NotFinite(format!("{name} at {index}"))),
        None => Ok(()),
    }
}

/// The coordinator's check of products rests on the chunk that the kernels keep to.
#[cfg(test)]
#[test]
fn kernels_keep_to_the_chunk_of_the_protocol() {
    assert_eq!(manyhands_shaders::matmul::K_CHUNK, manyhands_protocol::limits::MATMUL_K_CHUNK);
}

/// Who replays a unit must know which of the processor's instructions its sums were made by.
#[cfg(all(test, target_arch = "x86_64"))]
#[test]
fn the_cpu_path_says_which_instructions_it_chose() {
    let adapter = Engine::cpu().device_class().adapter;
    let chosen = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    assert_eq!(adapter.strip_prefix("x86_64").map(|rest| rest.contains("avx")), Some(chosen), "{adapter}");
}

/// Natively an engine and its computations may move between threads; only compiles if so.
#[cfg(all(test, not(target_arch = "wasm32")))]
#[test]
fn engines_and_their_futures_are_send() {
    fn check<T: Send>(_: T) {}
    let (engine, control, shard) = (Engine::cpu(), Control::new(), Shard { rows: 0, x: Vec::new(), y: Vec::new() });
    let shape = MatmulShape { m: 1, k: 1, n: 1 };
    check(engine.matmul(shape, &[1.0], &[1.0], &control));
    check(engine.self_test());
    let work: Option<TrainWork> = None;
    if let Some(work) = work {
        check(engine.train(&work, &[], &shard, &control));
    }
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
}
