//! The CPU backend: programs run in this thread by `manyhands_programs`, fast or by the reference. No threads.

use manyhands_programs::cpu;
#[cfg(any(not(target_arch = "wasm32"), feature = "reference"))]
use manyhands_programs::reference;
use manyhands_protocol::work::TrainWork;

use crate::control::Control;
use crate::engine::{EngineError, Evaluated};
use crate::plan::{Buffer, ForwardPlan, Op, Placement, Program, Slicer, TrainPlan, check_bytes};
use crate::tensors::Shard;

/// Which arithmetic runs the kernel calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32, as fast as this backend can.
    Fast,
    /// f64 loops, rounded to f32 after each call.
    #[cfg(any(not(target_arch = "wasm32"), feature = "reference"))]
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
    /// Those whose span it is not are empty.
    buffers: Vec<Vec<f32>>,
    /// Values of each buffer.
    values: Vec<usize>,
    placement: Placement,
    /// What changes places before each call.
    moves: Vec<Moves>,
    /// Places that no buffer is in.
    places: Vec<Vec<f32>>,
    scratch: cpu::Scratch,
}

/// Buffers that share memory: those whose span is over at a call, and those whose span begins.
#[derive(Debug, Clone, Default)]
struct Moves {
    out: Vec<usize>,
    into: Vec<usize>,
}

impl Moves {
    /// Before each of so many calls. A pass begins with every place free.
    fn of(placement: &Placement, calls: usize) -> Vec<Self> {
        let mut moves = vec![Moves::default(); calls];
        for (buffer, span) in &placement.spans {
            moves[0].out.push(buffer.0);
            moves[span.start].into.push(buffer.0);
            if span.end < calls {
                moves[span.end].out.push(buffer.0);
            }
        }
        moves
    }
}

impl CpuEngine {
    pub fn new(arithmetic: Arithmetic) -> Self {
        Self { arithmetic }
    }

    /// Buffers of zeros; the placement's bytes were checked.
    fn state(&self, program: &Program, placement: Placement) -> State {
        let values: Vec<_> = program.values.iter().map(|&values| values as usize).collect();
        let mut held = values.clone();
        for (buffer, _) in &placement.spans {
            held[buffer.0] = 0;
        }
        let buffers = held.into_iter().map(|values| vec![0.0; values]).collect();
        let places = vec![Vec::new(); placement.places.len()];
        let moves = Moves::of(&placement, program.ops.len());
        State { arithmetic: self.arithmetic, buffers, values, placement, moves, places, scratch: cpu::Scratch::default() }
    }

    pub(crate) fn load<'a>(&self, program: &'a Program, inputs: &[(Buffer, &[f32])]) -> CpuResident<'a> {
        let mut state = self.state(program, Placement::apart(program));
        for (buffer, values) in inputs {
            state.buffers[buffer.0].copy_from_slice(values);
        }
        CpuResident { state, program }
    }

    /// A run whose inputs fit its plan; see [`crate::engine::Trainer`].
    pub(crate) fn trainer<'a>(
        &self,
        work: &TrainWork,
        plan: TrainPlan,
        placement: Placement,
        parameters: &[Vec<f32>],
        shard: &'a Shard,
    ) -> CpuTrainer<'a> {
        let mut state = self.state(&plan.program, placement);
        state.load(&plan.forward.parameters, parameters);
        for (buffer, values) in &plan.initial {
            state.buffers[buffer.0].copy_from_slice(values);
        }
        let first_row = work.first_row as usize % shard.rows;
        CpuTrainer { state, plan, shard, first_row, row: first_row, done: 0, steps: work.inner_steps }
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
        let placement = Placement::shared(&plan.program);
        check_bytes(placement.bytes(0))?;
        let mut state = self.state(&plan.program, placement);
        state.load(&plan.parameters, parameters);
        let mut slicer = Slicer::new(control);
        let each = plan.labels as usize * plan.classes as usize;
        let mut evaluated = Evaluated { logits: Vec::with_capacity(x.len() / plan.inputs as usize * each), hits: 0 };
        for (rows, labels) in plan.batches(x, labels) {
            state.load_rows(plan, rows);
            if let Some(score) = plan.score {
                state.buffers[score.labels.0].copy_from_slice(bytemuck::cast_slice(&plan.filled(labels)));
            }
            state.run(&plan.program.ops, 0, &mut slicer).await?;
            let count = rows.len() / plan.inputs as usize * each;
            evaluated.logits.extend_from_slice(&state.buffers[plan.logits.0][..count]);
            evaluated.hits += plan.score.map_or(0, |score| state.buffers[score.hits.0][0] as u64);
        }
        slicer.end();
        Ok(evaluated)
    }
}

