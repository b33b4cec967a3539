//! GELU; see `forward.wgsl` and [`super`].

use crate::{Binding, Kernel};

pub static KERNEL: Kernel =
    super::kernel("gelu_forward", crate::wgsl!("gelu/forward.wgsl"), &[Binding::Uniform, Binding::Read, Binding::ReadWrite]);
