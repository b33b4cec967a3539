//! Layer normalisation, a row by a workgroup; see `forward_shared.wgsl` and [`super`]. Reference and tolerance are those of
//! [`super::forward`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "layer_norm_forward_shared",
    crate::wgsl!("layer_norm/forward_shared.wgsl"),
    &[Uniform, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite],
);
