//! Tiles in workgroup memory, vec4 loads and stores, 8x8 outputs per invocation: for hardware, and for extents as
//! [`super::blocked_vec4`] takes them. Generated from shaders/templates/matmul_tiled.wgsl.

use crate::Kernel;

/// Invocations of a workgroup along either side, as the WGSL file declares by default: tiles of 64 by 64.
pub const WORKGROUP: u32 = 8;
/// The same for [`super::Variant::Tiled8x8Large`], tiles of 128 by 128: all invocations and all workgroup memory that
/// WebGPU's default limits allow.
pub const LARGE_WORKGROUP: u32 = 16;

pub static KERNEL: Kernel = super::kernel("matmul_tiled_8x8", crate::wgsl!("matmul/tiled_8x8.wgsl"));
