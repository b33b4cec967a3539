//! Compiled kernels, once per device and set of constants.

use manyhands_shaders::matmul::{self, Epilogue, Transposed, Variant};
use manyhands_shaders::{Binding, Kernel, column_sum, relu_backward, sgd_momentum, softmax_cross_entropy};

use super::device::GpuEngine;
use crate::engine::EngineError;
use crate::plan::{Op, Program};

/// What a pipeline is compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PipelineKey {
    Matmul(Variant, Transposed, Epilogue),
    ColumnSum,
    ReluBackward,
    SoftmaxCrossEntropy,
    SgdMomentum,
}

/// A compiled kernel and the layout of its bind group.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl PipelineKey {
    fn kernel(self) -> &'static Kernel {
        match self {
            PipelineKey::Matmul(variant, ..) => variant.kernel(),
            PipelineKey::ColumnSum => &column_sum::KERNEL,
            PipelineKey::ReluBackward => &relu_backward::KERNEL,
            PipelineKey::SoftmaxCrossEntropy => &softmax_cross_entropy::KERNEL,
            PipelineKey::SgdMomentum => &sgd_momentum::KERNEL,
        }
    }
}

impl GpuEngine {
    /// The pipeline that a call runs on.
    pub(super) fn key(&self, op: &Op) -> PipelineKey {
        match op {
            Op::Matmul(op) => PipelineKey::Matmul(self.variant(op), op.transposed, op.epilogue),
            Op::ColumnSum { .. } => PipelineKey::ColumnSum,
            Op::ReluBackward { .. } => PipelineKey::ReluBackward,
            Op::SoftmaxCrossEntropy { .. } => PipelineKey::SoftmaxCrossEntropy,
            Op::SgdMomentum { .. } => PipelineKey::SgdMomentum,
        }
    }

    /// The pipelines of these keys. What is new is compiled all together, so that a device that compiles in the
    /// background is waited for once.
    pub(super) async fn pipelines(&self, keys: &[PipelineKey]) -> Result<Vec<Pipeline>, EngineError> {
        let mut new: Vec<PipelineKey> = Vec::new();
        for &key in keys {
            if !new.contains(&key) && !self.known().contains_key(&key) {
                new.push(key);
            }
        }
        let compiled = self.scoped(|| new.iter().map(|&key| (key, self.compile(key))).collect::<Vec<_>>()).await?;
        let mut known = self.known();
        known.extend(compiled);
        Ok(keys.iter().map(|key| known[key].clone()).collect())
    }

    /// Compiles what programs will need, before the first of them runs.
    pub async fn prepare(&self, programs: impl Iterator<Item = &Program>) -> Result<(), EngineError> {
        let keys: Vec<_> = programs.flat_map(|program| program.ops.iter().map(|op| self.key(op))).collect();
        self.pipelines(&keys).await.map(drop)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<PipelineKey, Pipeline>> {
        self.pipelines.lock().expect("no code panics while it holds this lock")
    }

    fn compile(&self, key: PipelineKey) -> Pipeline {
        let kernel = key.kernel();
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(self.wgsl(kernel).into()),
        });
        let entries: Vec<_> = kernel.bindings.iter().enumerate().map(layout_entry).collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            ..Default::default()
        });
        let constants = match key {
            PipelineKey::Matmul(_, transposed, epilogue) => matmul::constants(transposed, epilogue).to_vec(),
            _ => Vec::new(),
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

fn layout_entry((binding, kind): (usize, &Binding)) -> wgpu::BindGroupLayoutEntry {
    let ty = match kind {
        Binding::Uniform => wgpu::BufferBindingType::Uniform,
        Binding::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Binding::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
