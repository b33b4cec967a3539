//! What a model's layers make of each other's outputs: shapes, parameters, and every way in which they do not fit.
//! Everything that a manifest's reader allocates is bounded here first.

use super::{InputType, Layer, Model};
use crate::limits;

/// What flows between two layers, for one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Flat {
        values: u32,
    },
    Image {
        height: u32,
        width: u32,
        channels: u32,
    },
    /// Ids, one for each position.
    Tokens {
        positions: u32,
    },
    Sequence {
        positions: u32,
        channels: u32,
    },
}

impl Extent {
    /// Values in all.
    pub fn values(self) -> u64 {
        match self {
            Extent::Flat { values } => values.into(),
            Extent::Image { height, width, channels } => u64::from(height) * u64::from(width) * u64::from(channels),
            Extent::Tokens { positions } => positions.into(),
            Extent::Sequence { positions, channels } => u64::from(positions) * u64::from(channels),
        }
    }

    /// Rows a dense layer or a norm sees in one example, and the values of each.
    pub fn rows(self) -> (u32, u32) {
        match self {
            Extent::Sequence { positions, channels } => (positions, channels),
            other => (1, u32::try_from(other.values()).unwrap_or(u32::MAX)),
        }
    }
}

/// How a parameter begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zero,
    One,
    /// Normal with mean 0 and this variance.
    Normal {
        variance: f64,
    },
}

/// One trainable tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<u32>,
    pub init: Init,
}

impl Parameter {
    /// Values in the tensor.
    pub fn values_count(&self) -> usize {
        self.shape.iter().map(|&d| d as usize).product()
    }
}

/// A model that cannot be built. `field` is the path in the manifest, relative to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ModelError {
    pub field: String,
    pub reason: String,
}

fn bad(field: impl Into<String>, reason: impl Into<String>) -> ModelError {
    ModelError { field: field.into(), reason: reason.into() }
}

/// A layer between what it takes and what it gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced<'a> {
    pub layer: &'a Layer,
    pub input: Extent,
    pub output: Extent,
    pub parameters: Vec<Parameter>,
}

impl Traced<'_> {
    fn forward_flop(&self) -> u64 {
        let values = |extent: Extent| extent.values();
        let product = |rows: u64, inputs: u64, outputs: u64| 2 * rows * inputs * outputs;
        match (self.layer, self.input) {
            (Layer::Dense { outputs } | Layer::Projection { outputs }, input) => {
                let (rows, inputs) = input.rows();
                product(rows.into(), inputs.into(), (*outputs).into())
            }
            (Layer::Convolution { kernel, .. }, Extent::Image { channels, .. }) => {
                product(values(self.output), u64::from(*kernel) * u64::from(*kernel), channels.into())
            }
            (Layer::Attention { .. }, Extent::Sequence { positions, channels }) => {
                let (t, c) = (u64::from(positions), u64::from(channels));
                // Scores and their sums over the values, of half of all pairs.
                product(t, c, 4 * c) + product(t, t + 1, c)
            }
            _ => 0,
        }
    }
}

/// Variance of embeddings, GPT-2's 0.02 squared (Radford et al., 2019).
const EMBEDDING_VARIANCE: f64 = 0.0004;

