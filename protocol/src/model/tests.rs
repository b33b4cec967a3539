use super::*;

fn input(shape: &[u32], dtype: InputType) -> Input {
    let scale = if dtype == InputType::U8 && shape.len() == 3 { 1.0 / 255.0 } else { 1.0 };
    Input { shape: shape.to_vec(), dtype, scale, offset: 0.0 }
}

fn model(shape: &[u32], layers: &[Layer]) -> Model {
    Model { input: input(shape, InputType::U8), layers: layers.to_vec(), loss: Loss::SoftmaxCrossEntropy }
}

fn dense(outputs: u32) -> Layer {
    Layer::Dense { outputs }
}

/// The number of parameters' values, or the field at fault.
fn check(model: &Model, expected: Result<usize, &str>) {
    let got = model.parameters().map(|p| p.iter().map(Parameter::values_count).sum::<usize>()).map_err(|e| e.field);
    assert_eq!(got, expected.map_err(str::to_owned), "{model:?}");
}

#[test]
fn dense_nets_and_absurd_sizes() {
    check(&model(&[784], &[dense(128), Layer::Relu, dense(10)]), Ok(784 * 128 + 128 + 128 * 10 + 10));
    check(&model(&[784], &[dense(0)]), Err("layers[0].outputs"));
    check(&model(&[784], &[dense(u32::MAX)]), Err("layers[0].outputs"));
    check(&model(&[1 << 20], &[dense(1 << 20)]), Err("layers[0]"));
    check(&model(&[0], &[dense(10)]), Err("input.shape[0]"));
    check(&model(&[], &[dense(10)]), Err("input.shape"));
    check(&model(&[u32::MAX, u32::MAX, u32::MAX], &[dense(10)]), Err("input.shape"));
    check(&model(&[784], &[]), Err("layers"));
    check(&model(&[784], &[dense(10), Layer::Relu]), Err("layers[1]"));
    check(&model(&[784], &[dense(1)]), Err("layers[0].outputs"));
    let mut nan = model(&[784], &[dense(10)]);
    nan.input.scale = f32::NAN;
    check(&nan, Err("input.scale"));
    assert_eq!(model(&[784], &[dense(128), Layer::Relu, dense(10)]).forward_flop(), 2 * (784 * 128 + 128 * 10));
}

#[test]
fn convolutional_nets() {
    let convolution = |channels, kernel, stride, padding| Layer::Convolution { channels, kernel, stride, padding };
    let pool = Layer::MaxPool { size: 2, stride: 2 };
    let net = |first: Layer| [first, Layer::Relu, pool.clone(), convolution(16, 5, 1, 0), Layer::Relu, pool.clone(), dense(10)];
    let lenet = model(&[28, 28, 1], &net(convolution(8, 5, 1, 0)));
    check(&lenet, Ok(200 + 8 + 3200 + 16 + 2560 + 10));
    assert_eq!(lenet.forward_flop(), 2 * (24 * 24 * 8 * 25 + 8 * 8 * 16 * 25 * 8 + 256 * 10));
    let extents: Vec<Extent> = lenet.trace().expect("a valid model").iter().map(|traced| traced.output).collect();
    assert_eq!(extents[5], Extent::Image { height: 4, width: 4, channels: 16 });
    check(&model(&[32, 32, 3], &[convolution(4, 3, 2, 1), dense(10)]), Ok(108 + 4 + 16 * 16 * 4 * 10 + 10));
    for (bad, field) in [
        (convolution(8, 29, 1, 0), "layers[0]"),
        (convolution(8, 0, 1, 0), "layers[0].kernel"),
        (convolution(8, 65, 1, 0), "layers[0].kernel"),
        (convolution(8, 5, 0, 0), "layers[0].stride"),
        (convolution(8, 5, 1, 5), "layers[0].padding"),
        (convolution(0, 5, 1, 0), "layers[0].channels"),
        (convolution(u32::MAX, 5, 1, 0), "layers[0].channels"),
        (convolution(1 << 20, 1, 1, 0), "layers[0]"),
        (Layer::AveragePool { size: 0, stride: 1 }, "layers[0].size"),
        (Layer::LayerNorm, "layers[0]"),
        (Layer::Attention { heads: 1 }, "layers[0]"),
    ] {
        check(&model(&[28, 28, 1], &net(bad)), Err(field));
    }
    check(&model(&[784], &net(convolution(8, 5, 1, 0))), Err("layers[0]"));
    check(&model(&[28, 28, 1], &[dense(9), pool.clone(), dense(10)]), Err("layers[1]"));
}

/// A byte-level transformer of `blocks` blocks.
pub fn gpt(blocks: usize, heads: u32) -> Vec<Layer> {
    let mut layers = vec![Layer::Embedding { vocabulary: 256, width: 128 }];
    for _ in 0..blocks {
        layers.extend([Layer::Residual { layers: 2 }, Layer::LayerNorm, Layer::Attention { heads }]);
        layers.extend([Layer::Residual { layers: 4 }, Layer::LayerNorm, dense(512), Layer::Gelu, dense(128)]);
    }
    layers.extend([Layer::LayerNorm, dense(256)]);
    layers
}

fn text(layers: &[Layer]) -> Model {
    Model { input: input(&[64], InputType::U8), layers: layers.to_vec(), loss: Loss::SoftmaxCrossEntropy }
}

