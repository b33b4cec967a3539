//! Cuts a job owner's files, safetensors or a text, into the blobs of a job. Pure: equal files and recipe give equal blobs, so
//! that submitting twice uploads nothing twice. Runs where the files are, in the owner's command.

mod text;

use manyhands::init;
use manyhands::tensors::binary16;
use manyhands_protocol::limits;
use manyhands_protocol::manifest::{MatmulRecipe, TrainRecipe, panel_extent};
use manyhands_protocol::model::{InputType, Model};
use manyhands_protocol::work;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

pub use text::cut_text;

/// Stream of the initialiser's generator that orders the rows; parameters use the streams from 0 up.
const SHUFFLE_STREAM: u64 = u64::MAX;

/// What is wrong with an owner's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    #[error("{file} is not a safetensors file: {reason}")]
    Format { file: &'static str, reason: String },
    #[error("{file}: tensor {tensor}: {reason}")]
    Tensor { file: &'static str, tensor: &'static str, reason: String },
    #[error("text.txt: at byte {at}: {reason}")]
    Text { at: usize, reason: String },
    #[error("{rows} training examples are fewer than one shard of {rows_per_shard} (work.rows_per_shard)")]
    TooFewRows { rows: usize, rows_per_shard: usize },
    #[error("{what} would take {bytes} bytes, a blob holds {most}")]
    TooLarge { what: &'static str, bytes: usize, most: u64 },
    #[error("{field}: {reason}")]
    Recipe { field: String, reason: String },
}

/// Blobs of a `train` job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTrain {
    pub shards: Vec<Vec<u8>>,
    pub test: Vec<u8>,
}

/// Blobs and extents of a `matmul` job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutMatmul {
    pub m: u64,
    pub k: u64,
    pub n: u64,
    pub a_panels: Vec<Vec<u8>>,
    pub b_panels: Vec<Vec<u8>>,
}

/// Shuffles the training examples with the recipe's seed and cuts shards of exactly `rows_per_shard`; the last is filled
/// up with examples from the start of the shuffle. The held-out examples keep their order.
pub fn cut_train(recipe: &TrainRecipe, train_bytes: &[u8], test_bytes: &[u8]) -> Result<CutTrain, CutError> {
    let train = Examples::read("train.safetensors", train_bytes, &recipe.model)?;
    let test = Examples::read("test.safetensors", test_bytes, &recipe.model)?;
    Ok(CutTrain { shards: train.shards(recipe)?, test: test.write(0..test.rows(), "the held-out set")? })
}

/// Cuts `a` `[m, k]` into panels of rows and `b` `[k, n]` into panels of columns, both of the recipe's type.
pub fn cut_matmul(recipe: &MatmulRecipe, file_bytes: &[u8]) -> Result<CutMatmul, CutError> {
    const FILE: &str = "the data file";
    let file = open(FILE, file_bytes)?;
    let (a, b) = (matrix(&file, FILE, "a", recipe.dtype)?, matrix(&file, FILE, "b", recipe.dtype)?);
    let each = recipe.dtype.bytes() as usize;
    let ([m, k], [b_rows, n]) = (a.shape, b.shape);
    if k != b_rows {
        let reason = format!("has {b_rows} rows, a has {k} columns");
        return Err(CutError::Tensor { file: FILE, tensor: "b", reason });
    }
    let block = panel_extent(recipe.block, k as u64) as usize;
    let row_bytes = k * each;
    let a_panels = a.data.chunks(block * row_bytes).map(|rows| panel("a", [rows.len() / row_bytes, k], a.dtype, rows));
    let a_panels = a_panels.collect::<Result<Vec<_>, _>>()?;
    let columns_panel = |left: usize| {
        let columns = block.min(n - left);
        let rows = b.data.chunks_exact(n * each).map(|row| &row[left * each..][..columns * each]);
        panel("b", [k, columns], b.dtype, &rows.collect::<Vec<_>>().concat())
    };
    let b_panels = (0..n).step_by(block).map(columns_panel).collect::<Result<Vec<_>, _>>()?;
    Ok(CutMatmul { m: m as u64, k: k as u64, n: n as u64, a_panels, b_panels })
}

