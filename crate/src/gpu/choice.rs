//! Which variant each product runs on: one fixed for all, what the tuner chose, or what runs where nothing was measured.

use manyhands_protocol::work::Dtype;
use manyhands_shaders::matmul::{Shape, Transposed, Variant};

use super::device::GpuEngine;
use crate::tuner::Task;

/// What replaces the usual variant.
#[derive(Debug, Default)]
pub struct Choices {
    fixed: Option<Variant>,
    chosen: Vec<((Shape, Transposed, Dtype), Variant)>,
}

impl GpuEngine {
    /// Runs this variant wherever it takes the product.
    pub(crate) fn fix(&self, variant: Variant) {
        self.choices().fixed = Some(variant);
    }

    pub(crate) fn fixed(&self) -> Option<Variant> {
        self.choices().fixed
    }

    /// Runs a product on this variant from here on.
    pub(crate) fn choose(&self, task: &Task, variant: Variant) {
        let (mut choices, product) = (self.choices(), (task.shape, task.transposed, task.dtype));
        choices.chosen.retain(|(other, _)| *other != product);
        choices.chosen.push((product, variant));
    }

    /// What was fixed or chosen for a product of operands of this type.
    pub(crate) fn chosen(&self, shape: Shape, transposed: Transposed, dtype: Dtype) -> Option<Variant> {
        let (choices, product) = (self.choices(), (shape, transposed, dtype));
        let reads = |variant: &Variant| dtype == Dtype::F16 || !variant.reads_f16();
        let fixed = choices.fixed.filter(|v| v.takes(shape, transposed) && reads(v) && self.offers(*v));
        fixed.or_else(|| choices.chosen.iter().find(|(other, _)| *other == product).map(|(_, variant)| *variant))
    }

    fn choices(&self) -> std::sync::MutexGuard<'_, Choices> {
        self.choices.lock().expect("no code panics while it holds this lock")
    }
}
