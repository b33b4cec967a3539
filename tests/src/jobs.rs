//! Small jobs for the tests: a manifest and data as a job owner would hand them in, from a fixed generator.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

/// A manifest and its data on disk, for `manyhands job submit MANIFEST --data DATA`.
pub struct JobFiles {
    pub manifest: PathBuf,
    pub data: PathBuf,
}

/// Figures of a generated `train` job.
#[derive(Debug, Clone, Copy)]
pub struct SmallTrain {
    /// Bytes in one example, which is noise around its class's pattern.
    pub width: usize,
    pub hidden: usize,
    pub inner_steps: u32,
    pub units_per_round: u32,
    pub rounds_max: u32,
    pub target_accuracy: f64,
    /// Labels at random: the target is out of reach, and the job goes on for all its rounds.
    pub noisy_labels: bool,
}

impl SmallTrain {
    /// One that goes on for as long as any test does.
    pub fn endless() -> SmallTrain {
        SmallTrain { rounds_max: 100_000, target_accuracy: 1.0, noisy_labels: true, ..SmallTrain::default() }
    }
}

impl Default for SmallTrain {
    /// A second or less of one core per unit, a handful of rounds.
    fn default() -> SmallTrain {
        SmallTrain {
            width: 64,
            hidden: 32,
            inner_steps: 16,
            units_per_round: 4,
            rounds_max: 40,
            target_accuracy: 0.95,
            noisy_labels: false,
        }
    }
}

const CLASSES: usize = 4;
const BATCH: usize = 16;
const ROWS_PER_SHARD: usize = 128;

/// xorshift64*: the same numbers everywhere, and no dependency.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// Uniform in [-1, 1).
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Writes a classifier's job into `folder`.
pub fn train(folder: &Path, small: SmallTrain) -> Result<JobFiles> {
    let mut numbers = Numbers(7);
    let patterns: Vec<u8> = (0..CLASSES * small.width).map(|_| numbers.byte()).collect();
    let data = folder.join("train-data");
    std::fs::create_dir_all(&data)?;
    for (name, rows) in [("train", 4 * ROWS_PER_SHARD), ("test", 200)] {
        let (mut x, mut y) = (Vec::with_capacity(rows * small.width), Vec::with_capacity(rows));
        for row in 0..rows {
            let class = row % CLASSES;
            y.push(if small.noisy_labels { numbers.byte() % CLASSES as u8 } else { class as u8 });
            let pattern = &patterns[class * small.width..][..small.width];
            x.extend(pattern.iter().map(|&p| p / 2 + numbers.byte() / 2));
        }
        let x = TensorView::new(Dtype::U8, vec![rows, small.width], &x)?;
        let y = TensorView::new(Dtype::U8, vec![rows], &y)?;
        std::fs::write(data.join(format!("{name}.safetensors")), safetensors::serialize([("x", x), ("y", y)], None)?)?;
    }
    let work = json!({
        "kind": "train",
        "model": {
            "input": { "shape": [small.width], "dtype": "u8", "scale": 0.007843137, "offset": -1.0 },
            "layers": [
                { "type": "dense", "outputs": small.hidden },
                { "type": "relu" },
                { "type": "dense", "outputs": CLASSES },
            ],
            "loss": "softmax_cross_entropy",
        },
        "inner_steps": small.inner_steps,
        "batch": BATCH,
        "inner_optimizer": { "type": "sgd", "learning_rate": 0.01, "momentum": 0.9 },
        "outer_optimizer": { "type": "nesterov", "learning_rate": 0.7, "momentum": 0.5 },
        "units_per_round": small.units_per_round,
        "rounds_max": small.rounds_max,
        "target_accuracy": small.target_accuracy,
        "rows_per_shard": ROWS_PER_SHARD,
        "seed": 3,
    });
    Ok(JobFiles { manifest: write_manifest(folder, "small-train", work)?, data })
}

/// A job of a kind of model that is not dense.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A convolutional net tells which of four corners of a noisy picture is bright.
    Images,
    /// A transformer reads a text in which most letters follow from the one before them, at 0.81 bits for each letter.
    Text,
}

