//! Keeps opening units in stock: small products of random vectors with part of a train job's newest checkpoint, so that a
//! session's first result has a verdict at once. A product of fresh random numbers cannot be copied from anyone else's.

use std::sync::Arc;

use manyhands::tensors;
use manyhands_protocol::JobId;
use manyhands_protocol::manifest::{JobWork, TrainRecipe};
use manyhands_protocol::work::MatmulWork;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{BATCH_COUNT, DriveError, Turn};
use crate::service::Service;
use crate::store::{Job, NewUnit};
use crate::{keys, merge, scheduler};

/// Rows of the random factor.
const ROWS: usize = 32;
/// Most rows and columns of the part of the checkpoint.
const EXTENT_MAX: usize = 128;

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
    let part = part(recipe, &service.blobs.read(round.checkpoint).await?)?;
    let (k, n) = (part.rows, part.columns);
    let b = service.put_blob(tensors::write_f32(&[("b", &[k, n], &part.values)])).await?;
    let mut rng = ChaCha20Rng::from_seed(keys::random32()?);
    let mut units: Vec<NewUnit> = Vec::new();
    for _ in 0..missing {
        // Uniform on [-1, 1).
        let values: Vec<f32> = (0..ROWS * k).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect();
        let a = service.put_blob(tensors::write_f32(&[("a", &[ROWS, k], &values)])).await?;
        units.push(scheduler::opening_unit(MatmulWork { a, b, m: ROWS as u32, k: k as u32, n: n as u32 }));
    }
    Ok(service.store.add_openings(job.id, units, stock).await?)
}

/// The first rows and columns of a checkpoint's first matrix.
struct Part {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

fn part(recipe: &TrainRecipe, checkpoint: &[u8]) -> Result<Part, DriveError> {
    let parameters = recipe.model.parameters().unwrap_or_default();
    let values = merge::read_tensors(&recipe.model, checkpoint)?;
    let matrix = parameters.iter().zip(&values).find(|(parameter, _)| parameter.shape.len() >= 2);
    let Some((parameter, values)) = matrix else { return Err(DriveError::Damaged("a model without a matrix".to_owned())) };
    let height = parameter.shape[0] as usize;
    let width = values.len() / height.max(1);
    let (rows, columns) = (height.min(EXTENT_MAX), width.min(EXTENT_MAX));
    let values = (0..rows).flat_map(|row| values[row * width..][..columns].iter().copied()).collect();
    Ok(Part { rows, columns, values })
}
