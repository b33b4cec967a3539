//! Dropout by a mask that anyone can compute again; see `dropout.wgsl`. Forward and backward are one kernel. The inner
//! step that it reads is counted by [`crate::dropout_advance`].

use crate::{Binding::*, FLUSH, Kernel, UNIT_ROUNDOFF, linear_dispatch, params_fields};

/// Invocations per workgroup, four values each.
pub const WORKGROUP: u32 = 64;

pub static KERNEL: Kernel = Kernel {
    name: "dropout",
    wgsl: crate::wgsl!("dropout.wgsl"),
    bindings: &[Uniform, Read, Read, ReadWrite],
    params_bytes: size_of::<Params>(),
    params_fields: params_fields!(values4, threshold, scale, key0, key1, layer, first_row),
};

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Values divided by four, rounded up.
    pub values4: u32,
    pub threshold: u32,
    pub scale: f32,
    pub key0: u32,
    pub key1: u32,
    pub layer: u32,
    pub first_row: u32,
}

/// What decides a layer's masks, but for the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Share of values that are dropped, on [0, 1).
    pub rate: f32,
    /// Key of the generator.
    pub key: [u32; 2],
    /// The second word of its counter; the first is the block of four values, the third the step.
    pub layer: u32,
    /// The fourth word.
    pub first_row: u32,
}

impl Mask {
    /// Words below this drop their value: `⌊rate · 2³²⌋`, exact in f64.
    pub fn threshold(self) -> u32 {
        (f64::from(self.rate) * (1u64 << 32) as f64) as u32
    }

    /// What values that stay are multiplied by, so that the expectation is kept.
    pub fn scale(self) -> f32 {
        (1.0 / (1.0 - f64::from(self.rate))) as f32
    }

    /// Which of the four values of a block stay.
    #[inline(always)]
    pub fn keeps(self, block: u32, step: u32) -> [bool; 4] {
        let threshold = self.threshold();
        philox([block, self.layer, step, self.first_row], self.key).map(|word| word >= threshold)
    }
}

/// Philox4x32-10: Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let ((high0, low0), (high1, low1)) = (product(0xD251_1F53, a), product(0xCD9E_8D57, c));
        [a, b, c, d] = [high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0];
        (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
    }
    [a, b, c, d]
}

impl Params {
    pub fn new(values: u32, mask: Mask) -> Self {
        let Mask { key: [key0, key1], layer, first_row, .. } = mask;
        Self { values4: values.div_ceil(4), threshold: mask.threshold(), scale: mask.scale(), key0, key1, layer, first_row }
    }
}

pub fn dispatch(values: u32) -> [u32; 3] {
    linear_dispatch(u64::from(values.div_ceil(4).div_ceil(WORKGROUP)))
}

fn kept(mask: Mask, step: u32, index: usize) -> bool {
    mask.keeps((index / 4) as u32, step)[index % 4]
}

/// `x · scale` where the mask keeps the value, else 0; backward the same of the upstream gradient.
pub fn reference(mask: Mask, step: u32, x: &[f64]) -> Vec<f64> {
    let scale = f64::from(mask.scale());
    x.iter().enumerate().map(|(i, x)| if kept(mask, step, i) { x * scale } else { 0.0 }).collect()
}

/// One rounding of what is kept. What is dropped is zero exactly.
pub fn tolerance(mask: Mask, step: u32, x: &[f64]) -> Vec<f64> {
    let bound = |y: f64| UNIT_ROUNDOFF * y.abs() + 2.0 * FLUSH;
    let y = reference(mask, step, x).into_iter().enumerate();
    y.map(|(i, y)| if kept(mask, step, i) { bound(y) } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the generator's authors publish (Random123, `kat_vectors`).
    #[test]
    fn the_generator_is_philox() {
        let check = |counter, key, expected| assert_eq!(philox(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
        check(
            [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
            [0xA409_3822, 0x299F_31D0],
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
        );
    }

    /// Values that stay are as many as the rate says, and scaled so that the mean is kept: within five standard deviations.
    #[test]
    fn the_expectation_is_kept() {
        let count = 1 << 16;
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let mask = Mask { rate, key: [1, 2], layer: 3, first_row: 4 };
            let mean = reference(mask, 5, &vec![1.0; count]).iter().sum::<f64>() / count as f64;
            let deviation = (f64::from(rate) / (1.0 - f64::from(rate)) / count as f64).sqrt();
            assert!((mean - 1.0).abs() <= 5.0 * deviation, "{rate}: {mean}");
        }
        let edge = |rate| Mask { rate, key: [0; 2], layer: 0, first_row: 0 };
        assert_eq!((edge(0.0).threshold(), edge(0.0).scale()), (0, 1.0));
        assert_eq!((edge(0.5).threshold(), edge(0.5).scale()), (1 << 31, 2.0));
        assert_eq!(edge(0.999_999_94).threshold(), u32::MAX - 255);
    }

    /// Every part of key and counter changes the mask.
    #[test]
    fn masks_differ_by_all_that_names_them() {
        let base = Mask { rate: 0.5, key: [1, 2], layer: 3, first_row: 4 };
        let bits = |mask: Mask, step| (0..64).flat_map(|block| mask.keeps(block, step)).collect::<Vec<_>>();
        let others = [
            (Mask { key: [9, 2], ..base }, 0),
            (Mask { key: [1, 9], ..base }, 0),
            (Mask { layer: 9, ..base }, 0),
            (Mask { first_row: 9, ..base }, 0),
            (base, 1),
        ];
        for (other, step) in others {
            let differ = bits(base, 0).iter().zip(bits(other, step)).filter(|(a, b)| **a != *b).count();
            // 256 fair coins: five standard deviations about 128.
            assert!((88..=168).contains(&differ), "{other:?} {step}: {differ}");
        }
    }
}
