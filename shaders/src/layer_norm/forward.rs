//! Layer normalisation; see `forward.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "layer_norm_forward",
    crate::wgsl!("layer_norm/forward.wgsl"),
    &[Uniform, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite],
);
