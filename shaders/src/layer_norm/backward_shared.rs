//! Gradient of layer normalisation by its input, a row by a workgroup; see `backward_shared.wgsl` and [`super`]. Reference,
//! tolerance and constants are those of [`super::backward`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "layer_norm_backward_shared",
    crate::wgsl!("layer_norm/backward_shared.wgsl"),
    &[Uniform, Read, Read, Read, Read, Read, ReadWrite],
);
