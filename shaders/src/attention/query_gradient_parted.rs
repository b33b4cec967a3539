//! Gradient of attention by its queries, a head by a quad, on devices with subgroups;
//! see `query_gradient_parted.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::query_gradient`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_query_gradient_parted",
    crate::wgsl!("attention/query_gradient_parted.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
