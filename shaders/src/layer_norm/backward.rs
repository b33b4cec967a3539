//! Gradient of layer normalisation by its input; see `backward.wgsl` and [`super`].

use crate::{Binding::*, Kernel};

pub static KERNEL: Kernel = super::kernel(
    "layer_norm_backward",
    crate::wgsl!("layer_norm/backward.wgsl"),
    &[Uniform, Read, Read, Read, Read, Read, ReadWrite],
);

/// Values for the `override` declarations.
pub fn constants(accumulate: bool) -> Vec<(&'static str, f64)> {
    vec![("ACCUMULATE", f64::from(u8::from(accumulate)))]
}
