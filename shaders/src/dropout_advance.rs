//! The step counter of dropout's masks; see `dropout_advance.wgsl`.

use crate::{Binding::*, Kernel, params_fields};

pub static KERNEL: Kernel = Kernel {
    name: "dropout_advance",
    wgsl: crate::wgsl!("dropout_advance.wgsl"),
    bindings: &[Uniform, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(steps),
};

/// Values of the buffer that holds the step in its first.
pub const VALUES: u64 = 4;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    pub steps: u32,
}

pub fn dispatch() -> [u32; 3] {
    [1, 1, 1]
}

/// The step so many steps on, exactly.
pub fn reference(params: Params, step: u32) -> u32 {
    step.wrapping_add(params.steps)
}
