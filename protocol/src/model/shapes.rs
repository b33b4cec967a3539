//! What a model's layers make of each other's outputs: shapes, parameters, and every way in which they do not fit.
//! Everything that a manifest's reader allocates is bounded here first.

mod tracer;

use self::tracer::Tracer;
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

impl Model {
    /// Every layer with its shapes, checked against `limits`.
    pub fn trace(&self) -> Result<Vec<Traced<'_>>, ModelError> {
        let mut extent = self.input_extent()?;
        if self.layers.is_empty() || self.layers.len() > limits::LAYERS_COUNT_MAX {
            return Err(bad("layers", format!("must be 1 to {} layers", limits::LAYERS_COUNT_MAX)));
        }
        let mut tracer = Tracer::new(&self.layers, extent);
        let mut traced = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (output, parameters) = tracer.next(layer, extent)?;
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
