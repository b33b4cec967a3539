//! Gradient of layer normalisation by gain and shift, in partial sums; see `parameters.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "layer_norm_parameters",
    crate::wgsl!("layer_norm/parameters.wgsl"),
    &[Uniform, Read, Read, Read, Read, ReadWrite, ReadWrite],
);
