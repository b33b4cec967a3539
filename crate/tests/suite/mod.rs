//! What every backend must pass, natively and in a browser: tables of shapes per kernel, and a whole training unit
//! against the reference. The programs around this module choose the backend; it asserts and prints.

mod checks;
mod curves;
pub mod dropout;
mod image;
#[cfg(feature = "gpu")]
pub mod limits;
pub mod sequence;
#[cfg(feature = "gpu")]
pub mod tuning;

use manyhands::control::Control;
use manyhands::engine::{Engine, EngineError, MatmulShape, Trained, init_parameters, known};
use manyhands::tensors::{Operand, Shard};
use manyhands::tuner::Task;
use manyhands_protocol::ids::BlobHash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::work::{Dtype, InnerOptimizer, TrainWork};
use manyhands_shaders::compare::relative_distance;
use manyhands_shaders::matmul::{Epilogue, Matrices, Shape, Transposed, Variant};

pub mod models;
mod sampling;
mod state;
pub mod vectors;

/// Extents at 0, 1, block and tile edges, odd, long and thin, and past one chunk of k.
const PRODUCTS: [[u32; 3]; 21] = [
    [0, 3, 4],
    [3, 0, 4],
    [4, 0, 4],
    [3, 4, 0],
    [1, 1, 1],
    [7, 63, 9],
    [8, 64, 8],
    [9, 65, 7],
    [31, 128, 33],
    [32, 132, 32],
    [33, 68, 36],
    [65, 129, 31],
    [4, 4, 300],
    [300, 4, 4],
    [2, 1000, 3],
    [1, 784, 128],
    [784, 32, 128],
    [132, 80, 68],
    [4, 16, 8],
    [580, 16, 132],
    [20, 976, 24],
];

/// Extents of products that are computed several at a time.
const BATCHES: [[u32; 3]; 6] = [[1, 1, 1], [7, 63, 9], [36, 48, 68], [33, 68, 36], [20, 132, 40], [65, 129, 31]];

const TRANSPOSED: [Transposed; 4] = [
    Transposed { a: false, b: false },
    Transposed { a: false, b: true },
    Transposed { a: true, b: false },
    Transposed { a: true, b: true },
];

/// Every variant of the product, every transpose, every epilogue, over the table; then the other kernels.
pub async fn kernels(engine: &Engine) {
    let mut worst = 0.0f64;
    let mut count = 0;
    let (offered, skipped): (Vec<_>, Vec<_>) = Variant::ALL.into_iter().partition(|&variant| engine.offers_variant(variant));
    if !skipped.is_empty() {
        println(&format!("SKIPPED on this adapter: {skipped:?}"));
    }
    for [m, k, n] in PRODUCTS {
        let shape = Shape { m, k, n };
        for transposed in TRANSPOSED {
            for &variant in offered.iter().filter(|v| v.takes(shape, transposed)) {
                for epilogue in Epilogue::ALL {
                    let case = known::product(shape, transposed, epilogue, Some(variant));
                    worst = worst.max(engine.answer(&case).await.unwrap());
                    count += 1;
                }
            }
        }
    }
    println(&format!("products: {count} cases, at most {worst:.3} of the tolerance used"));
    batches(engine, &offered).await;
    others(engine).await;
}

/// Every kernel but those of the product, over their tables.
pub async fn others(engine: &Engine) {
    let mut others = Vec::new();
    others.extend([[1, 1], [64, 64], [65, 63], [3, 200], [200, 3], [4096, 1]].map(|[r, c]| known::column_sums(r, c)));
    for elementwise in [known::sum, known::cleared, known::relu, known::relu_gradient, known::sgd_step] {
        others.extend([1, 4, 5, 255, 257, 100_003].map(elementwise));
    }
    others.extend([[1, 2], [31, 10], [32, 10], [33, 7], [2, 1000]].map(|[r, c]| known::cross_entropy(r, c, 4.0)));
    others.push(known::cross_entropy(40, 10, 80.0));
    others.push(known::cross_entropy(5, 3, 0.0));
    others.extend([[1, 1], [1, 2], [31, 10], [32, 3], [33, 2], [2, 1000], [65_600, 2]].map(|[r, c]| known::accuracy(r, c)));
    others.extend(sequence::cases());
    others.extend(image::cases());
    others.extend(dropout::cases());
    let mut worst = 0.0f64;
    for case in &others {
        worst = worst.max(engine.answer(case).await.unwrap());
    }
    println(&format!("others: {} cases, at most {worst:.3} of the tolerance used", others.len()));
}

