//! Register-blocked without workgroup memory, 16x4 outputs per invocation, the loads of A shared by the four of a quad: any
//! extents, on adapters with subgroups.

use crate::Kernel;

/// Side of the tile that a workgroup, one quad, computes.
pub const TILE: u32 = 16;

pub static KERNEL: Kernel = super::kernel("matmul_quad", crate::wgsl!("matmul/quad.wgsl"));
