//! The GPU backend on wgpu: WebGPU in a tab, Vulkan, Metal or DX12 natively. Programs are recorded once (buffers, bind
//! groups, pipelines) and replayed; device loss, refusals and lack of memory are errors, never panics. It chooses no
//! work and knows no model.

mod choice;
mod device;
mod fault;
mod pipelines;
mod recording;
mod transfer;

pub use device::{AdapterChoice, GpuEngine, GpuOptions};

use manyhands_protocol::work::TrainWork;

use crate::control::Control;
use crate::engine::{EngineError, Evaluated, brought};
use crate::plan::{Buffer, ForwardPlan, Placement, Program, Slicer, TrainPlan};
use crate::tensors::Shard;
use device::Memory;
use recording::{Recording, Run};

impl GpuEngine {
    pub(crate) async fn load<'a>(
        &'a self,
        program: &'a Program,
        inputs: &[(Buffer, &[f32])],
    ) -> Result<GpuResident<'a>, EngineError> {
        let recording = self.record(program, &Placement::apart(program)).await?;
        for (buffer, values) in inputs {
            recording.upload(self, *buffer, values);
        }
        Ok(GpuResident { engine: self, program, recording })
    }

    /// A run whose inputs fit its plan; see [`crate::engine::Trainer`]. Only the rows that `work` touches go up, in the
    /// order they are met.
    pub(crate) async fn trainer(
        &self,
        work: &TrainWork,
        plan: TrainPlan,
        placement: &Placement,
        parameters: &[Vec<f32>],
        shard: &Shard,
    ) -> Result<GpuTrainer<'_>, EngineError> {
        for bytes in brought(work, &plan.forward, shard.rows) {
            self.check_plain(bytes)?;
        }
        let recording = self.record(&plan.program, placement).await?;
        let initial = plan.initial.iter().map(|(buffer, values)| (buffer, values));
        for (buffer, values) in plan.forward.parameters.iter().zip(parameters).chain(initial) {
            recording.upload(self, *buffer, values);
        }
        let [batch, inputs, answers] = [work.batch, plan.forward.inputs, plan.forward.labels].map(|n| n as usize);
        let rows = shard.rows.min(work.inner_steps as usize * batch);
        let first = work.first_row as usize % shard.rows;
        let x = self.upload_rows(&shard.x, inputs, first, rows).await?;
        let y = self.upload_rows(&shard.y, answers, first, rows).await?;
        let batches = (rows / batch) as u64;
        Ok(GpuTrainer { engine: self, plan, recording, x, y, batches, batch: 0, done: 0, steps: work.inner_steps })
    }

    /// Forward passes over `x` in the plan's batches, the last one filled up with zeros, and with labels that are no class.
    pub async fn evaluate(
        &self,
        plan: &ForwardPlan,
        parameters: &[Vec<f32>],
        x: &[f32],
        labels: &[u32],
        control: &Control,
    ) -> Result<Evaluated, EngineError> {
        let recording = self.record(&plan.program, &Placement::shared(&plan.program)).await?;
        for (buffer, values) in plan.parameters.iter().zip(parameters) {
            recording.upload(self, *buffer, values);
        }
        let mut slicer = Slicer::new(control);
        let each = plan.labels as usize * plan.classes as usize;
        let mut evaluated = Evaluated { logits: Vec::with_capacity(x.len() / plan.inputs as usize * each), hits: 0 };
        for (rows, labels) in plan.batches(x, labels) {
            let mut batch = vec![0.0; plan.batch as usize * plan.inputs as usize];
            batch[..rows.len()].copy_from_slice(rows);
            recording.upload(self, plan.x, &batch);
            if let Some(score) = plan.score {
                recording.upload(self, score.labels, bytemuck::cast_slice(&plan.filled(labels)));
            }
            let mut run = Run::new(self, &recording);
            run.calls(&mut slicer).await?;
            run.finish().await?;
            slicer.end();
            let count = rows.len() / plan.inputs as usize * each;
            let hits = plan.score.map(|score| (recording.slice(score.hits), 1));
            let sources: Vec<_> = [(recording.slice(plan.logits), count)].into_iter().chain(hits).collect();
            let mut read = self.read(&sources).await?;
            evaluated.logits.append(&mut read[0]);
            evaluated.hits += read.get(1).map_or(0, |hits| hits[0] as u64);
        }
        Ok(evaluated)
    }
}

/// A program on a device.
pub struct GpuResident<'a> {
    engine: &'a GpuEngine,
    program: &'a Program,
    recording: Recording,
}

