//! Causal self-attention, on adapters with subgroups; see `forward_quad.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::forward`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel =
    super::kernel("attention_forward_quad", crate::wgsl!("attention/forward_quad.wgsl"), &[Uniform, Read, ReadWrite, ReadWrite]);
