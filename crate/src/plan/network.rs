//! From a model to programs: the forward pass, and a training step of forward, backward and update. Shapes come from
//! the model's own validation; nothing is allocated here.

use manyhands_protocol::model::{Layer, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::matmul::{Epilogue, Rows, Shape, Transposed};
use manyhands_shaders::sgd_momentum::Rates;

use super::{Buffer, Matmul, Op, Program};
use crate::engine::EngineError;

/// One dense layer with the ReLU that follows it folded in.
struct Dense {
    inputs: u32,
    outputs: u32,
    relu: bool,
    weight: Buffer,
    bias: Buffer,
    /// What the layer reads and writes, `[batch, inputs]` and `[batch, outputs]`.
    input: Buffer,
    output: Buffer,
}

/// The forward pass over a fixed batch.
pub struct ForwardPlan {
    pub program: Program,
    pub batch: u32,
    pub inputs: u32,
    pub classes: u32,
    /// `[batch, inputs]`.
    pub x: Buffer,
    /// `[batch, classes]`.
    pub logits: Buffer,
    /// In the model's order.
    pub parameters: Vec<Buffer>,
    /// The model begins with a ReLU: inputs are clipped at zero as they are loaded.
    pub relu_first: bool,
    layers: Vec<Dense>,
}

/// A training step over a fixed batch.
pub struct TrainPlan {
    pub forward: ForwardPlan,
    /// Forward, backward and update.
    pub program: Program,
    /// `[batch]` u32.
    pub labels: Buffer,
    /// `[1]`, the mean loss of the batch before the step.
    pub loss: Buffer,
}

impl ForwardPlan {
    pub fn compile(model: &Model, batch: u32) -> Result<Self, EngineError> {
        let shapes = model.parameters().map_err(|e| EngineError::Input(e.to_string()))?;
        let inputs = model.input_values().map_err(|e| EngineError::Input(e.to_string()))?;
        let mut program = Program::default();
        let parameters: Vec<Buffer> = shapes.iter().map(|p| program.buffer(p.values_count() as u64)).collect();
        let x = program.buffer(u64::from(batch) * u64::from(inputs));
        let (mut layers, mut relu_first) = (Vec::<Dense>::new(), false);
        let (mut width, mut input) = (inputs, x);
        for layer in &model.layers {
            match layer {
                Layer::Dense { outputs } => {
                    let output = program.buffer(u64::from(batch) * u64::from(*outputs));
                    let [weight, bias] = [0, 1].map(|i| parameters[2 * layers.len() + i]);
                    layers.push(Dense { inputs: width, outputs: *outputs, relu: false, weight, bias, input, output });
                    (width, input) = (*outputs, output);
                }
                // A second ReLU in a row changes nothing.
                Layer::Relu => match layers.last_mut() {
                    Some(dense) => dense.relu = true,
                    None => relu_first = true,
                },
            }
        }
        for dense in &layers {
            program.matmul(Matmul {
                a: dense.input,
                b: dense.weight,
                bias: Some(dense.bias),
                epilogue: if dense.relu { Epilogue::BiasRelu } else { Epilogue::Bias },
                ..product(Shape { m: batch, k: dense.inputs, n: dense.outputs }, dense.output)
            });
        }
        Ok(Self { program, batch, inputs, classes: width, x, logits: input, parameters, relu_first, layers })
    }
}

impl TrainPlan {
    /// The step of `work`, whose extents the caller has validated.
    pub fn compile(work: &TrainWork) -> Result<Self, EngineError> {
        let forward = ForwardPlan::compile(&work.model, work.batch)?;
        let (batch, classes) = (work.batch, forward.classes);
        let mut program = forward.program.clone();
        let labels = program.buffer(batch.into());
        let losses = program.buffer(batch.into());
        let loss = program.buffer(1);
        let mut gradient = program.buffer(u64::from(batch) * u64::from(classes));
        program.ops.push(Op::SoftmaxCrossEntropy { logits: forward.logits, labels, gradient, losses, rows: batch, classes });
        program.ops.push(Op::ColumnSum { x: losses, sums: loss, rows: batch, columns: 1 });
        let mut updates = Vec::new();
        for (index, dense) in forward.layers.iter().enumerate().rev() {
            let (d_weight, d_bias) = parameter_gradients(&mut program, dense, gradient, batch);
            updates.push((dense.weight, d_weight));
            updates.push((dense.bias, d_bias));
            if let Some(before) = index.checked_sub(1).map(|i| &forward.layers[i]) {
                gradient = input_gradient(&mut program, dense, gradient, batch, before.relu);
            }
        }
        let InnerOptimizer::Sgd { learning_rate, momentum } = work.optimizer;
        let rates = Rates { learning_rate, momentum };
        for (parameter, gradient) in updates {
            let values = program.values[parameter.0];
            let velocity = program.buffer(values);
            let values = u32::try_from(values).map_err(|_| EngineError::TooLarge { bytes: values * 4, most: 1 << 34 })?;
            program.ops.push(Op::SgdMomentum { gradient, velocity, parameter, values, rates });
        }
        Ok(Self { forward, program, labels, loss })
    }
}

/// `dW = inputᵀ · dY` and `db = Σ_rows dY`.
fn parameter_gradients(program: &mut Program, dense: &Dense, gradient: Buffer, batch: u32) -> (Buffer, Buffer) {
    let d_weight = program.buffer(u64::from(dense.inputs) * u64::from(dense.outputs));
    let d_bias = program.buffer(dense.outputs.into());
    program.matmul(Matmul {
        a: dense.input,
        b: gradient,
        transposed: Transposed { a: true, b: false },
        ..product(Shape { m: dense.inputs, k: batch, n: dense.outputs }, d_weight)
    });
    program.ops.push(Op::ColumnSum { x: gradient, sums: d_bias, rows: batch, columns: dense.outputs });
    (d_weight, d_bias)
}

/// `dX = dY · Wᵀ`, cut off where the layer before had its ReLU at zero.
fn input_gradient(program: &mut Program, dense: &Dense, gradient: Buffer, batch: u32, relu: bool) -> Buffer {
    let values = u64::from(batch) * u64::from(dense.inputs);
    let d_input = program.buffer(values);
    program.matmul(Matmul {
        a: gradient,
        b: dense.weight,
        transposed: Transposed { a: false, b: true },
        ..product(Shape { m: batch, k: dense.outputs, n: dense.inputs }, d_input)
    });
    if relu {
        // Values past 2³² are refused with the memory they would take, before any op runs.
        let values = u32::try_from(values).unwrap_or(u32::MAX);
        program.ops.push(Op::ReluBackward { activation: dense.input, gradient: d_input, values });
    }
    d_input
}

/// A plain product into `c`, for the fields that its caller does not set.
fn product(shape: Shape, c: Buffer) -> Matmul {
    Matmul {
        a: c,
        b: c,
        bias: None,
        c,
        shape,
        transposed: Transposed::default(),
        epilogue: Epilogue::None,
        rows: Rows { first: 0, end: shape.m },
        variant: None,
    }
}
