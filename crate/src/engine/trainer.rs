//! A training run kept on its device: compiled, allocated and loaded once, then stepped as often as wanted. A unit is one
//! such run of its inner steps.

use manyhands_protocol::work::{TrainWork, Work};

#[cfg(feature = "every-layer")]
use super::fits;
#[cfg(feature = "every-layer")]
use super::states::{Names, Tensors};
use super::{Engine, EngineError, Trained, finite, parameters_fit, shard_fits};
use crate::control::Control;
use crate::cpu::{self, CpuTrainer};
#[cfg(feature = "gpu")]
use crate::gpu::GpuTrainer;
use crate::plan::{Buffer, ForwardPlan, Placement, State, Traced, TrainPlan, check_built, check_bytes};
use crate::tensors::Shard;

/// A run of training steps.
pub enum Trainer<'a> {
    Cpu(Box<CpuTrainer<'a>>),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuTrainer<'a>>),
}

impl Engine {
    /// A run of `work` from `parameters` (in the model's order), whose batches are taken from `shard` as the work says,
    /// those of `inner_steps` steps over and over. [`EngineError::Input`] where these do not fit each other,
    /// [`EngineError::TooLarge`] or [`EngineError::BufferTooLarge`] before anything is allocated where the device cannot
    /// hold the run.
    pub async fn trainer<'a>(
        &'a self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &'a Shard,
    ) -> Result<Trainer<'a>, EngineError> {
        self.trainer_cut(work, parameters, shard, self.call_flop_max()).await
    }

    /// The same in kernel calls of at most so much work, where they can be cut: a device that shares its time in
    /// smaller parts computes the same bits.
    pub async fn trainer_cut<'a>(
        &'a self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &'a Shard,
        call_flop_max: u64,
    ) -> Result<Trainer<'a>, EngineError> {
        check_built()?;
        // The bounds on extents come first: what follows allocates by them.
        Work::Train(work.clone()).validate().map_err(|e| EngineError::Input(e.to_string()))?;
        let plan = TrainPlan::compile_cut(work, call_flop_max)?;
        parameters_fit(&plan.program, &plan.forward.parameters, parameters)?;
        shard_fits(work, &plan, shard)?;
        let placement = Placement::shared(&plan.program);
        check_bytes(placement.bytes(brought(work, &plan.forward, shard.rows).iter().sum()))?;
        Ok(match self {
            Engine::Cpu(cpu) => Trainer::Cpu(Box::new(cpu.trainer(work, plan, placement, parameters, shard))),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => Trainer::Gpu(Box::new(gpu.trainer(work, plan, &placement, parameters, shard).await?)),
        })
    }

    /// The inner steps of a unit from `parameters` (the checkpoint, in the model's order).
    pub async fn train(
        &self,
        work: &TrainWork,
        parameters: &[Vec<f32>],
        shard: &Shard,
        control: &Control,
    ) -> Result<Trained, EngineError> {
        let call_flop_max = self.call_flop_max().min(control.call_flop_max());
        let mut trainer = self.trainer_cut(work, parameters, shard, call_flop_max).await?;
        let losses = trainer.run(work.inner_steps, control).await?;
        let after = trainer.parameters().await?;
        let delta: Vec<_> = parameters.iter().zip(&after).map(|(before, after)| cpu::subtract(before, after)).collect();
        for delta in &delta {
            finite("delta", delta)?;
        }
        Ok(Trained { delta, losses })
    }
}

/// Bytes beside the program's buffers: of the examples and of the labels that the steps of a unit meet, and of its losses.
pub(crate) fn brought(work: &TrainWork, forward: &ForwardPlan, rows: usize) -> [u64; 3] {
    let met = (rows as u64).min(u64::from(work.inner_steps) * u64::from(work.batch));
    [met * u64::from(forward.inputs) * 4, met * u64::from(forward.labels) * 4, u64::from(work.inner_steps) * 4]
}

