//! Keeps opening units in stock: small products of random vectors with part of a train job's newest checkpoint, so that a
//! session's first result has a verdict at once. A product of fresh random numbers cannot be copied from anyone else's.

use std::sync::Arc;

use manyhands::tensors;
use manyhands_protocol::manifest::{JobWork, TrainRecipe};
use manyhands_protocol::work::{self, MatmulWork};
use manyhands_protocol::{BlobHash, JobId, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{BATCH_COUNT, DriveError, Turn};
use crate::blobs::Blobs;
use crate::service::Service;
use crate::store::{Job, NewUnit};
use crate::{keys, scheduler};

/// Rows of the random factor.
const ROWS: usize = 32;
/// Most rows and columns of the part of the checkpoint.
const EXTENT_MAX: usize = 128;
/// The length of a safetensors file's header, before it.
const LENGTH_BYTES: u64 = 8;

/// Fills a job's stock as it starts, so that its first session finds one. Whatever fails is the driver's to repeat.
pub async fn begin(service: &Arc<Service>, id: JobId) -> Result<(), DriveError> {
    let stock = stock(service);
    match service.store.job(id).await? {
        Some(job) if stock > 0 => fill(service, &job, stock, stock).await,
        _ => Ok(()),
    }
}

fn stock(service: &Service) -> u32 {
    service.config.opening_units_count.min(BATCH_COUNT)
}

/// Fills the stock of jobs that have less than half of it.
pub(super) async fn restock(service: &Arc<Service>, now_ms: u64, turn: &mut Turn) {
    let stock = stock(service);
    match service.store.openings_wanted(stock.div_ceil(2)).await {
        Ok(jobs) => {
            for (job, free) in jobs {
                turn.note(now_ms, "making opening units", fill(service, &job, stock, stock - free.min(stock)).await);
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for jobs without opening units", Err(error.into()));
        }
    }
}

async fn fill(service: &Arc<Service>, job: &Job, stock: u32, missing: u32) -> Result<(), DriveError> {
    let JobWork::Train(recipe) = &job.submission.manifest.work else { return Ok(()) };
    let Some(round) = service.store.round(job.id, job.round).await? else {
        return Err(DriveError::Damaged(format!("job {} has no round {}", job.id, job.round)));
    };
    let part = part(&service.blobs, recipe, round.checkpoint).await?;
    let (k, n) = (part.rows, part.columns);
    let b = service.put_blob(tensors::write_f32(&[("b", &[k, n], &part.values)])).await?;
    let mut rng = ChaCha20Rng::from_seed(keys::random32()?);
    let mut units: Vec<NewUnit> = Vec::new();
    for _ in 0..missing {
        // Uniform on [-1, 1).
        let values: Vec<f32> = (0..ROWS * k).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect();
        let a = service.put_blob(tensors::write_f32(&[("a", &[ROWS, k], &values)])).await?;
        let work = MatmulWork { a, b, m: ROWS as u32, k: k as u32, n: n as u32, dtype: work::Dtype::F32 };
        units.push(scheduler::opening_unit(work));
    }
    Ok(service.store.add_openings(job.id, units, stock).await?)
}

/// The first rows and columns of a checkpoint's first matrix.
struct Part {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// Reads no more of the checkpoint than that: the file's header, and those rows.
async fn part(blobs: &Blobs, recipe: &TrainRecipe, checkpoint: BlobHash) -> Result<Part, DriveError> {
    let damaged = |what: &str| DriveError::Damaged(format!("checkpoint {checkpoint}: {what}"));
    let parameters = recipe.model.parameters().unwrap_or_default();
    let matrix = parameters.into_iter().find(|parameter| parameter.shape.len() >= 2);
    let matrix = matrix.ok_or_else(|| damaged("a model without a matrix"))?;
    let shape: Vec<usize> = matrix.shape.iter().map(|&extent| extent as usize).collect();
    let (height, width) = (shape[0], shape[1..].iter().product::<usize>());
    let (rows, columns) = (height.min(EXTENT_MAX), width.min(EXTENT_MAX));

    let length = blobs.read_range(checkpoint, 0..LENGTH_BYTES).await?;
    let length = length.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    if length > limits::SAFETENSORS_HEADER_BYTES_MAX as u64 {
        return Err(damaged("its header is too long"));
    }
    let header = blobs.read_range(checkpoint, LENGTH_BYTES..LENGTH_BYTES + length).await?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
    let found = header.info(&matrix.name).filter(|tensor| tensor.dtype == Dtype::F32 && tensor.shape == shape);
    let begin =
        LENGTH_BYTES + length + found.ok_or_else(|| damaged("its first matrix is of another shape"))?.data_offsets.0 as u64;
    let bytes = blobs.read_range(checkpoint, begin..begin + (rows * width * size_of::<f32>()) as u64).await?;
    let values: Vec<f32> = bytes.chunks_exact(size_of::<f32>()).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if values.len() != rows * width {
        return Err(damaged("it is cut off"));
    }
    Ok(Part { rows, columns, values: values.chunks_exact(width).flat_map(|row| &row[..columns]).copied().collect() })
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::manifest::{JobManifest, parse_json};

    use super::*;

    /// A model of two dense layers, whose first matrix is neither the first tensor of its file nor as small as the part.
    fn recipe() -> TrainRecipe {
        let manifest = include_str!("../../../demo/fashion-mlp/manifest.json");
        match parse_json::<JobManifest>(manifest.as_bytes()).unwrap().work {
            JobWork::Train(recipe) => recipe,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_part_is_the_corner_of_the_first_matrix() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_folder(folder.path()).await.unwrap();
        let (recipe, mut numbers) = (recipe(), (0_u32..).map(|number| number as f32));
        let parameters = recipe.model.parameters().unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = parameters
            .iter()
            .map(|parameter| {
                let shape: Vec<usize> = parameter.shape.iter().map(|&extent| extent as usize).collect();
                let count = shape.iter().product();
                let values = numbers.by_ref().take(count).collect();
                (parameter.name.clone(), shape, values)
            })
            .collect();
        let borrowed: Vec<(&str, &[usize], &[f32])> = tensors.iter().map(|(n, s, v)| (n.as_str(), &s[..], &v[..])).collect();
        let file = tensors::write_f32(&borrowed);
        let checkpoint = blobs.put(file.clone()).await.unwrap();
        let part = part(&blobs, &recipe, checkpoint).await.unwrap();
        let (_, shape, values) = tensors.iter().find(|(_, shape, _)| shape.len() == 2).unwrap();
        assert!(part.rows < shape[0] && (part.rows, part.columns) == (EXTENT_MAX, EXTENT_MAX.min(shape[1])));
        for (row, found) in part.values.chunks(part.columns).enumerate() {
            assert_eq!(found, &values[row * shape[1]..][..part.columns], "row {row}");
        }

        // Other bytes under a checkpoint's name are an error, whatever they are.
        let without: Vec<_> = borrowed.into_iter().filter(|(_, shape, _)| shape.len() == 1).collect();
        for wrong in [Vec::new(), vec![255; 100], file[..20_000].to_vec(), tensors::write_f32(&without)] {
            let wrong = blobs.put(wrong).await.unwrap();
            assert!(super::part(&blobs, &recipe, wrong).await.is_err());
        }
    }
}
