//! Row sums of the output and its gradient, for the backward pass of attention; see `delta.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel =
    super::kernel("attention_delta", crate::wgsl!("attention/delta.wgsl"), &[Uniform, Read, Read, ReadWrite]);

pub use super::reference::{delta_reference as reference, delta_tolerance as tolerance};

/// An invocation per head of each row.
pub fn dispatch(shape: super::Shape) -> [u32; 3] {
    super::dispatch(shape, super::Pairs { first: 0, end: shape.pairs() })
}