/// Several products in one dispatch, the first of them and later ones alone; those left out keep what they held.
async fn batches(engine: &Engine, offered: &[Variant]) {
    let (mut worst, mut count) = (0.0f64, 0);
    let shapes = BATCHES.into_iter().flat_map(|shape| TRANSPOSED.map(|transposed| (shape, transposed)));
    for ([m, k, n], transposed) in shapes {
        let shape = Shape { m, k, n };
        for &variant in offered.iter().filter(|v| v.takes(shape, transposed)) {
            for (first, end, epilogue) in [(0, 3, Epilogue::None), (1, 4, Epilogue::BiasAccumulate), (2, 2, Epilogue::None)] {
                let case = known::products(Matrices { first, end }, shape, transposed, epilogue, Some(variant));
                worst = worst.max(engine.answer(&case).await.unwrap());
                count += 1;
            }
        }
    }
    println(&format!("batches of products: {count} cases, at most {worst:.3} of the tolerance used"));
}

/// A wrong answer anywhere is seen: the same cases with one input value changed after the answers were made.
pub async fn a_changed_input_is_seen(engine: &Engine) {
    let shape = Shape { m: 33, k: 68, n: 36 };
    for mut case in [
        known::product(shape, Transposed::default(), Epilogue::None, None),
        known::product(shape, Transposed::default(), Epilogue::None, Some(Variant::BlockedF16)),
        known::column_sums(10, 10),
        known::sum(9),
        known::relu_gradient(30),
        known::cross_entropy(8, 5, 4.0),
        known::sgd_step(9),
    ] {
        // Of ReLU a gradient that passes is changed, of the others the first input.
        let passes = case.buffers[0].iter().position(|&y| y > 0.0).expect("a positive activation");
        let (buffer, index) = if case.name.starts_with("relu") { (1, passes) } else { (0, 0) };
        case.buffers[buffer][index] += 0.01;
        let got = engine.answer(&case).await;
        assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{}: {got:?}", case.name);
        case.buffers[buffer][index] = f32::NAN;
        let got = engine.answer(&case).await;
        assert!(matches!(got, Err(EngineError::SelfTest { .. })), "{}: {got:?}", case.name);
    }
}

/// A product cut into row slices has the bits of one in a single call.
pub async fn slices_change_no_bits(engine: &Engine) {
    use manyhands::plan::Op;
    use manyhands_shaders::matmul::Rows;
    let epilogues = [Epilogue::BiasRelu, Epilogue::BiasGelu, Epilogue::BiasAccumulate];
    let usual = epilogues.map(|epilogue| (None, epilogue));
    let offered = Variant::ALL.into_iter().filter(|&variant| engine.offers_variant(variant));
    let ways = usual.into_iter().chain(offered.map(|variant| (Some(variant), Epilogue::BiasAccumulate))).collect::<Vec<_>>();
    let cases = TRANSPOSED.into_iter().flat_map(|t| [(t, [200, 80, 36]), (t, [199, 67, 37])]);
    for ((transposed, [m, k, n]), (variant, epilogue)) in cases.flat_map(|case| ways.iter().map(move |&way| (case, way))) {
        let (both, shape) = (Matrices { first: 0, end: 2 }, Shape { m, k, n });
        if variant.is_some_and(|variant| !variant.takes(shape, transposed)) {
            continue;
        }
        let whole = known::products(both, shape, transposed, epilogue, variant);
        let mut cut = whole.clone();
        let Op::Matmul(product) = cut.program.ops[0] else { panic!("a product") };
        assert_eq!(product.matrices, both, "one call");
        let parts = [(0, 64), (64, 192), (192, m)].into_iter().flat_map(|rows| [(rows, (0, 1)), (rows, (1, 2))]);
        let part = |((first, end), (matrix, until))| manyhands::plan::Matmul {
            rows: Rows { first, end },
            matrices: Matrices { first: matrix, end: until },
            ..product
        };
        cut.program.ops = parts.map(|of| Op::Matmul(part(of))).collect();
        let control = Control::new();
        let a = engine.run(&whole.program, whole.buffers.clone(), &control).await.unwrap();
        let b = engine.run(&cut.program, cut.buffers.clone(), &control).await.unwrap();
        let bits = |buffers: &[Vec<f32>]| buffers.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&a), bits(&b), "{variant:?} {transposed:?} {epilogue:?} {m} {k} {n}");
        engine.answer(&cut).await.unwrap();
    }
}

