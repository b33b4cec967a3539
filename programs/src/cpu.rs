//! Kernel calls on this thread in f32, as fast as the processor does them: natively products run on the `gemm` crate, in
//! wasm on an own packed SIMD kernel. No threads.

mod adamw;
mod clip;
mod dropout;
mod exponential;
mod image;
mod kernels;
#[cfg(any(target_arch = "wasm32", not(feature = "gemm"), test))]
mod packed;
mod sequence;
mod widest;

pub use widest::instructions;

pub use kernels::{Scratch, run};
