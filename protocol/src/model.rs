//! A model as data: input, layers, loss. What the manifest carries and the engine compiles.
//!
//! The format is a flat list of tagged layers: no layer holds others, so that no reader recurses over what a stranger
//! wrote. A version that does not know a tag refuses the manifest. `shapes` validates and derives shapes; nothing here
//! computes.

mod shapes;

use minicbor::{Decode, Encode};

use crate::cbor::short_f32;

pub use shapes::{Extent, Init, ModelError, Parameter, Traced};

/// A feed-forward classifier of whole examples, or of every position of a sequence.
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
    /// Shape of one example without the batch dimension: `[height, width, channels]` for a convolution, `[positions]` for
    /// an embedding, anything for a dense layer, for instance `[784]`.
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

/// One layer. The parameters of layer `i` are named `layers.{i}.…`, in the order given here. Images are
/// `[height, width, channels]`, sequences `[positions, channels]`, row-major.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)
)]
#[cbor(flat)]
pub enum Layer {
    /// `y = x · weight + bias`, `weight` `[inputs, outputs]`, `bias` `[outputs]`; of an image over all its values, of a
    /// sequence at each position.
    #[n(0)]
    Dense {
        #[n(0)]
        outputs: u32,
    },
    /// `y = max(x, 0)`.
    #[n(1)]
    Relu,
    /// Cross-correlation of an image with zeros around it, `weight` `[kernel, kernel, channels in, channels]`, `bias`
    /// `[channels]`; extents become `(extent + 2·padding − kernel) / stride + 1`, rounded down.
    #[n(2)]
    Convolution {
        #[n(0)]
        channels: u32,
        #[n(1)]
        kernel: u32,
        #[n(2)]
        stride: u32,
        #[n(3)]
        padding: u32,
    },
    /// The largest value of each window of an image, per channel.
    #[n(3)]
    MaxPool {
        #[n(0)]
        size: u32,
        #[n(1)]
        stride: u32,
    },
    /// The mean of each window of an image, per channel.
    #[n(4)]
    AveragePool {
        #[n(0)]
        size: u32,
        #[n(1)]
        stride: u32,
    },
    /// `token[id] + position[place]`; `token` `[vocabulary, width]`, `position` `[positions, width]`. The first layer, over an
    /// input `[positions]` of bytes that are the ids.
    #[n(5)]
    Embedding {
        #[n(0)]
        vocabulary: u32,
        #[n(1)]
        width: u32,
    },
    /// `(x − mean) / sqrt(variance + 10⁻⁵) · gain + shift` over the channels of each position; `gain` and `shift`
    /// `[channels]` (Ba, Kiros, Hinton, 2016).
    #[n(6)]
    LayerNorm,
    /// `x/2 · (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))` (Hendrycks, Gimpel, 2016).
    #[n(7)]
    Gelu,
    /// Causal self-attention: `qkv_weight` `[C, 3C]` and `qkv_bias` `[3C]` give queries, keys and values, each split into
    /// `heads`; `softmax(q·kᵀ / sqrt(C / heads))·v` over this and earlier positions goes through `out_weight` `[C, C]` and
    /// `out_bias` `[C]` (Vaswani et al., 2017).
    #[n(8)]
    Attention {
        #[n(0)]
        heads: u32,
    },
    /// The input of this layer is added to the output of the next `layers` layers, which keep its shape, hold no other residual
    /// and do not end with an activation.
    #[n(9)]
    Residual {
        #[n(0)]
        layers: u32,
    },
    /// `y = x · weight`: a dense layer without a bias.
    #[n(10)]
    Projection {
        #[n(0)]
        outputs: u32,
    },
    /// In training each value is zero with probability `rate` and multiplied by `1 / (1 − rate)` otherwise (Srivastava et al.,
    /// 2014), by a mask that the unit's description fixes, see [`crate::work::TrainWork::dropout_key`]; elsewhere nothing
    /// happens.
    #[n(11)]
    Dropout {
        #[cbor(n(0), with = "short_f32")]
        rate: f32,
    },
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

#[cfg(test)]
mod tests;