/// Each variant that reads f16, and the one of the same blocks that reads f32.
const F16_VARIANTS: [(Variant, Variant); 4] = [
    (Variant::BlockedF16, Variant::Blocked),
    (Variant::BlockedVec4F16, Variant::BlockedVec4),
    (Variant::TiledF16, Variant::Tiled),
    (Variant::TiledAheadF16, Variant::TiledAhead),
];

/// Operands in f16 give the bits of the same values in f32: by every variant beside the one of the same blocks, and by the
/// public product, which widens them where no such variant was chosen. Rows of odd lengths begin in the middle of a word.
pub async fn f16_operands_give_the_same_bits(engine: &Engine) {
    assert_eq!(F16_VARIANTS.map(|(variant, _)| variant).to_vec(), {
        let all = Variant::ALL.into_iter().filter(|variant| variant.reads_f16());
        all.collect::<Vec<_>>()
    });
    let control = Control::new();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let shapes = [[1, 1, 1], [3, 5, 7], [65, 129, 31], [36, 144, 44], [20, 976, 24]].map(|[m, k, n]| Shape { m, k, n });
    for (shape, transposed) in shapes.into_iter().flat_map(|shape| TRANSPOSED.map(|transposed| (shape, transposed))) {
        let patterns = known::patterns(1, shape, transposed);
        for (variant, sibling) in F16_VARIANTS {
            if !engine.offers_variant(variant) || !variant.takes(shape, transposed) {
                continue;
            }
            let case =
                |operands, variant| known::products_of(operands, Matrices::ONE, shape, transposed, Epilogue::Bias, Some(variant));
            let stored = case(patterns.clone().map(Operand::F16), variant);
            let widened = case(patterns.clone().map(|p| Operand::F32(known::widened(&p))), sibling);
            let mut results = Vec::new();
            for case in [stored, widened] {
                let buffers = engine.run(&case.program, case.buffers.clone(), &control).await.unwrap();
                case.compare(&buffers).unwrap();
                results.push(bits(buffers.last().unwrap()));
            }
            assert_eq!(results[0], results[1], "{variant:?} {shape:?} {transposed:?}");
        }
    }
    for shape in shapes {
        let [a, b] = known::patterns(1, shape, Transposed::default());
        let extents = MatmulShape { m: shape.m as usize, k: shape.k as usize, n: shape.n as usize };
        let product = async || engine.product(extents, Operand::F16(a.clone()), Operand::F16(b.clone()), &control).await.unwrap();
        let widened = engine.matmul(extents, &known::widened(&a), &known::widened(&b), &control).await.unwrap();
        assert_eq!(bits(&product().await), bits(&widened), "{shape:?}");
        assert_eq!(
            engine.product(extents, Operand::F32(known::widened(&a)), Operand::F16(b.clone()), &control).await,
            Ok(widened)
        );
        // No product of the same extents in f32 runs on what is chosen for this one.
        let task = Task::plain(shape, Dtype::F16);
        for (variant, sibling) in F16_VARIANTS {
            if !engine.offers_variant(variant) || !task.may_run(variant) {
                continue;
            }
            engine.choose_variant(&task, sibling);
            let expected = product().await;
            engine.choose_variant(&task, variant);
            assert_eq!(bits(&product().await), bits(&expected), "{variant:?} {shape:?}");
            assert!(engine.chosen_variant(&Task::plain(shape, Dtype::F32)).is_none());
        }
    }
    let one = MatmulShape { m: 1, k: 2, n: 1 };
    let short = engine.product(one, Operand::F16(vec![0x3C00]), Operand::F16(vec![0x3C00; 2]), &control).await;
    assert!(matches!(short, Err(EngineError::Input(_))), "{short:?}");
}

