//! The GPU backend on wgpu: WebGPU in a tab, Vulkan, Metal or DX12 natively. Programs are recorded once (buffers, bind
//! groups, pipelines) and replayed; device loss, refusals and lack of memory are errors, never panics. It chooses no
//! work and knows no model.

mod device;
mod fault;
mod pipelines;
mod recording;
mod transfer;

pub use device::{AdapterChoice, GpuEngine, GpuOptions};

use manyhands_protocol::work::TrainWork;

use crate::control::Control;
use crate::cpu::subtract;
use crate::engine::{EngineError, Trained};
use crate::plan::{Buffer, ForwardPlan, Program, Slicer, TrainPlan};
use crate::tensors::Shard;
use recording::Run;

impl GpuEngine {
    /// Runs a program on the given contents and gives all buffers back.
    pub async fn run(&self, program: &Program, buffers: Vec<Vec<f32>>, control: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        let inputs: Vec<_> = buffers.iter().enumerate().map(|(i, values)| (Buffer(i), values.as_slice())).collect();
        let outputs: Vec<_> = (0..buffers.len()).map(Buffer).collect();
        self.outputs(program, &inputs, &outputs, control).await
    }

    /// Runs a program with some buffers filled, the others zero, and gives `outputs` back.
    pub async fn outputs(
        &self,
        program: &Program,
        inputs: &[(Buffer, &[f32])],
        outputs: &[Buffer],
        control: &Control,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let recording = self.record(program).await?;
        for (buffer, values) in inputs {
            recording.upload(self, *buffer, values);
        }
        let mut slicer = Slicer::new(control);
        let mut run = Run::new(self, &recording);
        run.calls(&mut slicer).await?;
        run.finish().await?;
        let sources: Vec<_> = outputs.iter().map(|&b| (recording.buffer(b), program.values[b.0] as usize)).collect();
        self.read(&sources).await
    }

    /// Inner steps of a unit whose inputs fit its plan; see [`crate::Engine::train`]. Between the upload of the shard
    /// and the readback at the end a step is two copies, the recorded dispatches and one copy of the loss.
    pub async fn train(
        &self,
        work: &TrainWork,
        plan: &TrainPlan,
        parameters: &[Vec<f32>],
        shard: &Shard,
        control: &Control,
    ) -> Result<Trained, EngineError> {
        let recording = self.record(&plan.program).await?;
        for (buffer, values) in plan.forward.parameters.iter().zip(parameters) {
            recording.upload(self, *buffer, values);
        }
        let (batch, inputs, steps) = (work.batch as usize, plan.forward.inputs as usize, work.inner_steps);
        // Only the rows that the steps touch go up, in the order they are met.
        let rows = shard.rows.min(steps as usize * batch);
        let first = work.first_row as usize % shard.rows;
        let x = self.upload_rows(&shard.x, inputs, first, rows, plan.forward.relu_first).await?;
        let y = self.upload_rows(&shard.y, 1, first, rows, false).await?;
        let losses = self.scratch(u64::from(steps) * 4).await?;
        let (x_bytes, y_bytes) = ((batch * inputs * 4) as u64, (batch * 4) as u64);
        let [to_x, to_y, loss] = [plan.forward.x, plan.labels, plan.loss].map(|b| recording.buffer(b));
        let (mut slicer, mut run) = (Slicer::new(control), Run::new(self, &recording));
        for step in 0..steps {
            control.set_progress(step, steps);
            let at = u64::from(step) % (rows / batch) as u64;
            run.copy(&x, at * x_bytes, to_x, 0, x_bytes);
            run.copy(&y, at * y_bytes, to_y, 0, y_bytes);
            run.calls(&mut slicer).await?;
            run.copy(loss, 0, &losses, u64::from(step) * 4, 4);
        }
        run.finish().await?;
        control.set_progress(steps, steps);
        let mut sources: Vec<_> =
            plan.forward.parameters.iter().map(|&b| (recording.buffer(b), plan.program.values[b.0] as usize)).collect();
        sources.push((&*losses, steps as usize));
        let mut results = self.read(&sources).await?;
        let losses = results.pop().unwrap_or_default();
        let delta = parameters.iter().zip(&results).map(|(before, after)| subtract(before, after)).collect();
        Ok(Trained { delta, losses })
    }

    /// Forward passes over `x` in the plan's batches, the last one filled up with zeros.
    pub async fn logits(
        &self,
        plan: &ForwardPlan,
        parameters: &[Vec<f32>],
        x: &[f32],
        control: &Control,
    ) -> Result<Vec<f32>, EngineError> {
        let recording = self.record(&plan.program).await?;
        for (buffer, values) in plan.parameters.iter().zip(parameters) {
            recording.upload(self, *buffer, values);
        }
        let mut slicer = Slicer::new(control);
        let mut logits = Vec::with_capacity(x.len() / plan.inputs as usize * plan.classes as usize);
        for rows in x.chunks(plan.batch as usize * plan.inputs as usize) {
            let mut batch = vec![0.0; plan.batch as usize * plan.inputs as usize];
            let clip = |v: f32| if plan.relu_first { v.max(0.0) } else { v };
            batch.iter_mut().zip(rows).for_each(|(to, from)| *to = clip(*from));
            recording.upload(self, plan.x, &batch);
            let mut run = Run::new(self, &recording);
            run.calls(&mut slicer).await?;
            run.finish().await?;
            let count = rows.len() / plan.inputs as usize * plan.classes as usize;
            logits.append(&mut self.read(&[(recording.buffer(plan.logits), count)]).await?.swap_remove(0));
        }
        Ok(logits)
    }
}
