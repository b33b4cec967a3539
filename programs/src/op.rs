//! Kernel calls: what each reads, writes and costs, and how a device binds it. The CPU backend and the reference run the
//! same calls by their own means.

use std::borrow::Cow;

use manyhands_shaders::gradient_norm::{clip, squares};
use manyhands_shaders::matmul::{self, Epilogue, Matrices, Rows, Shape, Transposed, Variant};
use manyhands_shaders::sgd_momentum::Rates;
use manyhands_shaders::{
    Kernel, accuracy, adamw, adamw_advance, add, binary16, clear, column_sum, dropout, dropout_advance, relu_backward,
    relu_forward, sgd_momentum, softmax_cross_entropy,
};

use super::{Buffer, EVERY_LAYER, ImageOp, NOT_BUILT, READS_F16, SequenceOp};

/// One call of a product kernel. Where it accumulates, C is no other of its buffers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matmul {
    pub a: Buffer,
    pub b: Buffer,
    /// Read where the epilogue takes a bias.
    pub bias: Option<Buffer>,
    pub c: Buffer,
    pub shape: Shape,
    pub transposed: Transposed,
    pub epilogue: Epilogue,
    pub rows: Rows,
    pub matrices: Matrices,
    /// A fixed variant, which also says how A and B are stored; none lets the device choose, and they are f32.
    pub variant: Option<Variant>,
}

impl Matmul {
    /// So many values of A or B in f32, however they are stored.
    pub(super) fn operand<'a>(&self, buffer: Buffer, values: usize, buffers: &'a [Vec<f32>]) -> Cow<'a, [f32]> {
        let stored = &buffers[buffer.0];
        match self.variant {
            Some(variant) if READS_F16 && variant.reads_f16() => binary16::unpack(stored, 0, values).collect(),
            _ => Cow::Borrowed(stored),
        }
    }
}

/// One kernel call. Labels are u32 bits in a buffer of 4-byte words, and f16 operands two to a word; all else is f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    Matmul(Matmul),
    ColumnSum {
        x: Buffer,
        sums: Buffer,
        rows: u32,
        columns: u32,
    },
    /// Zeros in a range of x.
    Clear {
        x: Buffer,
        range: clear::Params,
    },
    Add {
        x: Buffer,
        y: Buffer,
        sum: Buffer,
        values: u32,
    },
    ReluForward {
        x: Buffer,
        y: Buffer,
        values: u32,
    },
    ReluBackward {
        activation: Buffer,
        gradient: Buffer,
        values: u32,
    },
    SoftmaxCrossEntropy {
        logits: Buffer,
        labels: Buffer,
        gradient: Buffer,
        losses: Buffer,
        rows: u32,
        classes: u32,
    },
    /// 1 for each row whose label's class has the largest logit, the first of equals; 0 for the others, and for labels that
    /// are no class.
    Accuracy {
        logits: Buffer,
        labels: Buffer,
        hits: Buffer,
        rows: u32,
        classes: u32,
    },
    SgdMomentum {
        gradient: Buffer,
        velocity: Buffer,
        parameter: Buffer,
        values: u32,
        rates: Rates,
    },
    /// Advances the running powers `[4]` that start as [`adamw_advance::START`]; once per step, before the updates.
    AdamWAdvance {
        powers: Buffer,
        rates: adamw::Rates,
    },
    AdamW {
        powers: Buffer,
        gradient: Buffer,
        first: Buffer,
        second: Buffer,
        parameter: Buffer,
        values: u32,
        rates: adamw::Rates,
    },
    /// Sums of squares of a tensor in parts, written to `parts` from `first_part` on, for a column sum to add up.
    SquareSums {
        gradient: Buffer,
        parts: Buffer,
        values: u32,
        first_part: u32,
    },
    /// Scales a gradient so that the norm whose square is `squares [1]` does not exceed `most`.
    Clip {
        squares: Buffer,
        gradient: Buffer,
        values: u32,
        most: f32,
    },
    /// y is x with the values that the mask of this inner step drops at zero and the others scaled. `step [4]` holds the
    /// step's u32 bits in its first value.
    Dropout {
        step: Buffer,
        x: Buffer,
        y: Buffer,
        values: u32,
        mask: dropout::Mask,
    },
    /// Counts an inner step; once after each.
    DropoutAdvance {
        step: Buffer,
    },
    Sequence(SequenceOp),
    Image(ImageOp),
}

impl Op {
    /// Operations to slice time by: exact for products, a guess at what memory traffic costs for the rest.
    pub fn flop(&self) -> u64 {
        match *self {
            Op::Matmul(Matmul { shape, rows, matrices, .. }) => {
                let height = u64::from(rows.end.saturating_sub(rows.first)) * u64::from(matrices.count());
                2 * height * u64::from(shape.k) * u64::from(shape.n)
            }
            _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
            Op::ColumnSum { rows, columns, .. } => 4 * u64::from(rows) * u64::from(columns),
            Op::Clear { range, .. } => 4 * u64::from(range.end - range.first),
            Op::Add { values, .. } | Op::ReluForward { values, .. } | Op::ReluBackward { values, .. } => 4 * u64::from(values),
            Op::SoftmaxCrossEntropy { rows, classes, .. } => 32 * u64::from(rows) * u64::from(classes),
            Op::Accuracy { rows, classes, .. } => 4 * u64::from(rows) * u64::from(classes),
            Op::SgdMomentum { values, .. } => 8 * u64::from(values),
            Op::AdamWAdvance { .. } => 2,
            Op::AdamW { values, .. } => 24 * u64::from(values),
            Op::SquareSums { values, .. } | Op::Clip { values, .. } => 4 * u64::from(values),
            Op::Dropout { values, .. } => 40 * u64::from(values),
            Op::DropoutAdvance { .. } => 1,
            Op::Sequence(ref op) => op.flop(),
            Op::Image(op) => op.flop(),
        }
    }
}

