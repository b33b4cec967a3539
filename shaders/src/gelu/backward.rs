//! Backward pass of GELU; see `backward.wgsl` and [`super`].

use crate::{Binding, Kernel};

pub static KERNEL: Kernel =
    super::kernel("gelu_backward", crate::wgsl!("gelu/backward.wgsl"), &[Binding::Uniform, Binding::Read, Binding::ReadWrite]);
