//! The shapes that kernels of sequence models, and AdamW, are run at.

use manyhands::control::Control;
use manyhands::engine::known::{self, Case};
use manyhands::engine::{Engine, EngineError};
use manyhands::plan::{Op, SequenceOp};
use manyhands_shaders::attention::{Pairs, Shape};

/// Sequences, time, heads and width of a head: 0 and 1, blocks of keys ± 1, blocks of queries ± 1, every width that
/// models use, and the model that is measured.
const ATTENTION: [[u32; 4]; 16] = [
    [0, 3, 2, 8],
    [2, 0, 2, 8],
    [1, 1, 1, 4],
    [3, 1, 2, 16],
    [1, 2, 3, 4],
    [2, 3, 1, 12],
    [1, 4, 2, 16],
    [2, 5, 3, 32],
    [1, 16, 1, 64],
    [1, 31, 2, 20],
    [1, 33, 1, 128],
    [2, 63, 2, 16],
    [2, 64, 4, 32],
    [1, 65, 2, 32],
    [1, 129, 1, 16],
    [1, 257, 1, 8],
];

/// Rows and channels.
const ROWS: [[usize; 2]; 11] =
    [[0, 5], [1, 1], [1, 4], [2, 3], [31, 64], [33, 65], [64, 63], [65, 128], [129, 7], [3, 1000], [200, 12]];

/// Sequences, time, vocabulary and channels.
const EMBEDDINGS: [[u32; 4]; 9] = [
    [0, 4, 3, 4],
    [1, 1, 1, 1],
    [2, 3, 2, 5],
    [3, 5, 7, 4],
    [2, 33, 256, 12],
    [16, 64, 256, 128],
    [130, 1, 3, 6],
    [1, 300, 1, 3],
    [64, 2, 4, 65],
];

const COUNTS: [usize; 7] = [1, 4, 5, 257, 1023, 1025, 100_003];

pub fn cases() -> Vec<Case> {
    let mut cases = vec![known::adamw_advance()];
    for [sequences, time, heads, width] in ATTENTION {
        let shape = Shape { sequences, time, heads, width };
        cases.extend([known::attention_forward(shape, 1.0), known::attention_forward(shape, 6.0)]);
        cases.push(known::attention_delta(shape));
        cases.extend(known::attention_backward(shape, 2.0));
    }
    for [rows, channels] in ROWS {
        cases.extend([known::layer_norm_forward(rows, channels), known::layer_norm_parameters(rows, channels)]);
        cases.extend([true, false].map(|accumulate| known::layer_norm_backward(rows, channels, accumulate)));
    }
    cases.extend(EMBEDDINGS.into_iter().flat_map(|[s, t, v, c]| known::embeddings(s, t, v, c)));
    for count in COUNTS {
        cases.extend([known::gelu_forward(count), known::gelu_backward(count)]);
        cases.extend([1, 2, 1000].map(|step| known::adamw_step(count, step)));
        cases.extend([known::square_sums(count), known::clipped(count, 0.5), known::clipped(count, 1e9)]);
    }
    cases
}

/// Cases, each with an input whose last value matters by more than any tolerance.
fn changeable() -> Vec<(Case, usize)> {
    let shape = Shape { sequences: 1, time: 6, heads: 2, width: 8 };
    let [embedding, by_token, by_position] = known::embeddings(2, 3, 4, 5);
    let [query, key] = known::attention_backward(shape, 2.0);
    vec![
        (embedding, 2),
        (by_token, 1),
        (by_position, 0),
        (known::adamw_advance(), 0),
        (known::adamw_step(9, 2), 1),
        (known::square_sums(9), 0),
        (known::clipped(9, 0.5), 0),
        (known::layer_norm_forward(3, 8), 0),
        (known::layer_norm_backward(3, 8, true), 0),
        (known::layer_norm_parameters(3, 8), 0),
        (known::dropped(9, 0.0), 1),
        (known::dropout_advance(), 0),
        (known::gelu_forward(9), 0),
        (known::gelu_backward(9), 1),
        (known::attention_delta(shape), 0),
        (known::attention_forward(shape, 2.0), 0),
        (query, 0),
        (key, 0),
    ]
}

