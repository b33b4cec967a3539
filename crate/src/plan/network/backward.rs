//! The backward pass: the nodes in reverse, from the gradient by the logits to the gradient of every parameter.

use manyhands_shaders::matmul::{Epilogue, Matrices, Shape, Transposed};
use manyhands_shaders::{attention, clear, convolution, convolution_weight_gradient, layer_norm};

use super::{Node, Placed, Trace, Traced, What, count, product};
use crate::plan::{AttentionBackward, Buffer, EVERY_LAYER, ImageOp, Matmul, NOT_BUILT, Op, Program, Saved, SequenceOp};

/// A parameter and its gradient.
pub struct Gradient {
    pub parameter: Buffer,
    pub gradient: Buffer,
}

/// The walk over the nodes.
struct Walk<'a> {
    program: &'a mut Program,
    gradients: Vec<Gradient>,
    traces: Vec<Trace>,
    /// The gradient by the output of the node that comes next.
    at: Buffer,
    /// By the output of the residual walked through, until its branch has begun.
    skip: Option<Buffer>,
}

/// Adds the calls of the backward pass; `gradient` is by the logits.
pub fn compile(program: &mut Program, nodes: &[Placed], gradient: Buffer) -> (Vec<Gradient>, Vec<Trace>) {
    let first = nodes.iter().position(|placed| placed.node.trains()).unwrap_or(nodes.len());
    let (gradients, traces) = (Vec::new(), Vec::new());
    let mut walk = Walk { program, gradients, traces, at: gradient, skip: None };
    for (index, placed) in nodes.iter().enumerate().skip(first).rev() {
        let neighbours = [index.checked_sub(1).map(|before| &nodes[before].node), nodes.get(index + 1).map(|next| &next.node)];
        let known = walk.gradients.len();
        if placed.gives() {
            let (layer, part) = placed.fused.map_or((placed.layer, placed.part), |relu| (relu, 0));
            walk.trace(Traced { layer: layer as u32, part, what: What::Error }, walk.at);
        }
        // Nothing before the first node that trains needs a gradient.
        walk.node(placed, index > first, neighbours);
        for index in known..walk.gradients.len() {
            let Gradient { parameter, gradient } = walk.gradients[index];
            // Parameters are the first buffers of a plan.
            let what = What::Gradient { parameter: parameter.0 as u32 };
            walk.trace(Traced { layer: placed.layer as u32, part: placed.part, what }, gradient);
        }
    }
    (walk.gradients, walk.traces)
}

/// Fewest rows of a part of a weight's gradient, entries of it that one workgroup of a large device computes, and
/// workgroups that occupy such a device.
const PART_ROWS: u32 = 2048;
const TILE_ENTRIES: u64 = 64 * 64;
const TILES: u64 = 512;

/// Into how many products over parts of its depth a weight's gradient is divided, to be added up: it has few entries and
/// long sums, and a device would idle. The shape alone decides, so that it gives the same bits.
fn depth_parts([m, k, n]: [u32; 3]) -> u32 {
    let tiles = (u64::from(m) * u64::from(n)).div_ceil(TILE_ENTRIES).max(1);
    let wanted = |parts: &u32| k.is_multiple_of(*parts) && k / parts >= PART_ROWS && u64::from(*parts) * tiles <= TILES;
    [8, 4, 2].into_iter().find(wanted).unwrap_or(1)
}