/// How the invocations of a call that is no product share its work, where there are several kernels for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Each invocation works by itself.
    Nothing,
    /// Quads exchange values: made for software adapters, which pay most for loads.
    Quads,
    /// A workgroup has a row, and a quad a position of attention: made for devices. Only those with subgroups.
    Workgroups,
}

impl Sharing {
    pub const ALL: [Sharing; 3] = [Sharing::Nothing, Sharing::Quads, Sharing::Workgroups];

    pub fn name(self) -> &'static str {
        match self {
            Sharing::Nothing => "nothing",
            Sharing::Quads => "quads",
            Sharing::Workgroups => "workgroups",
        }
    }
}

/// A kernel call as a device binds and dispatches it.
pub struct Call {
    pub kernel: &'static Kernel,
    /// Values of the kernel's `override` declarations.
    pub constants: Vec<(&'static str, f64)>,
    /// Bytes of the kernel's `Params`, binding 0.
    pub params: Vec<u8>,
    /// Bindings from 1 on.
    pub buffers: Vec<Buffer>,
    /// Workgroups; none where there is nothing to compute.
    pub groups: [u32; 3],
}

impl Call {
    pub(super) fn new(kernel: &'static Kernel, params: &impl bytemuck::NoUninit, buffers: Vec<Buffer>, groups: [u32; 3]) -> Self {
        Self { kernel, constants: Vec::new(), params: bytemuck::bytes_of(params).to_vec(), buffers, groups }
    }
}

impl Op {
    /// How a device binds this call. `choose` picks the variant of a product.
    pub fn call(&self, sharing: Sharing, choose: impl FnOnce(&Matmul) -> Variant) -> Call {
        match *self {
            Op::Matmul(op) => {
                let variant = choose(&op);
                // Where there is no bias the binding still needs a buffer: A, which is only read as well.
                let buffers = vec![op.a, op.b, op.bias.unwrap_or(op.a), op.c];
                let groups = variant.dispatch(op.shape, op.rows, op.matrices);
                let params = matmul::Params::new(op.shape, op.rows, op.matrices);
                let call = Call::new(variant.kernel(), &params, buffers, groups);
                Call { constants: Variant::constants(op.transposed, op.epilogue), ..call }
            }
            _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
            Op::ColumnSum { x, sums, rows, columns } => {
                let params = column_sum::Params { rows, columns };
                Call::new(&column_sum::KERNEL, &params, vec![x, sums], column_sum::dispatch(columns))
            }
            Op::Clear { x, range } => Call::new(&clear::KERNEL, &range, vec![x], clear::dispatch(range)),
            Op::Add { x, y, sum, values } => {
                Call::new(&add::KERNEL, &add::Params::new(values), vec![x, y, sum], add::dispatch(values))
            }
            Op::ReluForward { x, y, values } => {
                let params = relu_forward::Params::new(values);
                Call::new(&relu_forward::KERNEL, &params, vec![x, y], relu_forward::dispatch(values))
            }
            Op::ReluBackward { activation, gradient, values } => {
                let params = relu_backward::Params::new(values);
                Call::new(&relu_backward::KERNEL, &params, vec![activation, gradient], relu_backward::dispatch(values))
            }
            Op::SoftmaxCrossEntropy { logits, labels, gradient, losses, rows, classes } => {
                let params = softmax_cross_entropy::Params { rows, classes };
                let buffers = vec![logits, labels, gradient, losses];
                Call::new(&softmax_cross_entropy::KERNEL, &params, buffers, softmax_cross_entropy::dispatch(rows))
            }
            Op::Accuracy { logits, labels, hits, rows, classes } => {
                let params = accuracy::Params { rows, classes };
                Call::new(&accuracy::KERNEL, &params, vec![logits, labels, hits], accuracy::dispatch(rows))
            }
            Op::SgdMomentum { gradient, velocity, parameter, values, rates } => {
                let params = sgd_momentum::Params::new(values, rates);
                Call::new(&sgd_momentum::KERNEL, &params, vec![gradient, velocity, parameter], sgd_momentum::dispatch(values))
            }
            Op::AdamWAdvance { powers, rates } => {
                let params = adamw_advance::Params { beta1: rates.beta1, beta2: rates.beta2 };
                Call::new(&adamw_advance::KERNEL, &params, vec![powers], adamw_advance::dispatch())
            }
            Op::AdamW { powers, gradient, first, second, parameter, values, rates } => {
                let buffers = vec![powers, gradient, first, second, parameter];
                Call::new(&adamw::KERNEL, &adamw::Params::new(values, rates), buffers, adamw::dispatch(values))
            }
            Op::SquareSums { gradient, parts, values, first_part } => {
                let params = squares::Params::new(values, first_part);
                Call::new(&squares::KERNEL, &params, vec![gradient, parts], squares::dispatch(values))
            }
            Op::Clip { squares, gradient, values, most } => {
                Call::new(&clip::KERNEL, &clip::Params::new(values, most), vec![squares, gradient], clip::dispatch(values))
            }
            Op::Dropout { step, x, y, values, mask } => {
                Call::new(&dropout::KERNEL, &dropout::Params::new(values, mask), vec![step, x, y], dropout::dispatch(values))
            }
            Op::DropoutAdvance { step } => {
                let params = dropout_advance::Params { steps: 1 };
                Call::new(&dropout_advance::KERNEL, &params, vec![step], dropout_advance::dispatch())
            }
            Op::Sequence(ref op) => op.call(sharing),
            Op::Image(op) => op.call(sharing),
        }
    }
}
