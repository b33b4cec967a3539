//! From a model to programs: the forward pass, and a training step of forward, backward and update. Shapes come from
//! the model's own validation; nothing is allocated here.

mod backward;
mod forward;
mod update;

use manyhands_protocol::model::Model;
use manyhands_protocol::work::TrainWork;
use manyhands_shaders::matmul::{Epilogue, Matrices, Rows, Shape, Transposed};
use manyhands_shaders::{attention, convolution, dropout, embedding, layer_norm, pool};

use super::{Buffer, CALL_FLOP_MAX, Matmul, Op, Program, Saved, check_built};
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
    /// In the model's order; the first buffers of the program.
    pub parameters: Vec<Buffer>,
    nodes: Vec<Placed>,
    /// What counts right answers, where [`ForwardPlan::scored`] added it.
    pub score: Option<Score>,
    traces: Vec<Trace>,
    /// The counter of inner steps that dropout reads.
    step: Option<Buffer>,
}

/// Of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    /// `[batch · labels]` u32. One that is no class is never hit.
    pub labels: Buffer,
    /// `[1]`, how many were hit.
    pub hits: Buffer,
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
    /// What one step hands on to the next: by parameter in the model's order, each followed by its optimiser state.
    pub state: Vec<(State, Buffer)>,
    /// What can be seen of a step on its way, in the order in which the calls complete it.
    pub traces: Vec<Trace>,
}

/// A tensor that one step hands on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// In the model's order; none for what belongs to no parameter.
    pub parameter: Option<u32>,
    pub kind: StateKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateKind {
    Parameter,
    /// Of SGD with momentum.
    Velocity,
    /// Of AdamW.
    FirstMoment,
    SecondMoment,
    /// AdamW's running powers of its two rates, `[4]`.
    Powers,
    /// The inner step of dropout's masks, in u32 bits, and three zeros.
    InnerStep,
}

/// A tensor of a step on its way, complete once `after` calls of the program have run; later calls may write over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub after: usize,
    pub of: Traced,
    pub buffer: Buffer,
}

/// Which tensor of a step it is. A dense layer or a convolution whose ReLU is its epilogue gives no output of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traced {
    /// In the model's order.
    pub layer: u32,
    /// Of attention: 0 queries, keys and values, 1 the heads' outputs, 2 their projection; else 0.
    pub part: u32,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Output,
    /// The loss's gradient by the output.
    Error,
    /// The loss's gradient by a parameter, before clipping.
    Gradient {
        parameter: u32,
    },
}

/// A node of the layer it computes, or a part of it; and the layer of the ReLU that is its epilogue.
struct Placed {
    node: Node,
    layer: usize,
    part: u32,
    fused: Option<usize>,
}

impl Placed {
    /// Whether the node gives a tensor.
    fn gives(&self) -> bool {
        !matches!(self.node, Node::Branch { .. })
    }
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
    /// `step` holds the inner step, which the mask is of.
    Dropout {
        step: Buffer,
        mask: dropout::Mask,
        values: u32,
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

/// What a unit fixes of the masks of its dropouts.
#[derive(Clone, Copy)]
struct Drawn {
    key: [u32; 2],
    first_row: u32,
}

impl ForwardPlan {
    /// Without dropout, as a model is used.
    pub fn compile(model: &Model, batch: u32) -> Result<Self, EngineError> {
        check_built()?;
        forward::compile(model, batch, None, CALL_FLOP_MAX)
    }

    /// The values of so many examples and their labels in batches; labels may be none at all.
    pub(crate) fn batches<'a>(&self, x: &'a [f32], labels: &'a [u32]) -> impl Iterator<Item = (&'a [f32], &'a [u32])> {
        let [inputs, each] = [self.inputs, self.labels].map(|values| values as usize * self.batch as usize);
        x.chunks(inputs).enumerate().map(move |(batch, x)| {
            let first = (batch * each).min(labels.len());
            (x, &labels[first..labels.len().min(first + each)])
        })
    }

    /// The labels of a batch, the rest of it filled up with what is no class.
    pub(crate) fn filled(&self, labels: &[u32]) -> Vec<u32> {
        let mut filled = vec![self.classes; (self.batch * self.labels) as usize];
        filled[..labels.len()].copy_from_slice(labels);
        filled
    }

    /// The pass, and how many of the batch's labels it answers.
    pub fn scored(mut self) -> Self {
        let (rows, classes, logits) = (self.batch * self.labels, self.classes, self.logits);
        let program = &mut self.program;
        let [labels, hits] = [u64::from(rows), 1].map(|values| program.buffer(values));
        let each = program.passing(rows.into());
        program.ops.push(Op::Accuracy { logits, labels, hits: each, rows, classes });
        program.ops.push(Op::ColumnSum { x: each, sums: hits, rows, columns: 1 });
        self.score = Some(Score { labels, hits });
        self
    }
}

impl TrainPlan {
    /// The step of `work`, whose extents the caller has validated.
    pub fn compile(work: &TrainWork) -> Result<Self, EngineError> {
        Self::compile_cut(work, CALL_FLOP_MAX)
    }

    /// The same in calls of at most so much work, where they can be cut; that changes no bits.
    pub fn compile_cut(work: &TrainWork, call_flop_max: u64) -> Result<Self, EngineError> {
        check_built()?;
        let drawn = Drawn { key: work.dropout_key(), first_row: work.first_row };
        let forward = forward::compile(&work.model, work.batch, Some(drawn), call_flop_max)?;
        let (rows, classes) = (work.batch * forward.labels, forward.classes);
        let mut program = forward.program.clone();
        // Only the loss is made of them.
        program.passing.insert(forward.logits);
        let (labels, loss) = (program.buffer(rows.into()), program.buffer(1));
        let losses = program.passing(rows.into());
        let gradient = program.passing(u64::from(rows) * u64::from(classes));
        program.ops.push(Op::SoftmaxCrossEntropy { logits: forward.logits, labels, gradient, losses, rows, classes });
        program.ops.push(Op::ColumnSum { x: losses, sums: loss, rows, columns: 1 });
        let (gradients, traces) = backward::compile(&mut program, &forward.nodes, gradient);
        let update::Kept { state, initial } = update::compile(&mut program, &gradients, &work.optimizer);
        let parameters = forward.parameters.iter();
        let parameters =
            parameters.map(|&buffer| (State { parameter: Some(buffer.0 as u32), kind: StateKind::Parameter }, buffer));
        let mut state: Vec<_> = parameters.chain(state).collect();
        if let Some(step) = forward.step {
            program.ops.push(Op::DropoutAdvance { step });
            state.push((State { parameter: None, kind: StateKind::InnerStep }, step));
        }
        state.sort_by_key(|(of, _)| (of.parameter.unwrap_or(u32::MAX), of.kind));
        let traces = forward.traces.iter().copied().chain(traces).collect();
        Ok(Self { forward, program, labels, loss, initial, state, traces })
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
        matrices: Matrices::ONE,
        variant: None,
    }
}

/// A count of values for a kernel call. What is past 2³² is refused for the memory it would take, before any call runs.
fn count(values: u64) -> u32 {
    u32::try_from(values).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
