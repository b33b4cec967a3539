//! The bundled jobs' data from Debian's packages: the shipped subset of Fashion-MNIST, the full set for those who want
//! it, and (in `austen`) the novels. Reads the IDX files and writes safetensors. It is not a data loader: jobs read what it wrote.

mod austen;

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest as _, Sha256};

use crate::root;

/// Debian's package with all 70,000 pictures.
pub const PACKAGE: &str = "dataset-fashion-mnist";
/// Where that package puts them.
const PACKAGE_DIR: &str = "/usr/share/datasets/fashion-mnist";

const PIXELS: usize = 28 * 28;
const CLASSES: usize = 10;
const TRAIN_PER_CLASS: usize = 1000;
const TEST_PER_CLASS: usize = 200;

/// No gzip member here unpacks to more: 60,000 pictures are 47 MB.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

/// Pictures and labels, one row each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    /// `[rows, 784]`, row-major, 0 black to 255 white.
    x: Vec<u8>,
    /// `[rows]`, 0 to 9.
    y: Vec<u8>,
}

impl Set {
    /// The first `per_class` pictures of each class, in the order of the source.
    fn first_of_each_class(&self, per_class: usize) -> Result<Set> {
        let mut taken = [0usize; CLASSES];
        let mut subset = Set { x: Vec::new(), y: Vec::new() };
        for (pixels, &label) in self.x.chunks_exact(PIXELS).zip(&self.y) {
            let count = taken.get_mut(usize::from(label)).with_context(|| format!("label {label} is not a class"))?;
            if *count < per_class {
                *count += 1;
                subset.x.extend_from_slice(pixels);
                subset.y.push(label);
            }
        }
        ensure!(taken == [per_class; CLASSES], "the source has fewer than {per_class} pictures of a class: {taken:?}");
        Ok(subset)
    }

    fn safetensors(&self) -> Result<Vec<u8>> {
        let rows = self.y.len();
        let x = TensorView::new(Dtype::U8, vec![rows, PIXELS], &self.x)?;
        let y = TensorView::new(Dtype::U8, vec![rows], &self.y)?;
        Ok(safetensors::serialize([("x", x), ("y", y)], None)?)
    }
}

/// The pictures of one IDX pair, e.g. `train` or `t10k`.
fn read_set(dir: &Path, stem: &str) -> Result<Set> {
    let x = read_idx(&dir.join(format!("{stem}-images-idx3-ubyte.gz")), &[28, 28])?;
    let y = read_idx(&dir.join(format!("{stem}-labels-idx1-ubyte.gz")), &[])?;
    ensure!(x.len() == y.len() * PIXELS, "{stem}: {} pixels for {} labels", x.len(), y.len());
    Ok(Set { x, y })
}

fn read_idx(path: &Path, inner_shape: &[u32]) -> Result<Vec<u8>> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).take(UNPACKED_BYTES_MAX).read_to_end(&mut bytes)?;
    parse_idx(&bytes, inner_shape).with_context(|| format!("{} is not what was expected", path.display()))
}

/// The values of an IDX file of unsigned bytes whose dimensions after the first are `inner_shape`.
/// Format: two zero bytes, type 8, number of dimensions, each dimension as big-endian u32, the values.
fn parse_idx(bytes: &[u8], inner_shape: &[u32]) -> Result<Vec<u8>> {
    let dimensions = inner_shape.len() + 1;
    let header = 4 + 4 * dimensions;
    ensure!(bytes.len() >= header, "{} bytes are too few for a header", bytes.len());
    let magic = [0, 0, 8, u8::try_from(dimensions)?];
    ensure!(bytes[..4] == magic, "magic number {:?} instead of {magic:?}", &bytes[..4]);
    let shape: Vec<u32> =
        bytes[4..header].chunks_exact(4).map(|b| u32::from_be_bytes(b.try_into().expect("chunks of 4 bytes"))).collect();
    ensure!(shape[1..] == *inner_shape, "shape {shape:?} instead of [_, {inner_shape:?}]");
    let values: u64 = shape.iter().map(|&d| u64::from(d)).product();
    ensure!(values == (bytes.len() - header) as u64, "{} values for shape {shape:?}", bytes.len() - header);
    Ok(bytes[header..].to_vec())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} ({} bytes, sha256 {})", path.strip_prefix(root()).unwrap_or(path).display(), bytes.len(), sha256(bytes));
    Ok(())
}

/// The package's folder, or what to type.
pub fn source_dir() -> Result<PathBuf> {
    let dir = PathBuf::from(PACKAGE_DIR);
    if !dir.is_dir() {
        bail!("{PACKAGE_DIR} is missing: apt-get install {PACKAGE}");
    }
    Ok(dir)
}

