//! Safetensors in and out, for bytes that may come from anybody. Every count and extent is checked before anything is
//! allocated for it; what comes out is finite and of the shape asked for. No files, no network.

mod file;

use manyhands_protocol::limits;
use manyhands_protocol::model::{InputType, Model};
use manyhands_protocol::work::Dtype;
pub use manyhands_shaders::binary16;

use self::file::File;

/// Element types, by their names in a file.
const F32: &str = "F32";
const U8: &str = "U8";

/// A product's operand as its blob stores it, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    F32(Vec<f32>),
    /// Bit patterns.
    F16(Vec<u16>),
}

impl Operand {
    /// The values, which f32 holds whatever they are stored in.
    pub fn widened(self) -> Vec<f32> {
        match self {
            Operand::F32(values) => values,
            Operand::F16(patterns) => patterns.into_iter().map(binary16::widen).collect(),
        }
    }

    pub fn dtype(&self) -> Dtype {
        match self {
            Operand::F32(_) => Dtype::F32,
            Operand::F16(_) => Dtype::F16,
        }
    }

    pub fn values_count(&self) -> usize {
        match self {
            Operand::F32(values) => values.len(),
            Operand::F16(patterns) => patterns.len(),
        }
    }
}

/// Training examples as the engine takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    pub rows: usize,
    /// `[rows, input values]`, row-major, already scaled: `value = x · scale + offset`. Of a model that begins with an
    /// embedding the bits of u32 ids, each below the vocabulary.
    pub x: Vec<f32>,
    /// `[rows, labels]`, each below the model's classes.
    pub y: Vec<u32>,
}

/// What is wrong with a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("{bytes} bytes, at most {most} are taken")]
    TooLarge { bytes: usize, most: usize },
    #[error("not a safetensors file: {0}")]
    Format(String),
    #[error("the file holds {got} tensors, {expected} are expected")]
    Count { got: usize, expected: usize },
    #[error("tensor {0} is missing")]
    Missing(String),
    #[error("tensor {name} has element type {got}, {expected} is expected")]
    ElementType { name: String, got: String, expected: &'static str },
    #[error("tensor {name} has shape {got:?}, {expected:?} is expected")]
    Shape { name: String, got: Vec<usize>, expected: Vec<usize> },
    #[error("tensor {name} has a value at {index} that is not finite")]
    NotFinite { name: String, index: usize },
    #[error("label {label} at {index}, the model tells {classes} classes apart")]
    Label { index: usize, label: u32, classes: u32 },
    #[error("id {id} at {index}, the model's vocabulary has {vocabulary}")]
    Id { index: usize, id: u32, vocabulary: u32 },
    #[error("the model is not valid: {0}")]
    Model(String),
}

/// Reads exactly the tensors `expected` (name and shape), f32 and finite, in that order.
pub fn read_f32(bytes: &[u8], expected: &[(&str, &[usize])]) -> Result<Vec<Vec<f32>>, TensorError> {
    let file = open(bytes, expected.len())?;
    expected.iter().map(|&(name, shape)| finite(name, floats(tensor(&file, name, F32, shape)?))).collect()
}

/// Reads the one tensor of an operand's file, finite.
pub fn read_operand(bytes: &[u8], name: &str, shape: [usize; 2], dtype: Dtype) -> Result<Operand, TensorError> {
    let file = open(bytes, 1)?;
    let data = tensor(&file, name, dtype.name(), &shape)?;
    match dtype {
        Dtype::F32 => Ok(Operand::F32(finite(name, floats(data))?)),
        Dtype::F16 => {
            let patterns: Vec<u16> = data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            match patterns.iter().position(|&bits| !binary16::is_finite(bits)) {
                Some(index) => Err(TensorError::NotFinite { name: name.to_owned(), index }),
                None => Ok(Operand::F16(patterns)),
            }
        }
    }
}

/// Writes f32 tensors, ordered by name, so that equal tensors give equal bytes; readers go by name. Panics if a shape does not fit its values or a name comes twice: both are the caller's own data.
pub fn write_f32(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    for (i, (name, shape, values)) in tensors.iter().enumerate() {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values of tensor {name}");
        assert!(tensors[..i].iter().all(|other| other.0 != *name), "tensor {name} comes twice");
    }
    file::write(tensors)
}

