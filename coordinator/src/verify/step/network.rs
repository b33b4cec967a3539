//! What a step computes, as the reveal names it: the model's layers as nodes between revealed tensors, and the names and
//! lengths of everything that a reveal holds. Made from the model alone, apart from the plan that volunteers run.

use std::collections::BTreeMap;

use manyhands::plan::{State, StateKind, Traced, What};
use manyhands_protocol::model::{Extent, Layer, ModelError, Traced as Shaped};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::{attention, convolution, dropout, embedding, pool};

/// A tensor between two nodes: the batch, or what a node gives.
pub type Activation = usize;

/// A part of a layer between two activations. Parameters are named by their place in the model's order.
pub struct Node {
    pub layer: u32,
    pub part: u32,
    pub kind: Kind,
    pub input: Activation,
    pub output: Activation,
    /// The last of the ReLUs that the node has as its epilogue: the output is theirs.
    pub relu: Option<u32>,
    /// Where the node opens a residual's branch: what the residual gives, whose error is added to the input's.
    pub joined_by: Option<Activation>,
}

pub enum Kind {
    Product {
        rows: usize,
        inputs: usize,
        outputs: usize,
        weight: u32,
        bias: Option<u32>,
        /// Queries, keys and values of attention, whose keys' bias has no gradient by definition.
        feeds_attention: bool,
    },
    Convolution {
        shape: convolution::Shape,
        weight: u32,
        bias: u32,
    },
    MaxPool(pool::Shape),
    AveragePool(pool::Shape),
    Relu,
    Gelu,
    Embedding {
        extents: embedding::Params,
        token: u32,
        position: u32,
    },
    LayerNorm {
        channels: usize,
        gain: u32,
        shift: u32,
    },
    Attention(attention::Shape),
    Dropout(dropout::Mask),
    /// A residual's sum of its branch and what that branched off from.
    Join {
        skip: Activation,
    },
}

impl Kind {
    fn trains(&self) -> bool {
        matches!(self, Kind::Product { .. } | Kind::Convolution { .. } | Kind::Embedding { .. } | Kind::LayerNorm { .. })
    }
}

pub struct Network {
    pub nodes: Vec<Node>,
    /// The first node that trains: what comes before it has no error.
    pub first: usize,
    /// Values of each parameter.
    pub parameters: Vec<usize>,
    /// Values of each activation, the batch first.
    pub activations: Vec<usize>,
    has_dropout: bool,
}

impl Node {
    pub fn output_name(&self) -> Traced {
        self.named(What::Output)
    }

    /// The error by the output.
    pub fn error_name(&self) -> Traced {
        self.named(What::Error)
    }

    fn named(&self, what: What) -> Traced {
        match self.relu {
            Some(layer) => Traced { layer, part: 0, what },
            None => Traced { layer: self.layer, part: self.part, what },
        }
    }

    /// The error by what the node gives before its epilogue.
    pub fn inner_error_name(&self) -> Traced {
        Traced { layer: self.layer, part: self.part, what: What::Error }
    }

    pub fn gradient_name(&self, parameter: u32) -> Traced {
        Traced { layer: self.layer, part: self.part, what: What::Gradient { parameter } }
    }

    /// Parameters that the node trains.
    pub fn parameters(&self) -> Vec<u32> {
        match self.kind {
            Kind::Product { weight, bias, .. } => [weight].into_iter().chain(bias).collect(),
            Kind::Convolution { weight, bias, .. } => vec![weight, bias],
            Kind::Embedding { token, position, .. } => vec![token, position],
            Kind::LayerNorm { gain, shift, .. } => vec![gain, shift],
            _ => Vec::new(),
        }
    }
}

/// A residual being walked through.
struct Branch {
    end: usize,
    residual: u32,
    skip: Activation,
    /// The first node of its branch.
    opening: usize,
}

struct Walk<'a> {
    work: &'a TrainWork,
    nodes: Vec<Node>,
    activations: Vec<usize>,
    layer: usize,
    parts: u32,
    /// Whether the last node stands just before this layer, so that a ReLU can be its epilogue.
    adjacent: bool,
}

impl Network {
    pub fn of(work: &TrainWork) -> Result<Self, ModelError> {
        let shaped = work.model.trace()?;
        let batch = work.batch as usize;
        let activations = vec![batch * work.model.input_values()? as usize];
        let mut walk = Walk { work, nodes: Vec::new(), activations, layer: 0, parts: 0, adjacent: false };
        let (mut parameters, mut branch): (Vec<usize>, Option<Branch>) = (Vec::new(), None);
        for (index, layer) in shaped.iter().enumerate() {
            (walk.layer, walk.parts) = (index, 0);
            let own = parameters.len() as u32;
            parameters.extend(layer.parameters.iter().map(|p| p.values_count()));
            if let Layer::Residual { layers } = *layer.layer {
                let skip = walk.at();
                let end = index + 1 + layers as usize;
                branch = Some(Branch { end, residual: index as u32, skip, opening: walk.nodes.len() });
                walk.adjacent = false;
                continue;
            }
            walk.layer(layer, own);
            if let Some(Branch { end, residual, skip, opening }) = branch
                && index + 1 == end
            {
                (walk.layer, walk.parts) = (residual as usize, 0);
                let values = walk.activations[skip];
                walk.push(Kind::Join { skip }, values);
                walk.nodes[opening].joined_by = Some(walk.at());
                walk.adjacent = false;
                branch = None;
            }
        }
        let Walk { nodes, activations, .. } = walk;
        let first = nodes.iter().position(|node| node.kind.trains()).unwrap_or(nodes.len());
        let has_dropout = nodes.iter().any(|node| matches!(node.kind, Kind::Dropout(_)));
        Ok(Self { nodes, first, parameters, activations, has_dropout })
    }