fn panel(name: &'static str, shape: [usize; 2], dtype: Dtype, data: &[u8]) -> Result<Vec<u8>, CutError> {
    let view = TensorView::new(dtype, shape.to_vec(), data).expect("a panel is cut to its shape");
    write([(name, view)], "a panel")
}

/// Writes a blob if a blob may be so large.
fn write<const N: usize>(tensors: [(&str, TensorView<'_>); N], what: &'static str) -> Result<Vec<u8>, CutError> {
    let bytes = safetensors::serialize(tensors, None).expect("views were checked against their shapes");
    if bytes.len() as u64 > limits::BLOB_BYTES_MAX {
        return Err(CutError::TooLarge { what, bytes: bytes.len(), most: limits::BLOB_BYTES_MAX });
    }
    Ok(bytes)
}

fn open<'a>(file: &'static str, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CutError> {
    SafeTensors::deserialize(bytes).map_err(|e| CutError::Format { file, reason: e.to_string() })
}

/// A tensor of the element type that is expected, and why it is.
fn typed<'a>(
    source: &SafeTensors<'a>,
    file: &'static str,
    tensor: &'static str,
    dtype: Dtype,
    why: &str,
) -> Result<TensorView<'a>, CutError> {
    let fault = |reason| CutError::Tensor { file, tensor, reason };
    let view = source.tensor(tensor).map_err(|_| fault("is missing".to_owned()))?;
    if view.dtype() != dtype {
        return Err(fault(format!("has element type {:?}, {dtype:?} is expected {why}", view.dtype())));
    }
    Ok(view)
}

/// Where the first value of little-endian `data` that is not finite stands; whole numbers all are.
fn not_finite(dtype: Dtype, data: &[u8]) -> Option<usize> {
    match dtype {
        Dtype::F32 => data.chunks_exact(4).position(|b| !f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        Dtype::F16 => data.chunks_exact(2).position(|b| !binary16::is_finite(u16::from_le_bytes([b[0], b[1]]))),
        _ => None,
    }
}

struct Matrix<'a> {
    dtype: Dtype,
    shape: [usize; 2],
    data: &'a [u8],
}

fn matrix<'a>(
    source: &SafeTensors<'a>,
    file: &'static str,
    tensor: &'static str,
    dtype: work::Dtype,
) -> Result<Matrix<'a>, CutError> {
    let fault = |reason| CutError::Tensor { file, tensor, reason };
    let dtype = match dtype {
        work::Dtype::F32 => Dtype::F32,
        work::Dtype::F16 => Dtype::F16,
    };
    let view = typed(source, file, tensor, dtype, "by work.dtype")?;
    let shape: [usize; 2] =
        view.shape().try_into().map_err(|_| fault(format!("has shape {:?}, two dimensions are expected", view.shape())))?;
    if shape.iter().any(|&d| d == 0 || d as u64 > limits::DIMENSION_MAX) {
        return Err(fault(format!("has shape {shape:?}, extents must be 1 to {}", limits::DIMENSION_MAX)));
    }
    if let Some(at) = not_finite(dtype, view.data()) {
        return Err(fault(format!("holds NaN or infinity in row {}, column {}", at / shape[1], at % shape[1])));
    }
    Ok(Matrix { dtype, shape, data: view.data() })
}

/// Examples of a model in an owner's file.
struct Examples<'a> {
    dtype: Dtype,
    /// Shape of one example.
    shape: Vec<usize>,
    x: &'a [u8],
    y: &'a [u8],
    /// Labels of one example where there is one for each position.
    positions: Option<usize>,
}

