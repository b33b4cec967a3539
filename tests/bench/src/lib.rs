//! The engine for a benchmark's page: products and training steps that stay on their device between calls. Times nothing;
//! the page does. Never shipped.
#![cfg(target_arch = "wasm32")]

mod models;
mod receipts;

use js_sys::{Array, Float32Array};
use manyhands::control::{Control, Pace, PaceFuture};
use manyhands::engine::{AdapterChoice, Engine, EngineError, Resident, Trainer};
use manyhands::plan::{Buffer, Program, TrainPlan};
use manyhands::tensors::{Shard, binary16};
use manyhands_shaders::matmul::{Shape, Transposed, Variant};
use wasm_bindgen::prelude::*;

fn fault(error: EngineError) -> JsError {
    JsError::new(&error.to_string())
}

/// A device; it lives as long as the page.
#[wasm_bindgen]
pub struct Device(&'static Engine);

/// Opens a backend, `gpu` or `cpu`, whatever adapter the browser gives.
#[wasm_bindgen]
pub async fn open(backend: String) -> Result<Device, JsError> {
    let engine = match backend.as_str() {
        "gpu" => Engine::gpu(AdapterChoice::Fastest).await.map_err(fault)?,
        "cpu" => Engine::cpu(),
        other => return Err(JsError::new(&format!("no backend {other}"))),
    };
    Ok(Device(Box::leak(Box::new(engine))))
}

#[wasm_bindgen]
impl Device {
    /// What result statements say of the device.
    pub fn adapter(&self) -> String {
        self.0.device_class().adapter
    }

    /// `C = A · B` with both operands on the device; by the blocked variant that takes them in `dtype`, `f32` or `f16`, or by
    /// what the device runs where that is empty. In f16 the values are ones that it has.
    pub async fn product(&self, m: u32, k: u32, n: u32, a: Vec<f32>, b: Vec<f32>, dtype: String) -> Result<Product, JsError> {
        let engine = self.0;
        let vec4 = Variant::BlockedVec4.takes(Shape { m, k, n }, Transposed::default());
        let variant = match (dtype.as_str(), vec4) {
            ("f16", true) => Some(Variant::BlockedVec4F16),
            ("f16", false) => Some(Variant::BlockedF16),
            ("f32", true) => Some(Variant::BlockedVec4),
            ("f32", false) => Some(Variant::Blocked),
            _ => None,
        };
        let packed =
            |values: Vec<f32>| binary16::pack(&values.into_iter().map(|v| half::f16::from_f32(v).to_bits()).collect::<Vec<_>>());
        let (a, b) = if dtype == "f16" { (packed(a), packed(b)) } else { (a, b) };
        let (program, [ia, ib, c]) = models::product(m, k, n, variant);
        // One program for each shape of a benchmark.
        let program: &'static Program = Box::leak(Box::new(program));
        let resident = engine.load(program, &[(ia, &a), (ib, &b)]).await.map_err(fault)?;
        Ok(Product { resident, c })
    }

    /// The calls of a training step of one of the benchmark's models.
    pub fn calls(&self, name: String) -> Result<Calls, JsError> {
        let work = models::work(&name, 1 << 20).ok_or_else(|| JsError::new(&format!("unsupported: {name}")))?;
        let plan = TrainPlan::compile(&work).map_err(fault)?;
        Ok(Calls { engine: self.0, program: Box::leak(Box::new(plan.program)), one: None })
    }

    /// Training steps of one of the benchmark's models, `mlp`, `cnn` or `gpt`: its parameters in order, and all batches one
    /// after another; ids as the bits of u32.
    pub async fn trainer(&self, name: String, parameters: Array, x: Vec<f32>, y: Vec<u32>) -> Result<Steps, JsError> {
        let engine = self.0;
        let work = models::work(&name, x.len()).ok_or_else(|| JsError::new(&format!("unsupported: {name}")))?;
        let parameters: Vec<Vec<f32>> = parameters.iter().map(|values| Float32Array::from(values).to_vec()).collect();
        let rows = (work.batch * work.inner_steps) as usize;
        let shard: &'static Shard = Box::leak(Box::new(Shard { rows, x, y }));
        Ok(Steps(engine.trainer(&work, &parameters, shard).await.map_err(fault)?))
    }
}

/// The calls of a training step, each of which can be run by itself, to see where a step's time goes. Buffers are zero
/// but for what the optimiser starts from.
#[wasm_bindgen]
pub struct Calls {
    engine: &'static Engine,
    program: &'static Program,
    one: Option<Resident<'static>>,
}

#[wasm_bindgen]
impl Calls {
    /// What each call is.
    pub fn labels(&self) -> Vec<String> {
        self.program.ops.iter().map(|op| format!("{op:?}")).collect()
    }

    /// Makes one call, or the whole step where there is no such call, ready to run.
    pub async fn choose(&mut self, call: usize) -> Result<(), JsError> {
        let ops = self.program.ops.get(call).map_or_else(|| self.program.ops.clone(), |op| vec![*op]);
        let program: &'static Program = Box::leak(Box::new(Program { ops, ..self.program.clone() }));
        self.one = Some(self.engine.load(program, &[]).await.map_err(fault)?);
        Ok(())
    }

    /// Runs the chosen one so many times.
    pub async fn run(&mut self, times: u32) -> Result<(), JsError> {
        let one = self.one.as_mut().ok_or_else(|| JsError::new("nothing chosen"))?;
        one.run(times, &Control::new()).await.map_err(fault)
    }
}

/// A product that can be computed over and over.
#[wasm_bindgen]
pub struct Product {
    resident: Resident<'static>,
    c: Buffer,
}

#[wasm_bindgen]
impl Product {
    /// Computes it so many times; resolves when the device has finished the last.
    pub async fn run(&mut self, times: u32) -> Result<(), JsError> {
        self.resident.run(times, &Control::with_pace(Unresting)).await.map_err(fault)
    }

    pub async fn read(&mut self) -> Result<Vec<f32>, JsError> {
        Ok(self.resident.read(&[self.c]).await.map_err(fault)?.swap_remove(0))
    }
}

/// The page's clock and no rests: slices are as long as in a visit.
struct Unresting;

impl Pace for Unresting {
    fn now_ms(&self) -> f64 {
        js_sys::Date::now()
    }

    fn breathe(&self) -> PaceFuture {
        Box::pin(std::future::ready(()))
    }
}

/// A training run.
#[wasm_bindgen]
pub struct Steps(Trainer<'static>);

#[wasm_bindgen]
impl Steps {
    /// Runs so many steps; gives the last one's loss, computed before its update.
    pub async fn run(&mut self, steps: u32) -> Result<f32, JsError> {
        let losses = self.0.run(steps, &Control::with_pace(Unresting)).await.map_err(fault)?;
        losses.last().copied().ok_or_else(|| JsError::new("no steps"))
    }

    /// Of one step.
    pub fn dispatches(&self) -> Result<usize, JsError> {
        self.0.dispatches().map_err(fault)
    }

    /// Only the dispatches of so many steps, in one submission.
    pub async fn replay(&mut self, steps: u32) -> Result<(), JsError> {
        self.0.replay(steps).await.map_err(fault)
    }
}
