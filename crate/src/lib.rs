//! The volunteer of Many Hands as a library: the compute engine (models, plans, GPU and CPU backends), tensors on the
//! wire, and the loop that leases, computes and returns work units. It stores nothing and decides nothing about trust.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod beside;
pub mod control;
mod cpu;
pub mod engine;
pub mod governor;
#[cfg(feature = "gpu")]
mod gpu;
pub mod init;
pub mod keyfile;
pub mod plan;
pub mod tensors;
pub mod tuner;
pub mod volunteer;
#[cfg(feature = "web")]
pub mod web;

pub use control::{Control, Pace};
pub use engine::{Engine, EngineError, MatmulShape, Trained};
pub use init::init_parameters;
pub use tensors::{Shard, TensorError};
