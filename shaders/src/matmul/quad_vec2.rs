//! [`super::quad`] with vec2 loads and vec4 stores, a tenth faster: for extents that these divide.

use super::{Shape, Transposed};
use crate::Kernel;

pub static KERNEL: Kernel = super::kernel("matmul_quad_vec2", crate::wgsl!("matmul/quad_vec2.wgsl"));

/// k is walked in twos, C is stored in fours along n, and a transposed A is read in twos along m.
pub fn takes(shape: Shape, transposed: Transposed) -> bool {
    shape.k.is_multiple_of(2) && shape.n.is_multiple_of(4) && (!transposed.a || shape.m.is_multiple_of(2))
}
