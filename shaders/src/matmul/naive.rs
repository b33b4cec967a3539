//! The plain variant: one output per invocation. Slow, and what the others are measured and read against.

use crate::Kernel;

/// Invocations per workgroup.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = super::kernel("matmul_naive", crate::wgsl!("matmul/naive.wgsl"));
