//! Is what a volunteer returned what was asked for? Pure checks on bytes and numbers; docs/verification.md derives them.
//!
//! Nothing here reads a store, a clock or the network, and nothing decides what follows from a refusal.

pub mod detection;
pub mod freivalds;
pub mod gradient;
pub mod input;
pub mod opened;
pub mod product;
pub mod segment;
pub mod step;

use manyhands::TensorError;
use manyhands_protocol::problem::Code;

/// Why a tensor, a block or an update is not taken. Its text is the reason that a rejected result carries.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Tensors(#[from] TensorError),
    #[error("{tensor} holds {got} values, {expected} are expected")]
    Length { tensor: &'static str, got: usize, expected: usize },
    #[error("{tensor} holds NaN or infinity at {index}")]
    NotFinite { tensor: &'static str, index: usize },
    #[error(
        "row {row} is larger than any row of this product can be: its values add up to {sum:e}, at most {most:e} is possible"
    )]
    RowTooLarge { row: usize, sum: f64, most: f64 },
    #[error("row {row} is not the product: off by {residual:e} in a random combination, at most {tolerance:e} is rounding")]
    WrongProduct { row: usize, residual: f64, tolerance: f64 },
    #[error("entry {row},{column} is not the product's: off by {residual:e}, at most {tolerance:e} is rounding")]
    WrongEntry { row: usize, column: usize, residual: f64, tolerance: f64 },
    #[error("the update's norm is {norm:e}, at most {most:e} is taken")]
    UpdateTooLarge { norm: f64, most: f64 },
    #[error("the checkpoint does not fit the model: {0}")]
    Checkpoint(String),
    #[error("the file holds {got} examples, {expected} are expected")]
    Rows { got: usize, expected: usize },
    #[error(transparent)]
    Step(#[from] step::StepRefusal),
}

impl Refusal {
    /// The problem code nearest to the refusal, for calls that answer with a problem document. A product or an update
    /// that is well-formed but wrong is a verdict rather than a problem; it counts as a wrong tensor here.
    pub fn code(&self) -> Code {
        match self {
            Refusal::Tensors(e) => match e {
                TensorError::TooLarge { .. } | TensorError::Format(_) => Code::BadTensorFile,
                TensorError::NotFinite { .. } => Code::NotFinite,
                TensorError::Model(_) => Code::BadManifest,
                _ => Code::WrongTensor,
            },
            Refusal::NotFinite { .. } | Refusal::Step(step::StepRefusal::NotFinite { .. }) => Code::NotFinite,
            Refusal::Length { .. }
            | Refusal::RowTooLarge { .. }
            | Refusal::WrongProduct { .. }
            | Refusal::WrongEntry { .. }
            | Refusal::UpdateTooLarge { .. }
            | Refusal::Step(_)
            | Refusal::Rows { .. } => Code::WrongTensor,
            Refusal::Checkpoint(_) => Code::Internal,
        }
    }

    /// Whether nobody who computes as asked returns this: a product that is well-formed and wrong. A file that is malformed may
    /// be a bug, and an update out of bounds a model that diverges.
    pub fn proves_a_lie(&self) -> bool {
        matches!(self, Refusal::RowTooLarge { .. } | Refusal::WrongProduct { .. } | Refusal::WrongEntry { .. })
    }

    /// The text a rejected result carries, cut to the protocol's longest string.
    pub fn reason(&self) -> String {
        cut(self.to_string())
    }
}

/// A text of at most the protocol's longest string.
pub fn cut(mut text: String) -> String {
    let mut end = text.len().min(manyhands_protocol::limits::TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
