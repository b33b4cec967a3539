//! A program on a device: its buffers, and per call a pipeline, a bind group and a dispatch, all made once. A [`Run`]
//! replays them in slices.

use std::ops::Range;

use super::device::{GpuEngine, Memory};
use super::pipelines::Pipeline;
use crate::engine::EngineError;
use crate::plan::{Buffer, Call, Op, Placement, Program, Slicer, check_bytes, joined};

/// Buffers are whole vec4, and never empty, so that any of them can be bound.
const BUFFER_STEP: u64 = 16;

struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
    flop: u64,
}

/// A program ready to run.
pub struct Recording {
    places: Vec<Memory>,
    /// The place of each buffer, and the byte of it at which the buffer begins.
    at: Vec<(usize, u64)>,
    /// For each call of the program; none for what an earlier one does with its own.
    calls: Vec<Option<Dispatch>>,
    /// Parameters of all calls, which their bind groups name.
    params: Memory,
}

impl GpuEngine {
    /// Compiles and allocates what a program needs. Before anything is allocated [`EngineError::TooLarge`], or
    /// [`EngineError::BufferTooLarge`] where a buffer is past what the device binds.
    pub(super) async fn record(&self, program: &Program, placement: &Placement) -> Result<Recording, EngineError> {
        check_bytes(placement.bytes(0))?;
        let most = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        let size = |values: &u64| (values * 4).next_multiple_of(BUFFER_STEP).max(BUFFER_STEP);
        let sizes: Vec<u64> = placement.places.iter().map(size).collect();
        if let Some(&bytes) = sizes.iter().find(|&&bytes| bytes > most) {
            return Err(EngineError::BufferTooLarge { total: placement.bytes(0), bytes, most });
        }
        let ops = joined(program, placement);
        let calls: Vec<_> = ops.iter().flatten().map(|op| self.call(op)).collect();
        let pipelines = self.pipelines(&calls).await?;
        self.scoped(|| self.allocate(&sizes, placement, &ops, &calls, &pipelines)).await
    }

    /// `calls` and `pipelines` are of those `ops` that are left.
    fn allocate(
        &self,
        sizes: &[u64],
        placement: &Placement,
        ops: &[Option<Op>],
        calls: &[Call],
        pipelines: &[Pipeline],
    ) -> Recording {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = |&size| {
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            Memory(self.device.create_buffer(&descriptor))
        };
        let places = sizes.iter().map(buffer).collect();
        let at = placement.place_of.iter().zip(&placement.begins).map(|(&place, begin)| (place, begin * 4)).collect();
        let (uniforms, offsets) = self.uniforms(calls);
        let mut recording = Recording { places, at, calls: Vec::with_capacity(ops.len()), params: uniforms };
        let mut left = calls.iter().zip(pipelines).zip(offsets);
        for op in ops {
            let dispatch = op.as_ref().and_then(|op| {
                let ((call, pipeline), offset) = left.next()?;
                Some(self.dispatch(&recording, call, pipeline, offset, op.flop()))
            });
            recording.calls.push(dispatch);
        }
        recording
    }

    fn dispatch(&self, recording: &Recording, call: &Call, pipeline: &Pipeline, offset: u64, flop: u64) -> Dispatch {
        let size = std::num::NonZeroU64::new(call.params.len() as u64);
        let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &recording.params, offset, size });
        let storage = call.buffers.iter().map(|&buffer| {
            let slice = recording.slice(buffer);
            let (buffer, offset) = (slice.buffer(), slice.offset());
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: None })
        });
        let entries: Vec<_> = std::iter::once(params)
            .chain(storage)
            .enumerate()
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding: binding as u32, resource })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
        let bind_group = self.device.create_bind_group(&descriptor);
        Dispatch { pipeline: pipeline.pipeline.clone(), bind_group, groups: call.groups, flop }
    }

    /// One buffer with the parameters of every call, and where each begins.
    fn uniforms(&self, calls: &[Call]) -> (Memory, Vec<u64>) {
        let step = self.limits.min_uniform_buffer_offset_alignment as usize;
        let (mut bytes, mut offsets) = (Vec::new(), Vec::with_capacity(calls.len()));
        for call in calls {
            offsets.push(bytes.len() as u64);
            bytes.extend_from_slice(&call.params);
            bytes.resize(bytes.len().next_multiple_of(step), 0);
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (bytes.len() as u64).max(BUFFER_STEP),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if !bytes.is_empty() {
            self.queue.write_buffer(&buffer, 0, &bytes);
        }
        (Memory(buffer), offsets)
    }
}

