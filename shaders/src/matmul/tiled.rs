//! Tiles in workgroup memory, vec4 loads and stores, 8x8 outputs per invocation: for hardware, and for extents that its
//! blocks divide. Generated from shaders/templates/matmul_tiled.wgsl, as is [`super::tiled_ahead`].

use super::Shape;
use crate::Kernel;

/// Outputs of a workgroup along either side.
pub const TILE: u32 = 64;
/// Steps of k that are summed up by themselves.
pub const STEPS: u32 = 16;
/// Steps of k whose sums are added up in registers, as the WGSL files declare by default, before C takes them. With this no
/// term passes more roundings than [`super::gamma`] counts.
pub const FOLD: u32 = 960;

pub static KERNEL: Kernel = super::kernel("matmul_tiled", crate::wgsl!("matmul/tiled.wgsl"));

/// A patch is four rows or columns by four steps of k, and four patches of k go through workgroup memory at a time, at least
/// once.
pub fn takes(shape: Shape) -> bool {
    shape.m.is_multiple_of(4) && shape.n.is_multiple_of(4) && shape.k.is_multiple_of(STEPS) && shape.k > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{K_CHUNK, accumulate_tolerance};

    /// A term's own, those of its sixteen steps, those in registers, and those in C.
    #[test]
    fn no_term_passes_more_roundings_than_the_contract_has() {
        for k in (STEPS..=1 << 16).step_by(STEPS as usize) {
            let own = STEPS + (k.min(FOLD) / STEPS) + k.div_ceil(FOLD) - 1;
            assert!(own <= K_CHUNK + k.div_ceil(K_CHUNK) + 1, "{k}: {own}");
        }
    }

    /// What C held is large, and each fold so small that C loses it.
    #[test]
    fn every_fold_may_lose_what_c_cannot_hold() {
        let (before, fold) = (1e8_f32, 3.9_f32);
        for folds in 1..=16 {
            let got = (0..folds).fold(before, |c, _| c + fold);
            let product = f64::from(folds as f32) * f64::from(fold);
            let error = (f64::from(got) - f64::from(before) - product).abs();
            let tolerance = accumulate_tolerance(folds * FOLD, &[f64::from(before)], &[product], &[0.0])[0];
            assert!(error <= tolerance, "{folds}: {error} > {tolerance}");
        }
    }
}