impl Model {
    /// Every layer with its shapes, checked against `limits`.
    pub fn trace(&self) -> Result<Vec<Traced<'_>>, ModelError> {
        let mut extent = self.input_extent()?;
        if self.layers.is_empty() || self.layers.len() > limits::LAYERS_COUNT_MAX {
            return Err(bad("layers", format!("must be 1 to {} layers", limits::LAYERS_COUNT_MAX)));
        }
        let residuals = self.layers.iter().filter(|layer| matches!(layer, Layer::Residual { .. })).count();
        let mut tracer = Tracer { index: 0, residuals, branch: None, total: 0, activations: extent.values() };
        let mut traced = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            tracer.index = index;
            let (output, parameters) = tracer.layer(layer, extent, self.layers.len())?;
            traced.push(Traced { layer, input: extent, output, parameters });
            extent = output;
        }
        let last = self.layers.len() - 1;
        let Some(Layer::Dense { outputs } | Layer::Projection { outputs }) = self.layers.last() else {
            let reason = "the last layer must be dense or a projection: its outputs are the classes";
            return Err(bad(format!("layers[{last}]"), reason));
        };
        if *outputs < 2 {
            return Err(bad(format!("layers[{last}].outputs"), "must be at least 2 classes"));
        }
        Ok(traced)
    }

    /// The trainable tensors in order.
    pub fn parameters(&self) -> Result<Vec<Parameter>, ModelError> {
        Ok(self.trace()?.into_iter().flat_map(|traced| traced.parameters).collect())
    }

    /// Floating-point operations of the products of one example's forward pass, 2 for each multiplication and addition; 0
    /// if the model is not valid.
    pub fn forward_flop(&self) -> u64 {
        self.trace().map_or(0, |traced| traced.iter().map(Traced::forward_flop).sum())
    }

    /// Values in one example.
    pub fn input_values(&self) -> Result<u32, ModelError> {
        Ok(u32::try_from(self.input_extent()?.values()).expect("at most DIMENSION_MAX"))
    }

    /// Labels of one example: one, or one for each position of a sequence. 1 if the model is not valid.
    pub fn labels_count(&self) -> u32 {
        match self.input_extent() {
            Ok(Extent::Tokens { positions }) => positions,
            _ => 1,
        }
    }

    /// Ids that the embedding knows, where the model begins with one.
    pub fn vocabulary(&self) -> Option<u32> {
        match self.layers.first() {
            Some(&Layer::Embedding { vocabulary, .. }) => Some(vocabulary),
            _ => None,
        }
    }

    /// Classes the last layer tells apart; 0 if the model is not valid.
    pub fn classes(&self) -> u32 {
        match self.layers.last() {
            Some(Layer::Dense { outputs } | Layer::Projection { outputs }) => *outputs,
            _ => 0,
        }
    }

    fn input_extent(&self) -> Result<Extent, ModelError> {
        let input = &self.input;
        if !(input.scale.is_finite() && input.scale != 0.0) {
            return Err(bad("input.scale", "must be finite and not zero"));
        }
        if !input.offset.is_finite() {
            return Err(bad("input.offset", "must be finite"));
        }
        let mut values = 1u64;
        for (i, &d) in input.shape.iter().enumerate() {
            if d == 0 {
                return Err(bad(format!("input.shape[{i}]"), "must not be zero"));
            }
            values = values.saturating_mul(u64::from(d));
        }
        if input.shape.is_empty() || input.shape.len() > 4 || values > limits::DIMENSION_MAX {
            return Err(bad("input.shape", format!("must have 1 to 4 dimensions and at most {} values", limits::DIMENSION_MAX)));
        }
        match (&self.layers[..], &input.shape[..]) {
            ([Layer::Embedding { .. }, ..], &[positions]) => {
                if input.dtype != InputType::U8 || input.scale != 1.0 || input.offset != 0.0 {
                    return Err(bad("input", "an embedding takes bytes as they are: dtype u8, scale 1, offset 0"));
                }
                if positions > limits::POSITIONS_MAX {
                    return Err(bad("input.shape[0]", format!("at most {} positions", limits::POSITIONS_MAX)));
                }
                Ok(Extent::Tokens { positions })
            }
            ([Layer::Embedding { .. }, ..], _) => Err(bad("input.shape", "an embedding takes one dimension, the positions")),
            (_, &[height, width, channels]) => Ok(Extent::Image { height, width, channels }),
            _ => Ok(Extent::Flat { values: values as u32 }),
        }
    }
}

/// The state of a walk over the layers.
struct Tracer {
    index: usize,
    residuals: usize,
    /// Of the residual being walked through: the layer behind its last, and what must come out.
    branch: Option<(usize, Extent)>,
    /// Values of parameters, and of one example's activations.
    total: u64,
    activations: u64,
}

impl Tracer {
    fn fault(&self, field: &str, reason: impl Into<String>) -> ModelError {
        bad(format!("layers[{}]{field}", self.index), reason)
    }

