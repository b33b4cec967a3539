//! What the tuner asks of an engine. The CPU path has one way to compute a product and nothing to choose.

use manyhands_protocol::limits;
use manyhands_protocol::statement::{Kernels, ProductKernel};
use manyhands_protocol::work::{Dtype, Work};
use manyhands_shaders::matmul::{Shape, Transposed, Variant};

use super::{Engine, EngineError, known};
use crate::plan::Sharing;
use crate::tuner::{AdapterClass, Task, kernels_version, tasks, variant_named};

/// What measurements belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunedAdapter {
    pub class: AdapterClass,
    /// The adapter's name, whatever drives it.
    pub name: String,
    /// What drives it; empty in a browser, which does.
    pub driver: String,
    /// [`kernels_version`] of what runs where nothing was measured.
    pub kernels: String,
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
                Some(TunedAdapter { class, name, driver, kernels: kernels_version(gpu.usual_sharing()) })
            }
        }
    }

    /// Whether the device has what a variant's kernel needs and is not harmed by it; the CPU path takes any for the same
    /// product.
    pub fn offers_variant(&self, variant: Variant) -> bool {
        let _ = variant;
        match self {
            Engine::Cpu(_) => true,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.offers(variant),
        }
    }

    /// Runs every product that this variant takes on it; one that reads f16 only those of such operands.
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
            gpu.choose(task, variant);
        }
    }

    /// What was fixed or chosen for a product.
    pub fn chosen_variant(&self, task: &Task) -> Option<Variant> {
        let _ = task;
        match self {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.chosen(task.shape, task.transposed, task.dtype),
        }
    }

    /// The variant that runs a product where nothing was measured: operands in f16 are widened for it.
    pub fn usual_variant(&self, task: &Task) -> Variant {
        match self {
            Engine::Cpu(_) => Variant::default_for(task.shape, task.transposed),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.usual(task.shape, task.transposed),
        }
    }

    /// How calls that are no products may share their work on this device, the usual way first; none where there is one way.
    pub fn offered_sharings(&self) -> Vec<Sharing> {
        match self {
            Engine::Cpu(_) => Vec::new(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => {
                let mut offered: Vec<_> = Sharing::ALL.into_iter().filter(|&sharing| gpu.offers_sharing(sharing)).collect();
                offered.sort_by_key(|&sharing| sharing != gpu.usual_sharing());
                offered
            }
        }
    }

    /// Has calls that are no products share their work so from here on.
    pub fn choose_sharing(&self, sharing: Sharing) {
        let _ = sharing;
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            gpu.choose_sharing(sharing);
        }
    }

    /// The same from here on, and whenever it is the turn of the work of this name again.
    #[cfg(feature = "every-layer")]
    pub fn settle_sharing(&self, work: &str, sharing: Sharing) {
        let _ = (work, sharing);
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(gpu) = self {
            gpu.settle_sharing(work, sharing);
        }
    }

    /// Chooses what was settled for the work of this name; false where nothing was.
    #[cfg(feature = "every-layer")]
    pub fn share_as_settled(&self, work: &str) -> bool {
        let _ = work;
        match self {
            Engine::Cpu(_) => true,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.share_as_settled(work),
        }
    }

    /// Names the kernels of this build as this device runs them.
    pub fn kernels_version(&self) -> String {
        kernels_version(match self {
            Engine::Cpu(_) => Sharing::Nothing,
            #[cfg(feature = "gpu")]
            Engine::Gpu(gpu) => gpu.sharing(),
        })
    }

    /// What the products of a unit run on here, for the result to say; none where there is one way to compute them.
    pub fn kernels(&self, work: &Work) -> Result<Option<Kernels>, EngineError> {
        if self.tuned_adapter().is_none() {
            return Ok(None);
        }
        let product = |task: Task| {
            let (Shape { m, k, n }, Transposed { a, b }) = (task.shape, task.transposed);
            let variant = self.chosen_variant(&task).unwrap_or_else(|| self.usual_variant(&task));
            ProductKernel { m, k, n, transposed_a: a, transposed_b: b, kernel: variant.name().to_owned() }
        };
        let products = tasks(work)?.into_iter().take(limits::KERNELS_COUNT_MAX).map(product).collect();
        Ok(Some(Kernels { version: self.kernels_version(), products }))
    }

    /// Runs products on the kernels that a result names, so that the same device gives the same bits again.
    /// [`EngineError::Unsupported`] where this build has other kernels, or the device does not run these.
    pub fn pin(&self, kernels: &Kernels) -> Result<(), EngineError> {
        if kernels.version != self.kernels_version() {
            let named = |sharing: &Sharing| kernels_version(*sharing) == kernels.version;
            let sharing = self.offered_sharings().into_iter().find(named);
            let unsupported = || EngineError::Unsupported(format!("kernels of version {}", kernels.version));
            self.choose_sharing(sharing.ok_or_else(unsupported)?);
        }
        for product in &kernels.products {
            let &ProductKernel { m, k, n, transposed_a: a, transposed_b: b, .. } = product;
            // Of what type the operands are is the unit's to say.
            let tasks = [Dtype::F32, Dtype::F16].map(|dtype| {
                let (shape, transposed) = (Shape { m, k, n }, Transposed { a, b });
                Task { shape, transposed, dtype, epilogues: Vec::new() }
            });
            let variant = variant_named(&product.kernel)
                .filter(|variant| self.offers_variant(*variant) && tasks.iter().any(|task| task.may_run(*variant)))
                .ok_or_else(|| EngineError::Unsupported(format!("a product by {}", product.kernel)))?;
            for task in tasks.iter().filter(|task| task.may_run(variant)) {
                self.choose_variant(task, variant);
            }
        }
        Ok(())
    }

    /// Known-answer test of a variant as a product would use it, at shapes with edges.
    pub async fn test_variant(&self, task: &Task, variant: Variant) -> Result<(), EngineError> {
        self.test(known::variant_products(task.transposed, &task.epilogues, variant)).await
    }
}
