//! Gradient of attention by its queries; see `query_gradient.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "attention_query_gradient",
    crate::wgsl!("attention/query_gradient.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite],
);