pub async fn a_changed_input_is_seen(engine: &Engine) {
    for (mut case, buffer) in changeable() {
        let value = case.buffers[buffer].last().copied().unwrap();
        for wrong in [value + 0.01, f32::NAN] {
            *case.buffers[buffer].last_mut().unwrap() = wrong;
            let got = engine.answer(&case).await;
            assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{}: {got:?}", case.name);
        }
    }
}

/// Attention cut into ranges of pairs has the bits of one call, and the reference cut likewise its values.
pub async fn slices_change_no_bits(engine: &Engine) {
    let shape = Shape { sequences: 2, time: 21, heads: 3, width: 8 };
    let [query, key] = known::attention_backward(shape, 2.0);
    for whole in [known::attention_forward(shape, 2.0), query, key] {
        let mut cut = whole.clone();
        cut.program.ops = [(0, 1), (1, 4), (4, 6)]
            .into_iter()
            .flat_map(|(first, end)| whole.program.ops.iter().map(move |op| over(op, Pairs { first, end })))
            .collect();
        let control = Control::new();
        let a = engine.run(&whole.program, whole.buffers.clone(), &control).await.unwrap();
        let b = engine.run(&cut.program, cut.buffers.clone(), &control).await.unwrap();
        let bits = |buffers: &[Vec<f32>]| buffers.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&a), bits(&b), "{}", whole.name);
        Engine::reference().answer(&cut).await.unwrap();
    }
}

/// The same call over other pairs.
fn over(op: &Op, pairs: Pairs) -> Op {
    let Op::Sequence(op) = *op else { panic!("a call of a sequence model") };
    Op::Sequence(match op {
        SequenceOp::AttentionForward { qkv, out, logsumexp, shape, .. } => {
            SequenceOp::AttentionForward { qkv, out, logsumexp, shape, pairs }
        }
        SequenceOp::AttentionQueryGradient { backward, shape, .. } => {
            SequenceOp::AttentionQueryGradient { backward, shape, pairs }
        }
        SequenceOp::AttentionKeyGradient { backward, shape, .. } => SequenceOp::AttentionKeyGradient { backward, shape, pairs },
        other => panic!("not cut: {other:?}"),
    })
}

/// A kernel, a piece of its text, and one that is wrong.
#[allow(dead_code)] // Read where kernels can be replaced: on a GPU.
pub const LIES: [(&str, &str, &str); 16] = [
    ("adamw", "params.weight_decay * p", "0.0 * p"),
    ("adamw_advance", "powers[1] *= params.beta2", "powers[1] *= params.beta1"),
    ("attention_forward", "acc[d] * shrink", "acc[d]"),
    ("attention_delta", "sum += dot", "sum = dot"),
    ("attention_query_gradient", "(dp - shift)", "dp"),
    ("attention_key_gradient", "unheld > vec4u(last)", "unheld > vec4u(last + 1u)"),
    ("embedding_forward", "row % params.time", "row / params.time"),
    ("embedding_token_gradient", "== vec4u(own)", ">= vec4u(own)"),
    ("embedding_position_gradient", "at += step", "at += 2u * step"),
    ("gelu_forward", "vec4f(9.0)", "vec4f(1.0)"),
    ("gelu_backward", "(e * s) * s", "e * s"),
    ("gradient_norm_squares", "total += sum", "total = sum"),
    ("gradient_norm_clip", "params.most / norm", "norm / params.most"),
    ("layer_norm_forward", "1e-5", "1e-3"),
    ("layer_norm_backward", "value += d_x[start + j]", "value = d_x[start + j]"),
    ("layer_norm_parameters", "min(first + CHUNK, params.rows)", "params.rows"),
];
