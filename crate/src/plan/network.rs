//! From a model to programs: the forward pass, and a training step of forward, backward and update. Shapes come from
//! the model's own validation; nothing is allocated here.

mod backward;
mod forward;
mod update;

use manyhands_protocol::model::Model;
use manyhands_protocol::work::TrainWork;
use manyhands_shaders::matmul::{Epilogue, Rows, Shape, Transposed};
use manyhands_shaders::{attention, convolution, embedding, layer_norm, pool};

use super::{Buffer, Matmul, Op, Program, Saved, check_built};
use crate::engine::EngineError;

/// The forward pass over a fixed batch.
pub struct ForwardPlan {
    pub program: Program,
    pub batch: u32,
    /// Values of one example.
    pub inputs: u32,
    /// Labels of one example.
    pub labels: u32,
    pub classes: u32,
    /// `[batch, inputs]`; the bits of u32 ids where the model begins with an embedding.
    pub x: Buffer,
    /// `[batch · labels, classes]`.
    pub logits: Buffer,
    /// In the model's order.
    pub parameters: Vec<Buffer>,
    nodes: Vec<Node>,
}

/// A training step over a fixed batch.
pub struct TrainPlan {
    pub forward: ForwardPlan,
    /// Forward, backward and update.
    pub program: Program,
    /// `[batch · labels]` u32.
    pub labels: Buffer,
    /// `[1]`, the mean loss of the batch before the step.
    pub loss: Buffer,
    /// What buffers hold before the first step, where that is not zero.
    pub initial: Vec<(Buffer, Vec<f32>)>,
}

/// One step of the forward pass and what its backward needs. Activations have the rows of the batch first.
enum Node {
    /// `[rows, inputs]` to `[rows, outputs]`.
    Dense {
        rows: u32,
        inputs: u32,
        outputs: u32,
        weight: Buffer,
        bias: Option<Buffer>,
        input: Buffer,
        output: Buffer,
        relu: bool,
    },
    Convolution {
        shape: convolution::Shape,
        parameters: [Buffer; 2],
        input: Buffer,
        output: Buffer,
        relu: bool,
    },
    /// `places` say where each window has its largest value.
    MaxPool {
        shape: pool::Shape,
        places: Buffer,
    },
    AveragePool {
        shape: pool::Shape,
    },
    Relu {
        output: Buffer,
        values: u32,
    },
    Gelu {
        input: Buffer,
        values: u32,
    },
    /// Token and position.
    Embedding {
        extents: embedding::Params,
        parameters: [Buffer; 2],
        ids: Buffer,
    },
    /// Gain and shift.
    LayerNorm {
        extents: layer_norm::Params,
        parameters: [Buffer; 2],
        saved: Saved,
    },
    /// The core of attention, between its two dense nodes.
    Attention {
        shape: attention::Shape,
        qkv: Buffer,
        output: Buffer,
        logsumexp: Buffer,
    },
    /// A residual's branch begins.
    Branch {
        values: u32,
    },
    /// And joins what it branched off from.
    Join,
}

impl Node {
    fn trains(&self) -> bool {
        matches!(self, Node::Dense { .. } | Node::Convolution { .. } | Node::Embedding { .. } | Node::LayerNorm { .. })
    }
}

impl ForwardPlan {
    pub fn compile(model: &Model, batch: u32) -> Result<Self, EngineError> {
        check_built()?;
        forward::compile(model, batch)
    }
}

impl TrainPlan {
    /// The step of `work`, whose extents the caller has validated.
    pub fn compile(work: &TrainWork) -> Result<Self, EngineError> {
        check_built()?;
        let forward = ForwardPlan::compile(&work.model, work.batch)?;
        let (rows, classes) = (work.batch * forward.labels, forward.classes);
        let mut program = forward.program.clone();
        let [labels, losses] = [0; 2].map(|_| program.buffer(rows.into()));
        let loss = program.buffer(1);
        let gradient = program.buffer(u64::from(rows) * u64::from(classes));
        program.ops.push(Op::SoftmaxCrossEntropy { logits: forward.logits, labels, gradient, losses, rows, classes });
        program.ops.push(Op::ColumnSum { x: losses, sums: loss, rows, columns: 1 });
        let gradients = backward::compile(&mut program, &forward.nodes, gradient);
        let initial = update::compile(&mut program, &gradients, &work.optimizer);
        Ok(Self { forward, program, labels, loss, initial })
    }
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

/// A count of values for a kernel call. What is past 2³² is refused for the memory it would take, before any call runs.
fn count(values: u64) -> u32 {
    u32::try_from(values).unwrap_or(u32::MAX)
}