impl Trainer<'_> {
    /// Runs so many steps; gives each one's mean loss over its batch before its update.
    pub async fn run(&mut self, steps: u32, control: &Control) -> Result<Vec<f32>, EngineError> {
        let losses = match self {
            Trainer::Cpu(trainer) => trainer.run(steps, control).await?,
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.run(steps, control).await?,
        };
        finite("losses", &losses)?;
        Ok(losses)
    }

    /// Runs one step and gives what can be seen of it on its way: each layer's output, the loss's gradient by it, and the
    /// gradients of its parameters, in the order in which the step computes them.
    pub async fn run_traced(&mut self, control: &Control) -> Result<Vec<(Traced, Vec<f32>)>, EngineError> {
        let seen = match self {
            Trainer::Cpu(trainer) => trainer.run_traced(control).await?,
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.run_traced(control).await?,
        };
        Ok(self.plan().traces.iter().map(|trace| trace.of).zip(seen).collect())
    }

    /// What the next step begins with: every parameter in the model's order, each followed by its optimiser state.
    pub async fn state(&self) -> Result<Vec<(State, Vec<f32>)>, EngineError> {
        let (of, buffers): (Vec<State>, Vec<Buffer>) = self.plan().state.iter().copied().unzip();
        Ok(of.into_iter().zip(self.read(&buffers).await?).collect())
    }

    /// The same by name, ascending.
    #[cfg(feature = "every-layer")]
    pub(crate) async fn named_state(&self, names: &Names) -> Result<Tensors, EngineError> {
        let mut named: Tensors = self.state().await?.into_iter().map(|(of, values)| (names.state(of), values)).collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(named)
    }

    /// Goes on from a state after so many steps, of this unit.
    #[cfg(feature = "every-layer")]
    pub(crate) fn resume(&mut self, names: &Names, step: u32, state: &Tensors) -> Result<(), EngineError> {
        for (of, buffer) in self.plan().state.clone() {
            let name = names.state(of);
            let values = state.iter().find(|(other, _)| *other == name).map(|(_, values)| values.as_slice());
            let values = values.ok_or_else(|| EngineError::Input(format!("a state without {name}")))?;
            fits(&name, values.len(), Some(self.plan().program.values[buffer.0] as usize))?;
            self.write(buffer, values);
        }
        match self {
            Trainer::Cpu(trainer) => trainer.go_to(step),
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.go_to(step),
        }
        Ok(())
    }

    #[cfg(feature = "every-layer")]
    fn write(&mut self, buffer: Buffer, values: &[f32]) {
        match self {
            Trainer::Cpu(trainer) => trainer.write(buffer, values),
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.write(buffer, values),
        }
    }

    /// What a device computes in so many steps and nothing around it: no batches brought, no losses kept, no breath taken.
    /// What [`Trainer::run`] takes longer is overhead.
    #[cfg(feature = "gpu")]
    pub async fn replay(&mut self, steps: u32) -> Result<(), EngineError> {
        match self {
            Trainer::Cpu(_) => Err(EngineError::Unsupported("a replay on the CPU".to_owned())),
            Trainer::Gpu(trainer) => trainer.replay(steps).await,
        }
    }

    /// How many dispatches a device makes for one step.
    #[cfg(feature = "gpu")]
    pub fn dispatches(&self) -> Result<usize, EngineError> {
        match self {
            Trainer::Cpu(_) => Err(EngineError::Unsupported("dispatches on the CPU".to_owned())),
            Trainer::Gpu(trainer) => Ok(trainer.dispatches()),
        }
    }

    /// The parameters as they are, in the model's order.
    pub async fn parameters(&self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.read(&self.plan().forward.parameters).await
    }

    fn plan(&self) -> &TrainPlan {
        match self {
            Trainer::Cpu(trainer) => trainer.plan(),
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.plan(),
        }
    }

    async fn read(&self, buffers: &[Buffer]) -> Result<Vec<Vec<f32>>, EngineError> {
        match self {
            Trainer::Cpu(trainer) => Ok(trainer.read(buffers)),
            #[cfg(feature = "gpu")]
            Trainer::Gpu(trainer) => trainer.read(buffers).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::ids::BlobHash;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
    use manyhands_protocol::work::InnerOptimizer;

    use super::*;

    /// The rows that are met, once, with as many labels as they have; and each step's loss.
    #[test]
    fn what_a_unit_brings_is_counted() {
        let input = Input { shape: vec![7], dtype: InputType::U8, scale: 1.0, offset: 0.0 };
        let text = vec![Layer::Embedding { vocabulary: 5, width: 4 }, Layer::Dense { outputs: 5 }];
        for (layers, labels) in [(text, 7), (vec![Layer::Dense { outputs: 5 }], 1)] {
            let nothing = BlobHash([0; 32]);
            let work = TrainWork {
                model: Model { input: input.clone(), layers, loss: Loss::SoftmaxCrossEntropy },
                checkpoint: nothing,
                shard: nothing,
                round: 0,
                first_row: 0,
                batch: 3,
                inner_steps: 4,
                optimizer: InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.9, clip_norm: 0.0 },
            };
            let forward = TrainPlan::compile(&work).unwrap().forward;
            assert_eq!(brought(&work, &forward, 900), [12 * 7 * 4, 12 * labels * 4, 4 * 4]);
            assert_eq!(brought(&work, &forward, 6), [6 * 7 * 4, 6 * labels * 4, 4 * 4]);
        }
    }
}
