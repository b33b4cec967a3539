//! Compute kernels of Many Hands: per kernel the WGSL text and, in a Rust file of the same stem, its parameters,
//! dispatch arithmetic, reference function and tolerance. Nothing here talks to a device, reads a clock or draws
//! randomness, and wgpu is not among the dependencies.
//!
//! References are f64 loops, meant to be obviously right. Tolerances are upper bounds on the rounding error of a
//! correct f32 kernel against the reference on the same inputs, at WGSL's accuracy (https://www.w3.org/TR/WGSL/,
//! "Accuracy of built-in functions"): operations may round to either neighbour, so the unit roundoff is 2⁻²³, and
//! denormal values may be flushed to zero.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod accuracy;
pub mod adamw;
pub mod adamw_advance;
pub mod add;
pub mod attention;
pub mod average_pool_backward;
pub mod average_pool_forward;
pub mod binary16;
pub mod clear;
pub mod column_sum;
pub mod compare;
pub mod convolution;
pub mod convolution_forward;
pub mod convolution_input_gradient;
pub mod convolution_quad;
pub mod convolution_weight_gradient;
pub mod dropout;
pub mod dropout_advance;
pub mod embedding;
pub mod gelu;
pub mod gradient_norm;
pub mod images;
pub mod layer_norm;
pub mod matmul;
pub mod max_pool_backward;
pub mod max_pool_forward;
pub mod pool;
pub mod relu_backward;
pub mod relu_forward;
mod rounding;
pub mod sgd_momentum;
pub mod softmax_cross_entropy;

/// Relative error of one correctly implemented WGSL addition, subtraction or multiplication.
pub const UNIT_ROUNDOFF: f64 = 1.0 / (1u32 << 23) as f64;

/// Absolute error that flushing one denormal value to zero may cause.
pub const FLUSH: f64 = f32::MIN_POSITIVE as f64;

/// Largest number of workgroups along one dimension of a dispatch, by WebGPU's default limits.
pub const WORKGROUPS_MAX: u32 = 65_535;

/// One compute shader: its text, entry point `main` and the shape of its bind group 0.
#[derive(Debug)]
pub struct Kernel {
    pub name: &'static str,
    pub wgsl: &'static str,
    /// Bindings in order; binding 0 is always the uniform `Params`.
    pub bindings: &'static [Binding],
    /// Size of the Rust `Params`.
    pub params_bytes: usize,
    /// Name and offset of each field of the Rust `Params`, which a test compares with the WGSL struct.
    pub params_fields: &'static [(&'static str, usize)],
}

/// The directive of a kernel that exchanges values within a subgroup. It stands on a line of its own.
pub const ENABLE_SUBGROUPS: &str = "enable subgroups;\n";

impl Kernel {
    /// Whether the kernel runs only on devices with WebGPU's `subgroups`, at least 4 wide.
    pub fn needs_subgroups(&self) -> bool {
        self.wgsl.starts_with(ENABLE_SUBGROUPS)
    }
}

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    Uniform,
    Read,
    ReadWrite,
}

/// Every kernel of this crate.
pub const KERNELS: [&Kernel; 53] = [
    &matmul::naive::KERNEL,
    &matmul::blocked::KERNEL,
    &matmul::blocked_vec4::KERNEL,
    &matmul::quad::KERNEL,
    &matmul::quad_vec2::KERNEL,
    &matmul::tiled::KERNEL,
    &matmul::tiled_ahead::KERNEL,
    &matmul::blocked_f16::KERNEL,
    &matmul::blocked_vec4_f16::KERNEL,
    &matmul::tiled_f16::KERNEL,
    &matmul::tiled_ahead_f16::KERNEL,
    &add::KERNEL,
    &clear::KERNEL,
    &column_sum::KERNEL,
    &relu_backward::KERNEL,
    &relu_forward::KERNEL,
    &sgd_momentum::KERNEL,
    &softmax_cross_entropy::KERNEL,
    &accuracy::KERNEL,
    &adamw::KERNEL,
    &adamw_advance::KERNEL,
    &dropout::KERNEL,
    &dropout_advance::KERNEL,
    &attention::forward::KERNEL,
    &attention::forward_quad::KERNEL,
    &attention::forward_parted::KERNEL,
    &attention::delta::KERNEL,
    &attention::query_gradient::KERNEL,
    &attention::query_gradient_quad::KERNEL,
    &attention::query_gradient_parted::KERNEL,
    &attention::key_gradient::KERNEL,
    &attention::key_gradient_quad::KERNEL,
    &attention::key_gradient_parted::KERNEL,
    &embedding::forward::KERNEL,
    &embedding::token_gradient::KERNEL,
    &embedding::position_gradient::KERNEL,
    &gelu::forward::KERNEL,
    &gelu::backward::KERNEL,
    &gradient_norm::squares::KERNEL,
    &gradient_norm::clip::KERNEL,
    &layer_norm::forward::KERNEL,
    &layer_norm::forward_shared::KERNEL,
    &layer_norm::backward::KERNEL,
    &layer_norm::backward_shared::KERNEL,
    &layer_norm::parameters::KERNEL,
    &convolution_forward::KERNEL,
    &convolution_input_gradient::KERNEL,
    &convolution_quad::KERNEL,
    &convolution_weight_gradient::KERNEL,
    &max_pool_forward::KERNEL,
    &max_pool_backward::KERNEL,
    &average_pool_forward::KERNEL,
    &average_pool_backward::KERNEL,
];

