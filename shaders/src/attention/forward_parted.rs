//! Causal self-attention, a head by a quad, on devices with subgroups;
//! see `forward_parted.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::forward`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_forward_parted",
    crate::wgsl!("attention/forward_parted.wgsl"),
    &[Uniform, Read, ReadWrite, ReadWrite],
);
