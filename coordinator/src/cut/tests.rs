//! What a job's owner hands in, cut: nothing lost, nothing twice, and errors that name the tensor.

use manyhands::tensors;
use manyhands_protocol::manifest::{JobManifest, JobWork};

use super::*;

fn recipe(rows_per_shard: u32) -> TrainRecipe {
    let json = format!(
        r#"{{ "version": 1, "name": "t", "title": "t", "description": "t", "owner": "t", "category": "demo", "work": {{
            "kind": "train",
            "model": {{ "input": {{ "shape": [2], "dtype": "u8", "scale": 1.0, "offset": 0.0 }},
                "layers": [{{ "type": "dense", "outputs": 200 }}], "loss": "softmax_cross_entropy" }},
            "inner_steps": 1, "batch": 1,
            "inner_optimizer": {{ "type": "sgd", "learning_rate": 0.1, "momentum": 0.0 }},
            "outer_optimizer": {{ "type": "nesterov", "learning_rate": 0.7, "momentum": 0.9 }},
            "units_per_round": 1, "rounds_max": 1, "target_accuracy": 1.0, "rows_per_shard": {rows_per_shard}, "seed": 7 }} }}"#
    );
    let manifest: JobManifest = manyhands_protocol::manifest::parse_json(json.as_bytes()).unwrap();
    manifest.validate().unwrap();
    match manifest.work {
        JobWork::Train(recipe) => recipe,
        JobWork::Matmul(_) => unreachable!("the manifest above is of a train job"),
    }
}

/// Examples whose label is their number and whose values are twice and thrice it.
fn examples(count: u8) -> Vec<u8> {
    let x: Vec<u8> = (0..count).flat_map(|i| [i.wrapping_mul(2), i.wrapping_mul(3)]).collect();
    let y: Vec<u8> = (0..count).collect();
    file(Dtype::U8, &[y.len(), 2], &x, &[y.len()], &y)
}

fn file(dtype: Dtype, x_shape: &[usize], x: &[u8], y_shape: &[usize], y: &[u8]) -> Vec<u8> {
    let x = TensorView::new(dtype, x_shape.to_vec(), x).unwrap();
    let y = TensorView::new(Dtype::U8, y_shape.to_vec(), y).unwrap();
    safetensors::serialize([("x", x), ("y", y)], None).unwrap()
}

fn labels(shard: &[u8], recipe: &TrainRecipe) -> Vec<u32> {
    let shard = tensors::read_shard(shard, &recipe.model).unwrap();
    for (row, &label) in shard.y.iter().enumerate() {
        let values = [2, 3].map(|times| f32::from((label as u8).wrapping_mul(times)));
        assert_eq!(shard.x[row * 2..][..2], values, "an example's values stay with its label");
    }
    shard.y
}

#[test]
fn every_example_lands_in_a_shard_and_the_last_is_filled_up() {
    let recipe = recipe(30);
    let cut = cut_train(&recipe, &examples(100), &examples(9)).unwrap();
    assert_eq!(cut.shards.len(), 4);
    let all: Vec<u32> = cut.shards.iter().flat_map(|shard| labels(shard, &recipe)).collect();
    assert_eq!(all.len(), 120);
    assert_eq!(all[100..], all[..20], "filled up from the start of the shuffle");
    let mut sorted = all[..100].to_vec();
    assert_ne!(sorted, (0..100).collect::<Vec<_>>(), "shuffled");
    sorted.sort_unstable();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    assert_eq!(labels(&cut.test, &recipe), (0..9).collect::<Vec<_>>(), "the held-out set keeps its order");
}

#[test]
fn the_seed_decides_the_order_and_nothing_else() {
    let first = recipe(10);
    let mut second = first.clone();
    second.seed += 1;
    let cut = |recipe: &TrainRecipe| cut_train(recipe, &examples(40), &examples(3)).unwrap();
    assert_eq!(cut(&first), cut(&first));
    assert_ne!(cut(&first).shards, cut(&second).shards);
    assert_eq!(cut(&first).test, cut(&second).test);
}

#[test]
fn exact_and_too_few_rows() {
    let recipe = recipe(20);
    assert_eq!(cut_train(&recipe, &examples(20), &examples(1)).unwrap().shards.len(), 1);
    assert_eq!(cut_train(&recipe, &examples(40), &examples(1)).unwrap().shards.len(), 2);
    assert_eq!(cut_train(&recipe, &examples(19), &examples(1)), Err(CutError::TooFewRows { rows: 19, rows_per_shard: 20 }));
}