    /// A field between 1 and `most`.
    fn count(&self, field: &str, value: u32, most: u64) -> Result<(), ModelError> {
        if value == 0 || u64::from(value) > most {
            return Err(self.fault(&format!(".{field}"), format!("must be 1 to {most}")));
        }
        Ok(())
    }

    /// What comes out of a layer, and what it trains.
    fn layer(&mut self, layer: &Layer, input: Extent, count: usize) -> Result<(Extent, Vec<Parameter>), ModelError> {
        let (output, parameters) = match *layer {
            Layer::Dense { outputs } => self.dense(outputs, input)?,
            Layer::Projection { outputs } => {
                let (output, mut parameters) = self.dense(outputs, input)?;
                parameters.truncate(1);
                (output, parameters)
            }
            Layer::Relu | Layer::Gelu if !matches!(input, Extent::Tokens { .. }) => (input, Vec::new()),
            Layer::Convolution { channels, kernel, stride, padding } => {
                self.convolution(input, channels, [kernel, stride, padding])?
            }
            Layer::MaxPool { size, stride } | Layer::AveragePool { size, stride } => {
                self.count("size", size, limits::KERNEL_MAX)?;
                (self.window(input, size, stride, 0)?, Vec::new())
            }
            Layer::Embedding { vocabulary, width } => self.embedding(input, vocabulary, width)?,
            Layer::LayerNorm | Layer::Attention { .. } => self.over_positions(layer, input)?,
            Layer::Residual { layers } => {
                self.count("layers", layers, (count - 1 - self.index).max(1) as u64)?;
                if self.branch.is_some() {
                    return Err(self.fault("", "a residual must not hold another"));
                }
                self.branch = Some((self.index + 1 + layers as usize, input));
                (input, Vec::new())
            }
            Layer::Relu | Layer::Gelu => return Err(self.fault("", "does not take ids")),
        };
        self.add_up(output, &parameters)?;
        if let Some((end, expected)) = self.branch
            && self.index + 1 == end
        {
            if matches!(layer, Layer::Relu | Layer::Gelu) {
                return Err(self.fault("", "a residual must not end with relu or gelu"));
            }
            if output != expected {
                return Err(self.fault("", format!("a residual adds {expected:?} to {output:?}")));
            }
            self.branch = None;
        }
        Ok((output, parameters))
    }

