//! As [`super::tiled_8x8`] with half the registers: 8x4 outputs per invocation.

use crate::Kernel;

/// Invocations of a workgroup along either side, as the WGSL file declares by default.
pub const WORKGROUP: u32 = 8;
/// Outputs of a workgroup.
pub const TILE_ROWS: u32 = 8 * WORKGROUP;
pub const TILE_COLUMNS: u32 = 4 * WORKGROUP;

pub static KERNEL: Kernel = super::kernel("matmul_tiled_8x4", crate::wgsl!("matmul/tiled_8x4.wgsl"));
