//! Token plus position embedding; see `forward.wgsl` and [`super`].

use super::Params;
use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel =
    super::kernel("embedding_forward", crate::wgsl!("embedding/forward.wgsl"), &[Uniform, Read, Read, Read, ReadWrite]);

pub fn dispatch(params: Params) -> [u32; 3] {
    super::dispatch_values(params.rows, params.channels)
}
