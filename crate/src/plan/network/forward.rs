//! The forward pass: one node, or a few, for each layer.

use manyhands_protocol::model::{Extent, Layer, Model, Traced as TracedLayer};
use manyhands_shaders::matmul::{Epilogue, Shape};
use manyhands_shaders::{attention, convolution, dropout, dropout_advance, embedding, layer_norm, pool};

use super::{Drawn, ForwardPlan, Node, Placed, Trace, Traced, What, count, product};
use crate::engine::EngineError;
use crate::plan::{Buffer, EVERY_LAYER, ImageOp, Matmul, NOT_BUILT, Op, PROGRAM_BYTES_MAX, Program, Saved, SequenceOp};

/// The walk over the layers.
struct Walk {
    program: Program,
    nodes: Vec<Placed>,
    batch: u64,
    /// The newest activation.
    at: Buffer,
    /// The layer walked through.
    layer: usize,
    /// Of the residual walked through: itself, the layer behind its branch, and what it branched off from.
    branch: Option<(usize, usize, Buffer)>,
    /// Whether the branch's last product has been added to what it branched off from.
    joined: bool,
    traces: Vec<Trace>,
    /// What dropout draws from in training, and the buffer that counts inner steps once a layer needs it.
    drawn: Option<Drawn>,
    step: Option<Buffer>,
}

/// With dropout where `drawn` says what from.
pub fn compile(model: &Model, batch: u32, drawn: Option<Drawn>, call_flop_max: u64) -> Result<ForwardPlan, EngineError> {
    let invalid = |e: manyhands_protocol::model::ModelError| EngineError::Input(e.to_string());
    let (traced, inputs) = (model.trace().map_err(invalid)?, model.input_values().map_err(invalid)?);
    // What follows counts in u32: it is safe once all activations together are no more than may be allocated.
    let activations = traced.iter().map(|traced| traced.output.values()).sum::<u64>() * u64::from(batch);
    if activations.saturating_mul(4) > PROGRAM_BYTES_MAX {
        return Err(EngineError::TooLarge { bytes: activations.saturating_mul(4), most: PROGRAM_BYTES_MAX });
    }
    let mut program = Program { call_flop_max, ..Program::default() };
    let shapes = traced.iter().flat_map(|traced| &traced.parameters);
    let parameters: Vec<Buffer> = shapes.map(|p| program.buffer(p.values_count() as u64)).collect();
    let x = program.buffer(u64::from(batch) * u64::from(inputs));
    let (nodes, traces) = (Vec::new(), Vec::new());
    let mut walk =
        Walk { program, nodes, batch: batch.into(), at: x, layer: 0, branch: None, joined: false, traces, drawn, step: None };
    let mut rest = &parameters[..];
    for (index, layer) in traced.iter().enumerate() {
        let (own, others) = rest.split_at(layer.parameters.len());
        rest = others;
        walk.layer = index;
        walk.layer(index, layer, own);
    }
    let Walk { mut program, nodes, at: logits, traces, step, .. } = walk;
    program.keep(logits);
    let (labels, classes) = (model.labels_count(), model.classes());
    Ok(ForwardPlan { program, batch, inputs, labels, classes, x, logits, parameters, nodes, score: None, traces, step })
}

impl Walk {
    fn values(&self, extent: Extent) -> u64 {
        self.batch * extent.values()
    }

    fn layer(&mut self, index: usize, traced: &TracedLayer, parameters: &[Buffer]) {
        let input = self.at;
        match *traced.layer {
            Layer::Dense { outputs } => self.last_dense(traced.input, outputs, parameters[0], Some(parameters[1])),
            Layer::Projection { outputs } => self.last_dense(traced.input, outputs, parameters[0], None),
            Layer::Relu => self.relu(traced),
            Layer::Residual { layers } => {
                self.branch = Some((index, index + 1 + layers as usize, input));
                self.joined = false;
                self.push(Node::Branch { values: count(self.values(traced.input)) });
            }
            _ if !EVERY_LAYER => unreachable!("{NOT_BUILT}"),
            Layer::Dropout { rate } => self.dropout(traced, rate),
            Layer::Gelu => self.gelu(traced),
            Layer::Convolution { kernel, stride, padding, .. } => {
                self.convolution(traced, [kernel, stride, padding], [parameters[0], parameters[1]]);
            }
            Layer::MaxPool { size, stride } | Layer::AveragePool { size, stride } => self.pool(traced, size, stride),
            Layer::Embedding { .. } => self.embedding(traced, [parameters[0], parameters[1]]),
            Layer::LayerNorm => self.layer_norm(traced, [parameters[0], parameters[1]]),
            Layer::Attention { heads } => self.attention(traced, heads, parameters),
        }
        if let Some((residual, end, skip)) = self.branch
            && index + 1 == end
        {
            if !self.joined {
                let (branch, values) = (self.at, count(self.values(traced.output)));
                let sum = self.buffer(traced.output);
                self.program.ops.push(Op::Add { x: skip, y: branch, sum, values });
            }
            self.layer = residual;
            self.push(Node::Join);
            self.branch = None;
        }
    }

