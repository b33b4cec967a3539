//! Causal self-attention, its softmax online; see `forward.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel =
    super::kernel("attention_forward", crate::wgsl!("attention/forward.wgsl"), &[Uniform, Read, ReadWrite, ReadWrite]);
