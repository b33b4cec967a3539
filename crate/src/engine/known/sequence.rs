//! Known answers of the kernels of sequence models.

use manyhands_shaders::attention::{self, Shape};
use manyhands_shaders::{embedding, gelu, layer_norm};

use super::{Case, values, wide};
use crate::init::word;
use crate::plan::{AttentionBackward, Op, Saved, SequenceOp};

fn words(ids: &[u32]) -> Vec<f32> {
    ids.iter().map(|&id| f32::from_bits(id)).collect()
}

/// Three cases: forward and both gradients. Of few tokens, so that most are met more than once and some never.
pub fn embeddings(sequences: u32, time: u32, vocabulary: u32, channels: u32) -> [Case; 3] {
    let extents = embedding::Params { rows: sequences * time, time, vocabulary, channels };
    let name = |kernel: &str| Case::new(format!("{kernel} {extents:?}"));
    let (rows, width) = (extents.rows as usize, channels as usize);
    let met = u64::from(vocabulary).div_ceil(2).max(1);
    let chosen: Vec<u32> = (0..rows as u64).map(|i| (word(2, 9, i) % met) as u32).collect();
    let (token, position) = (values(60, vocabulary as usize * width), values(61, time as usize * width));
    let gradient = values(62, rows * width);
    let wide_gradient = wide(&gradient);

    let mut forward = name(embedding::forward::KERNEL.name);
    let (wt, wp) = (wide(&token), wide(&position));
    let [ids, token, position] = [words(&chosen), token, position].map(|values| forward.input(values));
    let out = forward.output(rows * width);
    forward.program.ops.push(Op::Sequence(SequenceOp::EmbeddingForward { ids, token, position, out, extents }));
    let expected = embedding::forward_reference(extents, &chosen, &wt, &wp);
    forward.expect(out, expected, embedding::forward_tolerance(extents, &chosen, &wt, &wp));

    let mut by_token = name(embedding::token_gradient::KERNEL.name);
    let (ids, d_out) = (by_token.input(words(&chosen)), by_token.input(gradient.clone()));
    let out = by_token.output(vocabulary as usize * width);
    let op = SequenceOp::EmbeddingTokenGradient { ids, d_out, gradient: out, extents };
    by_token.program.ops.push(Op::Sequence(op));
    let expected = embedding::token_reference(extents, &chosen, &wide_gradient);
    by_token.expect(out, expected, embedding::token_tolerance(extents, &chosen, &wide_gradient));

    let mut by_position = name(embedding::position_gradient::KERNEL.name);
    let d_out = by_position.input(gradient);
    let out = by_position.output(time as usize * width);
    by_position.program.ops.push(Op::Sequence(SequenceOp::EmbeddingPositionGradient { d_out, gradient: out, extents }));
    let expected = embedding::position_reference(extents, &wide_gradient);
    by_position.expect(out, expected, embedding::position_tolerance(extents, &wide_gradient));
    [forward, by_token, by_position]
}

/// Rows far from zero and narrow beside it, as activations of a residual stream can be.
fn offset_rows(rows: usize, channels: usize) -> Vec<f32> {
    let level = |i: usize| [0.0, 0.5, -20.0][i / channels % 3];
    values(63, rows * channels).into_iter().enumerate().map(|(i, v)| v + level(i)).collect()
}

pub fn layer_norm_forward(rows: usize, channels: usize) -> Case {
    let mut case = Case::new(format!("{} {rows} x {channels}", layer_norm::forward::KERNEL.name));
    let (x, gain, shift) = (offset_rows(rows, channels), values(64, channels), values(65, channels));
    let [wx, wg, ws] = [&x, &gain, &shift].map(|values| wide(values));
    let [x, gain, shift] = [x, gain, shift].map(|values| case.input(values));
    let [y, mean, rstd] = [rows * channels, rows, rows].map(|count| case.output(count));
    let extents = layer_norm::Params { rows: rows as u32, channels: channels as u32 };
    case.program.ops.push(Op::Sequence(SequenceOp::LayerNormForward { x, gain, shift, y, mean, rstd, extents }));
    let (expected, tolerance) = (layer_norm::forward_reference(&wx, &wg, &ws), layer_norm::forward_tolerance(&wx, &wg, &ws));
    case.expect(y, expected.y, tolerance.y);
    case.expect(mean, expected.mean, tolerance.mean);
    case.expect(rstd, expected.rstd, tolerance.rstd);
    case
}

/// What a forward saved, in f32 and widened.
struct Norm {
    narrow: [Vec<f32>; 3],
    wide: [Vec<f64>; 3],
}

