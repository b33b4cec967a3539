//! Gradient of attention by its keys and values, a head by a quad, on devices with subgroups;
//! see `key_gradient_parted.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::key_gradient`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_key_gradient_parted",
    crate::wgsl!("attention/key_gradient_parted.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