/// The public product, and what it refuses.
pub async fn matmul_unit(engine: &Engine) {
    let control = Control::new();
    let shape = MatmulShape { m: 130, k: 200, n: 70 };
    let (a, b) = (known::values(1, 130 * 200), known::values(2, 200 * 70));
    let c = engine.matmul(shape, &a, &b, &control).await.unwrap();
    let expected = Engine::reference().matmul(shape, &a, &b, &control).await.unwrap();
    let distance = relative_distance(&[c], &[expected]).expect("finite and not empty");
    assert!(distance < 1e-6, "{distance}");
    for (shape, a, b) in [
        (MatmulShape { m: 0, k: 1, n: 1 }, vec![], vec![1.0]),
        (MatmulShape { m: 1, k: 2, n: 1 }, vec![1.0], vec![1.0, 1.0]),
        (MatmulShape { m: 1, k: 1, n: 1 }, vec![1.0], vec![]),
        (MatmulShape { m: usize::MAX, k: 2, n: 1 }, vec![1.0], vec![1.0, 1.0]),
    ] {
        assert!(matches!(engine.matmul(shape, &a, &b, &control).await, Err(EngineError::Input(_))), "{shape:?}");
    }
    let one = MatmulShape { m: 1, k: 1, n: 1 };
    assert!(matches!(engine.matmul(one, &[f32::MAX], &[f32::MAX], &control).await, Err(EngineError::NotFinite(_))));
    control.stop();
    assert_eq!(engine.matmul(big(), &vec![0.5; 1 << 20], &vec![0.5; 1 << 20], &control).await, Err(EngineError::Stopped));
}

/// Large enough for more than one slice.
fn big() -> MatmulShape {
    MatmulShape { m: 1024, k: 1024, n: 1024 }
}

pub fn model(hidden: &[u32]) -> Model {
    let mut layers: Vec<Layer> = hidden.iter().flat_map(|&outputs| [Layer::Dense { outputs }, Layer::Relu]).collect();
    layers.push(Layer::Dense { outputs: 10 });
    Model {
        input: Input { shape: vec![784], dtype: InputType::U8, scale: 1.0 / 255.0, offset: 0.0 },
        layers,
        loss: Loss::SoftmaxCrossEntropy,
    }
}

pub fn work(model: Model, batch: u32, inner_steps: u32) -> TrainWork {
    let nothing = BlobHash([0; 32]);
    let optimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.9, clip_norm: 0.0 };
    TrainWork { model, checkpoint: nothing, shard: nothing, round: 0, first_row: 0, batch, inner_steps, optimizer }
}

/// Ten blurred prototypes and noise: learnable, and as sparse as pictures are.
pub fn shard(rows: usize, inputs: usize) -> Shard {
    let prototypes = known::values(40, 10 * inputs);
    let noise = known::values(41, rows * inputs);
    let y: Vec<u32> = (0..rows).map(|row| (row * 7 % 10) as u32).collect();
    let x = (0..rows * inputs).map(|i| {
        let class = y[i / inputs] as usize;
        (0.3 * prototypes[class * inputs + i % inputs] + noise[i]).clamp(0.0, 1.0)
    });
    Shard { rows, x: x.collect(), y }
}

