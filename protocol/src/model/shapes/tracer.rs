//! The walk over a model's layers: what each makes of its input, what it trains, and how that begins.

use super::{Extent, Init, ModelError, Parameter, bad};
use crate::limits;
use crate::model::Layer;

/// Variance of embeddings, GPT-2's 0.02 squared (Radford et al., 2019).
const EMBEDDING_VARIANCE: f64 = 0.0004;

/// The state of the walk.
pub struct Tracer<'a> {
    layers: &'a [Layer],
    index: usize,
    residuals: usize,
    /// The residual being walked through.
    branch: Option<Branch>,
    /// Values of parameters, and of one example's activations.
    total: u64,
    activations: u64,
}

struct Branch {
    /// The layer behind its last.
    end: usize,
    /// What must come out.
    output: Extent,
    /// Its last layer that may train: dropout may follow.
    closing: usize,
}

impl<'a> Tracer<'a> {
    pub fn new(layers: &'a [Layer], input: Extent) -> Self {
        let residuals = layers.iter().filter(|layer| matches!(layer, Layer::Residual { .. })).count();
        Self { layers, index: 0, residuals, branch: None, total: 0, activations: input.values() }
    }

    /// What comes out of the next layer, and what it trains.
    pub fn next(&mut self, layer: &Layer, input: Extent) -> Result<(Extent, Vec<Parameter>), ModelError> {
        let made = self.layer(layer, input)?;
        self.index += 1;
        Ok(made)
    }

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

    fn layer(&mut self, layer: &Layer, input: Extent) -> Result<(Extent, Vec<Parameter>), ModelError> {
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
                self.begin_branch(layers, input)?;
                (input, Vec::new())
            }
            Layer::Dropout { rate } if !matches!(input, Extent::Tokens { .. }) => {
                if !(0.0..1.0).contains(&rate) {
                    return Err(self.fault(".rate", "must be 0 or more and below 1"));
                }
                (input, Vec::new())
            }
            Layer::Relu | Layer::Gelu | Layer::Dropout { .. } => return Err(self.fault("", "does not take ids")),
        };
        self.add_up(output, &parameters)?;
        if let Some(Branch { end, output: expected, .. }) = self.branch
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

    fn begin_branch(&mut self, layers: u32, output: Extent) -> Result<(), ModelError> {
        self.count("layers", layers, (self.layers.len() - 1 - self.index).max(1) as u64)?;
        if self.branch.is_some() {
            return Err(self.fault("", "a residual must not hold another"));
        }
        let first = self.index + 1;
        let end = first + layers as usize;
        let inside = self.layers.get(first..end).unwrap_or_default();
        let dropouts = inside.iter().rev().take_while(|layer| matches!(layer, Layer::Dropout { .. })).count();
        self.branch = Some(Branch { end, output, closing: end - 1 - dropouts });
        Ok(())
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
        let closes = self.branch.as_ref().is_some_and(|branch| self.index == branch.closing) && name != "qkv_weight";
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