    /// Values of each tensor of the trace.
    pub fn trace(&self) -> BTreeMap<Traced, usize> {
        let mut names = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let values = self.activations[node.output];
            names.insert(node.output_name(), values);
            if index >= self.first {
                names.insert(node.error_name(), values);
                names.insert(node.inner_error_name(), values);
            }
            names.extend(node.parameters().into_iter().map(|p| (node.gradient_name(p), self.parameters[p as usize])));
        }
        names
    }

    /// Values of each tensor that a step hands on to the next.
    pub fn state(&self, optimizer: &InnerOptimizer) -> BTreeMap<State, usize> {
        let kinds = match optimizer {
            InnerOptimizer::Sgd { .. } => &[StateKind::Parameter, StateKind::Velocity][..],
            InnerOptimizer::AdamW { .. } => &[StateKind::Parameter, StateKind::FirstMoment, StateKind::SecondMoment],
        };
        let mut names = BTreeMap::new();
        for (parameter, &values) in self.parameters.iter().enumerate() {
            names.extend(kinds.iter().map(|&kind| (State { parameter: Some(parameter as u32), kind }, values)));
        }
        let shared = |kind| State { parameter: None, kind };
        if matches!(optimizer, InnerOptimizer::AdamW { .. }) {
            names.insert(shared(StateKind::Powers), 4);
        }
        if self.has_dropout {
            names.insert(shared(StateKind::InnerStep), dropout_values());
        }
        names
    }
}

fn dropout_values() -> usize {
    manyhands_shaders::dropout_advance::VALUES as usize
}

impl Walk<'_> {
    /// The newest activation.
    fn at(&self) -> Activation {
        self.activations.len() - 1
    }

    fn push(&mut self, kind: Kind, values: usize) {
        let input = self.at();
        self.activations.push(values);
        let (layer, part, output) = (self.layer as u32, self.parts, self.at());
        self.nodes.push(Node { layer, part, kind, input, output, relu: None, joined_by: None });
        self.parts += 1;
        self.adjacent = true;
    }

    fn layer(&mut self, layer: &Shaped, own: u32) {
        let batch = self.work.batch;
        let values = |extent: Extent| batch as usize * extent.values() as usize;
        let output = values(layer.output);
        match *layer.layer {
            Layer::Dense { outputs } => self.product(layer.input, outputs, own, Some(own + 1), false),
            Layer::Projection { outputs } => self.product(layer.input, outputs, own, None, false),
            Layer::Relu => match self.nodes.last_mut().filter(|_| self.adjacent) {
                Some(node) if matches!(node.kind, Kind::Product { bias: Some(_), .. } | Kind::Convolution { .. }) => {
                    node.relu = Some(self.layer as u32);
                }
                _ => self.push(Kind::Relu, output),
            },
            Layer::Gelu => self.push(Kind::Gelu, output),
            Layer::Convolution { kernel, stride, padding, .. } => {
                let (Extent::Image { height, width, channels }, Extent::Image { channels: outputs, .. }) =
                    (layer.input, layer.output)
                else {
                    unreachable!("a convolution is between images");
                };
                let [kernel_height, kernel_width] = [kernel; 2];
                let shape =
                    convolution::Shape { batch, height, width, channels, kernel_height, kernel_width, outputs, stride, padding };
                self.push(Kind::Convolution { shape, weight: own, bias: own + 1 }, output);
            }
            Layer::MaxPool { size, stride } => self.push(Kind::MaxPool(pooled(layer.input, batch, size, stride)), output),
            Layer::AveragePool { size, stride } => self.push(Kind::AveragePool(pooled(layer.input, batch, size, stride)), output),
            Layer::Embedding { vocabulary, .. } => {
                let (time, channels) = layer.output.rows();
                let extents = embedding::Params { rows: batch * time, time, vocabulary, channels };
                self.push(Kind::Embedding { extents, token: own, position: own + 1 }, output);
            }
            Layer::LayerNorm => {
                let channels = layer.input.rows().1 as usize;
                self.push(Kind::LayerNorm { channels, gain: own, shift: own + 1 }, output);
            }
            Layer::Attention { heads } => {
                let (time, channels) = layer.input.rows();
                self.product(layer.input, 3 * channels, own, Some(own + 1), true);
                let shape = attention::Shape { sequences: batch, time, heads, width: channels / heads };
                self.push(Kind::Attention(shape), output);
                self.product(layer.output, channels, own + 2, Some(own + 3), false);
            }
            Layer::Dropout { rate } => {
                let (key, first_row) = (self.work.dropout_key(), self.work.first_row);
                self.push(Kind::Dropout(dropout::Mask { rate, key, layer: self.layer as u32, first_row }), output);
            }
            Layer::Residual { .. } => unreachable!("a residual is no node"),
        }
    }

    fn product(&mut self, input: Extent, outputs: u32, weight: u32, bias: Option<u32>, feeds_attention: bool) {
        let (rows, inputs) = input.rows();
        let (rows, inputs, outputs) = (self.work.batch as usize * rows as usize, inputs as usize, outputs as usize);
        self.push(Kind::Product { rows, inputs, outputs, weight, bias, feeds_attention }, rows * outputs);
    }
}

fn pooled(input: Extent, batch: u32, window: u32, stride: u32) -> pool::Shape {
    let Extent::Image { height, width, channels } = input else { unreachable!("pooling is between images") };
    pool::Shape { batch, height, width, channels, window, stride, padding: 0 }
}
