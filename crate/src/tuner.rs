//! The tuner: which variant of the product kernel each product of a job runs fastest on this device, by measuring. It
//! plans tries, makes them and judges them; the volunteer's loop decides when, and keeps the notes. It never offers a kernel
//! that may harm the visitor's browser, and lets none win whose result is wrong.

mod bench;
mod notes;
mod plan;
mod session;
#[cfg(feature = "every-layer")]
pub mod shares;
#[cfg(feature = "every-layer")]
pub mod sharing;
#[cfg(feature = "every-layer")]
pub mod slower;
#[cfg(feature = "every-layer")]
pub mod step;

pub use bench::Bench;
pub use notes::{Measured, Notes};
pub use plan::{Task, Tuner, tasks};
#[cfg(feature = "every-layer")]
pub(crate) use session::sliced;
pub use session::{Budget, Kept};

use manyhands_shaders::matmul::Variant;
use manyhands_shaders::{KERNELS_HASH, fnv1a};

use crate::plan::Sharing;

/// What a visit spends on measuring variants of products and ways to share the rest, and at most one try more. What is not
/// measured by then waits for the next visit. The rest of a second is for measuring the device against the CPU path ([`slower`]).
pub const TUNING_MS_MAX: f64 = 750.0;

/// What the visitor, or a test, wants of the tuner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tune {
    /// Measure.
    #[default]
    Auto,
    /// Run what runs where nothing was measured.
    Off,
    /// Run this variant wherever it takes the product.
    Fixed(Variant),
}

impl Tune {
    /// Reads `auto`, `off` or a kernel's name.
    pub fn parse(text: &str) -> Option<Tune> {
        match text {
            "auto" => Some(Tune::Auto),
            "off" => Some(Tune::Off),
            name => variant_named(name).map(Tune::Fixed),
        }
    }
}

/// The variant of this name.
pub fn variant_named(name: &str) -> Option<Variant> {
    Variant::ALL.into_iter().find(|variant| variant.name() == name)
}

/// The names of all variants' kernels.
pub fn variant_names() -> Vec<&'static str> {
    Variant::ALL.iter().map(|variant| variant.name()).collect()
}

/// What a list of kernels was found good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterClass {
    Device,
    /// A program that stands in for a device: SwiftShader, lavapipe, WARP.
    Fallback,
}

/// Whether a variant may be tried on such an adapter at all. Large kernels with barriers crash the compilers of fallback
/// adapters and with them the browser's GPU process, which the visitor's other tabs share. The plain kernel is what others
/// are compared with; it is never the fastest.
pub fn is_offered(variant: Variant, class: AdapterClass) -> bool {
    variant != Variant::Naive && (class == AdapterClass::Device || variant.spares_software())
}

/// Names all that a device's bits and times follow from on our side: every kernel, and which of them its sharing chooses. What
/// was measured or computed under another name says nothing of these.
pub fn kernels_version(sharing: Sharing) -> String {
    format!("{:016x}", fnv1a(KERNELS_HASH, sharing.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fallback_adapter_is_offered() {
        for variant in Variant::ALL {
            let wgsl = variant.kernel().wgsl;
            let barriers = wgsl.contains("workgroupBarrier(") || wgsl.contains("storageBarrier(");
            assert!(!is_offered(variant, AdapterClass::Fallback) || !barriers, "{variant:?}");
            assert_eq!(is_offered(variant, AdapterClass::Device), variant != Variant::Naive, "{variant:?}");
        }
        assert!(is_offered(Variant::Blocked, AdapterClass::Fallback));
    }

    #[test]
    fn wishes_are_read_by_name() {
        assert_eq!(Tune::parse("auto"), Some(Tune::Auto));
        assert_eq!(Tune::parse("off"), Some(Tune::Off));
        assert_eq!(Tune::parse("matmul_blocked"), Some(Tune::Fixed(Variant::Blocked)));
        assert_eq!(Tune::parse("blocked"), None);
        assert_eq!(Tune::parse(""), None);
        let versions = Sharing::ALL.map(kernels_version);
        assert!(versions.iter().all(|version| version.len() == 16));
        assert!(versions[0] != versions[1] && versions[1] != versions[2] && versions[0] != versions[2], "{versions:?}");
        for variant in Variant::ALL {
            assert_eq!(variant_named(variant.name()), Some(variant), "names tell variants apart");
            let notes = format!("8x8x8 nn {} 5\n", variant.name());
            assert_eq!(Notes::parse(&notes).text(), notes);
            let markers = format!("{}\n", variant.name());
            assert_eq!(Tuner::new(AdapterClass::Device, &markers, "").markers(), markers);
        }
    }
}
