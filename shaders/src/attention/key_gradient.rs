//! Gradient of attention by its keys and values; see `key_gradient.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_key_gradient",
    crate::wgsl!("attention/key_gradient.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
