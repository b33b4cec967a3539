//! A model as data: input, layers, loss. What the manifest carries and the engine compiles.
//!
//! The format is a list of tagged layers, so that convolutions, embeddings and attention join as new tags; a version
//! that does not know a tag refuses the manifest. This module validates and derives shapes; it computes nothing.

use minicbor::{Decode, Encode};

use crate::cbor::short_f32;
use crate::limits;

/// A feed-forward classifier.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[cbor(map)]
pub struct Model {
    #[n(0)]
    pub input: Input,
    #[n(1)]
    pub layers: Vec<Layer>,
    #[n(2)]
    pub loss: Loss,
}

/// What one example looks like in a shard's `x` tensor, and how it becomes f32: `value = x · scale + offset`.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[cbor(map)]
pub struct Input {
    /// Shape of one example without the batch dimension, for instance `[784]`.
    #[n(0)]
    pub shape: Vec<u32>,
    #[n(1)]
    pub dtype: InputType,
    #[cbor(n(2), with = "short_f32")]
    pub scale: f32,
    #[cbor(n(3), with = "short_f32")]
    pub offset: f32,
}

/// Element type of a shard's `x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[cbor(index_only)]
pub enum InputType {
    #[n(0)]
    U8,
    #[n(1)]
    F32,
}

/// One layer. Parameters of layer `i` are named `layers.{i}.weight` and `layers.{i}.bias`.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)
)]
#[cbor(flat)]
pub enum Layer {
    /// `y = x · weight + bias`, weight `[inputs, outputs]` row-major, bias `[outputs]`.
    #[n(0)]
    Dense {
        #[n(0)]
        outputs: u32,
    },
    /// `y = max(x, 0)`.
    #[n(1)]
    Relu,
}

/// The training objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[cbor(index_only)]
pub enum Loss {
    /// Mean over the batch of −log softmax(y)[label]; labels are class indices below the last layer's outputs.
    #[n(0)]
    SoftmaxCrossEntropy,
}

/// One trainable tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<u32>,
    /// Fan-in for He initialisation; 0 for tensors that start at zero.
    pub fan_in: u32,
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

impl Model {
    /// Checks every extent against `limits` and returns the trainable tensors in order.
    pub fn parameters(&self) -> Result<Vec<Parameter>, ModelError> {
        let mut width = self.input_values()?;
        if !(self.input.scale.is_finite() && self.input.scale != 0.0) {
            return Err(bad("input.scale", "must be finite and not zero"));
        }
        if !self.input.offset.is_finite() {
            return Err(bad("input.offset", "must be finite"));
        }
        if self.layers.is_empty() || self.layers.len() > limits::LAYERS_COUNT_MAX {
            return Err(bad("layers", format!("must be 1 to {} layers", limits::LAYERS_COUNT_MAX)));
        }
        let (mut parameters, mut total) = (Vec::new(), 0u64);
        for (i, layer) in self.layers.iter().enumerate() {
            let Layer::Dense { outputs } = layer else { continue };
            if *outputs == 0 || u64::from(*outputs) > limits::DIMENSION_MAX {
                return Err(bad(format!("layers[{i}].outputs"), format!("must be 1 to {}", limits::DIMENSION_MAX)));
            }
            total =
                total.saturating_add(u64::from(width).saturating_mul(u64::from(*outputs))).saturating_add(u64::from(*outputs));
            if total > limits::PARAMETERS_COUNT_MAX {
                return Err(bad(format!("layers[{i}]"), format!("more than {} parameters", limits::PARAMETERS_COUNT_MAX)));
            }
            parameters.push(Parameter { name: format!("layers.{i}.weight"), shape: vec![width, *outputs], fan_in: width });
            parameters.push(Parameter { name: format!("layers.{i}.bias"), shape: vec![*outputs], fan_in: 0 });
            width = *outputs;
        }
        if !matches!(self.layers.last(), Some(Layer::Dense { .. })) {
            return Err(bad(
                format!("layers[{}]", self.layers.len() - 1),
                "the last layer must be dense: its outputs are the classes",
            ));
        }
        if width < 2 {
            return Err(bad(format!("layers[{}].outputs", self.layers.len() - 1), "must be at least 2 classes"));
        }
        Ok(parameters)
    }

    /// Values in one example.
    pub fn input_values(&self) -> Result<u32, ModelError> {
        let mut values = 1u64;
        for (i, &d) in self.input.shape.iter().enumerate() {
            if d == 0 {
                return Err(bad(format!("input.shape[{i}]"), "must not be zero"));
            }
            values = values.saturating_mul(u64::from(d));
        }
        if self.input.shape.is_empty() || self.input.shape.len() > 4 || values > limits::DIMENSION_MAX {
            return Err(bad("input.shape", format!("must have 1 to 4 dimensions and at most {} values", limits::DIMENSION_MAX)));
        }
        Ok(values as u32)
    }

    /// Classes the last layer tells apart; 0 if the model is not valid.
    pub fn classes(&self) -> u32 {
        match self.layers.last() {
            Some(Layer::Dense { outputs }) => *outputs,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mlp(shape: Vec<u32>, layers: Vec<Layer>) -> Model {
        Model {
            input: Input { shape, dtype: InputType::U8, scale: 1.0 / 255.0, offset: 0.0 },
            layers,
            loss: Loss::SoftmaxCrossEntropy,
        }
    }

    fn check(model: Model, expected: Result<usize, &str>) {
        let got = model.parameters().map(|p| p.iter().map(Parameter::values_count).sum::<usize>()).map_err(|e| e.field);
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn shapes_and_absurd_sizes() {
        let dense = |outputs| Layer::Dense { outputs };
        check(mlp(vec![784], vec![dense(128), Layer::Relu, dense(10)]), Ok(784 * 128 + 128 + 128 * 10 + 10));
        check(mlp(vec![784], vec![dense(0)]), Err("layers[0].outputs"));
        check(mlp(vec![784], vec![dense(u32::MAX)]), Err("layers[0].outputs"));
        check(mlp(vec![1 << 20], vec![dense(1 << 20)]), Err("layers[0]"));
        check(mlp(vec![0], vec![dense(10)]), Err("input.shape[0]"));
        check(mlp(vec![], vec![dense(10)]), Err("input.shape"));
        check(mlp(vec![u32::MAX, u32::MAX, u32::MAX], vec![dense(10)]), Err("input.shape"));
        check(mlp(vec![784], vec![]), Err("layers"));
        check(mlp(vec![784], vec![dense(10), Layer::Relu]), Err("layers[1]"));
        check(mlp(vec![784], vec![dense(1)]), Err("layers[0].outputs"));
        let mut nan = mlp(vec![784], vec![dense(10)]);
        nan.input.scale = f32::NAN;
        check(nan, Err("input.scale"));
    }
}