/// A training unit of the demo's shape on `engine` and on the reference.
pub async fn unit(engine: &Engine, name: &str) -> Trained {
    let work = TrainWork { first_row: 64, ..work(model(&[128]), 32, 40) };
    let (parameters, shard, control) = (init_parameters(&work.model, 1), shard(640, 784), Control::new());
    let got = engine.train(&work, &parameters, &shard, &control).await.unwrap();
    let expected = Engine::reference().train(&work, &parameters, &shard, &control).await.unwrap();
    let distance = relative_distance(&got.delta, &expected.delta).expect("an update that is finite and not zero");
    let loss = |losses: &[f32]| [losses[0], losses[39]];
    println(&format!(
        "{name}: 784-128-10, batch 32, 40 steps: distance to the reference {distance:.2e}, losses {:?} and {:?}",
        loss(&got.losses),
        loss(&expected.losses)
    ));
    assert!(distance < 2e-4, "{distance}");
    assert_eq!(got.losses.len(), 40);
    for (got, expected) in got.losses.iter().zip(&expected.losses) {
        assert!((got - expected).abs() < 1e-3 * expected.abs().max(0.01), "{got} {expected}");
    }
    assert!(got.losses[39] < 0.5 * got.losses[0], "it learns");
    assert_eq!(control.progress(), (40, 40));
    got
}

/// How far honest units of the demo's figures (31 steps of batch 32, rate 0.02) are from the reference: two shards in
/// each of four rounds, each round going on from the mean of the last one's updates. docs/verification.md has the table.
pub async fn drift(engine: &Engine, name: &str) {
    let optimizer = InnerOptimizer::Sgd { learning_rate: 0.02, momentum: 0.9, clip_norm: 0.0 };
    let (shards, control) = ([shard(992, 784), shard(320, 784)], Control::new());
    let work = TrainWork { optimizer, ..work(model(&[128]), 32, 31) };
    let mut parameters = init_parameters(&work.model, 5);
    let mut distances = Vec::new();
    for _ in 0..4 {
        let mut next = parameters.clone();
        for shard in &shards {
            let got = engine.train(&work, &parameters, shard, &control).await.unwrap();
            let expected = Engine::reference().train(&work, &parameters, shard, &control).await.unwrap();
            distances.push(relative_distance(&got.delta, &expected.delta).expect("an update that is finite and not zero"));
            for (next, delta) in next.iter_mut().flatten().zip(expected.delta.iter().flatten()) {
                *next -= delta / shards.len() as f32;
            }
        }
        parameters = next;
    }
    distances.sort_by(f64::total_cmp);
    let median = (distances[3] + distances[4]) / 2.0;
    println(&format!("{name}: drift of 8 units: least {:.1e}, median {median:.1e}, most {:.1e}", distances[0], distances[7]));
    assert!(distances[7] < 1e-4, "{distances:?}");
}

/// Initial weights are the same bits everywhere, for they are every job's first checkpoint: computed by a program in
/// another language from the head of crate/src/init.rs.
pub fn initial_weights() {
    let weights: Vec<u32> = init_parameters(&model(&[128]), 7)[0][..4].iter().map(|w| w.to_bits()).collect();
    assert_eq!(weights, [0xBD8D_9987, 0xBDD7_B1C4, 0x3D07_D0A4, 0x3D46_B0D1]);
}

