//! The benchmark's products and its three training problems as work of ours. Their values come from elsewhere.

use manyhands::plan::{Buffer, Matmul, Program};

use manyhands_protocol::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::binary16;
use manyhands_shaders::matmul::{Epilogue, Matrices, Rows, Shape, Transposed, Variant};

/// `C = A · B` and the buffers of A, B and C, by a fixed variant or by what the device runs.
pub fn product(m: u32, k: u32, n: u32, variant: Option<Variant>) -> (Program, [Buffer; 3]) {
    let mut program = Program::default();
    let values = [(m, k), (k, n), (m, n)].map(|(rows, columns)| u64::from(rows) * u64::from(columns));
    let [a, b] = [values[0], values[1]]
        .map(|values| program.buffer(if variant.is_some_and(Variant::reads_f16) { binary16::words(values) } else { values }));
    let c = program.buffer(values[2]);
    program.matmul(Matmul {
        a,
        b,
        bias: None,
        c,
        shape: Shape { m, k, n },
        transposed: Transposed::default(),
        epilogue: Epilogue::None,
        rows: Rows { first: 0, end: m },
        matrices: Matrices::ONE,
        variant,
    });
    (program, [a, b, c])
}

fn dense(outputs: u32) -> Layer {
    Layer::Dense { outputs }
}

/// 784-256-128-10.
fn mlp() -> (Vec<u32>, Vec<Layer>) {
    (vec![784], vec![dense(256), Layer::Relu, dense(128), Layer::Relu, dense(10)])
}

/// Two convolutions with pools, and a dense layer.
fn cnn() -> (Vec<u32>, Vec<Layer>) {
    let convolution = |channels| Layer::Convolution { channels, kernel: 5, stride: 1, padding: 0 };
    let pool = Layer::MaxPool { size: 2, stride: 2 };
    let layers = vec![convolution(8), Layer::Relu, pool.clone(), convolution(16), Layer::Relu, pool, dense(10)];
    (vec![28, 28, 1], layers)
}

/// Extents of a transformer and of its batches.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    pub time: u32,
    pub width: u32,
    pub layers: u32,
    pub heads: u32,
    pub batch: u32,
    pub vocabulary: u32,
}

/// Four blocks of width 128, byte vocabulary, context 64.
const GPT: Dims = Dims { time: 64, width: 128, layers: 4, heads: 4, batch: 16, vocabulary: 256 };

fn gpt(dims: Dims) -> (Vec<u32>, Vec<Layer>) {
    let Dims { time, width, layers: blocks, heads, vocabulary, .. } = dims;
    let mut layers = vec![Layer::Embedding { vocabulary, width }];
    for _ in 0..blocks {
        layers.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads }]);
        layers.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, dense(4 * width), Layer::Gelu, dense(width)]);
    }
    layers.extend([Layer::LayerNorm, Layer::Projection { outputs: vocabulary }]);
    (vec![time], layers)
}

fn adamw() -> InnerOptimizer {
    let (learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm) = (1e-3, 0.9, 0.95, 1e-8, 0.01, 0.0);
    InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm }
}

/// The work of a problem whose batches have `values` input values in all; none for a name that is not one.
pub fn work(name: &str, values: usize) -> Option<TrainWork> {
    let sgd = |learning_rate| InnerOptimizer::Sgd { learning_rate, momentum: 0.0, clip_norm: 0.0 };
    let ((shape, layers), batch, optimizer) = match name {
        "mlp" => (mlp(), 64, sgd(0.1)),
        "cnn" => (cnn(), 64, sgd(0.05)),
        "gpt" => (gpt(GPT), GPT.batch, adamw()),
        _ => return None,
    };
    let dtype = if name == "gpt" { InputType::U8 } else { InputType::F32 };
    let inputs: u32 = shape.iter().product();
    let input = Input { shape, dtype, scale: 1.0, offset: 0.0 };
    let model = Model { input, layers, loss: Loss::SoftmaxCrossEntropy };
    let inner_steps = u32::try_from(values).ok()? / (inputs * batch);
    let nothing = BlobHash([0; 32]);
    Some(TrainWork { model, checkpoint: nothing, shard: nothing, round: 0, first_row: 0, batch, inner_steps, optimizer })
}

/// 784-width-width-10 with a batch of its own, for measurements of how cost grows.
#[cfg(not(target_arch = "wasm32"))]
pub fn plain(width: u32, batch: u32) -> TrainWork {
    let layers = vec![dense(width), Layer::Relu, dense(width), Layer::Relu, dense(10)];
    let input = Input { shape: vec![784], dtype: InputType::F32, scale: 1.0, offset: 0.0 };
    let model = Model { input, layers, loss: Loss::SoftmaxCrossEntropy };
    let nothing = BlobHash([0; 32]);
    let optimizer = InnerOptimizer::Sgd { learning_rate: 0.01, momentum: 0.9, clip_norm: 0.0 };
    TrainWork { model, checkpoint: nothing, shard: nothing, round: 0, first_row: 0, batch, inner_steps: 4, optimizer }
}

/// A transformer of any extents, for so many steps.
#[cfg(not(target_arch = "wasm32"))]
pub fn wide(dims: Dims, inner_steps: u32) -> TrainWork {
    let (shape, layers) = gpt(dims);
    let model =
        Model { input: Input { shape, dtype: InputType::U8, scale: 1.0, offset: 0.0 }, layers, loss: Loss::SoftmaxCrossEntropy };
    let nothing = BlobHash([0; 32]);
    let (batch, optimizer) = (dims.batch, adamw());
    TrainWork { model, checkpoint: nothing, shard: nothing, round: 0, first_row: 0, batch, inner_steps, optimizer }
}

#[cfg(not(target_arch = "wasm32"))]
impl Dims {
    /// Four blocks of width 512, context 256: about the most parameters that a job may have.
    pub const WIDE: Dims = Dims { time: 256, width: 512, layers: 4, heads: 8, batch: 32, vocabulary: 256 };
}
