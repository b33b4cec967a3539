//! Gradient of the position embedding; see `position_gradient.wgsl` and [`super`].

use super::Params;
use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel =
    super::kernel("embedding_position_gradient", crate::wgsl!("embedding/position_gradient.wgsl"), &[Uniform, Read, ReadWrite]);

pub fn dispatch(params: Params) -> [u32; 3] {
    super::dispatch_values(params.time, params.channels)
}
