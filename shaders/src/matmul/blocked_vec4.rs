//! Register-blocked without workgroup memory, vec4 loads and stores: 8x8 outputs per invocation, for extents that are
//! multiples of four where a vec4 runs along them. Generated from shaders/templates/matmul_blocked_vec4.wgsl.

use super::{Shape, Transposed};
use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_blocked_vec4", crate::wgsl!("matmul/blocked_vec4.wgsl"));

/// k is walked in fours, C is stored in fours along n, and a transposed A is read in fours along m.
pub fn takes(shape: Shape, transposed: Transposed) -> bool {
    shape.k.is_multiple_of(4) && shape.n.is_multiple_of(4) && (!transposed.a || shape.m.is_multiple_of(4))
}
