//! What the tuner asks of an engine. The CPU path has one way to compute a product and nothing to choose.

use manyhands_shaders::matmul::Variant;

use super::{Engine, EngineError, known};
use crate::tuner::{AdapterClass, Task};

/// What measurements belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunedAdapter {
    pub class: AdapterClass,
    /// The adapter's name, whatever drives it.
    pub name: String,
    /// What drives it; empty in a browser, which does.
    pub driver: String,
}

impl Engine {
    /// The adapter to tune for; none where there is nothing to choose.
    pub fn tuned_adapter(&self) -> Option<TunedAdapter> {
        match self {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => {
                let class = if gpu.is_software() { AdapterClass::Fallback } else { AdapterClass::Device };
                let (name, driver) = gpu.adapter();
                Some(TunedAdapter { class, name, driver })
            }
        }
    }

    /// Whether the device has what a variant's kernel needs; the CPU path takes any for the same product.
    pub fn runs_variant(&self, variant: Variant) -> bool {
        let _ = variant;
        match self {
            Engine::Cpu(_) => true,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.runs(variant.kernel()),
        }
    }

    /// Runs every product that this variant takes on it.
    pub fn fix_variant(&self, variant: Variant) {
        let _ = variant;
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            gpu.fix(variant);
        }
    }

    /// Runs a product on this variant from here on.
    pub fn choose_variant(&self, task: &Task, variant: Variant) {
        let _ = (task, variant);
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            gpu.choose(task.shape, task.transposed, variant);
        }
    }

    /// What was fixed or chosen for a product.
    pub fn chosen_variant(&self, task: &Task) -> Option<Variant> {
        let _ = task;
        match self {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.chosen(task.shape, task.transposed),
        }
    }

    /// The variant that runs a product where nothing was measured.
    pub fn usual_variant(&self, task: &Task) -> Variant {
        match self {
            Engine::Cpu(_) => Variant::default_for(task.shape, task.transposed),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.usual(task.shape, task.transposed),
        }
    }

    /// Known-answer test of a variant as a product would use it, at shapes with edges.
    pub async fn test_variant(&self, task: &Task, variant: Variant) -> Result<(), EngineError> {
        self.test(known::variant_products(task.transposed, &task.epilogues, variant)).await
    }
}
