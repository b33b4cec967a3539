//! As [`super::tiled`], which see, with the next steps of k fetched while these are computed.

use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_tiled_ahead", crate::wgsl!("matmul/tiled_ahead.wgsl"));
