//! The engine: one front for the backends that compute work units. It leases nothing, signs nothing and stores nothing.

mod error;

pub use error::EngineError;

pub use crate::init::init_parameters;

use manyhands_protocol::model::Model;
use manyhands_protocol::statement::{Backend, DeviceClass};
use manyhands_protocol::work::TrainWork;

use crate::control::Control;
use crate::tensors::Shard;

/// Extents of `C[m, n] = A[m, k] · B[k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulShape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// What a training unit gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Pseudo-gradient per parameter, in the model's order: checkpoint − parameters after the last step.
    pub delta: Vec<Vec<f32>>,
    /// Mean loss of each step's batch before the step.
    pub losses: Vec<f32>,
}

/// A backend that computes.
pub enum Engine {
    Cpu,
}

impl Engine {
    pub fn cpu() -> Engine {
        Engine::Cpu
    }

    pub fn device_class(&self) -> DeviceClass {
        DeviceClass { backend: Backend::NativeCpu, adapter: String::new() }
    }

    pub async fn self_test(&self) -> Result<(), EngineError> {
        Err(EngineError::NoAdapter("not built yet".to_owned()))
    }

    pub async fn matmul(&self, _: MatmulShape, _a: &[f32], _b: &[f32], control: &Control) -> Result<Vec<f32>, EngineError> {
        control.between_slices(0.0).await?;
        Err(EngineError::NoAdapter("not built yet".to_owned()))
    }

    pub async fn train(&self, _: &TrainWork, _: &[Vec<f32>], _: &Shard, control: &Control) -> Result<Trained, EngineError> {
        control.between_slices(0.0).await?;
        Err(EngineError::NoAdapter("not built yet".to_owned()))
    }

    pub async fn logits(&self, _: &Model, _: &[Vec<f32>], _x: &[f32], _rows: usize) -> Result<Vec<f32>, EngineError> {
        Err(EngineError::NoAdapter("not built yet".to_owned()))
    }
}
