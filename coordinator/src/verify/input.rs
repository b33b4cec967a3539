//! Are a job's submitted blobs what its recipe says? Checked once, before volunteers are asked to fetch them.
//!
//! Whether the data makes sense is the job owner's business.

use manyhands::tensors;
use manyhands_protocol::model::Model;
use manyhands_protocol::work::Dtype;

use super::Refusal;

/// Rows (or columns) of panel `index` when `extent` is cut into panels of `block`; 0 past the end.
pub fn panel_len(extent: u64, block: u32, index: usize) -> u64 {
    let start = (index as u64).saturating_mul(u64::from(block));
    extent.saturating_sub(start).min(u64::from(block))
}

/// A row panel of A: one tensor `a` `[rows, k]` of the job's type, finite.
pub fn check_a_panel(bytes: &[u8], rows: u64, k: u64, dtype: Dtype) -> Result<(), Refusal> {
    check_panel(bytes, "a", rows, k, dtype)
}

/// A column panel of B: one tensor `b` `[k, columns]`, likewise.
pub fn check_b_panel(bytes: &[u8], k: u64, columns: u64, dtype: Dtype) -> Result<(), Refusal> {
    check_panel(bytes, "b", k, columns, dtype)
}

fn check_panel(bytes: &[u8], name: &str, rows: u64, columns: u64, dtype: Dtype) -> Result<(), Refusal> {
    let shape = [rows, columns].map(|d| usize::try_from(d).unwrap_or(usize::MAX));
    tensors::read_operand(bytes, name, shape, dtype)?;
    Ok(())
}

