//! What each node gives, from what it revealed to take; and the loss's gradient.

use manyhands_shaders::{
    add, attention, average_pool_forward, convolution_forward, dropout, embedding, gelu, layer_norm, max_pool_forward, pool,
    relu_forward, softmax_cross_entropy,
};
use rand::CryptoRng;

use super::network::{Kind, Node};
use super::product::{After, Patches, Plain, Product};
use super::{Checker, StepRefusal, Tensor, widen};
use crate::verify::freivalds::operations;

/// Most values that an element-wise check widens at a time.
pub const PIECE_VALUES: usize = 1 << 16;

/// Rows of `columns` values that a piece holds.
pub fn piece_rows(columns: usize) -> usize {
    (PIECE_VALUES / columns.max(1)).max(1)
}

impl<'a, R: CryptoRng + ?Sized> Checker<'a, R> {
    pub fn forward(&mut self, node: &Node) -> Result<(), StepRefusal> {
        let (x, y) = (self.activation(node.input), self.activation(node.output));
        let tensor = Tensor::Trace(node.output_name());
        match node.kind {
            Kind::Product { inputs, weight, bias, .. } => {
                let product = Product { kind: "product", tensor, c: y, roundings: operations(inputs) as f64 };
                let after = self.epilogue(bias, node.relu.is_some());
                self.across(product, &Plain { values: x, columns: inputs }, &widen(self.parameter(weight)), after)
            }
            Kind::Convolution { shape, weight, bias } => {
                let product = Product { kind: "convolution", tensor, c: y, roundings: convolution_forward::roundings(shape) };
                let after = self.epilogue(Some(bias), node.relu.is_some());
                self.across(product, &Patches { shape, x }, &widen(self.parameter(weight)), after)
            }
            Kind::MaxPool(shape) => self.by_image("max pool", shape, tensor, [x, y], |shape, x| {
                (max_pool_forward::reference(shape, x).y, max_pool_forward::tolerance(shape))
            }),
            Kind::AveragePool(shape) => self.by_image("average pool", shape, tensor, [x, y], |shape, x| {
                (average_pool_forward::reference(shape, x), average_pool_forward::tolerance(shape, x))
            }),
            Kind::Relu => {
                self.by_value("relu", tensor, [x, y], |x| (relu_forward::reference(x), relu_forward::tolerance(x.len())))
            }
            Kind::Gelu => self.by_value("gelu", tensor, [x, y], |x| (gelu::forward_reference(x), gelu::forward_tolerance(x))),
            Kind::Embedding { extents, token, position } => {
                let ids: Vec<u32> = x.iter().map(|id| id.to_bits()).collect();
                let [token, position] = [token, position].map(|p| widen(self.parameter(p)));
                let expected = embedding::forward_reference(extents, &ids, &token, &position);
                let tolerance = embedding::forward_tolerance(extents, &ids, &token, &position);
                self.compare("embedding", tensor, 0, y, &expected, &tolerance)
            }
            Kind::LayerNorm { channels, gain, shift } => {
                let [gain, shift] = [gain, shift].map(|p| widen(self.parameter(p)));
                let each = piece_rows(channels) * channels;
                for (first, x) in (0..).step_by(each).zip(x.chunks(each)) {
                    let x = widen(x);
                    let expected = layer_norm::forward_reference(&x, &gain, &shift).y;
                    let tolerance = layer_norm::forward_tolerance(&x, &gain, &shift).y;
                    self.compare("layer norm", tensor, first, &y[first..], &expected, &tolerance)?;
                }
                Ok(())
            }
            Kind::Attention(shape) => {
                let one = attention::Shape { sequences: 1, ..shape };
                let each = (one.rows() * one.channels()) as usize;
                for (sequence, qkv) in x.chunks(3 * each).enumerate() {
                    let (qkv, first) = (widen(qkv), sequence * each);
                    let expected = attention::Forward::reference(one, &qkv).out;
                    let tolerance = attention::Forward::tolerance(one, &qkv).out;
                    self.compare("attention", tensor, first, &y[first..], &expected, &tolerance)?;
                }
                Ok(())
            }
            Kind::Dropout(mask) => {
                let (step, x) = (self.step.number, widen(x));
                let (expected, tolerance) = (dropout::reference(mask, step, &x), dropout::tolerance(mask, step, &x));
                self.compare("dropout", tensor, 0, y, &expected, &tolerance)
            }
            Kind::Join { skip } => {
                let (skip, branch) = (widen(self.activation(skip)), widen(x));
                let (expected, tolerance) = (add::reference(&skip, &branch), add::tolerance(&skip, &branch));
                self.compare("sum", tensor, 0, y, &expected, &tolerance)
            }
        }
    }

    fn epilogue(&self, bias: Option<u32>, relu: bool) -> After<'a> {
        match bias.map(|bias| self.parameter(bias)) {
            Some(bias) if relu => After::BiasRelu(bias),
            Some(bias) => After::Bias(bias),
            None => After::Nothing,
        }
    }

    /// Compares pieces of a tensor with what a function makes of as many values.
    fn by_value(
        &mut self,
        kind: &'static str,
        tensor: Tensor,
        [x, y]: [&[f32]; 2],
        of: impl Fn(&[f64]) -> (Vec<f64>, Vec<f64>),
    ) -> Result<(), StepRefusal> {
        for (first, x) in (0..).step_by(PIECE_VALUES).zip(x.chunks(PIECE_VALUES)) {
            let (expected, tolerance) = of(&widen(x));
            self.compare(kind, tensor, first, &y[first..], &expected, &tolerance)?;
        }
        Ok(())
    }

    /// Compares what a pool makes of each image.
    fn by_image(
        &mut self,
        kind: &'static str,
        shape: pool::Shape,
        tensor: Tensor,
        [x, y]: [&[f32]; 2],
        of: impl Fn(pool::Shape, &[f64]) -> (Vec<f64>, Vec<f64>),
    ) -> Result<(), StepRefusal> {
        let one = pool::Shape { batch: 1, ..shape };
        let [inputs, outputs] = one.values().map(|v| v as usize);
        for (image, x) in x.chunks(inputs).enumerate() {
            let (expected, tolerance) = of(one, &widen(x));
            self.compare(kind, tensor, image * outputs, &y[image * outputs..], &expected, &tolerance)?;
        }
        Ok(())
    }

    /// The error by the logits.
    pub fn loss(&mut self) -> Result<(), StepRefusal> {
        let last = self.network.nodes.len();
        let Some((tensor, error)) = self.error(last) else { return Ok(()) };
        let (logits, labels) = (widen(self.activation(last)), self.step.batch.y);
        let classes = self.step.work.model.classes() as usize;
        let expected = softmax_cross_entropy::reference(classes, &logits, labels).gradient;
        let tolerance = softmax_cross_entropy::tolerance(classes, &logits, labels).gradient;
        self.compare("loss", tensor, 0, error, &expected, &tolerance)
    }
}