    /// The node whose calls were added last.
    fn push(&mut self, node: Node) {
        let part = self.nodes.iter().filter(|placed| placed.layer == self.layer && placed.gives()).count() as u32;
        let placed = Placed { node, layer: self.layer, part, fused: None };
        if placed.gives() {
            let of = Traced { layer: self.layer as u32, part, what: What::Output };
            self.traces.push(Trace { after: self.program.ops.len(), of, buffer: self.at });
        }
        self.nodes.push(placed);
    }

    /// The next activation.
    fn buffer(&mut self, extent: Extent) -> Buffer {
        self.at = self.program.passing(self.values(extent));
        self.at
    }

    fn sequence(&mut self, op: SequenceOp) {
        self.program.ops.push(Op::Sequence(op));
    }

    /// The last product of a layer: where the layer ends a residual, added in place to what that branched off from, if nobody
    /// needs that any more. In training backward does.
    fn last_dense(&mut self, extent: Extent, outputs: u32, weight: Buffer, bias: Option<Buffer>) {
        let ends = |&(_, end, skip): &(usize, usize, Buffer)| {
            end == self.layer + 1 && skip != self.at && self.program.passing.contains(&skip)
        };
        match self.branch.filter(|branch| self.drawn.is_none() && ends(branch)) {
            Some((_, _, skip)) => {
                self.joined = true;
                let epilogue = if bias.is_some() { Epilogue::BiasAccumulate } else { Epilogue::Accumulate };
                self.dense_into(extent, outputs, [weight, skip], bias, epilogue);
            }
            None => self.dense(extent, outputs, weight, bias),
        }
    }