/// A program's buffers in memory.
pub struct CpuResident<'a> {
    state: State,
    program: &'a Program,
}

impl CpuResident<'_> {
    pub(crate) async fn run(&mut self, times: u32, control: &Control) -> Result<(), EngineError> {
        let mut slicer = Slicer::new(control);
        for _ in 0..times {
            self.state.run(&self.program.ops, 0, &mut slicer).await?;
        }
        slicer.end();
        Ok(())
    }

    pub(crate) fn read(&self, buffers: &[Buffer]) -> Vec<Vec<f32>> {
        buffers.iter().map(|b| self.state.buffers[b.0].clone()).collect()
    }
}

/// Steps on this thread.
pub struct CpuTrainer<'a> {
    state: State,
    plan: TrainPlan,
    shard: &'a Shard,
    /// Where the first batch begins, and the next.
    #[cfg_attr(not(feature = "every-layer"), expect(dead_code, reason = "only a replay goes back to it"))]
    first_row: usize,
    row: usize,
    /// Steps so far, and those of the unit.
    done: u32,
    steps: u32,
}

impl CpuTrainer<'_> {
    pub(crate) async fn run(&mut self, steps: u32, control: &Control) -> Result<Vec<f32>, EngineError> {
        let (mut losses, mut slicer) = (Vec::with_capacity(steps as usize), Slicer::new(control));
        let end = self.done + steps;
        while self.done < end {
            control.set_progress(self.done, self.steps.max(end));
            self.load_batch();
            self.state.run(&self.plan.program.ops, 0, &mut slicer).await?;
            losses.push(self.state.buffers[self.plan.loss.0][0]);
            self.done += 1;
        }
        slicer.end();
        control.set_progress(end, self.steps.max(end));
        Ok(losses)
    }

    /// One step; what its traces show, in their order.
    pub(crate) async fn run_traced(&mut self, control: &Control) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut slicer = Slicer::new(control);
        self.load_batch();
        let (mut seen, mut done) = (Vec::with_capacity(self.plan.traces.len()), 0);
        for trace in &self.plan.traces {
            self.state.run(&self.plan.program.ops[done..trace.after], done, &mut slicer).await?;
            done = trace.after;
            seen.push(self.state.buffers[trace.buffer.0].clone());
        }
        self.state.run(&self.plan.program.ops[done..], done, &mut slicer).await?;
        Ok(seen)
    }

    /// The next step is number `step` of the unit.
    #[cfg(feature = "every-layer")]
    pub(crate) fn go_to(&mut self, step: u32) {
        let batches = self.shard.rows / self.plan.forward.batch as usize;
        self.row = (self.first_row + step as usize % batches * self.plan.forward.batch as usize) % self.shard.rows;
        self.done = step;
    }

    #[cfg(feature = "every-layer")]
    pub(crate) fn write(&mut self, buffer: Buffer, values: &[f32]) {
        self.state.buffers[buffer.0].copy_from_slice(values);
    }

    /// The next batch as the step's input.
    fn load_batch(&mut self) {
        let (plan, state) = (&self.plan, &mut self.state);
        let [batch, inputs, answers] = [plan.forward.batch, plan.forward.inputs, plan.forward.labels].map(|n| n as usize);
        let row = self.row;
        state.load_rows(&plan.forward, &self.shard.x[row * inputs..(row + batch) * inputs]);
        let labels = bytemuck::cast_slice_mut(&mut state.buffers[plan.labels.0]);
        labels.copy_from_slice(&self.shard.y[row * answers..(row + batch) * answers]);
        self.row = (row + batch) % self.shard.rows;
    }

    pub(crate) fn plan(&self) -> &TrainPlan {
        &self.plan
    }

    pub(crate) fn read(&self, buffers: &[Buffer]) -> Vec<Vec<f32>> {
        buffers.iter().map(|b| self.state.buffers[b.0].clone()).collect()
    }
}

