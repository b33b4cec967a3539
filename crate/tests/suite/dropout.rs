//! Dropout: the kernel's shapes, masks that are the same bits everywhere and that anyone can compute again from a unit's
//! description, and that a model drops nothing where it is used.

use manyhands::control::Control;
use manyhands::engine::known::{self, Case};
use manyhands::engine::{Engine, init_parameters};
use manyhands::plan::{Op, Program};
use manyhands::tensors::Shard;
use manyhands_protocol::ids::BlobHash;
use manyhands_protocol::model::{InputType, Layer};
use manyhands_protocol::work::{InnerOptimizer, TrainWork};
use manyhands_shaders::dropout::{self, Mask};

use super::models::{dense, examples, model};
use super::work;

const COUNTS: [usize; 7] = [1, 4, 5, 255, 257, 1025, 100_003];

pub fn cases() -> Vec<Case> {
    let mut cases = vec![known::dropout_advance()];
    cases.extend(COUNTS.into_iter().flat_map(|count| [0.0, 0.1, 0.5, 0.999].map(|rate| known::dropped(count, rate))));
    cases
}

/// Ones through three steps: what stays is the scale exactly, what goes is zero, and which is which is the mask.
pub async fn masks_are_the_same_bits(engine: &Engine) {
    let (values, mask) = (1003, Mask { rate: 0.3, key: [7, 8], layer: 2, first_row: 96 });
    let mut program = Program::default();
    let step = program.buffer(4);
    let [x, y] = [0; 2].map(|_| program.buffer(u64::from(values)));
    program.ops = vec![Op::Dropout { step, x, y, values, mask }, Op::DropoutAdvance { step }];
    let ones = vec![1.0; values as usize];
    let (mut resident, control) = (engine.load(&program, &[(x, &ones)]).await.unwrap(), Control::new());
    for inner_step in 0..3 {
        resident.run(1, &control).await.unwrap();
        let got: Vec<u32> = resident.read(&[y]).await.unwrap()[0].iter().map(|y| y.to_bits()).collect();
        let word = |i: u32| dropout::philox([i / 4, 2, inner_step, 96], [7, 8])[i as usize % 4];
        let threshold = (f64::from(0.3f32) * 2f64.powi(32)).floor() as u32;
        let kept = mask.scale().to_bits();
        let expected: Vec<u32> = (0..values).map(|i| if word(i) >= threshold { kept } else { 0 }).collect();
        assert_eq!(got, expected, "step {inner_step}");
    }
}

/// With one example of ones and dropout before the only layer that trains, the rows of its weight that do not move are
/// those the mask dropped; the mask is computed here from docs/protocol.md.
pub async fn the_unit_names_its_masks(engine: &Engine) {
    let inputs = 77;
    let model = model(&[inputs], InputType::F32, vec![Layer::Dropout { rate: 0.5 }, dense(3)]);
    let optimizer = InnerOptimizer::Sgd { learning_rate: 0.1, momentum: 0.0, clip_norm: 0.0 };
    let (checkpoint, shard) = (BlobHash([0xA5; 32]), BlobHash(std::array::from_fn(|i| i as u8)));
    let work = TrainWork { optimizer, checkpoint, shard, first_row: 5, ..work(model.clone(), 1, 4) };
    let rows = Shard { rows: 2, x: vec![1.0; 2 * inputs as usize], y: vec![1, 2] };
    let (mut before, control) = (init_parameters(&model, 4), Control::new());
    let mut trainer = engine.trainer(&work, &before, &rows).await.unwrap();
    let key = [0xA5A5_A5A5 ^ 0x0302_0100, 0xA5A5_A5A5 ^ 0x0706_0504];
    for step in 0..4 {
        trainer.run(1, &control).await.unwrap();
        let after = trainer.parameters().await.unwrap();
        let moved: Vec<bool> = before[0].chunks(3).zip(after[0].chunks(3)).map(|(a, b)| a != b).collect();
        let word = |i: u32| dropout::philox([i / 4, 0, step, 5], key)[i as usize % 4];
        let expected: Vec<bool> = (0..inputs).map(|i| word(i) >= 1 << 31).collect();
        assert_eq!(moved, expected, "step {step}");
        before = after;
    }
}

/// A model with dropout gives the logits of the same model without: the same bits.
pub async fn logits_drop_nothing(engine: &Engine) {
    let layers = [dense(33), Layer::Gelu, dense(5)];
    let with: Vec<Layer> = layers.iter().flat_map(|layer| [Layer::Dropout { rate: 0.5 }, layer.clone()]).collect();
    let [with, without] = [with, layers.to_vec()].map(|layers| model(&[9], InputType::F32, layers));
    let (parameters, shard) = (init_parameters(&without, 6), examples(&without, 7));
    let mut both = Vec::new();
    for model in [&with, &without] {
        both.push(engine.logits(model, &parameters, &shard.x, 7, &Control::new()).await.unwrap());
    }
    assert_eq!(both[0], both[1]);
}

/// A kernel, a piece of its text, and one that is wrong.
#[allow(dead_code)] // Read where kernels can be replaced: on a GPU.
pub const LIES: [(&str, &str, &str); 5] = [
    ("dropout", "round < 10u", "round < 9u"),
    ("dropout", "(inner >> 16u)", "0u"),
    ("dropout", "words >= vec4u", "words > ~vec4u"),
    ("dropout", "x[i] * params.scale", "x[i]"),
    ("dropout_advance", "+= params.steps", "+= 2u * params.steps"),
];
