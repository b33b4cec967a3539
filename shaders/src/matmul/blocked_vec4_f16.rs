//! As [`super::blocked_vec4`], which see, with A and B stored in f16.

use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_blocked_vec4_f16", crate::wgsl!("matmul/blocked_vec4_f16.wgsl"));