    fn dense(&mut self, extent: Extent, outputs: u32, weight: Buffer, bias: Option<Buffer>) {
        let output = self.program.passing(self.batch * u64::from(extent.rows().0) * u64::from(outputs));
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::None };
        self.dense_into(extent, outputs, [weight, output], bias, epilogue);
    }

    fn dense_into(
        &mut self,
        extent: Extent,
        outputs: u32,
        [weight, output]: [Buffer; 2],
        bias: Option<Buffer>,
        epilogue: Epilogue,
    ) {
        let ((rows, inputs), input) = (extent.rows(), self.at);
        let rows = count(self.batch * u64::from(rows));
        let shape = Shape { m: rows, k: inputs, n: outputs };
        self.at = output;
        self.program.matmul(Matmul { a: input, b: weight, bias, epilogue, ..product(shape, output) });
        self.push(Node::Dense { rows, inputs, outputs, weight, bias, input, output, relu: false });
    }

    /// As the epilogue of the product before it, or by itself: backward needs what is before it.
    fn gelu(&mut self, traced: &TracedLayer) {
        let (input, values) = (self.at, count(self.values(traced.input)));
        let last = self.nodes.last().map(|placed| &placed.node);
        if self.drawn.is_none() && matches!(last, Some(Node::Dense { bias: Some(_), relu: false, .. })) {
            for op in &mut self.program.ops {
                match op {
                    Op::Matmul(product) if product.c == input => product.epilogue = Epilogue::BiasGelu,
                    _ => {}
                }
            }
        } else {
            let output = self.buffer(traced.output);
            self.sequence(SequenceOp::GeluForward { x: input, y: output, values });
        }
        self.push(Node::Gelu { input, values });
    }

    /// As the epilogue of the product before it, or by itself.
    fn relu(&mut self, traced: &TracedLayer) {
        let fused = match self.nodes.last_mut() {
            Some(Placed {
                node: Node::Dense { relu, output, bias: Some(_), .. } | Node::Convolution { relu, output, .. },
                fused,
                ..
            }) => {
                *relu = true;
                *fused = Some(self.layer);
                Some(*output)
            }
            _ => None,
        };
        let Some(output) = fused else {
            let (x, values) = (self.at, count(self.values(traced.input)));
            let y = self.buffer(traced.output);
            self.program.ops.push(Op::ReluForward { x, y, values });
            return self.push(Node::Relu { output: y, values });
        };
        // What the layer before gave is no longer to be seen.
        let trace = self.traces.last_mut().expect("the node before was traced");
        (trace.of.layer, trace.of.part) = (self.layer as u32, 0);
        for op in &mut self.program.ops {
            match op {
                Op::Matmul(product) if product.c == output => product.epilogue = Epilogue::BiasRelu,
                Op::Image(ImageOp::Convolution { y, epilogue, .. }) if *y == output => {
                    *epilogue = convolution::Epilogue::BiasRelu;
                }
                _ => {}
            }
        }
    }

    /// Nothing but in training.
    fn dropout(&mut self, traced: &TracedLayer, rate: f32) {
        let Some(Drawn { key, first_row }) = self.drawn else { return };
        let step = *self.step.get_or_insert_with(|| self.program.buffer(dropout_advance::VALUES));
        let mask = dropout::Mask { rate, key, layer: self.layer as u32, first_row };
        let (x, values) = (self.at, count(self.values(traced.input)));
        let y = self.buffer(traced.output);
        self.program.ops.push(Op::Dropout { step, x, y, values, mask });
        self.push(Node::Dropout { step, mask, values });
    }

    fn convolution(&mut self, traced: &TracedLayer, window: [u32; 3], parameters: [Buffer; 2]) {
        let (Extent::Image { height, width, channels }, Extent::Image { channels: outputs, .. }) = (traced.input, traced.output)
        else {
            unreachable!("a convolution is between images");
        };
        let [kernel, stride, padding] = window;
        let (batch, input) = (self.batch as u32, self.at);
        let shape = convolution::Shape {
            batch,
            height,
            width,
            channels,
            kernel_height: kernel,
            kernel_width: kernel,
            outputs,
            stride,
            padding,
        };
        let output = self.buffer(traced.output);
        let [weight, bias] = parameters;
        self.program.images(ImageOp::Convolution {
            x: input,
            weight,
            bias: Some(bias),
            y: output,
            shape,
            epilogue: convolution::Epilogue::Bias,
            images: shape.images(),
        });
        self.push(Node::Convolution { shape, parameters, input, output, relu: false });
    }

    fn pool(&mut self, traced: &TracedLayer, window: u32, stride: u32) {
        let Extent::Image { height, width, channels } = traced.input else {
            unreachable!("pooling is between images");
        };
        let shape = pool::Shape { batch: self.batch as u32, height, width, channels, window, stride, padding: 0 };
        let (x, images) = (self.at, shape.images());
        let y = self.buffer(traced.output);
        if matches!(traced.layer, Layer::MaxPool { .. }) {
            let places = self.program.passing(self.values(traced.output));
            self.program.images(ImageOp::MaxPool { x, y, places, shape, images });
            self.push(Node::MaxPool { shape, places });
        } else {
            self.program.images(ImageOp::AveragePool { x, y, shape, images });
            self.push(Node::AveragePool { shape });
        }
    }

    fn embedding(&mut self, traced: &TracedLayer, parameters: [Buffer; 2]) {
        let (Layer::Embedding { vocabulary, .. }, (time, channels)) = (traced.layer, traced.output.rows()) else {
            unreachable!("called for an embedding");
        };
        let rows = count(self.batch * u64::from(time));
        let extents = embedding::Params { rows, time, vocabulary: *vocabulary, channels };
        let ids = self.at;
        let out = self.buffer(traced.output);
        let [token, position] = parameters;
        self.sequence(SequenceOp::EmbeddingForward { ids, token, position, out, extents });
        self.push(Node::Embedding { extents, parameters, ids });
    }

    fn layer_norm(&mut self, traced: &TracedLayer, parameters: [Buffer; 2]) {
        let (rows, channels) = traced.input.rows();
        let rows = self.batch * u64::from(rows);
        let x = self.at;
        let [mean, rstd] = [0; 2].map(|_| self.program.passing(rows));
        let y = self.buffer(traced.output);
        let extents = layer_norm::Params { rows: count(rows), channels };
        let [gain, shift] = parameters;
        self.sequence(SequenceOp::LayerNormForward { x, gain, shift, y, mean, rstd, extents });
        self.push(Node::LayerNorm { extents, parameters, saved: Saved { x, mean, rstd } });
    }

    /// Two dense nodes with the core between them.
    fn attention(&mut self, traced: &TracedLayer, heads: u32, parameters: &[Buffer]) {
        let (time, channels) = traced.input.rows();
        self.dense(traced.input, 3 * channels, parameters[0], Some(parameters[1]));
        let shape = attention::Shape { sequences: self.batch as u32, time, heads, width: channels / heads };
        let qkv = self.at;
        let output = self.buffer(traced.output);
        let logsumexp = self.program.passing(u64::from(shape.pairs()) * u64::from(time));
        self.program.attention_forward(qkv, output, logsumexp, shape);
        self.push(Node::Attention { shape, qkv, output, logsumexp });
        self.last_dense(traced.output, channels, parameters[2], Some(parameters[3]));
    }
}
