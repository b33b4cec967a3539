//! The errors and gradients of each node, from the error that it revealed to take.

use manyhands_shaders::{
    FLUSH, UNIT_ROUNDOFF, attention, average_pool_backward, convolution_input_gradient, convolution_weight_gradient, dropout,
    embedding, gelu, matmul, max_pool_backward, max_pool_forward, pool, relu_backward,
};
use rand::CryptoRng;

use super::forward::{PIECE_VALUES, piece_rows};
use super::network::{Kind, Node};
use super::norm::Norm;
use super::product::{After, Patches, Plain, Product, Reached};
use super::{Checker, StepRefusal, Tensor, widen};
use crate::verify::freivalds::{gamma, operations};

/// Roundings of a term of a sum over so many rows, which programs may make in two stages of chunks of 64.
fn sum_roundings(rows: usize) -> f64 {
    131.0 + rows as f64 / 64.0
}

impl<'a, R: CryptoRng + ?Sized> Checker<'a, R> {
    pub fn backward(&mut self, index: usize) -> Result<(), StepRefusal> {
        let network = self.network;
        let node = &network.nodes[index];
        let y = self.activation(node.output);
        let error = self.traced(node.inner_error_name());
        if node.relu.is_some() {
            let outer = self.traced(node.error_name());
            self.by_piece("relu", Tensor::Trace(node.inner_error_name()), [y, outer], error, |y, outer| {
                (relu_backward::reference(y, outer), relu_backward::tolerance(y.len()))
            })?;
        }
        let x = self.activation(node.input);
        match node.kind {
            Kind::Product { rows, inputs, outputs, weight, bias, feeds_attention } => {
                let shape = [rows, inputs, outputs];
                self.product_backward(node, shape, weight, [x, error])?;
                if let Some(bias) = bias {
                    let none = if feeds_attention { outputs / 3..outputs / 3 * 2 } else { 0..0 };
                    self.column_sum(node, bias, error, none)?;
                }
                Ok(())
            }
            Kind::Convolution { shape, weight, bias } => {
                let c = self.traced(node.gradient_name(weight));
                let splits = convolution_weight_gradient::splits(shape);
                let roundings = operations(splits.pixels as usize) as f64 + sum_roundings(splits.count as usize);
                let tensor = Tensor::Trace(node.gradient_name(weight));
                let product = Product { kind: "convolution's weight gradient", tensor, c, roundings };
                self.down(product, &Patches { shape, x }, error)?;
                self.column_sum(node, bias, error, 0..0)?;
                let Some((tensor, c)) = self.error(node.input) else { return Ok(()) };
                let roundings = convolution_input_gradient::roundings(shape);
                let product = Product { kind: "convolution's input error", tensor, c, roundings };
                let turned = turned(self.parameter(weight), shape.channels as usize, shape.outputs as usize);
                let after = self.joined(node).map_or(After::Nothing, |before| After::Added { before, folds: 0.0 });
                self.across(product, &Reached { shape, error }, &turned, after)
            }
            Kind::MaxPool(shape) => self.pool_backward("max pool's error", node, shape, [x, error], |shape, x, error| {
                let places = max_pool_forward::reference(shape, x).places;
                (max_pool_backward::reference(shape, error, &places), max_pool_backward::tolerance(shape, error, &places))
            }),
            Kind::AveragePool(shape) => self.pool_backward("average pool's error", node, shape, [x, error], |shape, _, error| {
                (average_pool_backward::reference(shape, error), average_pool_backward::tolerance(shape, error))
            }),
            Kind::Relu => self.value_backward("relu", node, [y, error], |y, error| {
                (relu_backward::reference(y, error), relu_backward::tolerance(y.len()))
            }),
            Kind::Gelu => self.value_backward("gelu's error", node, [x, error], |x, error| {
                (gelu::backward_reference(x, error), gelu::backward_tolerance(x, error))
            }),
            Kind::Embedding { extents, token, position } => {
                let (ids, error): (Vec<u32>, _) = (x.iter().map(|id| id.to_bits()).collect(), widen(error));
                let sums = embedding::token_reference(extents, &ids, &error);
                self.gradient("embedding's gradient", node, token, &sums, &embedding::token_tolerance(extents, &ids, &error))?;
                let sums = embedding::position_reference(extents, &error);
                self.gradient("embedding's gradient", node, position, &sums, &embedding::position_tolerance(extents, &error))
            }
            Kind::LayerNorm { channels, gain, shift } => {
                let mut norm = Norm::new(widen(self.parameter(gain)));
                let each = piece_rows(channels) * channels;
                for ((first, x), error) in (0..).step_by(each).zip(x.chunks(each)).zip(error.chunks(each)) {
                    let (expected, tolerance) = norm.backward(&widen(x), &widen(error));
                    self.input_error("layer norm's error", node, first, expected, tolerance)?;
                }
                let (sums, tolerance) = norm.gain_gradient();
                self.gradient("layer norm's gradient", node, gain, &sums, &tolerance)?;
                let (sums, tolerance) = norm.shift_gradient();
                self.gradient("layer norm's gradient", node, shift, &sums, &tolerance)
            }
            Kind::Attention(shape) => self.attention_backward(node, shape, [x, y, error]),
            Kind::Dropout(mask) => {
                let (step, error) = (self.step.number, widen(error));
                let (expected, tolerance) = (dropout::reference(mask, step, &error), dropout::tolerance(mask, step, &error));
                self.input_error("dropout", node, 0, expected, tolerance)
            }
            // The skip's share is added where the branch opens.
            Kind::Join { .. } => {
                let Some((tensor, got)) = self.error(node.input) else { return Ok(()) };
                self.compare("sum", tensor, 0, got, &widen(error), &vec![FLUSH; got.len()])
            }
        }
    }

