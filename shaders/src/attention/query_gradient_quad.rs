//! Gradient of attention by its queries, on adapters with subgroups; see `query_gradient_quad.wgsl` and [`super`]. Reference and
//! tolerance are those of [`super::query_gradient`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_query_gradient_quad",
    crate::wgsl!("attention/query_gradient_quad.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