impl Norm {
    fn new(rows: usize, channels: usize) -> Self {
        let x = offset_rows(rows, channels);
        let (one, zero) = (vec![1.0; channels], vec![0.0; channels]);
        let forward = layer_norm::forward_reference(&wide(&x), &one, &zero);
        let narrow = [x, narrowed(&forward.mean), narrowed(&forward.rstd)];
        let wide = narrow.each_ref().map(|values| wide(values));
        Self { narrow, wide }
    }

    fn saved(&self) -> layer_norm::Saved<'_> {
        layer_norm::Saved { x: &self.wide[0], mean: &self.wide[1], rstd: &self.wide[2] }
    }

    fn input(&self, case: &mut Case) -> Saved {
        let [x, mean, rstd] = self.narrow.clone().map(|values| case.input(values));
        Saved { x, mean, rstd }
    }
}

fn narrowed(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

pub fn layer_norm_backward(rows: usize, channels: usize, accumulate: bool) -> Case {
    let mut case = Case::new(format!("{} {rows} x {channels} {accumulate}", layer_norm::backward::KERNEL.name));
    let norm = Norm::new(rows, channels);
    let [gain, d_y, d_x] = [values(64, channels), values(66, rows * channels), values(67, rows * channels)];
    let [wg, wd, wx] = [&gain, &d_y, &d_x].map(|values| wide(values));
    let before = if accumulate { &wx[..] } else { &[] };
    let expected = layer_norm::backward_reference(norm.saved(), &wg, &wd, before);
    let tolerance = layer_norm::backward_tolerance(norm.saved(), &wg, &wd, before);
    let saved = norm.input(&mut case);
    let [gain, d_y, d_x] = [gain, d_y, d_x].map(|values| case.input(values));
    let extents = layer_norm::Params { rows: rows as u32, channels: channels as u32 };
    case.program.ops.push(Op::Sequence(SequenceOp::LayerNormBackward { saved, gain, d_y, d_x, extents, accumulate }));
    case.expect(d_x, expected, tolerance);
    case
}

pub fn layer_norm_parameters(rows: usize, channels: usize) -> Case {
    let mut case = Case::new(format!("{} {rows} x {channels}", layer_norm::parameters::KERNEL.name));
    let (norm, d_y) = (Norm::new(rows, channels), values(66, rows * channels));
    let expected = layer_norm::parameters_reference(channels, norm.saved(), &wide(&d_y));
    let tolerance = layer_norm::parameters_tolerance(channels, norm.saved(), &wide(&d_y));
    let (saved, d_y) = (norm.input(&mut case), case.input(d_y));
    let [gain, shift] = [expected.gain.len(), expected.shift.len()].map(|count| case.output(count));
    let extents = layer_norm::Params { rows: rows as u32, channels: channels as u32 };
    case.program.ops.push(Op::Sequence(SequenceOp::LayerNormParameters { saved, d_y, gain, shift, extents }));
    case.expect(gain, expected.gain, tolerance.gain);
    case.expect(shift, expected.shift, tolerance.shift);
    case
}

/// Pre-activations over ±6, and some far outside.
fn activations(count: usize) -> Vec<f32> {
    let far = [0.0, -9.0, 9.0, -12.0, 12.0, 1e4, -1e4, -1e20, 1e20];
    let value = |(i, v): (usize, f32)| if i % 16 == 15 { far[i / 16 % far.len()] } else { 6.0 * v };
    values(68, count).into_iter().enumerate().map(value).collect()
}

pub fn gelu_forward(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", gelu::forward::KERNEL.name));
    let x = activations(count);
    let wx = wide(&x);
    let (x, y) = (case.input(x), case.output(count));
    case.program.ops.push(Op::Sequence(SequenceOp::GeluForward { x, y, values: count as u32 }));
    case.expect(y, gelu::forward_reference(&wx), gelu::forward_tolerance(&wx));
    case
}

pub fn gelu_backward(count: usize) -> Case {
    let mut case = Case::new(format!("{} {count}", gelu::backward::KERNEL.name));
    let (x, g) = (activations(count), values(69, count));
    let (wx, wg) = (wide(&x), wide(&g));
    let (x, gradient) = (case.input(x), case.input(g));
    case.program.ops.push(Op::Sequence(SequenceOp::GeluBackward { x, gradient, values: count as u32 }));
    case.expect(gradient, gelu::backward_reference(&wx, &wg), gelu::backward_tolerance(&wx, &wg));
    case
}

/// Queries, keys and values spread over ±`scale`.
fn projections(shape: Shape, scale: f32) -> Vec<f32> {
    values(70, (shape.rows() * 3 * shape.channels()) as usize).into_iter().map(|v| v * scale).collect()
}

pub fn attention_forward(shape: Shape, scale: f32) -> Case {
    let mut case = Case::new(format!("{} {shape:?} within {scale}", attention::forward::KERNEL.name));
    let qkv = projections(shape, scale);
    let expected = attention::Forward::reference(shape, &wide(&qkv));
    let tolerance = attention::Forward::tolerance(shape, &wide(&qkv));
    let qkv = case.input(qkv);
    let [out, logsumexp] = [expected.out.len(), expected.logsumexp.len()].map(|count| case.output(count));
    case.program.attention_forward(qkv, out, logsumexp, shape);
    case.expect(out, expected.out, tolerance.out);
    case.expect(logsumexp, expected.logsumexp, tolerance.logsumexp);
    case
}

pub fn attention_delta(shape: Shape) -> Case {
    let mut case = Case::new(format!("{} {shape:?}", attention::delta::KERNEL.name));
    let [out, d_out] = [71, 72].map(|stream| values(stream, (shape.rows() * shape.channels()) as usize));
    let expected = attention::delta::reference(shape, &wide(&out), &wide(&d_out));
    let tolerance = attention::delta::tolerance(shape, &wide(&out), &wide(&d_out));
    let [out, d_out] = [out, d_out].map(|values| case.input(values));
    let delta = case.output(expected.len());
    case.program.ops.push(Op::Sequence(SequenceOp::AttentionDelta { out, d_out, delta, shape }));
    case.expect(delta, expected, tolerance);
    case
}

/// Two cases of both gradient kernels, on forward's logarithms and on δ of forward's output: the first looks at the
/// gradient of the queries, the second at those of keys and values.
pub fn attention_backward(shape: Shape, scale: f32) -> [Case; 2] {
    let (qkv, d_out) = (projections(shape, scale), values(73, (shape.rows() * shape.channels()) as usize));
    let forward = attention::Forward::reference(shape, &wide(&qkv));
    let delta = narrowed(&attention::delta::reference(shape, &forward.out, &wide(&d_out)));
    let logsumexp = narrowed(&forward.logsumexp);
    let [wq, wl, wd, wo] = [&qkv, &logsumexp, &delta, &d_out].map(|values| wide(values));
    let backward = attention::Backward { shape, qkv: &wq, logsumexp: &wl, delta: &wd, d_out: &wo };
    let (expected, tolerance) = (backward.reference(), backward.tolerance());
    [(attention::query_gradient::KERNEL.name, 0..1), (attention::key_gradient::KERNEL.name, 1..3)].map(|(kernel, parts)| {
        let mut case = Case::new(format!("{kernel} {shape:?} within {scale}"));
        let inputs = [&qkv, &logsumexp, &delta, &d_out].map(|values| case.input(values.clone()));
        let [qkv, logsumexp, delta, d_out] = inputs;
        let d_qkv = case.output(expected.len());
        case.program.attention_backward(AttentionBackward { qkv, logsumexp, delta, d_out, d_qkv }, shape);
        let looked_at = |i: usize| parts.contains(&(i / shape.channels() as usize % 3));
        let bound = |(i, &bound): (usize, &f64)| if looked_at(i) { bound } else { f64::INFINITY };
        case.expect(d_qkv, expected.clone(), tolerance.iter().enumerate().map(bound).collect());
        case
    })
}

/// A few positions, fewer than whole blocks.
fn short(width: u32) -> Shape {
    Shape { sequences: 2, time: 19, heads: 3, width }
}

/// The case of a call's kernel at its width of a head, where it is one of attention.
pub(super) fn attention_of(op: &SequenceOp) -> Option<Case> {
    Some(match *op {
        SequenceOp::AttentionForward { shape, .. } => attention_forward(short(shape.width), 2.0),
        SequenceOp::AttentionDelta { shape, .. } => attention_delta(short(shape.width)),
        SequenceOp::AttentionQueryGradient { shape, .. } => {
            let [query, _] = attention_backward(short(shape.width), 2.0);
            query
        }
        SequenceOp::AttentionKeyGradient { shape, .. } => {
            let [_, key] = attention_backward(short(shape.width), 2.0);
            key
        }
        _ => return None,
    })
}

/// Every kernel of the family once, at shapes with edges.
pub fn self_test_cases() -> Vec<Case> {
    let shape = short(8);
    let mut cases = embeddings(2, 35, 5, 6).to_vec();
    cases.extend([layer_norm_forward(35, 67), layer_norm_backward(35, 67, true), layer_norm_backward(35, 67, false)]);
    cases.extend([layer_norm_parameters(67, 35), gelu_forward(301), gelu_backward(301)]);
    cases.extend([attention_forward(shape, 2.0), attention_delta(shape)]);
    cases.extend(attention_backward(shape, 2.0));
    cases
}
