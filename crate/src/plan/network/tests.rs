//! What a step costs, counted and not timed: operations, kernel calls and bytes grow like the batch and like the model.

use manyhands_programs::{Op, SequenceOp};
use manyhands_protocol::ids::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};

use super::*;

const ADAMW: InnerOptimizer =
    InnerOptimizer::AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, clip_norm: 1.0 };

fn work(shape: &[u32], dtype: InputType, layers: Vec<Layer>, batch: u32) -> TrainWork {
    let input = Input { shape: shape.to_vec(), dtype, scale: 1.0, offset: 0.0 };
    let model = Model { input, layers, loss: Loss::SoftmaxCrossEntropy };
    let nothing = BlobHash([0; 32]);
    TrainWork { model, checkpoint: nothing, shard: nothing, round: 0, first_row: 0, batch, inner_steps: 1, optimizer: ADAMW }
}

fn dense(outputs: u32) -> Layer {
    Layer::Dense { outputs }
}

fn mlp(hidden: u32, batch: u32) -> TrainWork {
    work(&[784], InputType::F32, vec![dense(hidden), Layer::Relu, dense(128), Layer::Relu, dense(10)], batch)
}

fn cnn(channels: u32, batch: u32) -> TrainWork {
    let convolution = |channels| Layer::Convolution { channels, kernel: 5, stride: 1, padding: 0 };
    let pool = Layer::MaxPool { size: 2, stride: 2 };
    let layers = vec![convolution(channels), Layer::Relu, pool.clone(), convolution(16), Layer::Relu, pool, dense(10)];
    work(&[28, 28, 1], InputType::F32, layers, batch)
}

fn gpt(blocks: u32, batch: u32) -> TrainWork {
    let mut layers = vec![Layer::Embedding { vocabulary: 256, width: 64 }, Layer::Dropout { rate: 0.1 }];
    for _ in 0..blocks {
        layers.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads: 4 }]);
        layers.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, dense(256), Layer::Gelu, dense(64)]);
    }
    layers.extend([Layer::LayerNorm, Layer::Projection { outputs: 256 }]);
    work(&[64], InputType::U8, layers, batch)
}

/// Operations, kernel calls where none is cut, and bytes of all buffers.
fn cost(work: &TrainWork) -> [f64; 3] {
    let plan = TrainPlan::compile_cut(work, u64::MAX).unwrap();
    let flop = plan.program.ops.iter().map(Op::flop).sum::<u64>();
    [flop as f64, plan.program.ops.len() as f64, plan.program.bytes(0) as f64]
}

/// What a quantity grows by from 8 to 16, and from 16 to 32: twice as much, to this share.
fn grows_evenly(within: f64, unit: fn(u32) -> TrainWork) {
    let costs = [8, 16, 32].map(|n| cost(&unit(n)));
    for what in [0, 2] {
        let [first, then] = [costs[1][what] - costs[0][what], costs[2][what] - costs[1][what]];
        assert!((then - 2.0 * first).abs() <= within * then.abs(), "{}: {first}, then {then}", ["flop", "calls", "bytes"][what]);
        assert!(first >= 0.0);
    }
}

#[test]
fn cost_grows_like_the_batch() {
    let units: [fn(u32) -> TrainWork; 3] = [|batch| mlp(256, batch), |batch| cnn(8, batch), |batch| gpt(2, batch)];
    for unit in units {
        grows_evenly(0.001, unit);
        // Long sums are folded once.
        let calls = [1, 64, 256].map(|batch| cost(&unit(batch))[1]);
        assert!(calls[1] <= 1.25 * calls[0] && calls[2] <= 1.25 * calls[0], "a step's calls grow with the batch: {calls:?}");
    }
}

#[test]
fn cost_grows_like_the_model() {
    grows_evenly(0.001, |width| mlp(32 * width, 64));
    // A weight's gradient is made in parts, whose number follows the shape.
    grows_evenly(0.03, |channels| cnn(channels, 64));
    grows_evenly(0.001, |eighths| gpt(eighths / 8, 4));
}

/// Forward, and backward by weights and by inputs, are three products of the same size: no operation more, and the one
/// less that nothing needs.
#[test]
fn products_are_three_for_each_layer() {
    let products = |work: &TrainWork| {
        let plan = TrainPlan::compile(work).unwrap();
        plan.program.ops.iter().filter(|op| matches!(op, Op::Matmul(_))).map(Op::flop).sum::<u64>()
    };
    let net = mlp(256, 64);
    assert_eq!(products(&net), 64 * (3 * net.model.forward_flop() - 2 * 784 * 256));
    // Attention's own products are not among these: of the transformer's, only they and none by the ids are missing.
    let text = gpt(2, 4);
    assert_eq!(products(&text), 4 * 3 * (text.model.forward_flop() - 2 * 2 * 64 * 65 * 64));
}

/// Beside the products, a step of a wide transformer does little: norms, updates and the rest, by their stated guesses.
#[test]
fn most_of_a_step_is_products() {
    let text = gpt(4, 16);
    let [flop, ..] = cost(&text);
    let products = (16 * 3 * text.model.forward_flop()) as f64;
    assert!(flop < 1.35 * products, "{} of the products", flop / products);
}

/// Where nothing is trained, GELU and the sum that ends a residual are epilogues of products, unless the sum would be written
/// over what the product reads or what the caller put in. In training backward needs what they would write over.
#[test]
fn a_forward_pass_alone_fuses_gelu_and_residuals() {
    let own = |op: &Op| matches!(op, Op::Add { .. } | Op::Sequence(SequenceOp::GeluForward { .. }));
    let separate = |program: &Program| program.ops.iter().filter(|op| own(op)).count();
    let forward = |work: &TrainWork| separate(&ForwardPlan::compile(&work.model, 3).unwrap().program);
    let text = gpt(2, 4);
    assert_eq!((forward(&text), separate(&TrainPlan::compile(&text).unwrap().program)), (0, 6));
    let residual = |layers| Layer::Residual { layers };
    let net = |layers| work(&[12], InputType::F32, layers, 4);
    assert_eq!(forward(&net(vec![dense(12), residual(1), dense(12), dense(2)])), 1, "it reads what it would be added to");
    assert_eq!(forward(&net(vec![residual(2), dense(5), dense(12), dense(2)])), 1, "the plan's input is the caller's");
    let ends = |last: Layer| net(vec![dense(12), residual(2), dense(5), dense(12), last, dense(2)]);
    assert_eq!([ends(dense(12)), ends(Layer::Gelu)].map(|work| forward(&work)), [0, 1], "GELU of the sum stands alone");
}

/// A product that opens a branch adds its gradient to the skip's, unless that is the one it reads.
#[test]
fn gradients_of_a_branch_are_added_by_its_first_product() {
    let adds = |layers: Vec<Layer>| {
        let plan = TrainPlan::compile(&work(&[12], InputType::F32, layers, 4)).unwrap();
        plan.program.ops.iter().filter(|op| matches!(op, Op::Add { .. })).count()
    };
    let residual = |layers| Layer::Residual { layers };
    assert_eq!(adds(vec![dense(12), residual(2), dense(5), dense(12), dense(2)]), 1, "forward alone");
    assert_eq!(adds(vec![dense(12), residual(1), dense(12), dense(2)]), 2);
}
