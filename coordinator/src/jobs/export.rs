//! A job's outcome as one safetensors file, streamed: a product may be larger than memory.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use manyhands::tensors;
use manyhands_protocol::manifest::{Inputs, JobWork, panel_extent};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::JobState;
use manyhands_protocol::{BlobHash, JobId};

use super::JobError;
use crate::driver::DriveError;
use crate::service::Service;
use crate::store::Job;

/// Bytes of a product's rows that are put together at once; at least one row.
const ROWS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A file on its way out.
pub struct Exported {
    pub bytes: u64,
    pub pieces: BoxStream<'static, Result<Bytes, DriveError>>,
}

/// A product once it is complete, or a model's newest checkpoint once a round was merged.
pub async fn export(service: &Arc<Service>, job: JobId) -> Result<Exported, JobError> {
    let Some(job) = service.store.job(job).await? else {
        return Err(JobError::Refused { code: Code::UnknownJob, detail: format!("no job {job}"), field: None });
    };
    let nothing = |detail: String| JobError::Refused { code: Code::NothingToExport, detail, field: None };
    match (&job.submission.manifest.work, &job.submission.inputs) {
        (JobWork::Matmul(recipe), Inputs::Matmul { m, k, n, .. }) => {
            if job.state != JobState::Finished {
                let settled = format!("{} of {} blocks", job.units_settled, job.units_total);
                return Err(nothing(format!("{settled} of job {} are settled", job.id)));
            }
            let block = panel_extent(recipe.block, *k) as usize;
            Ok(product(service, &job, *m as usize, *n as usize, block).await?)
        }
        _ if job.round == 0 => Err(nothing(format!("no round of job {} was merged yet", job.id))),
        _ => Ok(checkpoint(service, &job).await?),
    }
}

async fn checkpoint(service: &Service, job: &Job) -> Result<Exported, DriveError> {
    let round = service.store.round(job.id, job.round).await?;
    let round = round.ok_or_else(|| DriveError::Damaged(format!("job {} has no round {}", job.id, job.round)))?;
    let bytes = service.blobs.read(round.checkpoint).await?;
    Ok(Exported { bytes: bytes.len() as u64, pieces: stream::once(async { Ok(bytes) }).boxed() })
}

async fn product(service: &Arc<Service>, job: &Job, m: usize, n: usize, block: usize) -> Result<Exported, DriveError> {
    let blocks: Vec<_> = service.store.round_units(job.id, 0).await?.into_iter().map(|unit| unit.canonical).collect();
    if blocks.len() != m.div_ceil(block) * n.div_ceil(block) {
        return Err(DriveError::Damaged(format!("job {} has {} settled blocks", job.id, blocks.len())));
    }
    let header = header(m, n);
    let bytes = (header.len() + m * n * 4) as u64;
    let rows = ProductRows { service: service.clone(), blocks, m, n, block, next_row: 0 };
    let rows = stream::unfold(rows, |mut rows| async move { rows.next().await.map(|piece| (piece, rows)) });
    Ok(Exported { bytes, pieces: stream::once(async { Ok(Bytes::from(header)) }).chain(rows).boxed() })
}

/// What precedes the values of one tensor `c` `[m, n]` in a safetensors file.
fn header(m: usize, n: usize) -> Vec<u8> {
    let mut json = format!(r#"{{"c":{{"dtype":"F32","shape":[{m},{n}],"data_offsets":[0,{}]}}}}"#, m * n * 4);
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

/// The product's rows, from its blocks in row-major order.
struct ProductRows {
    service: Arc<Service>,
    blocks: Vec<BlobHash>,
    m: usize,
    n: usize,
    /// Rows and columns of a block; fewer in the last ones.
    block: usize,
    next_row: usize,
}

impl ProductRows {
    /// The next rows of one row of blocks; none after the last. A failure ends the stream.
    async fn next(&mut self) -> Option<Result<Bytes, DriveError>> {
        if self.next_row >= self.m {
            return None;
        }
        let panel = self.next_row / self.block;
        let panel_rows = self.block.min(self.m - panel * self.block);
        let from = self.next_row - panel * self.block;
        let count = (ROWS_BYTES_MAX / (self.n * 4)).clamp(1, panel_rows - from);
        self.next_row += count;
        let rows = self.rows(panel, panel_rows, from, count).await;
        if rows.is_err() {
            self.next_row = self.m;
        }
        Some(rows)
    }

    async fn rows(&self, panel: usize, panel_rows: usize, from: usize, count: usize) -> Result<Bytes, DriveError> {
        let (across, row_bytes) = (self.n.div_ceil(self.block), self.n * 4);
        let mut rows = vec![0; count * row_bytes];
        for at in 0..across {
            let (left, columns) = (at * self.block, self.block.min(self.n - at * self.block));
            let bytes = self.service.blobs.read(self.blocks[panel * across + at]).await?;
            let read = tokio::task::spawn_blocking(move || tensors::read_f32(&bytes, &[("c", &[panel_rows, columns])]));
            let values = read.await??.pop().unwrap_or_default();
            for (row, values) in values.chunks_exact(columns).skip(from).take(count).enumerate() {
                let target = rows[row * row_bytes + left * 4..][..columns * 4].chunks_exact_mut(4);
                target.zip(values).for_each(|(bytes, value)| bytes.copy_from_slice(&value.to_le_bytes()));
            }
        }
        Ok(Bytes::from(rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_librarys() {
        for (m, n) in [(1, 1), (5, 6), (300, 7)] {
            let whole = tensors::write_f32(&[("c", &[m, n], &vec![0.0; m * n])]);
            assert_eq!(whole[..whole.len() - m * n * 4], header(m, n), "{m} x {n}");
        }
    }
}
