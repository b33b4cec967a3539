//! Which variant each product runs on: one fixed for all, what the tuner chose, or what runs where nothing was measured; and how
//! all other calls share their work.

use manyhands_protocol::work::Dtype;
use manyhands_shaders::matmul::{Shape, Transposed, Variant};

use super::device::GpuEngine;
use crate::plan::Sharing;
use crate::tuner::Task;

/// What replaces the usual variant.
#[derive(Debug, Default)]
pub struct Choices {
    fixed: Option<Variant>,
    chosen: Vec<((Shape, Transposed, Dtype), Variant)>,
    sharing: Option<Sharing>,
    /// By the name of the work.
    #[cfg(feature = "every-layer")]
    settled: Vec<(String, Sharing)>,
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

    /// Has calls that are no products share their work so from here on.
    pub(crate) fn choose_sharing(&self, sharing: Sharing) {
        self.choices().sharing = Some(sharing);
    }

    /// What was chosen for such calls.
    pub(crate) fn chosen_sharing(&self) -> Option<Sharing> {
        self.choices().sharing
    }

    /// The same from here on, and whenever it is this work's turn again.
    #[cfg(feature = "every-layer")]
    pub(crate) fn settle_sharing(&self, work: &str, sharing: Sharing) {
        self.choose_sharing(sharing);
        self.choices().settled.push((work.to_owned(), sharing));
    }

    /// Chooses what was settled for this work; false where nothing was.
    #[cfg(feature = "every-layer")]
    pub(crate) fn share_as_settled(&self, work: &str) -> bool {
        let mut choices = self.choices();
        let settled = choices.settled.iter().find(|(name, _)| name == work).map(|(_, sharing)| *sharing);
        choices.sharing = settled.or(choices.sharing);
        settled.is_some()
    }

    fn choices(&self) -> std::sync::MutexGuard<'_, Choices> {
        self.choices.lock().expect("no code panics while it holds this lock")
    }
}