#[test]
fn transformers() {
    let block = 256 + 128 * 384 + 384 + 128 * 128 + 128 + 256 + 128 * 512 + 512 + 512 * 128 + 128;
    let four = text(&gpt(4, 4));
    check(&four, Ok(256 * 128 + 64 * 128 + 4 * block + 256 + 128 * 256 + 256));
    let mut without_bias = gpt(4, 4);
    *without_bias.last_mut().expect("a layer") = Layer::Projection { outputs: 256 };
    check(&text(&without_bias), Ok(256 * 128 + 64 * 128 + 4 * block + 256 + 128 * 256));
    assert_eq!((text(&without_bias).classes(), text(&without_bias).forward_flop()), (256, four.forward_flop()));
    assert_eq!((four.labels_count(), four.classes()), (64, 256));
    assert_eq!(four.forward_flop(), 2 * 64 * (4 * 12 * 128 * 128 + 128 * 256) + 4 * 2 * 64 * 65 * 128);
    for (at, bad, field) in [
        (0, Layer::Embedding { vocabulary: 257, width: 128 }, "layers[0].vocabulary"),
        (0, Layer::Embedding { vocabulary: 256, width: 0 }, "layers[0].width"),
        (1, Layer::Residual { layers: 0 }, "layers[1].layers"),
        (1, Layer::Residual { layers: 10 }, "layers[1].layers"),
        (1, Layer::Residual { layers: 3 }, "layers[4]"),
        (1, Layer::Residual { layers: u32::MAX }, "layers[1].layers"),
        (3, Layer::Attention { heads: 0 }, "layers[3].heads"),
        (3, Layer::Attention { heads: 3 }, "layers[3].heads"),
        (3, Layer::Attention { heads: 64 }, "layers[3].heads"),
        (8, dense(64), "layers[8]"),
        (8, Layer::Gelu, "layers[8]"),
        (2, Layer::Embedding { vocabulary: 256, width: 128 }, "layers[2]"),
        (2, Layer::MaxPool { size: 2, stride: 2 }, "layers[2]"),
    ] {
        let mut layers = gpt(1, 4);
        layers[at] = bad;
        check(&text(&layers), Err(field));
    }
    let mut long = text(&gpt(1, 4));
    long.input.shape = vec![1025];
    check(&long, Err("input.shape[0]"));
    long.input = input(&[8, 8], InputType::U8);
    check(&long, Err("input.shape"));
    long.input = input(&[64], InputType::F32);
    check(&long, Err("input"));
    check(&text(&[Layer::Embedding { vocabulary: 256, width: 8 }]), Err("layers[0]"));
}

#[test]
fn branches_begin_smaller_with_their_number() {
    let four = text(&gpt(4, 4));
    let parameters = four.parameters().expect("a valid model");
    let variance = |name: &str| match parameters.iter().find(|p| p.name == name).expect("a parameter").init {
        Init::Normal { variance } => variance,
        other => panic!("{name} begins as {other:?}"),
    };
    assert_eq!(variance("layers.3.qkv_weight"), 1.0 / 128.0);
    assert_eq!(variance("layers.3.out_weight"), 1.0 / 128.0 / 8.0);
    assert_eq!(variance("layers.6.weight"), 2.0 / 128.0);
    assert_eq!(variance("layers.8.weight"), 2.0 / 512.0 / 8.0);
}

#[test]
fn dropouts() {
    let dropout = |rate| Layer::Dropout { rate };
    let net = |rate| model(&[784], &[dropout(rate), dense(128), Layer::Relu, dropout(rate), dense(10)]);
    for rate in [0.0, 0.1, 0.999_999] {
        check(&net(rate), Ok(784 * 128 + 128 + 128 * 10 + 10));
    }
    for rate in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
        check(&net(rate), Err("layers[0].rate"));
    }
    check(&model(&[784], &[dense(10), dropout(0.5)]), Err("layers[1]"));
    let mut layers = gpt(1, 4);
    layers.insert(0, dropout(0.1));
    check(&text(&layers), Err("layers[1]"));
    // A branch that ends with dropout still closes with the layer before it.
    let mut layers = gpt(1, 4);
    layers[4] = Layer::Residual { layers: 5 };
    layers.insert(9, dropout(0.1));
    let with = text(&layers).parameters().expect("a valid model");
    let without = text(&gpt(1, 4)).parameters().expect("a valid model");
    assert!(with.iter().zip(&without).all(|(a, b)| a.init == b.init && a.shape == b.shape), "{with:?}");
    layers[4] = Layer::Residual { layers: 4 };
    check(&text(&layers), Ok(without.iter().map(Parameter::values_count).sum()));
}

/// Rates travel in the shorter form, and what is no rate is refused by validation, not by the codec.
#[test]
fn dropouts_on_the_wire() {
    let check = |rate: f32, expected: &str| {
        let bytes = crate::cbor::encode(&Layer::Dropout { rate });
        assert_eq!(hex::encode(&bytes), expected);
        assert_eq!(crate::cbor::decode_strict::<Layer>(&bytes), Ok(Layer::Dropout { rate }));
    };
    check(0.5, "820bf93800");
    check(0.1, "820bfa3dcccccd");
    assert!(crate::cbor::decode_strict::<Layer>(&[0x81, 0x0b]).is_err());
    assert!(crate::cbor::decode_strict::<Layer>(&[0x82, 0x0b, 0x00]).is_err());
}