impl Recording {
    /// From where a buffer begins to the end of its place.
    pub fn slice(&self, buffer: Buffer) -> wgpu::BufferSlice<'_> {
        let (place, begin) = self.at[buffer.0];
        self.places[place].slice(begin..)
    }

    /// Puts values at the beginning of a buffer.
    pub fn upload(&self, engine: &GpuEngine, buffer: Buffer, values: &[f32]) {
        if !values.is_empty() {
            let slice = self.slice(buffer);
            engine.queue.write_buffer(slice.buffer(), slice.offset(), bytemuck::cast_slice(values));
        }
    }

    /// How many dispatches one pass over the calls is.
    pub fn dispatches(&self) -> usize {
        self.calls.iter().flatten().filter(|call| call.groups[0] > 0).count()
    }
}

/// Commands on their way to the device. Nothing is allocated on the device and no pipeline looked up.
pub struct Run<'a> {
    engine: &'a GpuEngine,
    recording: &'a Recording,
    encoder: Option<wgpu::CommandEncoder>,
}

impl<'a> Run<'a> {
    pub fn new(engine: &'a GpuEngine, recording: &'a Recording) -> Self {
        Self { engine, recording, encoder: None }
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let device = &self.engine.device;
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// Copies between the beginnings of two slices.
    pub fn copy(&mut self, from: wgpu::BufferSlice, to: wgpu::BufferSlice, bytes: u64) {
        self.encoder().copy_buffer_to_buffer(from.buffer(), from.offset(), to.buffer(), to.offset(), bytes);
    }

    /// Every call of the program once, submitting whenever a slice is full.
    pub async fn calls(&mut self, slicer: &mut Slicer<'_>) -> Result<(), EngineError> {
        self.part(0..self.recording.calls.len(), slicer).await
    }

    /// Some of the program's calls, likewise.
    pub async fn part(&mut self, calls: Range<usize>, slicer: &mut Slicer<'_>) -> Result<(), EngineError> {
        let mut next = calls.start;
        while next < calls.end {
            let (done, full) = self.pass(next..calls.end, slicer);
            next = done;
            if full {
                self.finish().await?;
                slicer.breathe().await?;
            }
        }
        Ok(())
    }

    /// Records calls until the slice is full; the call to go on with, and whether it was.
    fn pass(&mut self, calls: Range<usize>, slicer: &mut Slicer<'_>) -> (usize, bool) {
        let recording = self.recording;
        let mut pass = self.encoder().begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (index, call) in calls.clone().zip(&recording.calls[calls.clone()]) {
            let Some(call) = call else { continue };
            if slicer.is_full_for(call.flop) {
                return (index, true);
            }
            if call.groups[0] > 0 {
                let [x, y, z] = call.groups;
                pass.set_pipeline(&call.pipeline);
                pass.set_bind_group(0, &call.bind_group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
            slicer.add(call.flop);
        }
        (calls.end, false)
    }

    /// Submits what is recorded and waits for it.
    pub async fn finish(&mut self) -> Result<(), EngineError> {
        match self.encoder.take() {
            Some(encoder) => self.engine.submit(encoder.finish()).await,
            None => Ok(()),
        }
    }
}
