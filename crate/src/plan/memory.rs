//! How much device memory a training step takes, and why.

use manyhands_programs::memory::{Placement, bytes_least};

use super::TrainPlan;
use super::network::StateKind;

/// Bytes of a training step's buffers; batches that wait on the device are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    pub parameters: u64,
    pub optimizer: u64,
    /// What matters within one step, each tensor by itself: activations, errors, gradients and parts of sums.
    pub passing: u64,
    /// What is allocated, passing tensors sharing memory.
    pub allocated: u64,
    /// What no sharing could do without: all that stays, and the most that is in use at one call.
    pub least: u64,
}

impl TrainPlan {
    pub fn memory(&self) -> MemoryUse {
        let program = &self.program;
        let bytes = |values: u64| values * 4;
        let state = |parameter: bool| {
            let tensors = self.state.iter().filter(|(of, _)| (of.kind == StateKind::Parameter) == parameter);
            tensors.map(|(_, buffer)| bytes(program.values[buffer.0])).sum()
        };
        MemoryUse {
            parameters: state(true),
            optimizer: state(false),
            passing: program.passing.iter().map(|buffer| bytes(program.values[buffer.0])).sum(),
            allocated: Placement::shared(program).bytes(0),
            least: bytes_least(program),
        }
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::ids::BlobHash;
    use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
    use manyhands_protocol::work::{InnerOptimizer, TrainWork};

    use super::*;

    fn work(shape: &[u32], dtype: InputType, layers: Vec<Layer>, batch: u32) -> TrainWork {
        TrainWork {
            model: Model {
                input: Input { shape: shape.to_vec(), dtype, scale: 1.0, offset: 0.0 },
                layers,
                loss: Loss::SoftmaxCrossEntropy,
            },
            checkpoint: BlobHash([0; 32]),
            shard: BlobHash([0; 32]),
            round: 0,
            first_row: 0,
            batch,
            inner_steps: 1,
            optimizer: InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.9, clip_norm: 0.0 },
        }
    }

    /// A byte-level transformer of four blocks, width 128, context 64.
    fn gpt(batch: u32) -> TrainWork {
        let mut layers = vec![Layer::Embedding { vocabulary: 256, width: 128 }];
        for _ in 0..4 {
            layers.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads: 4 }]);
            layers.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, Layer::Dense { outputs: 512 }, Layer::Gelu]);
            layers.push(Layer::Dense { outputs: 128 });
        }
        layers.extend([Layer::LayerNorm, Layer::Projection { outputs: 256 }]);
        work(&[64], InputType::U8, layers, batch)
    }

    #[test]
    fn memory_is_near_what_it_must_be() {
        let dense = |outputs| Layer::Dense { outputs };
        let mlp = vec![dense(256), Layer::Relu, dense(128), Layer::Relu, dense(10)];
        for work in [work(&[784], InputType::F32, mlp, 64), gpt(16)] {
            let memory = TrainPlan::compile(&work).unwrap().memory();
            assert_eq!(memory.optimizer, memory.parameters, "one velocity per parameter");
            assert!(memory.least <= memory.allocated);
            assert!(memory.allocated * 10 <= memory.least * 11, "more than a tenth above the least: {memory:?}");
        }
    }

    #[test]
    fn memory_grows_with_the_batch_and_no_faster() {
        let [small, large] = [gpt(8), gpt(32)].map(|work| TrainPlan::compile(&work).unwrap().memory());
        assert_eq!((small.parameters, small.optimizer), (large.parameters, large.optimizer));
        assert!(large.passing > small.passing && large.passing <= 4 * small.passing);
        assert!(large.allocated - large.parameters <= 4 * (small.allocated - small.parameters));
    }
}