#[test]
fn faults_name_file_and_tensor() {
    let recipe = recipe(2);
    let check = |train: &[u8], test: &[u8], expected: &str| {
        let error = cut_train(&recipe, train, test).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    let good = examples(4);
    check(b"nonsense", &good, "train.safetensors is not a safetensors file");
    check(&good[..good.len() - 1], &good, "train.safetensors is not a safetensors file");
    check(&good, &good[..20], "test.safetensors is not a safetensors file");
    let with = |dtype, x_shape: &[usize], y_shape: &[usize], y: &[u8]| {
        let values: usize = x_shape.iter().product();
        file(dtype, x_shape, &vec![0; values * if dtype == Dtype::F32 { 4 } else { 1 }], y_shape, y)
    };
    check(&with(Dtype::F32, &[2, 2], &[2], &[0, 1]), &good, "train.safetensors: tensor x: has element type F32");
    check(&with(Dtype::U8, &[2, 3], &[2], &[0, 1]), &good, "train.safetensors: tensor x: has shape [2, 3]");
    check(&with(Dtype::U8, &[3, 2], &[2], &[0, 1]), &good, "train.safetensors: tensor x: has shape [3, 2]");
    check(&with(Dtype::U8, &[2, 2], &[2, 1], &[0, 1]), &good, "train.safetensors: tensor y: has shape [2, 1]");
    check(&with(Dtype::U8, &[0, 2], &[0], &[]), &good, "train.safetensors: tensor y: has shape [0]");
    check(&good, &with(Dtype::U8, &[1, 2], &[1], &[200]), "test.safetensors: tensor y: holds label 200 in row 0");
    let x = TensorView::new(Dtype::U8, vec![2, 2], &[0; 4]).unwrap();
    let no_labels = safetensors::serialize([("x", x)], None).unwrap();
    check(&no_labels, &good, "train.safetensors: tensor y: is missing");
}

#[test]
fn f32_examples_must_be_finite() {
    let mut recipe = recipe(1);
    recipe.model.input.dtype = InputType::F32;
    let with = |value: f32| file(Dtype::F32, &[2, 2], &[1.0, 2.0, value, 3.0].map(f32::to_le_bytes).concat(), &[2], &[0, 1]);
    assert!(cut_train(&recipe, &with(0.5), &with(0.5)).is_ok());
    let error = cut_train(&recipe, &with(f32::NAN), &with(0.5)).unwrap_err().to_string();
    assert_eq!(error, "train.safetensors: tensor x: holds NaN or infinity in row 1");
}

fn matrices(a: [usize; 2], b: [usize; 2]) -> (Vec<f32>, Vec<f32>, Vec<u8>) {
    let values = |shape: [usize; 2], from: f32| (0..shape[0] * shape[1]).map(|i| from + i as f32).collect::<Vec<_>>();
    let (x, y) = (values(a, 0.0), values(b, 0.5));
    let bytes = tensors::write_f32(&[("a", &a, &x), ("b", &b, &y)]);
    (x, y, bytes)
}

#[test]
fn panels_hold_the_rows_of_a_and_the_columns_of_b() {
    let (a, b, bytes) = matrices([5, 3], [3, 7]);
    let cut = cut_matmul(&MatmulRecipe { block: 2, dtype: work::Dtype::F32 }, &bytes).unwrap();
    assert_eq!((cut.m, cut.k, cut.n, cut.a_panels.len(), cut.b_panels.len()), (5, 3, 7, 3, 4));
    for (i, panel) in cut.a_panels.iter().enumerate() {
        let rows = if i == 2 { 1 } else { 2 };
        assert_eq!(tensors::read_f32(panel, &[("a", &[rows, 3])]).unwrap()[0], a[i * 6..][..rows * 3]);
    }
    for (j, panel) in cut.b_panels.iter().enumerate() {
        let columns = if j == 3 { 1 } else { 2 };
        let expected: Vec<f32> = (0..3).flat_map(|row| b[row * 7 + j * 2..][..columns].to_vec()).collect();
        assert_eq!(tensors::read_f32(panel, &[("b", &[3, columns])]).unwrap()[0], expected);
    }
    let whole = cut_matmul(&MatmulRecipe { block: 4096, dtype: work::Dtype::F32 }, &bytes).unwrap();
    assert_eq!((whole.a_panels.len(), whole.b_panels.len()), (1, 1));
}

/// A file of A and B in f16, by their patterns.
fn f16_matrices(a: [usize; 2], b: [usize; 2], pattern: impl Fn(usize) -> u16) -> Vec<u8> {
    let data = |[rows, columns]: [usize; 2]| (0..rows * columns).flat_map(|i| pattern(i).to_le_bytes()).collect::<Vec<u8>>();
    let (x, y) = (data(a), data(b));
    let view = |shape: [usize; 2], data| TensorView::new(Dtype::F16, shape.to_vec(), data).unwrap();
    safetensors::serialize([("a", view(a, &x)), ("b", view(b, &y))], None).unwrap()
}

#[test]
fn panels_keep_their_element_type_and_take_half_the_bytes() {
    let recipe = MatmulRecipe { block: 2, dtype: work::Dtype::F16 };
    let pattern = |i: usize| 0x3C00 + i as u16;
    let cut = cut_matmul(&recipe, &f16_matrices([5, 3], [3, 7], pattern)).unwrap();
    assert_eq!((cut.m, cut.k, cut.n, cut.a_panels.len(), cut.b_panels.len()), (5, 3, 7, 3, 4));
    let read = |panel: &[u8], name, shape| tensors::read_operand(panel, name, shape, work::Dtype::F16).unwrap();
    for (i, panel) in cut.a_panels.iter().enumerate() {
        let rows = if i == 2 { 1 } else { 2 };
        let expected = (i * 6..i * 6 + rows * 3).map(pattern).collect();
        assert_eq!(read(panel, "a", [rows, 3]), tensors::Operand::F16(expected));
    }
    for (j, panel) in cut.b_panels.iter().enumerate() {
        let columns = if j == 3 { 1 } else { 2 };
        let expected = (0..3).flat_map(|row| (0..columns).map(move |i| pattern(row * 7 + j * 2 + i))).collect();
        assert_eq!(read(panel, "b", [3, columns]), tensors::Operand::F16(expected));
    }
    let large = [[64, 256], [256, 64]];
    let f32s = cut_matmul(&MatmulRecipe { block: 64, dtype: work::Dtype::F32 }, &matrices(large[0], large[1]).2).unwrap();
    let f16s = cut_matmul(&MatmulRecipe { block: 64, ..recipe }, &f16_matrices(large[0], large[1], |_| 0x3C00)).unwrap();
    assert_eq!(f32s.a_panels[0].len() - f16s.a_panels[0].len(), 2 * 64 * 256);
}

#[test]
fn the_element_type_is_the_recipes_and_values_are_finite() {
    let refused = |dtype, bytes: &[u8]| cut_matmul(&MatmulRecipe { block: 2, dtype }, bytes).unwrap_err().to_string();
    let (f32s, f16s) = (matrices([1, 1], [1, 1]).2, f16_matrices([1, 1], [1, 1], |_| 0x3C00));
    let expected = "the data file: tensor a: has element type F16, F32 is expected by work.dtype";
    assert_eq!(refused(work::Dtype::F32, &f16s), expected);
    let expected = "the data file: tensor a: has element type F32, F16 is expected by work.dtype";
    assert_eq!(refused(work::Dtype::F16, &f32s), expected);
    for bad in [0x7C00, 0xFC00, 0x7E00, 0xFFFF] {
        let bytes = f16_matrices([2, 3], [3, 1], |i| if i == 4 { bad } else { 0x7BFF });
        let expected = "the data file: tensor a: holds NaN or infinity in row 1, column 1";
        assert_eq!(refused(work::Dtype::F16, &bytes), expected, "{bad:#x}");
    }
}

#[test]
fn matrices_that_do_not_fit_are_refused() {
    let check = |bytes: &[u8], expected: &str| {
        let error = cut_matmul(&MatmulRecipe { block: 2, dtype: work::Dtype::F32 }, bytes).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(&matrices([2, 3], [4, 2]).2, "the data file: tensor b: has 4 rows, a has 3 columns");
    check(&tensors::write_f32(&[("a", &[1, 1], &[1.0])]), "the data file: tensor b: is missing");
    check(&tensors::write_f32(&[("a", &[1], &[1.0]), ("b", &[1, 1], &[1.0])]), "the data file: tensor a: has shape [1]");
    check(&tensors::write_f32(&[("a", &[0, 1], &[]), ("b", &[1, 1], &[1.0])]), "the data file: tensor a: has shape [0, 1]");
    let nan = tensors::write_f32(&[("a", &[1, 2], &[1.0, f32::NAN]), ("b", &[2, 1], &[1.0, 1.0])]);
    check(&nan, "the data file: tensor a: holds NaN or infinity in row 0, column 1");
    check(&[], "the data file is not a safetensors file");
}