/// A shard or a held-out set: `x` of the model's type and shape, finite, and `y` u8 below the model's classes. With
/// `rows`, exactly so many. Gives the number of examples.
pub fn check_shard(bytes: &[u8], model: &Model, rows: Option<u32>) -> Result<usize, Refusal> {
    let shard = tensors::read_shard(bytes, model)?;
    match rows {
        Some(expected) if shard.rows != expected as usize => Err(Refusal::Rows { got: shard.rows, expected: expected as usize }),
        _ => Ok(shard.rows),
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::model::{Input, InputType, Layer, Loss};
    use manyhands_protocol::problem::Code;
    use manyhands_protocol::work;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn panels_cover_the_extent() {
        for (extent, block) in [(10, 4), (8, 4), (1, 4), (4, 1), (0, 3)] {
            let count = u64::div_ceil(extent, u64::from(block)) as usize;
            assert_eq!((0..count).map(|i| panel_len(extent, block, i)).sum::<u64>(), extent);
            assert!((0..count).all(|i| panel_len(extent, block, i) >= 1));
            assert_eq!(panel_len(extent, block, count), 0);
        }
        assert_eq!(panel_len(10, 4, usize::MAX), 0);
    }

    #[test]
    fn panels_have_their_name_and_shape() {
        let panel =
            |name: &str, shape: &[usize], value: f32| tensors::write_f32(&[(name, shape, &vec![value; shape.iter().product()])]);
        assert_eq!(check_a_panel(&panel("a", &[2, 3], 1.0), 2, 3, work::Dtype::F32), Ok(()));
        assert_eq!(check_b_panel(&panel("b", &[3, 2], 1.0), 3, 2, work::Dtype::F32), Ok(()));
        let code = |bytes: &[u8]| check_a_panel(bytes, 2, 3, work::Dtype::F32).err().map(|e| e.code());
        assert_eq!(code(&panel("a", &[3, 2], 1.0)), Some(Code::WrongTensor));
        assert_eq!(code(&panel("b", &[2, 3], 1.0)), Some(Code::WrongTensor));
        assert_eq!(code(&panel("a", &[2, 3], f32::NAN)), Some(Code::NotFinite));
        assert_eq!(code(&panel("a", &[2, 3], 1.0)[..40]), Some(Code::BadTensorFile));
    }

    #[test]
    fn panels_in_f16_have_their_type_and_are_finite() {
        let panel = |dtype, words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            safetensors::serialize([("a", TensorView::new(dtype, vec![2, 3], &bytes).unwrap())], None).unwrap()
        };
        let check = |bytes: &[u8], dtype| check_a_panel(bytes, 2, 3, dtype).err().map(|e| e.code());
        // Ones, the largest, a subnormal and zeros of either sign.
        let good = panel(Dtype::F16, &[0x3C00, 0xBC00, 0x7BFF, 0x8001, 0x0000, 0x8000]);
        assert_eq!(check(&good, work::Dtype::F16), None);
        assert_eq!(check(&good, work::Dtype::F32), Some(Code::WrongTensor));
        assert_eq!(check(&panel(Dtype::BF16, &[0; 6]), work::Dtype::F16), Some(Code::WrongTensor), "another two bytes");
        assert_eq!(check(&panel(Dtype::F32, &[0; 12]), work::Dtype::F16), Some(Code::WrongTensor));
        for bad in [0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF] {
            let bytes = panel(Dtype::F16, &[0, 0, 0, 0, 0, bad]);
            assert_eq!(check(&bytes, work::Dtype::F16), Some(Code::NotFinite), "{bad:#x}");
        }
        for cut in 1..=12 {
            assert_eq!(check(&good[..good.len() - cut], work::Dtype::F16), Some(Code::BadTensorFile), "{cut} bytes fewer");
        }
        // A header that says two bytes a value over data of four.
        let wide = panel(Dtype::F32, &[0x3C00; 12]);
        let at = wide.windows(3).position(|name| name == b"F32").unwrap();
        let lying = [&wide[..at], b"F16", &wide[at + 3..]].concat();
        assert_eq!(check(&lying, work::Dtype::F16), Some(Code::BadTensorFile));
    }

    #[test]
    fn shards_have_their_rows_types_and_labels() {
        let model = Model {
            input: Input { shape: vec![2], dtype: InputType::U8, scale: 1.0, offset: 0.0 },
            layers: vec![Layer::Dense { outputs: 3 }],
            loss: Loss::SoftmaxCrossEntropy,
        };
        let shard = |dtype, x: &[u8], y: &[u8]| {
            let columns = if dtype == Dtype::F32 { x.len() / 8 } else { x.len() / 2 };
            let x = TensorView::new(dtype, vec![columns, 2], x).unwrap();
            let y = TensorView::new(Dtype::U8, vec![y.len()], y).unwrap();
            safetensors::serialize([("x", x), ("y", y)], None).unwrap()
        };
        let good = shard(Dtype::U8, &[1, 2, 3, 4], &[0, 2]);
        assert_eq!(check_shard(&good, &model, None), Ok(2));
        assert_eq!(check_shard(&good, &model, Some(2)), Ok(2));
        assert_eq!(check_shard(&good, &model, Some(3)), Err(Refusal::Rows { got: 2, expected: 3 }));
        let refused = |bytes: Vec<u8>| check_shard(&bytes, &model, None).err().map(|e| e.code());
        assert_eq!(refused(shard(Dtype::U8, &[1, 2, 3, 4], &[0, 3])), Some(Code::WrongTensor));
        assert_eq!(refused(shard(Dtype::U8, &[1, 2, 3, 4], &[0])), Some(Code::WrongTensor));
        assert_eq!(refused(shard(Dtype::F32, &[0; 16], &[0, 2])), Some(Code::WrongTensor));
        let f32_model = Model { input: Input { dtype: InputType::F32, ..model.input.clone() }, ..model.clone() };
        let nan = [f32::NAN, 1.0, 1.0, 1.0].map(f32::to_le_bytes).concat();
        let bytes = shard(Dtype::F32, &nan, &[0, 2]);
        assert_eq!(check_shard(&bytes, &f32_model, None).err().map(|e| e.code()), Some(Code::NotFinite));
    }
}