    /// Weight gradient and input error of a dense layer.
    fn product_backward(
        &mut self,
        node: &Node,
        [rows, inputs, outputs]: [usize; 3],
        weight: u32,
        [x, error]: [&[f32]; 2],
    ) -> Result<(), StepRefusal> {
        let (tensor, c) = (Tensor::Trace(node.gradient_name(weight)), self.traced(node.gradient_name(weight)));
        let product = Product { kind: "weight gradient", tensor, c, roundings: operations(rows) as f64 };
        self.down(product, &Plain { values: x, columns: inputs }, error)?;
        let Some((tensor, c)) = self.error(node.input) else { return Ok(()) };
        let product = Product { kind: "input error", tensor, c, roundings: operations(outputs) as f64 };
        let turned = turned(self.parameter(weight), inputs, outputs);
        let folds = matmul::fold_roundings(outputs as u32);
        let after = self.joined(node).map_or(After::Nothing, |before| After::Added { before, folds });
        self.across(product, &Plain { values: error, columns: outputs }, &turned, after)
    }

    /// The error by what a residual gives, where the node opens its branch.
    fn joined(&self, node: &Node) -> Option<&'a [f32]> {
        let (_, error) = self.error(node.joined_by?)?;
        Some(error)
    }

    /// A bias's gradient: sums over the rows of the error, but for columns that have none by definition.
    fn column_sum(&mut self, node: &Node, bias: u32, error: &[f32], none: std::ops::Range<usize>) -> Result<(), StepRefusal> {
        let columns = self.network.parameters[bias as usize];
        let (mut sums, mut sizes) = (vec![0.0; columns], vec![0.0; columns]);
        for row in error.chunks_exact(columns) {
            for (j, &v) in row.iter().enumerate() {
                sums[j] += f64::from(v);
                sizes[j] += f64::from(v.abs());
            }
        }
        let rows = error.len() / columns;
        let gamma = gamma(sum_roundings(rows), UNIT_ROUNDOFF);
        let mut tolerance: Vec<f64> = sizes.iter().map(|size| gamma * size + (rows as f64 + 1.0) * FLUSH).collect();
        sums[none.clone()].fill(0.0);
        tolerance[none].fill(0.0);
        self.gradient("bias gradient", node, bias, &sums, &tolerance)
    }

    fn gradient(
        &mut self,
        kind: &'static str,
        node: &Node,
        parameter: u32,
        expected: &[f64],
        tolerance: &[f64],
    ) -> Result<(), StepRefusal> {
        let name = node.gradient_name(parameter);
        self.compare(kind, Tensor::Trace(name), 0, self.traced(name), expected, tolerance)
    }

    /// Compares a range of the error by the node's input, if it has one, with what the node hands back.
    fn input_error(
        &mut self,
        kind: &'static str,
        node: &Node,
        first: usize,
        mut expected: Vec<f64>,
        mut tolerance: Vec<f64>,
    ) -> Result<(), StepRefusal> {
        let Some((tensor, got)) = self.error(node.input) else { return Ok(()) };
        if let Some(before) = self.joined(node) {
            for ((value, bound), &before) in expected.iter_mut().zip(&mut tolerance).zip(&before[first..]) {
                let before = f64::from(before);
                *bound += UNIT_ROUNDOFF * (value.abs() + *bound + before.abs()) + 3.0 * FLUSH;
                *value += before;
            }
        }
        self.compare(kind, tensor, first, &got[first..], &expected, &tolerance)
    }

    /// Compares pieces of a tensor with what a function makes of as many values of two others.
    fn by_piece(
        &mut self,
        kind: &'static str,
        tensor: Tensor,
        [a, b]: [&[f32]; 2],
        got: &[f32],
        of: impl Fn(&[f64], &[f64]) -> (Vec<f64>, Vec<f64>),
    ) -> Result<(), StepRefusal> {
        for ((first, a), b) in (0..).step_by(PIECE_VALUES).zip(a.chunks(PIECE_VALUES)).zip(b.chunks(PIECE_VALUES)) {
            let (expected, tolerance) = of(&widen(a), &widen(b));
            self.compare(kind, tensor, first, &got[first..], &expected, &tolerance)?;
        }
        Ok(())
    }

    /// The same of the error by the node's input.
    fn value_backward(
        &mut self,
        kind: &'static str,
        node: &Node,
        [a, b]: [&[f32]; 2],
        of: impl Fn(&[f64], &[f64]) -> (Vec<f64>, Vec<f64>),
    ) -> Result<(), StepRefusal> {
        for ((first, a), b) in (0..).step_by(PIECE_VALUES).zip(a.chunks(PIECE_VALUES)).zip(b.chunks(PIECE_VALUES)) {
            let (expected, tolerance) = of(&widen(a), &widen(b));
            self.input_error(kind, node, first, expected, tolerance)?;
        }
        Ok(())
    }

    fn pool_backward(
        &mut self,
        kind: &'static str,
        node: &Node,
        shape: pool::Shape,
        [x, error]: [&[f32]; 2],
        of: impl Fn(pool::Shape, &[f64], &[f64]) -> (Vec<f64>, Vec<f64>),
    ) -> Result<(), StepRefusal> {
        let one = pool::Shape { batch: 1, ..shape };
        let [inputs, outputs] = one.values().map(|v| v as usize);
        for (image, (x, error)) in x.chunks(inputs).zip(error.chunks(outputs)).enumerate() {
            let (expected, tolerance) = of(one, &widen(x), &widen(error));
            self.input_error(kind, node, image * inputs, expected, tolerance)?;
        }
        Ok(())
    }

    /// Devices make probabilities again from a log-sum and a row sum of their own: how far these may be off is part of the
    /// bound.
    fn attention_backward(
        &mut self,
        node: &Node,
        shape: attention::Shape,
        [qkv, out, error]: [&[f32]; 3],
    ) -> Result<(), StepRefusal> {
        let one = attention::Shape { sequences: 1, ..shape };
        let each = (one.rows() * one.channels()) as usize;
        let sequences = qkv.chunks(3 * each).zip(out.chunks(each)).zip(error.chunks(each));
        for (sequence, ((qkv, out), d_out)) in sequences.enumerate() {
            let [qkv, out, d_out] = [qkv, out, d_out].map(widen);
            let logsumexp = attention::Forward::reference(one, &qkv).logsumexp;
            let delta = attention::delta::reference(one, &out, &d_out);
            let errors = attention::Saved {
                logsumexp: &attention::Forward::tolerance(one, &qkv).logsumexp,
                delta: &attention::delta::tolerance(one, &out, &d_out),
            };
            let backward = attention::Backward { shape: one, qkv: &qkv, logsumexp: &logsumexp, delta: &delta, d_out: &d_out };
            let (expected, tolerance) = (backward.reference(), backward.tolerance_from(errors));
            self.input_error("attention's error", node, sequence * 3 * each, expected, tolerance)?;
        }
        Ok(())
    }
}

/// A weight `[taps, inputs, outputs]` as `[taps, outputs, inputs]`.
fn turned(weight: &[f32], inputs: usize, outputs: usize) -> Vec<f64> {
    let mut turned = Vec::with_capacity(weight.len());
    for tap in weight.chunks(inputs * outputs) {
        for output in 0..outputs {
            turned.extend(tap.iter().skip(output).step_by(outputs).map(|&v| f64::from(v)));
        }
    }
    turned
}