/// Digits below this are the text's letters; the vocabulary ends behind the last.
const LETTERS: u64 = 8;
const VOCABULARY: u64 = b'0' as u64 + LETTERS;
/// Of a window.
const POSITIONS: usize = 12;

/// Noisy pictures of which one corner is bright, as files of examples.
fn pictures(data: &Path, side: usize, numbers: &mut Numbers) -> Result<()> {
    for (name, rows) in [("train", 4 * ROWS_PER_SHARD), ("test", 64)] {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let corner = row % 4;
            y.push(corner as u8);
            x.extend((0..side * side).map(|at| {
                let inside = at / side / (side / 2) == corner / 2 && at % side / (side / 2) == corner % 2;
                numbers.byte() / 2 + if inside { 100 } else { 0 }
            }));
        }
        // Flat, as picture files often are: the manifest says what the values mean.
        let (x, y) = (TensorView::new(Dtype::U8, vec![rows, side * side], &x)?, TensorView::new(Dtype::U8, vec![rows], &y)?);
        std::fs::write(data.join(format!("{name}.safetensors")), safetensors::serialize([("x", x), ("y", y)], None)?)?;
    }
    Ok(())
}

/// A text of the digits below [`LETTERS`]: seven of eight follow from the one before, the rest are any.
fn letters(count: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut letter = 0;
    let mut next = || {
        letter = if numbers.byte() < 32 { numbers.next() >> 61 } else { letter * 3 + 1 } % LETTERS;
        b'0' + letter as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Writes a job of this kind into `folder`.
pub fn model(folder: &Path, kind: Kind) -> Result<JobFiles> {
    const SIDE: usize = 8;
    let mut numbers = Numbers(23);
    let data = folder.join("model-data");
    std::fs::create_dir_all(&data)?;
    match kind {
        Kind::Images => pictures(&data, SIDE, &mut numbers)?,
        Kind::Text => std::fs::write(data.join("text.txt"), letters(8_000, &mut numbers))?,
    }
    let (model, optimizer) = match kind {
        Kind::Images => (
            json!({
                "input": { "shape": [SIDE, SIDE, 1], "dtype": "u8", "scale": 0.01, "offset": -1.0 },
                "layers": [
                    { "type": "convolution", "channels": 4, "kernel": 3, "stride": 1, "padding": 1 },
                    { "type": "relu" },
                    { "type": "max_pool", "size": 2, "stride": 2 },
                    { "type": "dropout", "rate": 0.1 },
                    { "type": "dense", "outputs": 4 },
                ],
                "loss": "softmax_cross_entropy",
            }),
            json!({ "type": "sgd", "learning_rate": 0.05, "momentum": 0.9 }),
        ),
        Kind::Text => (
            json!({
                "input": { "shape": [POSITIONS], "dtype": "u8", "scale": 1.0, "offset": 0.0 },
                "layers": [
                    { "type": "embedding", "vocabulary": VOCABULARY, "width": 16 },
                    { "type": "residual", "layers": 2 },
                    { "type": "layer_norm" },
                    { "type": "attention", "heads": 2 },
                    { "type": "residual", "layers": 4 },
                    { "type": "layer_norm" },
                    { "type": "dense", "outputs": 32 },
                    { "type": "gelu" },
                    { "type": "dense", "outputs": 16 },
                    { "type": "layer_norm" },
                    { "type": "projection", "outputs": VOCABULARY },
                ],
                "loss": "softmax_cross_entropy",
            }),
            json!({
                "type": "adamw", "learning_rate": 0.003, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8,
                "weight_decay": 0.01, "clip_norm": 1.0,
            }),
        ),
    };
    let mut work = json!({
        "kind": "train",
        "model": model,
        "inner_steps": 16,
        "batch": BATCH,
        "inner_optimizer": optimizer,
        "outer_optimizer": { "type": "nesterov", "learning_rate": 0.8, "momentum": 0.3 },
        "units_per_round": 4,
        "rounds_max": 30,
        "rows_per_shard": ROWS_PER_SHARD,
        "seed": 5,
    });
    match kind {
        Kind::Images => work["target_accuracy"] = json!(0.95),
        Kind::Text => {
            work["target_bits_per_byte"] = json!(0.95);
            work["text"] = json!({ "held_out_percent": 10, "evaluation_rows_max": 50 });
        }
    }
    Ok(JobFiles { manifest: write_manifest(folder, "small-model", work)?, data })
}

/// Writes a product's job, A `[m, k]` times B `[k, n]`, into `folder`.
pub fn matmul(folder: &Path, extents: [usize; 3], block: u32) -> Result<JobFiles> {
    let mut numbers = Numbers(11);
    let value = || numbers.signed().to_le_bytes();
    product(folder, "small-product", extents, Dtype::F32, value, json!({ "kind": "matmul", "block": block }))
}

/// The same of operands in f16, on (-1, 1); one value in 32 is subnormal.
pub fn matmul_f16(folder: &Path, extents: [usize; 3], block: u32) -> Result<JobFiles> {
    let mut numbers = Numbers(12);
    let value = || {
        let bits = (numbers.next() >> 32) as u32;
        let exponent = match bits >> 27 {
            0 => 0,
            other => 10 + other % 5,
        };
        (bits as u16 & 0x83FF | (exponent as u16) << 10).to_le_bytes()
    };
    product(folder, "small-f16-product", extents, Dtype::F16, value, json!({ "kind": "matmul", "block": block, "dtype": "f16" }))
}

fn product<const BYTES: usize>(
    folder: &Path,
    name: &str,
    [m, k, n]: [usize; 3],
    dtype: Dtype,
    mut value: impl FnMut() -> [u8; BYTES],
    work: Value,
) -> Result<JobFiles> {
    let mut values = |count: usize| -> Vec<u8> { (0..count).flat_map(|_| value()).collect() };
    let (a, b) = (values(m * k), values(k * n));
    let a = TensorView::new(dtype, vec![m, k], &a)?;
    let b = TensorView::new(dtype, vec![k, n], &b)?;
    let data = folder.join(format!("{name}.safetensors"));
    std::fs::write(&data, safetensors::serialize([("a", a), ("b", b)], None)?)?;
    Ok(JobFiles { manifest: write_manifest(folder, name, work)?, data })
}

/// C against A·B in f64, entry by entry, for values below 1 in size.
pub fn check_product(inputs: &Path, exported: &Path, [m, k, n]: [usize; 3]) -> Result<()> {
    let (inputs, exported) = (std::fs::read(inputs)?, std::fs::read(exported)?);
    let (inputs, exported) = (SafeTensors::deserialize(&inputs)?, SafeTensors::deserialize(&exported)?);
    let values = |tensor: TensorView| -> Vec<f64> {
        let f16 = |b: &[u8]| f64::from(half::f16::from_le_bytes([b[0], b[1]]));
        match tensor.dtype() {
            Dtype::F16 => tensor.data().chunks_exact(2).map(f16).collect(),
            _ => tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        }
    };
    let (a, b) = (values(inputs.tensor("a")?), values(inputs.tensor("b")?));
    let c = exported.tensor("c")?;
    ensure!((c.dtype(), c.shape()) == (Dtype::F32, &[m, n][..]), "c is {:?} {:?}", c.dtype(), c.shape());
    let c = values(c);
    for row in 0..m {
        for column in 0..n {
            let exact: f64 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
            let difference = (c[row * n + column] - exact).abs();
            // k/2^23 is far above f32's rounding and far below any real fault.
            ensure!(difference <= k as f64 / f64::from(1 << 23), "c[{row}][{column}] is off by {difference}");
        }
    }
    Ok(())
}

fn write_manifest(folder: &Path, name: &str, work: Value) -> Result<PathBuf> {
    let manifest = json!({
        "version": 1,
        "name": name,
        "title": "A small job",
        "description": "Generated for a test.",
        "owner": "The tests",
        "category": "demo",
        "work": work,
    });
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(&manifest)?)?;
    Ok(path)
}

/// The bundled demo job.
pub fn demo() -> JobFiles {
    let data = crate::root().join("demo/fashion-mlp");
    JobFiles { manifest: data.join("manifest.json"), data }
}
