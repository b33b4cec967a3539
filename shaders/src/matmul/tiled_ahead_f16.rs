//! As [`super::tiled_ahead`], which see, with A and B stored in f16.

use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_tiled_ahead_f16", crate::wgsl!("matmul/tiled_ahead_f16.wgsl"));
