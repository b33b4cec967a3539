//! What a check takes beside what the step took, in floating-point operations: for choosing what to challenge, not for
//! billing. The step's count is that of its plan.

use manyhands::EngineError;
use manyhands::plan::TrainPlan;
use manyhands_protocol::work::{InnerOptimizer, TrainWork};

use super::network::{Kind, Network};
use super::product::{direct_flop, direct_is_cheaper, freivalds_flop};

/// Operations for a value compared by itself, its tolerance among them: a round figure between a copy and a GELU.
const VALUE_FLOP: u64 = 64;
/// Dot products of a (query, key) pair, for values, gradients and tolerances of both; a multiplication and an addition each.
const PAIR_DOTS: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub check: u64,
    pub step: u64,
    /// Of the check's products, the share computed again rather than checked by chance; in operations.
    pub direct: u64,
    pub chance: u64,
}

impl Cost {
    pub fn ratio(self) -> f64 {
        self.check as f64 / self.step as f64
    }

    /// A product `[m, k, n]`.
    fn product(&mut self, shape: [usize; 3], linear: bool) {
        if !linear || direct_is_cheaper(shape) {
            self.direct += direct_flop(shape);
        } else {
            self.chance += freivalds_flop(shape);
        }
    }
}

/// Counts a check of one step of `work` against the step. Errors are the plan's.
pub fn cost(work: &TrainWork) -> Result<Cost, EngineError> {
    let plan = TrainPlan::compile(work)?;
    let network = Network::of(work).map_err(|e| EngineError::Input(e.to_string()))?;
    let step = plan.program.ops.iter().map(|op| op.flop()).sum();
    let mut cost = Cost { check: 0, step, direct: 0, chance: 0 };
    let mut others = 0;
    for (index, node) in network.nodes.iter().enumerate() {
        let linear = node.relu.is_none();
        match node.kind {
            Kind::Product { rows, inputs, outputs, .. } => {
                cost.product([rows, inputs, outputs], linear);
                cost.product([inputs, rows, outputs], true);
                if index > network.first {
                    cost.product([rows, outputs, inputs], true);
                }
            }
            Kind::Convolution { shape, .. } => {
                let [images, terms, outputs] = [shape.batch, shape.terms(), shape.outputs].map(|v| v as usize);
                let pixels = images * shape.plane() as usize;
                cost.product([pixels, terms, outputs], linear);
                cost.product([terms, pixels, outputs], true);
                if index > network.first {
                    let taps = (shape.kernel_height * shape.kernel_width) as usize;
                    let inputs = images * shape.height as usize * shape.width as usize;
                    cost.product([inputs, taps * outputs, shape.channels as usize], true);
                }
            }
            Kind::Attention(shape) => {
                let pairs = u64::from(shape.pairs()) * u64::from(shape.time) * (u64::from(shape.time) + 1) / 2;
                others += pairs * PAIR_DOTS * 2 * u64::from(shape.width);
            }
            _ => {}
        }
        others += 2 * VALUE_FLOP * network.activations[node.output] as u64;
    }
    let states = match work.optimizer {
        InnerOptimizer::Sgd { .. } => 2,
        InnerOptimizer::AdamW { .. } => 3,
    };
    others += states * VALUE_FLOP * network.parameters.iter().sum::<usize>() as u64;
    cost.check = cost.direct + cost.chance + others;
    Ok(cost)
}