/// Reads a shard of `model`: `x` `[rows, …input shape]` of the input's type, `y` u8 `[rows]`, or `[rows, positions]` where
/// the model gives an answer for each.
pub fn read_shard(bytes: &[u8], model: &Model) -> Result<Shard, TensorError> {
    let values = model.input_values().map_err(|e| TensorError::Model(e.to_string()))? as usize;
    let classes = model.classes();
    let file = open(bytes, 2)?;
    let y = file.tensor("y").ok_or_else(|| TensorError::Missing("y".to_owned()))?;
    let rows = y.shape.first().copied().unwrap_or(0).max(1);
    let labels = match model.vocabulary() {
        Some(_) => tensor(&file, "y", U8, &[rows, values])?,
        None => tensor(&file, "y", U8, &[rows])?,
    };
    let mut shape = vec![rows];
    shape.extend(model.input.shape.iter().map(|&d| d as usize));
    let (scale, offset) = (model.input.scale, model.input.offset);
    let x: Vec<f32> = match model.input.dtype {
        InputType::U8 if let Some(vocabulary) = model.vocabulary() => {
            let ids = tensor(&file, "x", U8, &shape)?;
            if let Some(index) = ids.iter().position(|&id| u32::from(id) >= vocabulary) {
                return Err(TensorError::Id { index, id: ids[index].into(), vocabulary });
            }
            ids.iter().map(|&id| f32::from_bits(id.into())).collect()
        }
        InputType::U8 => tensor(&file, "x", U8, &shape)?.iter().map(|&v| f32::from(v) * scale + offset).collect(),
        InputType::F32 => {
            let raw = tensor(&file, "x", F32, &shape)?;
            floats(raw).into_iter().map(|v| v * scale + offset).collect()
        }
    };
    let x = finite("x", x)?;
    debug_assert_eq!(x.len(), rows * values);
    let y: Vec<u32> = labels.iter().map(|&label| u32::from(label)).collect();
    if let Some(index) = y.iter().position(|&label| label >= classes) {
        return Err(TensorError::Label { index, label: y[index], classes });
    }
    Ok(Shard { rows, x, y })
}

/// Parses the header within the protocol's limits and checks the number of tensors.
fn open(bytes: &[u8], count: usize) -> Result<File<'_>, TensorError> {
    let most = limits::BLOB_BYTES_MAX as usize;
    if bytes.len() > most {
        return Err(TensorError::TooLarge { bytes: bytes.len(), most });
    }
    let header = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
    if header > limits::SAFETENSORS_HEADER_BYTES_MAX as u64 {
        let bytes = usize::try_from(header).unwrap_or(usize::MAX);
        return Err(TensorError::TooLarge { bytes, most: limits::SAFETENSORS_HEADER_BYTES_MAX });
    }
    let file = File::parse(bytes).map_err(|fault| TensorError::Format(fault.to_owned()))?;
    let got = file.tensors.len();
    if got > limits::TENSORS_PER_FILE_MAX || got != count {
        return Err(TensorError::Count { got, expected: count });
    }
    Ok(file)
}

/// The bytes of one tensor after its element type and shape were checked.
fn tensor<'a>(file: &File<'a>, name: &str, dtype: &'static str, shape: &[usize]) -> Result<&'a [u8], TensorError> {
    let tensor = file.tensor(name).ok_or_else(|| TensorError::Missing(name.to_owned()))?;
    if tensor.dtype != dtype {
        return Err(TensorError::ElementType { name: name.to_owned(), got: tensor.dtype.to_owned(), expected: dtype });
    }
    if tensor.shape != shape {
        return Err(TensorError::Shape { name: name.to_owned(), got: tensor.shape.clone(), expected: shape.to_vec() });
    }
    Ok(tensor.data)
}

/// Little-endian f32 values of a tensor's bytes, whose number the shape check has fixed.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn finite(name: &str, values: Vec<f32>) -> Result<Vec<f32>, TensorError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(TensorError::NotFinite { name: name.to_owned(), index }),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests;