/// Names the texts of every kernel, and the version whose code dispatches them. It is reckoned while this compiles, so that a
/// program that lacks some of the kernels names them all the same.
#[allow(long_running_const_eval)] // Every byte of every kernel.
pub const KERNELS_HASH: u64 = {
    let mut hash = fnv1a(FNV1A_START, env!("CARGO_PKG_VERSION"));
    let mut kernel = 0;
    while kernel < KERNELS.len() {
        hash = with_kernel(hash, KERNELS[kernel].name, KERNELS[kernel].wgsl);
        kernel += 1;
    }
    hash
};

/// FNV-1a of 64 bits begins so.
pub const FNV1A_START: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a over what came before and a text and its end.
pub const fn fnv1a(hash: u64, text: &str) -> u64 {
    let (mut hash, mut at) = (hash, 0);
    while at < text.len() {
        hash = (hash ^ text.as_bytes()[at] as u64).wrapping_mul(0x0100_0000_01B3);
        at += 1;
    }
    // The end is a byte of zero.
    hash.wrapping_mul(0x0100_0000_01B3)
}

const fn with_kernel(hash: u64, name: &str, wgsl: &str) -> u64 {
    fnv1a(fnv1a(hash, name), wgsl)
}

/// Extents of a dispatch of `groups` workgroups numbered row by row: kernels number them as `x + y · num_workgroups.x`
/// and ignore what lies past the end.
pub fn linear_dispatch(groups: u64) -> [u32; 3] {
    let x = groups.min(u64::from(WORKGROUPS_MAX));
    let y = if x == 0 { 0 } else { groups.div_ceil(x) };
    [x as u32, u32::try_from(y).unwrap_or(u32::MAX), u32::from(x > 0)]
}

/// The text of a kernel's .wgsl file, by its path below src/, as build.rs strips it.
macro_rules! wgsl {
    ($path:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $path))
    };
}
pub(crate) use wgsl;

/// Name and offset of every field of a `Params` struct, for [`Kernel::params_fields`].
macro_rules! params_fields {
    ($($field:ident),+) => { &[$((stringify!($field), core::mem::offset_of!(Params, $field))),+] };
}
pub(crate) use params_fields;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_to_any_kernel_changes_the_hash() {
        let hash = |changed: Option<usize>| {
            let start = fnv1a(FNV1A_START, env!("CARGO_PKG_VERSION"));
            KERNELS.iter().enumerate().fold(start, |hash, (index, kernel)| {
                let more = if changed == Some(index) { " " } else { "" };
                with_kernel(hash, kernel.name, &format!("{}{more}", kernel.wgsl))
            })
        };
        assert_eq!(hash(None), KERNELS_HASH);
        for (changed, kernel) in KERNELS.iter().enumerate() {
            assert_ne!(hash(Some(changed)), KERNELS_HASH, "{}", kernel.name);
        }
        assert_ne!(fnv1a(fnv1a(FNV1A_START, "ab"), "c"), fnv1a(fnv1a(FNV1A_START, "a"), "bc"));
    }

    #[test]
    fn dispatches_cover_every_group() {
        let check = |groups: u64, expected: [u32; 3]| {
            let got = linear_dispatch(groups);
            assert_eq!(got, expected);
            assert!(u64::from(got[0]) * u64::from(got[1]) * u64::from(got[2]) >= groups);
        };
        check(0, [0, 0, 0]);
        check(1, [1, 1, 1]);
        check(65_535, [65_535, 1, 1]);
        check(65_536, [65_535, 2, 1]);
        check(1 << 24, [65_535, 257, 1]);
    }
}