impl<'a> Examples<'a> {
    fn read(file: &'static str, bytes: &'a [u8], model: &Model) -> Result<Examples<'a>, CutError> {
        let source = open(file, bytes)?;
        let fault = |tensor, reason| CutError::Tensor { file, tensor, reason };
        model.parameters().map_err(|e| CutError::Recipe { field: format!("work.model.{}", e.field), reason: e.reason })?;
        let dtype = match model.input.dtype {
            InputType::U8 => Dtype::U8,
            InputType::F32 => Dtype::F32,
        };
        let x = typed(&source, file, "x", dtype, "by work.model.input.dtype")?;
        let y = typed(&source, file, "y", Dtype::U8, "of labels")?;
        let shape: Vec<usize> = model.input.shape.iter().map(|&d| d as usize).collect();
        let rows = y.shape().first().copied().unwrap_or(0);
        let positions = model.vocabulary().map(|_| model.labels_count() as usize);
        let expected: Vec<usize> = std::iter::once(rows).chain(positions).collect();
        if y.shape() != expected || rows == 0 {
            let wanted = positions.map_or("[examples]".to_owned(), |positions| format!("[examples, {positions}]"));
            return Err(fault("y", format!("has shape {:?}, {wanted} is expected", y.shape())));
        }
        // An example may also come as one row of values: the model says what they mean.
        let flat = [rows, shape.iter().product()];
        if x.shape().split_first() != Some((&rows, shape.as_slice())) && x.shape() != flat {
            let expected = [&[rows], shape.as_slice()].concat();
            return Err(fault("x", format!("has shape {:?}, {expected:?} is expected", x.shape())));
        }
        let each = positions.unwrap_or(1);
        if let Some(at) = y.data().iter().position(|&label| u32::from(label) >= model.classes()) {
            let (label, row, classes) = (y.data()[at], at / each, model.classes());
            return Err(fault("y", format!("holds label {label} in row {row}, the model has {classes} classes")));
        }
        if let Some(at) = not_finite(dtype, x.data()) {
            let row = at / shape.iter().product::<usize>();
            return Err(fault("x", format!("holds NaN or infinity in row {row}")));
        }
        if let Some(vocabulary) = model.vocabulary()
            && let Some(at) = x.data().iter().position(|&id| u32::from(id) >= vocabulary)
        {
            let (id, row) = (x.data()[at], at / each);
            return Err(fault("x", format!("holds id {id} in row {row}, the vocabulary has {vocabulary}")));
        }
        Ok(Examples { dtype, shape, x: x.data(), y: y.data(), positions })
    }

    fn rows(&self) -> usize {
        self.y.len() / self.positions.unwrap_or(1)
    }

    /// All rows in the shuffle's order as shards; see [`cut_train`].
    fn shards(&self, recipe: &TrainRecipe) -> Result<Vec<Vec<u8>>, CutError> {
        let rows_per_shard = recipe.rows_per_shard as usize;
        if self.rows() < rows_per_shard {
            return Err(CutError::TooFewRows { rows: self.rows(), rows_per_shard });
        }
        let order = shuffled(self.rows(), recipe.seed);
        let mut shards = Vec::new();
        for from in (0..order.len()).step_by(rows_per_shard) {
            let rows = order.iter().cycle().skip(from).take(rows_per_shard);
            shards.push(self.write(rows.copied(), "a shard")?);
        }
        Ok(shards)
    }

    /// A blob of the given rows.
    fn write(&self, rows: impl Iterator<Item = usize>, what: &'static str) -> Result<Vec<u8>, CutError> {
        let (row_bytes, each) = (self.x.len() / self.rows(), self.positions.unwrap_or(1));
        let (mut x, mut y, mut count) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            x.extend_from_slice(&self.x[row * row_bytes..][..row_bytes]);
            y.extend_from_slice(&self.y[row * each..][..each]);
            count += 1;
        }
        let shape = [&[count], self.shape.as_slice()].concat();
        let x = TensorView::new(self.dtype, shape, &x).expect("rows are cut to their shape");
        let labels = std::iter::once(count).chain(self.positions).collect();
        let y = TensorView::new(Dtype::U8, labels, &y).expect("labels are cut to their rows");
        write([("x", x), ("y", y)], what)
    }
}

/// The numbers below `count` in the order of Fisher and Yates' shuffle, from the last place to the first: place `i`
/// swaps with place `word(seed, SHUFFLE_STREAM, i) mod (i + 1)`.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        let other = init::word(seed, SHUFFLE_STREAM, i as u64) % (i as u64 + 1);
        order.swap(i, other as usize);
    }
    order
}

#[cfg(test)]
mod tests;