/// Writes what the repository ships, with its origin.
pub fn make_demo_data() -> Result<()> {
    let source = source_dir()?;
    let target = root().join("demo/fashion-mlp");
    fs::create_dir_all(&target)?;
    let mut outputs = Vec::new();
    for (stem, name, per_class) in [("train", "train", TRAIN_PER_CLASS), ("t10k", "test", TEST_PER_CLASS)] {
        let bytes = read_set(&source, stem)?.first_of_each_class(per_class)?.safetensors()?;
        let file = format!("{name}.safetensors");
        write(&target.join(&file), &bytes)?;
        outputs.push((file, per_class * CLASSES, sha256(&bytes)));
    }
    write(&target.join("ORIGIN.md"), origin(&source, &outputs)?.as_bytes())?;
    austen::make()
}

fn origin(source: &Path, outputs: &[(String, usize, String)]) -> Result<String> {
    let mut text = format!(
        "# Origin of these pictures\n\n\
         A subset of Fashion-MNIST by Zalando SE (<https://github.com/zalandoresearch/fashion-mnist>), MIT licence: see\n\
         LICENSE beside this file. Taken from Debian's package `{PACKAGE}`, which holds the four original files.\n\n\
         The first {TRAIN_PER_CLASS} training and the first {TEST_PER_CLASS} test pictures of each of the {CLASSES} classes, in the order of the\n\
         source. Each file holds `x`, u8 `[rows, 784]` (28 by 28, row by row, 0 black), and `y`, u8 `[rows]` (0 T-shirt/top,\n\
         1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot).\n\
         `cargo xtask make-demo-data` makes the same bytes again from the package.\n\n\
         | file | rows | sha256 |\n|---|---|---|\n"
    );
    for (file, rows, hash) in outputs {
        writeln!(text, "| {file} | {rows} | {hash} |")?;
    }
    text.push_str("\n| source | sha256 |\n|---|---|\n");
    for file in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        let file = format!("{file}-ubyte.gz");
        let bytes = fs::read(source.join(&file)).with_context(|| format!("cannot read {file}"))?;
        writeln!(text, "| {file} | {} |", sha256(&bytes))?;
    }
    Ok(text)
}

/// Writes the full set as `target/data/fashion-mnist/{train,test}.safetensors`.
pub fn fetch_data() -> Result<()> {
    let source = source_dir()?;
    let target = root().join("target/data/fashion-mnist");
    fs::create_dir_all(&target)?;
    for (stem, name) in [("train", "train"), ("t10k", "test")] {
        write(&target.join(format!("{name}.safetensors")), &read_set(&source, stem)?.safetensors()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idx_is_read_or_refused() {
        let good = [0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9];
        assert_eq!(parse_idx(&good, &[]).unwrap(), [7, 8, 9]);
        assert!(parse_idx(&good[..10], &[]).is_err(), "truncated");
        assert!(parse_idx(&[good.as_slice(), &[1]].concat(), &[]).is_err(), "trailing");
        assert!(parse_idx(&good[..3], &[]).is_err(), "no header");
        assert!(parse_idx(&good, &[28, 28]).is_err(), "other dimensions");
        let floats = [0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0];
        assert!(parse_idx(&floats, &[]).is_err(), "other type");
    }

    #[test]
    fn subset_is_balanced_and_ordered() {
        let y: Vec<u8> = (0..30).map(|i| i % 10).collect();
        let x = y.iter().enumerate().flat_map(|(i, _)| vec![u8::try_from(i).unwrap(); PIXELS]).collect();
        let set = Set { x, y };
        let subset = set.first_of_each_class(2).unwrap();
        assert_eq!(subset, Set { x: set.x[..20 * PIXELS].to_vec(), y: set.y[..20].to_vec() });
        assert!(set.first_of_each_class(4).is_err(), "not enough pictures");
        let odd = Set { x: vec![0; PIXELS], y: vec![10] };
        assert!(odd.first_of_each_class(1).is_err(), "label out of range");
    }

    #[test]
    fn shipped_subset_is_what_origin_says() {
        let dir = root().join("demo/fashion-mlp");
        let origin = fs::read_to_string(dir.join("ORIGIN.md")).unwrap();
        for (file, rows) in [("train.safetensors", 10_000), ("test.safetensors", 2_000)] {
            let bytes = fs::read(dir.join(file)).unwrap();
            assert!(origin.contains(&format!("| {file} | {rows} | {} |", sha256(&bytes))), "{file} is not the one described");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(tensors.tensor("x").unwrap().shape(), [rows, PIXELS]);
            let labels = tensors.tensor("y").unwrap().data().to_vec();
            for class in 0..10 {
                assert_eq!(labels.iter().filter(|&&l| l == class).count(), rows / CLASSES);
            }
        }
    }
}
