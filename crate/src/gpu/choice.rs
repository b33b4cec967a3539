//! Which variant each product runs on: one fixed for all, what the tuner chose, or what runs where nothing was measured.

use manyhands_shaders::matmul::{Shape, Transposed, Variant};

use super::device::GpuEngine;

/// What replaces the usual variant.
#[derive(Debug, Default)]
pub struct Choices {
    fixed: Option<Variant>,
    chosen: Vec<(Shape, Transposed, Variant)>,
}

impl GpuEngine {
    /// Runs this variant wherever it takes the product.
    pub(crate) fn fix(&self, variant: Variant) {
        self.choices().fixed = Some(variant);
    }

    /// Runs a product on this variant from here on.
    pub(crate) fn choose(&self, shape: Shape, transposed: Transposed, variant: Variant) {
        let mut choices = self.choices();
        choices.chosen.retain(|(s, t, _)| (*s, *t) != (shape, transposed));
        choices.chosen.push((shape, transposed, variant));
    }

    /// What was fixed or chosen for a product.
    pub(crate) fn chosen(&self, shape: Shape, transposed: Transposed) -> Option<Variant> {
        let choices = self.choices();
        let fixed = choices.fixed.filter(|variant| variant.takes(shape, transposed) && self.runs(variant.kernel()));
        fixed.or_else(|| choices.chosen.iter().find(|(s, t, _)| (*s, *t) == (shape, transposed)).map(|(_, _, variant)| *variant))
    }

    fn choices(&self) -> std::sync::MutexGuard<'_, Choices> {
        self.choices.lock().expect("no code panics while it holds this lock")
    }
}
