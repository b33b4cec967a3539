//! What goes up once before the steps and comes down once after them.

use super::device::{GpuEngine, Memory};
use crate::engine::EngineError;

impl GpuEngine {
    /// A buffer to copy from and to, never bound.
    pub(super) async fn scratch(&self, bytes: u64) -> Result<Memory, EngineError> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.allocate_plain(bytes, usage).await
    }

    /// [`EngineError::TooLarge`] if so many bytes are no buffer of this device.
    pub(super) fn check_plain(&self, bytes: u64) -> Result<(), EngineError> {
        let most = self.limits.max_buffer_size;
        if bytes > most { Err(EngineError::TooLarge { bytes, most }) } else { Ok(()) }
    }

    async fn allocate_plain(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<Memory, EngineError> {
        self.check_plain(bytes)?;
        let size = bytes.max(4);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.scoped(|| Memory(self.device.create_buffer(&descriptor))).await
    }

    /// Uploads `rows` rows of `width` values from row `first` on, wrapping at the end.
    pub(super) async fn upload_rows<T: bytemuck::NoUninit>(
        &self,
        values: &[T],
        width: usize,
        first: usize,
        rows: usize,
    ) -> Result<Memory, EngineError> {
        let buffer = self.scratch((rows * width * 4) as u64).await?;
        let (before, after) = values.split_at(first * width);
        let upper = after.len().min(rows * width);
        let lower = rows * width - upper;
        for (offset, part) in [(0, &after[..upper]), (upper, &before[..lower])] {
            if !part.is_empty() {
                self.queue.write_buffer(&buffer, (offset * 4) as u64, bytemuck::cast_slice(part));
            }
        }
        Ok(buffer)
    }

    /// Copies the first values of each slice back, all in one go.
    pub(super) async fn read(&self, sources: &[(wgpu::BufferSlice<'_>, usize)]) -> Result<Vec<Vec<f32>>, EngineError> {
        let bytes: u64 = sources.iter().map(|(_, values)| *values as u64 * 4).sum();
        if bytes == 0 {
            return Ok(sources.iter().map(|_| Vec::new()).collect());
        }
        let staging = self.allocate_plain(bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST).await?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut at = 0;
        for (slice, values) in sources.iter().filter(|(_, values)| *values > 0) {
            let bytes = *values as u64 * 4;
            encoder.copy_buffer_to_buffer(slice.buffer(), slice.offset(), &staging, at, bytes);
            at += bytes;
        }
        self.submit_and(encoder.finish(), |done| staging.map_async(wgpu::MapMode::Read, .., move |_| done())).await?;
        // A failed mapping shows here.
        let view = staging.get_mapped_range(..).map_err(|e| EngineError::Validation(e.to_string()))?;
        let mut rest = &view[..];
        let mut results = Vec::with_capacity(sources.len());
        for (_, values) in sources {
            let (part, after) = rest.split_at(values * 4);
            results.push(part.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
            rest = after;
        }
        drop(view);
        staging.unmap();
        Ok(results)
    }
}
