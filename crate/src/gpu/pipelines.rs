//! Compiled kernels, once per device and set of constants.

use super::device::GpuEngine;
use crate::engine::EngineError;
use crate::plan::{Call, Op, Program};

/// What a pipeline is compiled from: a kernel, and the bits of its constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineKey {
    kernel: &'static str,
    constants: Vec<(&'static str, u64)>,
}

/// A compiled kernel and the layout of its bind group.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl PipelineKey {
    pub fn of(call: &Call) -> Self {
        let constants = call.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        Self { kernel: call.kernel.name, constants }
    }
}

impl GpuEngine {
    /// How this device runs a call.
    pub(super) fn call(&self, op: &Op) -> Call {
        op.call(self.sharing(), |product| self.variant(product))
    }

    /// The pipelines of these calls. What is new is compiled all together, so that a device that compiles in the
    /// background is waited for once.
    pub(super) async fn pipelines(&self, calls: &[Call]) -> Result<Vec<Pipeline>, EngineError> {
        let keys: Vec<_> = calls.iter().map(PipelineKey::of).collect();
        let mut new: Vec<(&PipelineKey, &Call)> = Vec::new();
        for (key, call) in keys.iter().zip(calls) {
            if !new.iter().any(|(other, _)| *other == key) && find(&self.known(), key).is_none() {
                new.push((key, call));
            }
        }
        let compiled =
            self.scoped(|| new.iter().map(|&(key, call)| (key.clone(), self.compile(call))).collect::<Vec<_>>()).await?;
        let mut known = self.known();
        known.extend(compiled);
        Ok(keys.iter().filter_map(|key| find(&known, key)).cloned().collect())
    }

    /// Compiles what programs will need, before the first of them runs.
    pub async fn prepare(&self, programs: impl Iterator<Item = &Program>) -> Result<(), EngineError> {
        let calls: Vec<_> = programs.flat_map(|program| program.ops.iter().map(|op| self.call(op))).collect();
        self.pipelines(&calls).await.map(drop)
    }

    /// How many pipelines were compiled here so far.
    pub fn pipelines_count(&self) -> usize {
        self.known().len()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<(PipelineKey, Pipeline)>> {
        self.pipelines.lock().expect("no code panics while it holds this lock")
    }

    fn compile(&self, call: &Call) -> Pipeline {
        let kernel = call.kernel;
        let source =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(self.wgsl(kernel).into()) };
        // A product gains a tenth without checks of its own. On Vulkan the driver still keeps every access to a buffer inside the
        // memory bound to it (robust buffer access); a browser checks whatever is asked for.
        let unchecked = wgpu::ShaderRuntimeChecks { int_div_checks: true, ..wgpu::ShaderRuntimeChecks::unchecked() };
        let vulkan = self.info.backend == wgpu::Backend::Vulkan;
        let checks = if vulkan { unchecked } else { wgpu::ShaderRuntimeChecks::checked() };
        // SAFETY: this text is compiled in, or a test's. Its loops count up to extents, so that they end, it indexes its own arrays
        // by constants and by what the workgroup's size and the widest head bound, and buffers by extents that the call was
        // checked against (`Variant::takes`, the plan's sizes).
        let module = unsafe { self.device.create_shader_module_trusted(source, checks) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            // The shader's own: every kernel uses all of its bindings.
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &call.constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { layout: pipeline.get_bind_group_layout(0), pipeline }
    }
}

/// A device has some dozens at most.
fn find<'a>(known: &'a [(PipelineKey, Pipeline)], key: &PipelineKey) -> Option<&'a Pipeline> {
    known.iter().find(|(other, _)| other == key).map(|(_, pipeline)| pipeline)
}
