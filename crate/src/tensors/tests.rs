//! Hostile and honest safetensors bytes. Files are built by hand where nobody would write them.

use super::*;
use manyhands_protocol::model::{Input, Layer, Loss};

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn read_w(bytes: &[u8]) -> Result<Vec<Vec<f32>>, TensorError> {
    read_f32(bytes, &[("w", &[2, 2])])
}

#[test]
fn round_trip_in_the_order_asked_for() {
    let bytes = write_f32(&[("b", &[3], &[1.0, -0.0, f32::MIN_POSITIVE]), ("a", &[1, 2], &[4.0, 5.0])]);
    assert_eq!(read_f32(&bytes, &[("a", &[1, 2]), ("b", &[3])]), Ok(vec![vec![4.0, 5.0], vec![1.0, -0.0, f32::MIN_POSITIVE]]));
    assert_eq!(bytes, write_f32(&[("b", &[3], &[1.0, -0.0, f32::MIN_POSITIVE]), ("a", &[1, 2], &[4.0, 5.0])]));
}

#[test]
fn every_truncation_and_any_trailing_byte_is_refused() {
    let bytes = write_f32(&[("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])]);
    assert!(read_w(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(read_w(&bytes[..length]).is_err(), "{length} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(read_w(&longer).is_err());
}

#[test]
fn lying_headers_are_refused() {
    let data = f32s(&[1.0, 2.0, 3.0, 4.0]);
    let w = |rest: &str| file(&format!(r#"{{"w":{{"dtype":"F32",{rest}}}}}"#), &data);
    assert!(read_w(&w(r#""shape":[2,2],"data_offsets":[0,16]"#)).is_ok());
    for rest in [
        r#""shape":[2,2],"data_offsets":[0,17]"#,
        r#""shape":[2,2],"data_offsets":[0,12]"#,
        r#""shape":[2,2],"data_offsets":[4,20]"#,
        r#""shape":[2,2],"data_offsets":[16,0]"#,
        r#""shape":[2,2],"data_offsets":[0,18446744073709551615]"#,
        r#""shape":[18446744073709551615,4],"data_offsets":[0,16]"#,
        r#""shape":[4294967296,4294967296],"data_offsets":[0,16]"#,
        r#""shape":[2,-2],"data_offsets":[0,16]"#,
        r#""shape":[2,2]"#,
    ] {
        assert!(matches!(read_w(&w(rest)), Err(TensorError::Format(_))), "{rest}");
    }
    for header in ["", "{", "[]", "null", "{\"w\":1}", "\u{0}"] {
        assert!(read_w(&file(header, &data)).is_err(), "{header:?}");
    }
    // Overlapping tensors, and one name twice.
    let twice =
        r#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"v":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    assert!(read_f32(&file(twice, &data), &[("w", &[2, 2]), ("v", &[2, 2])]).is_err());
    let doubled = twice.replace("\"v\"", "\"w\"");
    assert!(read_f32(&file(&doubled, &[data.clone(), data.clone()].concat()), &[("w", &[2, 2])]).is_err());
}

#[test]
fn operands_are_read_as_they_are_stored() {
    let patterns: [u16; 4] = [0x3C00, 0xC000, 0x0001, 0x7BFF];
    let data = |patterns: [u16; 4]| patterns.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<u8>>();
    let header = |end: usize| format!(r#"{{"a":{{"dtype":"F16","shape":[2,2],"data_offsets":[0,{end}]}}}}"#);
    let f16 = file(&header(8), &data(patterns));
    let operand = read_operand(&f16, "a", [2, 2], Dtype::F16).unwrap();
    assert_eq!(operand, Operand::F16(patterns.to_vec()));
    assert_eq!(operand.widened(), [1.0, -2.0, 5.960_464_5e-8, 65_504.0]);
    let f32s = write_f32(&[("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0])]);
    assert_eq!(read_operand(&f32s, "a", [2, 2], Dtype::F32), Ok(Operand::F32(vec![1.0, 2.0, 3.0, 4.0])));
    for (bytes, dtype) in [(&f16, Dtype::F32), (&f32s, Dtype::F16)] {
        assert!(matches!(read_operand(bytes, "a", [2, 2], dtype), Err(TensorError::ElementType { .. })));
    }
    assert!(matches!(read_operand(&f16, "a", [4, 1], Dtype::F16), Err(TensorError::Shape { .. })));
    assert!(matches!(read_operand(&f16, "b", [2, 2], Dtype::F16), Err(TensorError::Missing(_))));
    // As many bytes as f32 takes, and one byte fewer.
    for end in [16, 7] {
        let lying = file(&header(end), &vec![0; end]);
        assert!(matches!(read_operand(&lying, "a", [2, 2], Dtype::F16), Err(TensorError::Format(_))), "{end}");
    }
    for bad in [0x7C00, 0xFC00, 0x7E00, 0xFFFF] {
        let got = read_operand(&file(&header(8), &data([0, 0, 0, bad])), "a", [2, 2], Dtype::F16);
        assert_eq!(got, Err(TensorError::NotFinite { name: "a".to_owned(), index: 3 }), "{bad:#x}");
    }
}

#[test]
fn giant_headers_are_refused_before_they_are_parsed() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend([b' '; 64]);
    assert!(matches!(read_w(&bytes), Err(TensorError::TooLarge { .. })));
    let spaces = " ".repeat(limits::SAFETENSORS_HEADER_BYTES_MAX + 1);
    assert!(matches!(read_w(&file(&spaces, &[])), Err(TensorError::TooLarge { .. })));
    let many: Vec<String> = (0..limits::TENSORS_PER_FILE_MAX + 1)
        .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let header = format!("{{{}}}", many.join(","));
    assert!(header.len() < limits::SAFETENSORS_HEADER_BYTES_MAX);
    assert!(matches!(read_w(&file(&header, &[])), Err(TensorError::Count { .. })));
}

#[test]
fn wrong_tensors_are_named() {
    let ok = f32s(&[1.0, 2.0, 3.0, 4.0]);
    let header = |name: &str, dtype: &str, shape: &str, end: usize| {
        format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    let got = |h: String| read_w(&file(&h, &ok)).unwrap_err();
    assert_eq!(got(header("v", "F32", "[2,2]", 16)), TensorError::Missing("w".to_owned()));
    assert!(matches!(got(header("w", "I32", "[2,2]", 16)), TensorError::ElementType { .. }));
    assert!(matches!(got(header("w", "F16", "[2,4]", 16)), TensorError::ElementType { .. }));
    assert!(matches!(got(header("w", "F32", "[4]", 16)), TensorError::Shape { .. }));
    assert!(matches!(got(header("w", "F32", "[4,1]", 16)), TensorError::Shape { .. }));
    let extra = write_f32(&[("w", &[2, 2], &[0.0; 4]), ("x", &[1], &[0.0])]);
    assert_eq!(read_w(&extra), Err(TensorError::Count { got: 2, expected: 1 }));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bytes = write_f32(&[("w", &[2, 2], &[0.0, 0.0, bad, 0.0])]);
        assert_eq!(read_w(&bytes), Err(TensorError::NotFinite { name: "w".to_owned(), index: 2 }));
    }
}

fn model(dtype: InputType) -> Model {
    Model {
        input: Input { shape: vec![1, 2], dtype, scale: 0.5, offset: 1.0 },
        layers: vec![Layer::Dense { outputs: 3 }],
        loss: Loss::SoftmaxCrossEntropy,
    }
}

fn shard(x: (&str, &str, Vec<u8>), y: (&str, &str, Vec<u8>)) -> Vec<u8> {
    let (first, second) = (x.2.len(), x.2.len() + y.2.len());
    let header = format!(
        r#"{{"x":{{"dtype":"{}","shape":{},"data_offsets":[0,{first}]}},"y":{{"dtype":"{}","shape":{},"data_offsets":[{first},{second}]}}}}"#,
        x.0, x.1, y.0, y.1
    );
    file(&header, &[x.2, y.2].concat())
}

#[test]
fn shards_are_scaled_and_checked() {
    let y = || ("U8", "[2]", vec![0, 2]);
    let x = || ("U8", "[2,1,2]", vec![0, 2, 4, 255]);
    assert_eq!(
        read_shard(&shard(x(), y()), &model(InputType::U8)),
        Ok(Shard { rows: 2, x: vec![1.0, 2.0, 3.0, 128.5], y: vec![0, 2] })
    );
    let floats = ("F32", "[2,1,2]", f32s(&[0.0, 2.0, -4.0, 1.0]));
    assert_eq!(read_shard(&shard(floats, y()), &model(InputType::F32)).unwrap().x, [1.0, 2.0, -1.0, 1.5]);
    let nan = ("F32", "[2,1,2]", f32s(&[0.0, f32::NAN, -4.0, 1.0]));
    assert!(matches!(read_shard(&shard(nan, y()), &model(InputType::F32)), Err(TensorError::NotFinite { index: 1, .. })));
    let refused = |x, y| read_shard(&shard(x, y), &model(InputType::U8)).unwrap_err();
    assert_eq!(refused(x(), ("U8", "[2]", vec![0, 3])), TensorError::Label { index: 1, label: 3, classes: 3 });
    assert!(matches!(refused(("U8", "[2,2]", vec![0; 4]), y()), TensorError::Shape { .. }));
    assert!(matches!(refused(("U8", "[4,1,2]", vec![0; 8]), y()), TensorError::Shape { .. }));
    assert!(matches!(refused(("F32", "[2,1,2]", vec![0; 16]), y()), TensorError::ElementType { .. }));
    assert!(matches!(refused(x(), ("F32", "[2]", vec![0; 8])), TensorError::ElementType { .. }));
    assert!(matches!(refused(x(), ("U8", "[2,1]", vec![0; 2])), TensorError::Shape { .. }));
    assert!(matches!(refused(("U8", "[0,1,2]", vec![]), ("U8", "[0]", vec![])), TensorError::Shape { .. }));
    assert!(matches!(refused(x(), ("U8", "[]", vec![1])), TensorError::Shape { .. }));
}