impl GpuResident<'_> {
    pub(crate) async fn run(&mut self, times: u32, control: &Control) -> Result<(), EngineError> {
        let (mut slicer, mut run) = (Slicer::new(control), Run::new(self.engine, &self.recording));
        for _ in 0..times {
            run.calls(&mut slicer).await?;
        }
        run.finish().await?;
        slicer.end();
        Ok(())
    }

    /// So many passes in one submission.
    pub(crate) async fn replay(&mut self, times: u32) -> Result<(), EngineError> {
        let control = Control::new();
        let (mut slicer, mut run) = (Slicer::endless(&control), Run::new(self.engine, &self.recording));
        for _ in 0..times {
            run.calls(&mut slicer).await?;
        }
        run.finish().await
    }

    pub(crate) async fn read(&self, buffers: &[Buffer]) -> Result<Vec<Vec<f32>>, EngineError> {
        let sources: Vec<_> = buffers.iter().map(|&b| (self.recording.slice(b), self.program.values[b.0] as usize)).collect();
        self.engine.read(&sources).await
    }
}

/// Steps on a device.
pub struct GpuTrainer<'a> {
    engine: &'a GpuEngine,
    plan: TrainPlan,
    recording: Recording,
    /// Rows in the order they are met, and how many batches they are.
    x: Memory,
    y: Memory,
    batches: u64,
    /// The next batch.
    batch: u64,
    /// Steps so far, and those of the unit.
    done: u32,
    steps: u32,
}

impl GpuTrainer<'_> {
    /// Between the upload of the shard and the readback at the end a step is two copies, the recorded dispatches and one
    /// copy of the loss.
    pub(crate) async fn run(&mut self, steps: u32, control: &Control) -> Result<Vec<f32>, EngineError> {
        let losses = self.engine.scratch(u64::from(steps) * 4).await?;
        let (mut slicer, mut run) = (Slicer::new(control), Run::new(self.engine, &self.recording));
        let end = self.done + steps;
        for step in 0..steps {
            control.set_progress(self.done + step, self.steps.max(end));
            self.copy_batch(&mut run);
            run.calls(&mut slicer).await?;
            run.copy(self.recording.slice(self.plan.loss), losses.slice(u64::from(step) * 4..), 4);
            self.batch = (self.batch + 1) % self.batches;
        }
        run.finish().await?;
        slicer.end();
        self.done = end;
        control.set_progress(end, self.steps.max(end));
        Ok(self.engine.read(&[(losses.slice(..), steps as usize)]).await?.swap_remove(0))
    }

    /// The recorded dispatches of so many steps in one submission, all on the newest batch, and nothing else.
    pub(crate) async fn replay(&mut self, steps: u32) -> Result<(), EngineError> {
        let control = Control::new();
        let (mut slicer, mut run) = (Slicer::endless(&control), Run::new(self.engine, &self.recording));
        for _ in 0..steps {
            run.calls(&mut slicer).await?;
        }
        run.finish().await
    }

    /// One step; what its traces show, in their order.
    pub(crate) async fn run_traced(&mut self, control: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        let (mut slicer, mut run) = (Slicer::new(control), Run::new(self.engine, &self.recording));
        self.copy_batch(&mut run);
        let (mut seen, mut done) = (Vec::with_capacity(self.plan.traces.len()), 0);
        for trace in &self.plan.traces {
            run.part(done..trace.after, &mut slicer).await?;
            run.finish().await?;
            done = trace.after;
            seen.append(&mut self.read(&[trace.buffer]).await?);
        }
        run.part(done..self.plan.program.ops.len(), &mut slicer).await?;
        run.finish().await?;
        self.batch = (self.batch + 1) % self.batches;
        Ok(seen)
    }

    /// The next step is number `step` of the unit.
    #[cfg(feature = "every-layer")]
    pub(crate) fn go_to(&mut self, step: u32) {
        self.batch = u64::from(step) % self.batches;
        self.done = step;
    }

    #[cfg(feature = "every-layer")]
    pub(crate) fn write(&mut self, buffer: Buffer, values: &[f32]) {
        self.recording.upload(self.engine, buffer, values);
    }

    /// The next batch as the step's input.
    fn copy_batch(&self, run: &mut Run) {
        let forward = &self.plan.forward;
        let row_bytes = u64::from(forward.batch) * 4;
        let (x_bytes, y_bytes) = (row_bytes * u64::from(forward.inputs), row_bytes * u64::from(forward.labels));
        let [to_x, to_y] = [forward.x, self.plan.labels].map(|b| self.recording.slice(b));
        run.copy(self.x.slice(self.batch * x_bytes..), to_x, x_bytes);
        run.copy(self.y.slice(self.batch * y_bytes..), to_y, y_bytes);
    }

    pub(crate) fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    pub(crate) fn plan(&self) -> &TrainPlan {
        &self.plan
    }

    pub(crate) async fn read(&self, buffers: &[Buffer]) -> Result<Vec<Vec<f32>>, EngineError> {
        let sources: Vec<_> =
            buffers.iter().map(|&b| (self.recording.slice(b), self.plan.program.values[b.0] as usize)).collect();
        self.engine.read(&sources).await
    }
}
