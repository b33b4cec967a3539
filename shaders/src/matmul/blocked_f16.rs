//! As [`super::blocked`], which see, with A and B stored in f16. A row may begin in the middle of a word, so that any extents
//! will do. Generated, as that is, from shaders/templates/matmul_blocked.wgsl.

use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_blocked_f16", crate::wgsl!("matmul/blocked_f16.wgsl"));
