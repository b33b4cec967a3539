//! Freivalds' check against honest blocks of many accumulation orders, and against lies.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

/// The bound the project promises at 1024³, written here on its own so that no change of the derivation moves it.
const RATIO_AT_1024_MAX: f64 = 5e-3;

/// How an honest volunteer may add up.
type Product = fn(ProductShape, &[f32], &[f32]) -> Vec<f32>;

fn shape(m: usize, k: usize, n: usize) -> ProductShape {
    ProductShape { m, k, n }
}

fn random(count: usize, rng: &mut ChaCha20Rng) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// Inputs of a product from a seed.
fn inputs(shape: ProductShape, seed: u64) -> (Vec<f32>, Vec<f32>, ChaCha20Rng) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    (random(shape.m * shape.k, &mut rng), random(shape.k * shape.n, &mut rng), rng)
}

fn each(shape: ProductShape, mut entry: impl FnMut(usize, usize) -> f32) -> Vec<f32> {
    (0..shape.m * shape.n).map(|at| entry(at / shape.n, at % shape.n)).collect()
}

fn naive(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    each(s, |i, j| (0..s.k).fold(0.0, |sum, p| sum + a[i * s.k + p] * b[p * s.n + j]))
}

fn reversed(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    each(s, |i, j| (0..s.k).rev().fold(0.0, |sum, p| sum + a[i * s.k + p] * b[p * s.n + j]))
}

fn fused(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    each(s, |i, j| (0..s.k).fold(0.0, |sum, p| a[i * s.k + p].mul_add(b[p * s.n + j], sum)))
}

/// The protocol's order with `round` after every operation.
fn chunked_with(s: ProductShape, a: &[f32], b: &[f32], round: impl Fn(f64) -> f32) -> Vec<f32> {
    let chunk = limits::MATMUL_K_CHUNK as usize;
    each(s, |i, j| {
        let mut sum = 0.0;
        for from in (0..s.k).step_by(chunk) {
            let mut part = 0.0;
            for p in from..s.k.min(from + chunk) {
                let product = round(f64::from(a[i * s.k + p]) * f64::from(b[p * s.n + j]));
                part = round(f64::from(part) + f64::from(product));
            }
            sum = round(f64::from(sum) + f64::from(part));
        }
        sum
    })
}

fn chunked(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    chunked_with(s, a, b, |x| x as f32)
}

/// The worst WGSL allows: every operation gives the neighbour below, so that errors add up instead of cancelling.
fn rounded_down(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    chunked_with(s, a, b, |x| if f64::from(x as f32) > x { (x as f32).next_down() } else { x as f32 })
}

fn flushed(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    let (a, b): (Vec<f32>, Vec<f32>) = (a.iter().map(|&v| flush(v)).collect(), b.iter().map(|&v| flush(v)).collect());
    chunked_with(s, &a, &b, |x| flush(x as f32))
}

const PRODUCTS: [(&str, Product); 6] = [
    ("naive", naive),
    ("reversed", reversed),
    ("fused", fused),
    ("chunked", chunked),
    ("rounded down", rounded_down),
    ("flushed", flushed),
];

fn shapes() -> Vec<ProductShape> {
    vec![
        shape(1, 1, 1),
        shape(1, 300, 1),
        shape(7, 1, 9),
        shape(33, 65, 17),
        shape(64, 784, 31),
        shape(3, 5000, 5),
        shape(96, 128, 130),
    ]
}

#[test]
fn honest_blocks_pass() {
    for (seed, s) in shapes().into_iter().enumerate() {
        let (a, b, mut rng) = inputs(s, seed as u64);
        for (name, product) in PRODUCTS {
            let c = product(s, &a, &b);
            assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()), "{name} {s:?}");
        }
    }
}