/// Odd extents, several layers, ReLU in places where it folds differently, wrapping rows, and no momentum.
pub async fn odd_units(engine: &Engine) {
    let dense = |outputs| Layer::Dense { outputs };
    let models = [
        vec![dense(10)],
        vec![Layer::Relu, dense(33), Layer::Relu, Layer::Relu, dense(17), dense(10)],
        vec![dense(64), Layer::Relu, dense(32), Layer::Relu, dense(10)],
    ];
    for (index, layers) in models.into_iter().enumerate() {
        let input = Input { shape: vec![7, 5], dtype: InputType::F32, scale: 1.0, offset: 0.0 };
        let model = Model { input, layers, loss: Loss::SoftmaxCrossEntropy };
        let optimizer = InnerOptimizer::Sgd { learning_rate: 0.1, momentum: if index == 0 { 0.0 } else { 0.5 }, clip_norm: 0.0 };
        let work = TrainWork { first_row: 15, optimizer, ..work(model, 5, 9) };
        let mut shard = shard(20, 35);
        shard.x.iter_mut().for_each(|v| *v -= 0.3);
        let (parameters, control) = (init_parameters(&work.model, 3), Control::new());
        let got = engine.train(&work, &parameters, &shard, &control).await.unwrap();
        let expected = Engine::reference().train(&work, &parameters, &shard, &control).await.unwrap();
        let distance = relative_distance(&got.delta, &expected.delta).expect("an update that is finite and not zero");
        assert!(distance < 1e-4, "model {index}: {distance}");
        let x = &shard.x[..35 * 13];
        let got = engine.logits(&work.model, &parameters, x, 13, &Control::new()).await.unwrap();
        let expected = Engine::reference().logits(&work.model, &parameters, x, 13, &Control::new()).await.unwrap();
        assert_eq!(got.len(), 130);
        assert!(relative_distance(&[got], &[expected]).expect("logits") < 1e-5);
    }
    let model = model(&[16]);
    let (parameters, shard) = (init_parameters(&model, 3), shard(600, 784));
    let got = engine.logits(&model, &parameters, &shard.x, 600, &Control::new()).await.unwrap();
    let expected = Engine::reference().logits(&model, &parameters, &shard.x, 600, &Control::new()).await.unwrap();
    assert!(relative_distance(&[got], &[expected]).expect("logits") < 1e-5);
}

/// What a unit may not be.
pub async fn bad_units(engine: &Engine) {
    let (good, control) = (work(model(&[8]), 4, 2), Control::new());
    let (parameters, rows) = (init_parameters(&good.model, 1), shard(8, 784));
    let start = engine.train(&good, &parameters, &rows, &control).await.unwrap();
    // A first row far past the end is one near the beginning: 2^32 - 8 is a multiple of 8.
    let far = TrainWork { first_row: u32::MAX - 7, ..good.clone() };
    assert_eq!(engine.train(&far, &parameters, &rows, &control).await.as_ref(), Ok(&start));
    let with = |change: fn(&mut TrainWork)| {
        let mut work = good.clone();
        change(&mut work);
        work
    };
    for bad in [
        with(|w| w.batch = 0),
        with(|w| w.batch = 3),
        with(|w| w.inner_steps = 0),
        with(|w| w.first_row = 2),
        with(|w| w.model.layers.clear()),
        with(|w| w.model.layers[0] = Layer::Dense { outputs: 9 }),
        with(|w| w.optimizer = InnerOptimizer::Sgd { learning_rate: f32::NAN, momentum: 0.0, clip_norm: 0.0 }),
    ] {
        let got = engine.train(&bad, &parameters, &rows, &control).await;
        assert!(matches!(got, Err(EngineError::Input(_))), "{bad:?}: {got:?}");
    }
    let changed = |change: fn(&mut Shard)| {
        let mut shard = rows.clone();
        change(&mut shard);
        shard
    };
    for bad in [
        changed(|s| s.rows = 0),
        changed(|s| s.rows = 12),
        changed(|s| s.y[3] = 10),
        changed(|s| s.y.truncate(7)),
        changed(|s| s.x.truncate(7)),
    ] {
        assert!(matches!(engine.train(&good, &parameters, &bad, &control).await, Err(EngineError::Input(_))));
    }
    assert!(matches!(engine.train(&good, &parameters[..3], &rows, &control).await, Err(EngineError::Input(_))));
    let wild = with(|w| w.optimizer = InnerOptimizer::Sgd { learning_rate: 1e38, momentum: 0.9, clip_norm: 0.0 });
    assert!(matches!(engine.train(&wild, &parameters, &rows, &control).await, Err(EngineError::NotFinite(_))));
    let nan = Shard { x: vec![f32::NAN; 8 * 784], ..rows.clone() };
    assert!(matches!(engine.train(&good, &parameters, &nan, &control).await, Err(EngineError::NotFinite(_))));
    // 4096 rows of 2^24 inputs: refused by arithmetic, before any of it is allocated.
    let mut huge = with(|w| w.batch = 4096);
    huge.model.input.shape = vec![1 << 20];
    huge.model.layers = vec![Layer::Dense { outputs: 10 }];
    let got =
        engine.train(&huge, &[vec![0.0; 10 << 20], vec![0.0; 10]], &Shard { rows: 0, x: vec![], y: vec![] }, &control).await;
    assert!(matches!(got, Err(EngineError::Input(_) | EngineError::TooLarge { .. })), "{got:?}");
    control.stop();
    let long = with(|w| w.inner_steps = 10_000);
    assert_eq!(engine.train(&long, &parameters, &rows, &control).await, Err(EngineError::Stopped));
}

