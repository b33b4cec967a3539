//! Loops compiled twice on x86-64, one of which is chosen at run time: for AVX2 and fused multiply-add, and for processors
//! that lack them. Elsewhere what the target has by itself. Products have more (`kernels.rs`); nothing else of the CPU path
//! knows of instruction sets.

/// The instructions on which the bits of a result depend, beside the kind of processor and the build: products and loops are
/// chosen by these at run time. Empty where there is nothing to choose.
pub fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") {
            return "avx512f";
        }
        if has!("avx2") && has!("fma") {
            return "avx2 fma";
        }
    }
    if cfg!(target_feature = "relaxed-simd") { "relaxed-simd" } else { "" }
}

/// Defines a function that runs loops on the widest registers the processor has. `$plain` is called where it has no fused
/// multiply-add, `$fused` where it has; both are `#[inline(always)]`, and so is what they call, or it is not compiled anew.
/// One that is given alone rounds the same everywhere: the compiler fuses nothing by itself.
macro_rules! widest {
    ($(#[$about:meta])* $see:vis fn $name:ident($($argument:ident: $type:ty),+ $(,)?) = $body:expr) => {
        $crate::cpu::widest::widest!($(#[$about])* $see fn $name($($argument: $type),+) = $body, $body);
    };
    ($(#[$about:meta])* $see:vis fn $name:ident($($argument:ident: $type:ty),+ $(,)?) = $plain:expr, $fused:expr) => {
        $(#[$about])*
        $see fn $name($($argument: $type),+) {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),+) {
                    $fused($($argument),+);
                }
                if has!("avx2") && has!("fma") {
                    // SAFETY: the processor has the features that the function is compiled for.
                    return unsafe { avx2($($argument),+) };
                }
            }
            if cfg!(target_arch = "aarch64") { $fused($($argument),+) } else { $plain($($argument),+) }
        }
    };
}
pub(in crate::cpu) use widest;