    fn add_up(&mut self, output: Extent, parameters: &[Parameter]) -> Result<(), ModelError> {
        for parameter in parameters {
            let values = parameter.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d.into()));
            self.total = self.total.saturating_add(values);
        }
        if self.total > limits::PARAMETERS_COUNT_MAX {
            return Err(self.fault("", format!("more than {} parameters", limits::PARAMETERS_COUNT_MAX)));
        }
        self.activations = self.activations.saturating_add(output.values());
        if output.values() > limits::DIMENSION_MAX || self.activations > limits::ACTIVATIONS_COUNT_MAX {
            return Err(self.fault("", format!("more than {} activations", limits::ACTIVATIONS_COUNT_MAX)));
        }
        Ok(())
    }

    fn parameter(&self, name: &str, shape: &[u32], init: Init) -> Parameter {
        Parameter { name: format!("layers.{}.{name}", self.index), shape: shape.to_vec(), init }
    }

    /// A weight of variance `gain`/fan-in (He et al., 2015, for gain 2). The last weight of a residual's branch is smaller
    /// by the number of residuals, so that the sum of all branches does not grow with the depth (Radford et al., 2019).
    fn weight(&self, name: &str, shape: &[u32], gain: f64) -> Parameter {
        let fan_in: f64 = shape[..shape.len() - 1].iter().map(|&d| f64::from(d)).product();
        let closes = self.branch.is_some_and(|(end, _)| self.index + 1 == end) && name != "qkv_weight";
        let depth = if closes { self.residuals as f64 } else { 1.0 };
        self.parameter(name, shape, Init::Normal { variance: gain / (fan_in * depth) })
    }

    fn dense(&self, outputs: u32, input: Extent) -> Result<(Extent, Vec<Parameter>), ModelError> {
        self.count("outputs", outputs, limits::DIMENSION_MAX)?;
        if matches!(input, Extent::Tokens { .. }) {
            return Err(self.fault("", "does not take ids"));
        }
        let (_, inputs) = input.rows();
        let output = match input {
            Extent::Sequence { positions, .. } => Extent::Sequence { positions, channels: outputs },
            _ => Extent::Flat { values: outputs },
        };
        let weight = self.weight("weight", &[inputs, outputs], 2.0);
        Ok((output, vec![weight, self.parameter("bias", &[outputs], Init::Zero)]))
    }

    /// The image that windows of `size` make of an image.
    fn window(&self, input: Extent, size: u32, stride: u32, padding: u32) -> Result<Extent, ModelError> {
        let Extent::Image { height, width, channels } = input else {
            return Err(self.fault("", "takes an image: an input of three dimensions, and no dense layer before"));
        };
        self.count("stride", stride, limits::KERNEL_MAX)?;
        if padding >= size {
            return Err(self.fault(".padding", "must be below the kernel's extent"));
        }
        let out = |extent: u32| {
            let padded = u64::from(extent) + 2 * u64::from(padding);
            padded.checked_sub(size.into()).map(|room| (room / u64::from(stride) + 1) as u32)
        };
        match (out(height), out(width)) {
            (Some(height), Some(width)) => Ok(Extent::Image { height, width, channels }),
            _ => Err(self.fault("", format!("a window of {size} does not fit an image of {height} x {width}"))),
        }
    }

    fn convolution(&self, input: Extent, channels: u32, window: [u32; 3]) -> Result<(Extent, Vec<Parameter>), ModelError> {
        let [kernel, stride, padding] = window;
        self.count("channels", channels, limits::DIMENSION_MAX)?;
        self.count("kernel", kernel, limits::KERNEL_MAX)?;
        let Extent::Image { height, width, channels: depth } = self.window(input, kernel, stride, padding)? else {
            unreachable!("windows of an image are an image");
        };
        let weight = self.weight("weight", &[kernel, kernel, depth, channels], 2.0);
        let bias = self.parameter("bias", &[channels], Init::Zero);
        Ok((Extent::Image { height, width, channels }, vec![weight, bias]))
    }

    fn embedding(&self, input: Extent, vocabulary: u32, width: u32) -> Result<(Extent, Vec<Parameter>), ModelError> {
        self.count("vocabulary", vocabulary, limits::VOCABULARY_MAX)?;
        self.count("width", width, limits::DIMENSION_MAX)?;
        let Extent::Tokens { positions } = input else {
            return Err(self.fault("", "must be the first layer"));
        };
        let init = Init::Normal { variance: EMBEDDING_VARIANCE };
        let token = self.parameter("token", &[vocabulary, width], init);
        let position = self.parameter("position", &[positions, width], init);
        Ok((Extent::Sequence { positions, channels: width }, vec![token, position]))
    }

    /// Layer norm and attention, which keep the shape of a sequence.
    fn over_positions(&self, layer: &Layer, input: Extent) -> Result<(Extent, Vec<Parameter>), ModelError> {
        let Extent::Sequence { channels, .. } = input else {
            return Err(self.fault("", "takes a sequence: an embedding must come before"));
        };
        let Layer::Attention { heads } = *layer else {
            let gain = self.parameter("gain", &[channels], Init::One);
            return Ok((input, vec![gain, self.parameter("shift", &[channels], Init::Zero)]));
        };
        self.count("heads", heads, channels.into())?;
        let width = channels / heads;
        if !channels.is_multiple_of(heads) || !width.is_multiple_of(4) || width > limits::HEAD_WIDTH_MAX {
            let most = limits::HEAD_WIDTH_MAX;
            return Err(self.fault(".heads", format!("{channels} channels must split into heads of 4, 8, … {most}")));
        }
        let qkv = channels.saturating_mul(3);
        let parameters = vec![
            self.weight("qkv_weight", &[channels, qkv], 1.0),
            self.parameter("qkv_bias", &[qkv], Init::Zero),
            self.weight("out_weight", &[channels, channels], 1.0),
            self.parameter("out_bias", &[channels], Init::Zero),
        ];
        Ok((input, parameters))
    }
}
