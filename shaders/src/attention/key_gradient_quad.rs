//! Gradient of attention by its keys and values, on adapters with subgroups; see `key_gradient_quad.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::key_gradient`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_key_gradient_quad",
    crate::wgsl!("attention/key_gradient_quad.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