impl Walk<'_> {
    /// What the calls so far have put into a buffer.
    fn trace(&mut self, of: Traced, buffer: Buffer) {
        self.traces.push(Trace { after: self.program.ops.len(), of, buffer });
    }

    fn node(&mut self, placed: &Placed, needs_input: bool, [before, after]: [Option<&Node>; 2]) {
        let gradient = self.at;
        let opens_branch = matches!(before, Some(Node::Branch { .. }));
        let feeds_attention = matches!(after, Some(Node::Attention { .. }));
        match placed.node {
            Node::Dense { rows, inputs, outputs, weight, bias, input, output, relu } => {
                self.cut_off(relu.then_some(placed), output, u64::from(rows) * u64::from(outputs));
                self.dense([rows, inputs, outputs], [weight, input], needs_input, opens_branch);
                if let Some(bias) = bias {
                    let d_bias = self.gradient_of(bias);
                    self.program.column_sum(gradient, d_bias, rows, outputs);
                    if feeds_attention {
                        // The keys' part: zero but for rounding, which an optimiser such as AdamW would blow up.
                        let range = clear::Params { first: outputs / 3, end: outputs / 3 * 2 };
                        self.program.ops.push(Op::Clear { x: d_bias, range });
                    }
                }
            }
            Node::Relu { output, values } => self.relu(output, values),
            Node::Join => self.skip = Some(self.at),
            Node::Branch { values } => {
                let skip = self.skip.take().expect("a branch is joined");
                // A norm that opens the branch has added its gradient to the skip's already.
                if skip != self.at {
                    let sum = self.like(skip);
                    self.program.ops.push(Op::Add { x: skip, y: self.at, sum, values });
                    self.at = sum;
                }
            }
            _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
            Node::Convolution { shape, parameters, input, output, relu } => {
                self.cut_off(relu.then_some(placed), output, shape.values()[2]);
                self.convolution(shape, parameters, input, needs_input);
            }
            Node::MaxPool { shape, places } => {
                let (input_gradient, images) = (self.program.passing(shape.values()[0]), shape.images());
                self.program.images(ImageOp::MaxPoolBackward { gradient, places, input_gradient, shape, images });
                self.at = input_gradient;
            }
            Node::AveragePool { shape } => {
                let (input_gradient, images) = (self.program.passing(shape.values()[0]), shape.images());
                self.program.images(ImageOp::AveragePoolBackward { gradient, input_gradient, shape, images });
                self.at = input_gradient;
            }
            Node::Dropout { step, mask, values } => {
                // Not in place: where a branch ends with it, the skip's gradient is the same buffer.
                let y = self.like(gradient);
                self.program.ops.push(Op::Dropout { step, x: gradient, y, values, mask });
                self.at = y;
            }
            Node::Gelu { input, values } => {
                self.sequence(SequenceOp::GeluBackward { x: input, gradient, values });
            }
            Node::Embedding { extents, parameters: [token, position], ids } => {
                let [d_token, d_position] = [token, position].map(|parameter| self.gradient_of(parameter));
                let d_out = self.at;
                self.sequence(SequenceOp::EmbeddingTokenGradient { ids, d_out, gradient: d_token, extents });
                self.sequence(SequenceOp::EmbeddingPositionGradient { d_out, gradient: d_position, extents });
            }
            Node::LayerNorm { extents, parameters, saved } => {
                self.layer_norm(extents, parameters, saved, needs_input, opens_branch);
            }
            Node::Attention { shape, qkv, output, logsumexp } => self.attention(shape, qkv, output, logsumexp),
        }
    }

    fn sequence(&mut self, op: SequenceOp) {
        self.program.ops.push(Op::Sequence(op));
    }

    /// A new buffer of the size of another.
    fn like(&mut self, other: Buffer) -> Buffer {
        self.program.passing(self.program.values[other.0])
    }

    fn gradient_of(&mut self, parameter: Buffer) -> Buffer {
        let gradient = self.like(parameter);
        self.gradients.push(Gradient { parameter, gradient });
        gradient
    }

    /// The gradient through a ReLU, in place: no residual ends with one, so that nobody else reads it.
    fn relu(&mut self, activation: Buffer, values: u32) {
        self.program.ops.push(Op::ReluBackward { activation, gradient: self.at, values });
    }

    /// The gradient through the ReLU that a node has as its epilogue.
    fn cut_off(&mut self, placed: Option<&Placed>, activation: Buffer, values: u64) {
        if let Some(placed) = placed {
            self.relu(activation, count(values));
            self.trace(Traced { layer: placed.layer as u32, part: placed.part, what: What::Error }, self.at);
        }
    }

    /// `dW = inputᵀ · dY` and `dX = dY · Wᵀ`, which where the layer opens a branch is added to the skip's gradient: nobody else
    /// reads that any more.
    fn dense(&mut self, [rows, inputs, outputs]: [u32; 3], [weight, input]: [Buffer; 2], needs_input: bool, opens_branch: bool) {
        let d_weight = self.gradient_of(weight);
        let parts = depth_parts([inputs, rows, outputs]);
        let weights = inputs * outputs;
        let sums = if parts > 1 { self.program.passing(u64::from(parts) * u64::from(weights)) } else { d_weight };
        // A part of the rows is a matrix of its own, which lies behind the one before.
        self.program.matmul(Matmul {
            a: input,
            b: self.at,
            transposed: Transposed { a: true, b: false },
            matrices: Matrices { first: 0, end: parts },
            ..product(Shape { m: inputs, k: rows / parts, n: outputs }, sums)
        });
        if parts > 1 {
            self.program.ops.push(Op::ColumnSum { x: sums, sums: d_weight, rows: parts, columns: weights });
        }
        if needs_input {
            // Where the layer is all of its branch, the skip's gradient is the layer's own.
            let skip = self.skip.filter(|skip| opens_branch && *skip != self.at);
            let d_input = skip.unwrap_or_else(|| self.like(input));
            self.program.matmul(Matmul {
                a: self.at,
                b: weight,
                transposed: Transposed { a: false, b: true },
                epilogue: if skip.is_some() { Epilogue::Accumulate } else { Epilogue::None },
                ..product(Shape { m: rows, k: outputs, n: inputs }, d_input)
            });
            self.at = d_input;
        }
    }

    /// `dW` as a sum over parts of the batch, `db` as one over all pixels, and `dX`.
    fn convolution(&mut self, shape: convolution::Shape, [weight, bias]: [Buffer; 2], x: Buffer, needs_input: bool) {
        let gradient = self.at;
        let (d_weight, d_bias) = (self.gradient_of(weight), self.gradient_of(bias));
        let splits = convolution_weight_gradient::splits(shape);
        let [_, weights, outputs] = shape.values();
        let partial = self.program.passing(u64::from(splits.count) * weights);
        self.program.images(ImageOp::ConvolutionWeightGradient { x, gradient, partial, shape, splits: splits.all() });
        self.program.ops.push(Op::ColumnSum { x: partial, sums: d_weight, rows: splits.count, columns: count(weights) });
        let pixels = count(outputs / u64::from(shape.outputs));
        self.program.column_sum(gradient, d_bias, pixels, shape.outputs);
        if needs_input {
            let (input_gradient, images) = (self.like(x), shape.images());
            self.program.images(ImageOp::ConvolutionInputGradient { weight, gradient, input_gradient, shape, images });
            self.at = input_gradient;
        }
    }

    fn layer_norm(
        &mut self,
        extents: layer_norm::Params,
        parameters: [Buffer; 2],
        saved: Saved,
        needs_input: bool,
        opens_branch: bool,
    ) {
        let d_y = self.at;
        let chunks = extents.rows.div_ceil(layer_norm::CHUNK);
        let partial = parameters.map(|parameter| self.program.passing(u64::from(chunks) * self.program.values[parameter.0]));
        let [gain, shift] = partial;
        self.sequence(SequenceOp::LayerNormParameters { saved, d_y, gain, shift, extents });
        for (parameter, x) in parameters.into_iter().zip(partial) {
            let sums = self.gradient_of(parameter);
            self.program.ops.push(Op::ColumnSum { x, sums, rows: chunks, columns: extents.channels });
        }
        if needs_input {
            // What opens a branch is the last to read the gradient by the residual's output: it adds its own to that.
            let skip = self.skip.filter(|_| opens_branch);
            let d_x = skip.unwrap_or_else(|| self.like(saved.x));
            let (gain, accumulate) = (parameters[0], skip.is_some());
            self.sequence(SequenceOp::LayerNormBackward { saved, gain, d_y, d_x, extents, accumulate });
            self.at = d_x;
        }
    }

    fn attention(&mut self, shape: attention::Shape, qkv: Buffer, out: Buffer, logsumexp: Buffer) {
        let (d_out, delta) = (self.at, self.like(logsumexp));
        self.sequence(SequenceOp::AttentionDelta { out, d_out, delta, shape });
        let d_qkv = self.like(qkv);
        self.program.attention_backward(AttentionBackward { qkv, logsumexp, delta, d_out, d_qkv }, shape);
        self.at = d_qkv;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sums_for_few_entries_are_divided() {
        let check = |extents, parts| assert_eq!(depth_parts(extents), parts, "{extents:?}");
        check([512, 8192, 512], 4);
        check([512, 8192, 2048], 2);
        check([2048, 8192, 2048], 1);
        check([512, 4096, 512], 2);
        check([512, 4095, 512], 1);
        check([512, 2048, 512], 1);
        check([512, 3 * 2048, 512], 2);
        check([10, 9999, 10], 1);
    }
}
