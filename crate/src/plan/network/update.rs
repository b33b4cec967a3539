//! The update of every parameter by the inner optimiser. What it walks along lies side by side, so that a device makes one
//! call of it for all parameters.

use manyhands_protocol::work::InnerOptimizer;
use manyhands_shaders::gradient_norm::squares;
use manyhands_shaders::sgd_momentum::Rates;
use manyhands_shaders::{adamw, adamw_advance};

use super::backward::Gradient;
use super::{State, StateKind, count};
use crate::plan::{Buffer, EVERY_LAYER, NOT_BUILT, Op, Program};

/// The optimiser's state, and what it is before the first step where that is not zero.
#[derive(Default)]
pub struct Kept {
    pub state: Vec<(State, Buffer)>,
    pub initial: Vec<(Buffer, Vec<f32>)>,
}

/// Adds the updates.
pub fn compile(program: &mut Program, gradients: &[Gradient], optimizer: &InnerOptimizer) -> Kept {
    // Parameters are the first buffers of a plan.
    let of = |parameter: Buffer, kind| State { parameter: Some(parameter.0 as u32), kind };
    let mut state: Vec<(State, Buffer)> = Vec::new();
    program.side_by_side.push(gradients.iter().map(|g| g.parameter).collect());
    program.side_by_side.push(gradients.iter().map(|g| g.gradient).collect());
    let (InnerOptimizer::Sgd { clip_norm, .. } | InnerOptimizer::AdamW { clip_norm, .. }) = *optimizer;
    if clip_norm > 0.0 {
        clip_to(program, gradients, clip_norm);
    }
    let kept = match *optimizer {
        InnerOptimizer::Sgd { learning_rate, momentum, .. } => {
            let rates = Rates { learning_rate, momentum };
            for &Gradient { parameter, gradient } in gradients {
                let values = program.values[parameter.0];
                let velocity = program.buffer(values);
                state.push((of(parameter, StateKind::Velocity), velocity));
                program.ops.push(Op::SgdMomentum { gradient, velocity, parameter, values: count(values), rates });
            }
            Kept { state, ..Kept::default() }
        }
        _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
        InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, .. } => {
            let rates = adamw::Rates { learning_rate, beta1, beta2, epsilon, weight_decay };
            let powers = program.buffer(adamw_advance::START.len() as u64);
            program.ops.push(Op::AdamWAdvance { powers, rates });
            for &Gradient { parameter, gradient } in gradients {
                let values = program.values[parameter.0];
                let [first, second] = [0; 2].map(|_| program.buffer(values));
                state.push((of(parameter, StateKind::FirstMoment), first));
                state.push((of(parameter, StateKind::SecondMoment), second));
                program.ops.push(Op::AdamW { powers, gradient, first, second, parameter, values: count(values), rates });
            }
            state.push((State { parameter: None, kind: StateKind::Powers }, powers));
            Kept { state, initial: vec![(powers, adamw_advance::START.to_vec())] }
        }
    };
    for kind in [StateKind::Velocity, StateKind::FirstMoment, StateKind::SecondMoment] {
        let row: Vec<_> = kept.state.iter().filter(|(of, _)| of.kind == kind).map(|&(_, buffer)| buffer).collect();
        program.side_by_side.push(row);
    }
    kept
}

/// Scales all gradients together down to the norm `most` where theirs is larger.
fn clip_to(program: &mut Program, gradients: &[Gradient], most: f32) {
    let sizes: Vec<u32> = gradients.iter().map(|g| count(program.values[g.gradient.0])).collect();
    let rows = sizes.iter().map(|&values| squares::parts(values)).sum();
    let (parts, total) = (program.passing(u64::from(rows)), program.passing(1));
    let mut first_part = 0;
    for (&Gradient { gradient, .. }, &values) in gradients.iter().zip(&sizes) {
        program.ops.push(Op::SquareSums { gradient, parts, values, first_part });
        first_part += squares::parts(values);
    }
    program.ops.push(Op::ColumnSum { x: parts, sums: total, rows, columns: 1 });
    for (&Gradient { gradient, .. }, &values) in gradients.iter().zip(&sizes) {
        program.ops.push(Op::Clip { squares: total, gradient, values, most });
    }
}
