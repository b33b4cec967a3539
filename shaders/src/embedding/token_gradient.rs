//! Gradient of the token embedding, without atomics; see `token_gradient.wgsl` and [`super`].

use super::{Params, WORKGROUP};
use crate::{Binding::*, Kernel, linear_dispatch};

pub static KERNEL: Kernel =
    super::kernel("embedding_token_gradient", crate::wgsl!("embedding/token_gradient.wgsl"), &[Uniform, Read, Read, ReadWrite]);

/// Channels per invocation.
pub const CHANNELS: u32 = 4;

pub fn dispatch(params: Params) -> [u32; 3] {
    let invocations = u64::from(params.vocabulary) * u64::from(params.channels.div_ceil(CHANNELS));
    linear_dispatch(invocations.div_ceil(u64::from(WORKGROUP)))
}
