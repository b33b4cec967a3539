//! Register-blocked without workgroup memory, scalar loads: 8x8 outputs per invocation, any extents. The default where
//! [`super::blocked_vec4`] does not apply. Generated from shaders/templates/matmul_blocked.wgsl.

use crate::Kernel;

/// Outputs per invocation along either side.
pub const BLOCK: u32 = 8;
/// Invocations of a workgroup along rows and columns, as both blocked WGSL files declare by default.
pub const WORKGROUP_ROWS: u32 = 4;
pub const WORKGROUP_COLUMNS: u32 = 4;
/// Outputs of a workgroup.
pub const TILE_ROWS: u32 = BLOCK * WORKGROUP_ROWS;
pub const TILE_COLUMNS: u32 = BLOCK * WORKGROUP_COLUMNS;

pub static KERNEL: Kernel = super::kernel("matmul_blocked", crate::wgsl!("matmul/blocked.wgsl"));
