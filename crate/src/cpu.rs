//! The CPU backend: programs run in this thread, natively on the `gemm` crate, in wasm on an own packed SIMD kernel.
//! Also the reference backend, which runs the same programs through the f64 loops beside the shaders. No threads.

mod kernels;
#[cfg(any(target_arch = "wasm32", not(feature = "cpu"), test))]
mod packed;
mod reference;

use manyhands_protocol::work::TrainWork;

use crate::control::Control;
use crate::engine::{EngineError, Trained};
use crate::plan::{Buffer, ForwardPlan, Op, Program, Slicer, TrainPlan};
use crate::tensors::Shard;

/// Which arithmetic runs the kernel calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32, as fast as this backend can.
    Fast,
    /// f64 loops, rounded to f32 after each call.
    Reference,
}

/// The CPU backend; holds nothing between computations.
#[derive(Debug, Clone, Copy)]
pub struct CpuEngine {
    arithmetic: Arithmetic,
}

/// A program's buffers and the arithmetic that runs on them.
struct State {
    arithmetic: Arithmetic,
    buffers: Vec<Vec<f32>>,
    scratch: kernels::Scratch,
}

impl CpuEngine {
    pub fn new(arithmetic: Arithmetic) -> Self {
        Self { arithmetic }
    }

    fn state(&self, program: &Program) -> Result<State, EngineError> {
        program.bytes(0)?;
        let buffers = program.values.iter().map(|&values| vec![0.0; values as usize]).collect();
        Ok(State { arithmetic: self.arithmetic, buffers, scratch: kernels::Scratch::default() })
    }

    /// Runs a program on the given contents, one `Vec` per buffer, and gives all of them back.
    pub async fn run(&self, program: &Program, buffers: Vec<Vec<f32>>, control: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        program.bytes(0)?;
        let mut state = State { arithmetic: self.arithmetic, buffers, scratch: kernels::Scratch::default() };
        let mut slicer = Slicer::new(control);
        state.run(&program.ops, &mut slicer).await?;
        Ok(state.buffers)
    }

    /// Inner steps of a unit whose inputs fit its plan; see [`crate::Engine::train`].
    pub async fn train(
        &self,
        work: &TrainWork,
        plan: &TrainPlan,
        parameters: &[Vec<f32>],
        shard: &Shard,
        control: &Control,
    ) -> Result<Trained, EngineError> {
        let mut state = self.state(&plan.program)?;
        state.load(&plan.forward.parameters, parameters);
        let (mut losses, mut slicer) = (Vec::with_capacity(work.inner_steps as usize), Slicer::new(control));
        let (batch, inputs) = (work.batch as usize, plan.forward.inputs as usize);
        let first = work.first_row as usize % shard.rows;
        for step in 0..work.inner_steps {
            control.set_progress(step, work.inner_steps);
            let row = (first + step as usize * batch) % shard.rows;
            state.load_rows(&plan.forward, &shard.x[row * inputs..(row + batch) * inputs]);
            let labels = bytemuck::cast_slice_mut(&mut state.buffers[plan.labels.0]);
            labels.copy_from_slice(&shard.y[row..row + batch]);
            state.run(&plan.program.ops, &mut slicer).await?;
            losses.push(state.buffers[plan.loss.0][0]);
        }
        control.set_progress(work.inner_steps, work.inner_steps);
        let after = plan.forward.parameters.iter().map(|b| std::mem::take(&mut state.buffers[b.0]));
        let delta = after.zip(parameters).map(|(after, before)| subtract(before, &after)).collect();
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
        let mut state = self.state(&plan.program)?;
        state.load(&plan.parameters, parameters);
        let mut slicer = Slicer::new(control);
        let mut logits = Vec::with_capacity(x.len() / plan.inputs as usize * plan.classes as usize);
        for rows in x.chunks(plan.batch as usize * plan.inputs as usize) {
            state.load_rows(plan, rows);
            state.run(&plan.program.ops, &mut slicer).await?;
            let count = rows.len() / plan.inputs as usize * plan.classes as usize;
            logits.extend_from_slice(&state.buffers[plan.logits.0][..count]);
        }
        Ok(logits)
    }
}

/// `before − after`, value by value.
pub(crate) fn subtract(before: &[f32], after: &[f32]) -> Vec<f32> {
    before.iter().zip(after).map(|(before, after)| before - after).collect()
}

impl State {
    fn load(&mut self, buffers: &[Buffer], contents: &[Vec<f32>]) {
        for (buffer, values) in buffers.iter().zip(contents) {
            self.buffers[buffer.0].copy_from_slice(values);
        }
    }

    fn load_rows(&mut self, plan: &ForwardPlan, rows: &[f32]) {
        let x = &mut self.buffers[plan.x.0];
        x[rows.len()..].fill(0.0);
        x[..rows.len()].copy_from_slice(rows);
        if plan.relu_first {
            x.iter_mut().for_each(|v| *v = v.max(0.0));
        }
    }

    async fn run(&mut self, ops: &[Op], slicer: &mut Slicer<'_>) -> Result<(), EngineError> {
        for op in ops {
            match self.arithmetic {
                Arithmetic::Fast => kernels::run(op, &mut self.buffers, &mut self.scratch),
                Arithmetic::Reference => reference::run(op, &mut self.buffers),
            }
            if slicer.add(op.flop()) {
                slicer.breathe().await?;
            }
        }
        Ok(())
    }
}