/// `before − after`, value by value.
pub(crate) fn subtract(before: &[f32], after: &[f32]) -> Vec<f32> {
    before.iter().zip(after).map(|(before, after)| before - after).collect()
}

impl State {
    /// Gives the places of buffers whose span is over to those whose span begins.
    fn settle(&mut self, call: usize) {
        for &buffer in &self.moves[call].out {
            if !self.buffers[buffer].is_empty() {
                self.places[self.placement.place_of[buffer]] = std::mem::take(&mut self.buffers[buffer]);
            }
        }
        for &buffer in &self.moves[call].into {
            let place = self.placement.place_of[buffer];
            let mut values = std::mem::take(&mut self.places[place]);
            // At once what the largest of them takes: growing would hold two at a time.
            values.reserve_exact((self.placement.places[place] as usize).saturating_sub(values.len()));
            values.resize(self.values[buffer], 0.0);
            self.buffers[buffer] = values;
        }
    }

    fn load(&mut self, buffers: &[Buffer], contents: &[Vec<f32>]) {
        for (buffer, values) in buffers.iter().zip(contents) {
            self.buffers[buffer.0].copy_from_slice(values);
        }
    }

    fn load_rows(&mut self, plan: &ForwardPlan, rows: &[f32]) {
        let x = &mut self.buffers[plan.x.0];
        x[rows.len()..].fill(0.0);
        x[..rows.len()].copy_from_slice(rows);
    }

    /// Runs calls of the program, of which `first` came before.
    async fn run(&mut self, ops: &[Op], first: usize, slicer: &mut Slicer<'_>) -> Result<(), EngineError> {
        for (op, index) in ops.iter().zip(first..) {
            if slicer.is_full_for(op.flop()) {
                slicer.breathe().await?;
            }
            self.settle(index);
            match self.arithmetic {
                Arithmetic::Fast => cpu::run(op, &mut self.buffers, &mut self.scratch),
                #[cfg(any(not(target_arch = "wasm32"), feature = "reference"))]
                Arithmetic::Reference => reference::run(op, &mut self.buffers),
            }
            slicer.add(op.flop());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_in_turn_take_no_more_than_their_places() {
        let mut program = Program::default();
        let mut x = program.buffer(8);
        for values in [8, 64, 16, 128, 8, 8, 32] {
            let sum = program.passing(values);
            program.ops.push(Op::Add { x, y: x, sum, values: values as u32 });
            x = sum;
        }
        let placement = Placement::shared(&program);
        assert!(placement.bytes(0) < Placement::apart(&program).bytes(0));
        let most: u64 = placement.places.iter().sum();
        let mut state = CpuEngine::new(Arithmetic::Fast).state(&program, placement);
        for call in (0..program.ops.len()).chain(0..program.ops.len()) {
            state.settle(call);
            let Op::Add { x, sum, .. } = program.ops[call] else { unreachable!() };
            for buffer in [x, sum] {
                assert_eq!(state.buffers[buffer.0].len() as u64, program.values[buffer.0], "call {call}");
            }
            let held: usize = state.buffers.iter().chain(&state.places).map(Vec::capacity).sum();
            assert!(held as u64 <= most, "{held} at call {call}, with places of {most}");
        }
    }
}