#[test]
fn honest_blocks_of_lopsided_values_pass() {
    let s = shape(16, 200, 24);
    let scales: [fn(usize) -> f32; 5] = [
        |i| if i.is_multiple_of(3) { 1e18 } else { 1e-18 },
        |i| 10f32.powi((i % 37) as i32 - 18),
        |_| 0.0,
        |_| 1e-21,                                    // every product is a denormal
        |i| if i % 200 == 7 { 1.0 } else { 1.5e-39 }, // inputs are denormals
    ];
    for scale in scales {
        let (mut a, mut b, mut rng) = inputs(s, 3);
        a.iter_mut().enumerate().for_each(|(i, v)| *v = v.abs() * scale(i));
        b.iter_mut().enumerate().for_each(|(i, v)| *v = v.abs() * scale(i + 1));
        for (name, product) in PRODUCTS {
            let c = product(s, &a, &b);
            assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()), "{name} {:e}", scale(0));
        }
    }
}

/// `c` with one entry off by `error` must be refused as a wrong product.
fn refused_when_off(s: ProductShape, a: &[f32], b: &[f32], c: &[f32], at: usize, error: f64, rng: &mut ChaCha20Rng) {
    let mut c = c.to_vec();
    c[at] = (f64::from(c[at]) + error) as f32;
    let refusal = check_product(s, a, b, &c, rng);
    let row = at / s.n;
    assert!(
        matches!(refusal, Err(Refusal::WrongProduct { row: r, .. } | Refusal::RowTooLarge { row: r, .. }) if r == row),
        "{s:?}: entry {at} off by {error:e}: {refusal:?}"
    );
}

#[test]
fn one_entry_off_by_twice_the_tolerance_is_refused() {
    for (seed, s) in shapes().into_iter().enumerate() {
        let (a, b, mut rng) = inputs(s, seed as u64);
        let c = chunked(s, &a, &b);
        for at in [0, s.m * s.n / 2, s.m * s.n - 1] {
            let tau = row_tolerance(s, norm(&a[at / s.n * s.k..][..s.k]), norm(&b)).tau;
            refused_when_off(s, &a, &b, &c, at, 2.0 * tau, &mut rng);
            refused_when_off(s, &a, &b, &c, at, -2.0 * tau, &mut rng);
        }
    }
}

#[test]
fn an_error_far_below_the_tolerance_is_accepted_by_definition() {
    let s = shape(64, 256, 64);
    let (a, b, mut rng) = inputs(s, 1);
    let mut c = chunked(s, &a, &b);
    c[70] += 0.25 * row_tolerance(s, norm(&a[s.k..][..s.k]), norm(&b)).tau as f32;
    assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()));
}

/// The exact product rounded once; fast enough for large shapes.
fn rounded_once(s: ProductShape, a: &[f32], b: &[f32]) -> Vec<f32> {
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let mut c = vec![0.0; s.m * s.n];
    multiply(&wide(a), false, &wide(b), &mut c, [s.m, s.k, s.n], false);
    c.into_iter().map(|x| x as f32).collect()
}

/// Independent of how τ is computed: ten times the ratio that docs/verification.md prints, as literals, with plain norms.
#[test]
fn one_entry_off_by_ten_times_the_printed_ratio_is_refused() {
    let plain_norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for (s, printed) in [(shape(1024, 1024, 1024), 2.7e-3), (shape(256, 256, 256), 1.1e-3), (shape(64, 784, 256), 1.3e-3)] {
        let (a, b, mut rng) = inputs(s, 4);
        let c = rounded_once(s, &a, &b);
        assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()), "{s:?}");
        for at in [0, s.m * s.n / 3, s.m * s.n - 1] {
            let (i, j) = (at / s.n, at % s.n);
            let norms =
                plain_norm(&mut a[i * s.k..][..s.k].iter().copied()) * plain_norm(&mut b.iter().skip(j).step_by(s.n).copied());
            refused_when_off(s, &a, &b, &c, at, 10.0 * printed * norms, &mut rng);
        }
    }
}

