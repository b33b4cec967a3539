//! IEEE 754 binary16 as operands are stored in: what a bit pattern is in f32, and how kernels read patterns, two to a
//! 4-byte word with the first in its lower half, as the values lie in a little-endian file. Nothing is rounded to f16 here.

/// The value of a bit pattern: each is one of f32 as well.
pub fn widen(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    // As f32 that is 2⁻¹¹² of the value, subnormals too: the exponents' biases are 112 apart.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if is_finite(bits) { scaled.to_bits() } else { magnitude | 0x7F80_0000 };
    f32::from_bits(sign | special)
}

/// Whether a bit pattern is neither infinite nor NaN.
pub fn is_finite(bits: u16) -> bool {
    bits & 0x7C00 != 0x7C00
}

/// So many words hold `values` patterns.
pub fn words(values: u64) -> u64 {
    values.div_ceil(2)
}

/// Patterns as words; the last is filled up with zero. Words of finite patterns are f32 that are not NaN, and so kept bit for
/// bit wherever they go.
pub fn pack(patterns: &[u16]) -> Vec<f32> {
    let word = |pair: &[u16]| u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 16;
    patterns.chunks(2).map(|pair| f32::from_bits(word(pair))).collect()
}

/// The values of so many patterns in words, from pattern `first` on.
pub fn unpack(words: &[f32], first: usize, count: usize) -> impl Iterator<Item = f32> + '_ {
    (first..first + count).map(|at| widen((words[at / 2].to_bits() >> (at % 2 * 16)) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_widened_as_by_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()), "{bits:#06x}: {got} {expected}");
            assert_eq!(is_finite(bits), expected.is_finite(), "{bits:#06x}");
        }
        // The smallest subnormal, the largest, the smallest normal and the largest.
        let values = [0x0001, 0x03FF, 0x0400, 0x7BFF].map(widen);
        assert_eq!(values, [5.960_464_5e-8, 6.097_555e-5, 6.103_515_6e-5, 65_504.0]);
    }

    #[test]
    fn words_give_back_what_was_packed() {
        let patterns = [0x3C00, 0xC000, 0x0001, 0x7BFF, 0x8000];
        let words = pack(&patterns);
        assert_eq!(words.len() as u64, super::words(5));
        assert_eq!(words[0].to_bits(), 0xC000_3C00, "the first in the lower half");
        for first in 0..5 {
            let expected: Vec<f32> = patterns[first..].iter().map(|&bits| widen(bits)).collect();
            assert_eq!(unpack(&words, first, 5 - first).collect::<Vec<_>>(), expected);
        }
        assert!(pack(&[]).is_empty() && words.iter().all(|word| !word.is_nan()));
    }
}