/// Prints what the machine makes of a few shapes, once compiled and warm. Nothing is asserted: machines differ.
pub async fn speed(engine: &Engine, name: &str) {
    let control = Control::new();
    for (hidden, batch, steps) in [(&[128][..], 32, 100), (&[256, 128], 64, 40)] {
        let work = work(model(hidden), batch, steps);
        let (parameters, shard) = (init_parameters(&work.model, 1), shard(640, 784));
        let warm = TrainWork { inner_steps: 1, ..work.clone() };
        engine.train(&warm, &parameters, &shard, &control).await.unwrap();
        let start = now_ms();
        engine.train(&work, &parameters, &shard, &control).await.unwrap();
        println(&format!("{name}: 784-{hidden:?}-10 batch {batch}: {:.2} ms a step", (now_ms() - start) / f64::from(steps)));
    }
    for [m, k, n] in [[256, 256, 256], [512, 512, 512], [1024, 384, 1536]] {
        let (a, b) = (known::values(1, m * k), known::values(2, k * n));
        let shape = MatmulShape { m, k, n };
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let start = now_ms();
            engine.matmul(shape, &a, &b, &control).await.unwrap();
            best = best.min(now_ms() - start);
        }
        let gflop = 2e-9 * (m * k * n) as f64;
        println(&format!("{name}: {m}x{k}x{n} with upload and readback: {best:.1} ms, {:.1} GFLOP/s", gflop / best * 1e3));
    }
}

fn now_ms() -> f64 {
    #[cfg(target_arch = "wasm32")]
    return wasm_bindgen::JsCast::unchecked_into::<web_sys::WorkerGlobalScope>(js_sys::global()).performance().unwrap().now();
    #[cfg(not(target_arch = "wasm32"))]
    return std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3;
}

/// Everything above.
pub async fn all(engine: &Engine, name: &str) {
    let start = now_ms();
    engine.self_test().await.unwrap();
    println(&format!("{name}: self-test, compilation included: {:.0} ms", now_ms() - start));
    kernels(engine).await;
    a_changed_input_is_seen(engine).await;
    sequence::a_changed_input_is_seen(engine).await;
    checks::wrong_results_are_seen(engine).await;
    slices_change_no_bits(engine).await;
    image::changes_are_seen_and_parts_change_no_bits(engine).await;
    sequence::slices_change_no_bits(engine).await;
    dropout::masks_are_the_same_bits(engine).await;
    dropout::the_unit_names_its_masks(engine).await;
    dropout::logits_drop_nothing(engine).await;
    f16_operands_give_the_same_bits(engine).await;
    matmul_unit(engine).await;
    initial_weights();
    unit(engine, name).await;
    drift(engine, name).await;
    odd_units(engine).await;
    models::units(engine, name).await;
    models::gradients(engine).await;
    models::clipping(engine).await;
    models::evaluation(engine).await;
    vectors::agree(engine, name).await;
    curves::agree(engine, name).await;
    state::cuts_change_no_bits(engine).await;
    state::cuts_change_no_bits_of_any_variant(engine).await;
    state::replays_are_what_was_committed_to(engine).await;
    state::shared_memory_changes_no_bits(engine).await;
    state::steps_can_be_seen(engine).await;
    sampling::keeps(engine, name).await;
    sampling::writes().await;
    sampling::refuses();
    sampling::speed(engine, name).await;
    bad_units(engine).await;
    speed(engine, name).await;
}

/// Prints where the test runner shows it.
fn println(line: &str) {
    #[cfg(target_arch = "wasm32")]
    wasm_bindgen_test::console_log!("{line}");
    #[cfg(not(target_arch = "wasm32"))]
    println!("{line}");
}