/// What decides is what is printed: the ratio of the documents is that of the tolerance in use, where B's columns have
/// equal norms.
#[test]
fn the_tolerance_in_use_has_the_printed_ratio() {
    for s in [shape(1024, 1024, 1024), shape(256, 256, 256), shape(64, 784, 256), shape(1024, 384, 1536)] {
        let (a_norm, column_norm) = (3.0, 5.0);
        let ratio = row_tolerance(s, a_norm, column_norm * (s.n as f64).sqrt()).tau / (a_norm * column_norm);
        assert!((ratio / tolerance_ratio(s) - 1.0).abs() < 1e-3, "{s:?}: {ratio}");
    }
}

/// The volunteers' kernels promise an error bound, the check rests on one: they are the same.
#[test]
fn the_rounding_bound_is_that_of_the_kernels() {
    for k in [1, 63, 64, 65, 784, 1024, 100_000, 1 << 22] {
        assert_eq!(rounding_bound(k), manyhands_shaders::matmul::gamma(k as u32), "{k}");
    }
}

#[test]
fn wholesale_lies_are_refused() {
    let s = shape(48, 48, 48);
    let (a, b, mut rng) = inputs(s, 5);
    let c = chunked(s, &a, &b);
    let refused = |what: &str, lie: Vec<f32>, rng: &mut ChaCha20Rng| {
        assert!(check_product(s, &a, &b, &lie, rng).is_err(), "{what}");
    };
    refused("zeros", vec![0.0; c.len()], &mut rng);
    refused("noise", random(c.len(), &mut rng.clone()), &mut rng);
    refused("transposed", each(s, |i, j| c[j * s.n + i]), &mut rng);
    refused("product the other way round", chunked(s, &b, &a), &mut rng);
    refused("sign flipped", c.iter().map(|v| -v).collect(), &mut rng);
    refused("half precision's last bits", c.iter().map(|v| v * 1.01).collect(), &mut rng);
    refused("rows rotated", [&c[s.n..], &c[..s.n]].concat(), &mut rng);
    refused("huge", vec![f32::MAX; c.len()], &mut rng);

    // Errors that cancel in the row's plain sum must not cancel under random signs.
    let mut cancelling = c.clone();
    let error = 3.0 * row_tolerance(s, norm(&a[..s.k]), norm(&b)).tau as f32;
    cancelling[0] += error;
    cancelling[1] -= error;
    refused("cancelling errors", cancelling, &mut rng);
}

#[test]
fn nan_infinity_and_wrong_lengths_are_refused() {
    let s = shape(8, 8, 8);
    let (a, b, mut rng) = inputs(s, 6);
    let c = chunked(s, &a, &b);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for tensor in ["a", "b", "c"] {
            let (mut a, mut b, mut c) = (a.clone(), b.clone(), c.clone());
            match tensor {
                "a" => a[9] = bad,
                "b" => b[9] = bad,
                _ => c[9] = bad,
            }
            assert_eq!(check_product(s, &a, &b, &c, &mut rng), Err(Refusal::NotFinite { tensor, index: 9 }), "{bad}");
        }
    }
    assert_eq!(check_product(s, &a, &b, &c[1..], &mut rng), Err(Refusal::Length { tensor: "c", got: 63, expected: 64 }));
    assert!(check_product(s, &[], &b, &c, &mut rng).is_err());
    assert!(check_product(s, &a, &b, &[], &mut rng).is_err());
    assert!(check_product(shape(usize::MAX, usize::MAX, 1), &a, &b, &c, &mut rng).is_err());
}

/// A wide product is checked with fewer vectors at a time; the number of vectors must stay the same.
#[test]
fn deep_and_wide_products_use_all_rounds() {
    let s = shape(2, 3, SCRATCH_VALUES_MAX / 10);
    let (a, b, mut rng) = inputs(s, 7);
    let c = chunked(s, &a, &b);
    let before = rng.get_word_pos();
    assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()));
    let bits = 32 * (rng.get_word_pos() - before);
    assert!(bits >= (s.n as u128) * u128::from(limits::FREIVALDS_ROUNDS), "{bits} random bits");
    let at = s.n + 5;
    let tau = row_tolerance(s, norm(&a[s.k..]), norm(&b)).tau;
    refused_when_off(s, &a, &b, &c, at, 2.0 * tau, &mut rng);
}

#[test]
fn signs_are_fair_and_fresh() {
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let (first, second) = (draw_signs(10_000, &mut rng), draw_signs(10_000, &mut rng));
    assert!(first.iter().all(|&s| s == 1.0 || s == -1.0));
    assert!(first.iter().sum::<f64>().abs() < 500.0);
    assert!(first.iter().zip(&second).map(|(a, b)| a * b).sum::<f64>().abs() < 500.0);
}

#[test]
fn residuals_are_those_of_plain_loops() {
    let s = shape(70, 130, 5);
    let (a, b, mut rng) = inputs(s, 9);
    let c = random(s.m * s.n, &mut rng);
    let signs = draw_signs(s.n * 3, &mut rng);
    let got = residuals(s, &a, &b, &c, &signs, 3);
    for i in 0..s.m {
        for r in 0..3 {
            let mut expected = 0.0;
            for j in 0..s.n {
                let ab: f64 = (0..s.k).map(|p| f64::from(a[i * s.k + p]) * f64::from(b[p * s.n + j])).sum();
                expected += (f64::from(c[i * s.n + j]) - ab) * signs[j * 3 + r];
            }
            assert!((got[i * 3 + r] - expected).abs() < 1e-10, "row {i} round {r}");
        }
    }
}

#[test]
fn gamma_counts_the_protocols_operations() {
    assert_eq!(limits::FREIVALDS_ROUNDS, 41);
    let (d, u) = (81.0, 2f64.powi(-23)); // 1 product, 64 in the chunk, 16 chunks
    assert!((rounding_bound(1024) - d * u / (1.0 - d * u)).abs() < 1e-18);
    assert!(gamma(1.0, 1.0).is_infinite());
}

/// What the native volunteer returns is taken, and with one value changed it is not.
#[test]
fn the_engines_own_products_pass() {
    use manyhands::{Control, Engine, MatmulShape};
    for (seed, s) in [shape(64, 784, 256), shape(100, 33, 7), shape(1, 5000, 1)].into_iter().enumerate() {
        let (a, b, mut rng) = inputs(s, seed as u64);
        let extents = MatmulShape { m: s.m, k: s.k, n: s.n };
        let c = futures::executor::block_on(Engine::cpu().matmul(extents, &a, &b, &Control::new())).unwrap();
        assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()), "{s:?}");
        refused_when_off(s, &a, &b, &c, c.len() - 1, 1.0, &mut rng);
    }
}

/// docs/verification.md says that half-precision inputs with f32 sums are accepted by definition.
#[test]
fn half_precision_inputs_are_below_the_tolerance() {
    let s = shape(32, 256, 256);
    let (a, b, mut rng) = inputs(s, 10);
    // 11 significant bits: adding and taking away 2¹³ times the value rounds the other 13 off.
    let half = |v: &[f32]| v.iter().map(|&x| x * 8193.0 - (x * 8193.0 - x)).collect::<Vec<_>>();
    assert!(half(&a).iter().zip(&a).any(|(h, x)| h != x));
    let c = chunked(s, &half(&a), &half(&b));
    assert_eq!(check_product(s, &a, &b, &c, &mut rng), Ok(()));
}

/// The table in docs/verification.md is this code's output.
#[test]
fn the_documented_table_is_what_the_code_computes() {
    let document = include_str!("../../../../docs/verification.md");
    let rows = [
        shape(256, 256, 256),
        shape(512, 512, 512),
        shape(1024, 1024, 1024),
        shape(64, 784, 256),
        shape(1024, 384, 1536),
        shape(4096, 4096, 4096),
    ];
    for s in rows {
        let (ratio, d, factor) = (tolerance_ratio(s), operations(s.k), hoeffding_factor(s.m));
        let row = format!("| {} × {} × {} | {ratio:.1e} | {d} | {factor:.2} |", s.m, s.k, s.n);
        assert!(document.lines().any(|line| line == row), "docs/verification.md lacks the row\n{row}");
    }
    assert!(tolerance_ratio(shape(1024, 1024, 1024)) <= RATIO_AT_1024_MAX);
}
