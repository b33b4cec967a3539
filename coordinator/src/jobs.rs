//! The operator's side of jobs: taking a submission in, and (in `export`) giving the outcome out.

pub mod export;

use std::sync::Arc;

use manyhands_protocol::manifest::{Inputs, JobWork, ManifestError, Submission, TrainRecipe, panel_extent};
use manyhands_protocol::problem::Code;
use manyhands_protocol::work::Dtype;
use manyhands_protocol::{BlobHash, JobId};

use crate::driver::DriveError;
use crate::driver::round::store_checkpoint;
use crate::merge::{self, OuterState};
use crate::scheduler;
use crate::service::Service;
use crate::store::{NewJob, StoreError};
use crate::verify::{Refusal, input};

/// Most values that the updates of one round hold together: they are merged in memory.
const ROUND_VALUES_MAX: u64 = 1 << 28;

/// Why a submission or an export is refused.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("{detail}")]
    Refused { code: Code, detail: String, field: Option<String> },
    #[error(transparent)]
    Failed(#[from] DriveError),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> JobError {
        JobError::Failed(error.into())
    }
}

impl From<ManifestError> for JobError {
    fn from(error: ManifestError) -> JobError {
        JobError::Refused { code: Code::BadManifest, detail: error.to_string(), field: Some(error.field) }
    }
}

fn refused(code: Code, field: &str, detail: impl Into<String>) -> JobError {
    JobError::Refused { code, detail: format!("{field}: {}", detail.into()), field: Some(field.to_owned()) }
}

/// Checks a submission with its blobs and stores it, to be approved.
pub async fn submit(service: &Arc<Service>, submission: Submission) -> Result<JobId, JobError> {
    submission.validate()?;
    let (units, round) = match (&submission.manifest.work, &submission.inputs) {
        (JobWork::Matmul(recipe), Inputs::Matmul { m, k, n, a_panels, b_panels }) => {
            let block = panel_extent(recipe.block, *k);
            check_panels(service, "inputs.a_panels", a_panels, *m, *k, block, recipe.dtype).await?;
            check_panels(service, "inputs.b_panels", b_panels, *n, *k, block, recipe.dtype).await?;
            (scheduler::product_units(&submission), None)
        }
        (JobWork::Train(recipe), Inputs::Train { shards, test }) => {
            check_train(service, recipe, shards, *test).await?;
            let parameters = merge::initial_parameters(&recipe.model, recipe.seed);
            let round = store_checkpoint(service, recipe, &OuterState::new(parameters), *test).await.map_err(unstable)?;
            (scheduler::round_units(recipe, shards, round.checkpoint, 0), Some(round))
        }
        _ => return Err(refused(Code::BadManifest, "inputs.kind", "must be the manifest's work.kind")),
    };
    for unit in &units {
        unit.work.validate().map_err(|e| refused(Code::BadManifest, &format!("work.{}", e.field), e.reason))?;
    }
    let job = NewJob { submission, submitted_ms: service.now_ms(), units, round };
    Ok(service.store.create_job(job).await?)
}

/// A model whose first evaluation leaves the finite numbers is at fault itself.
fn unstable(error: DriveError) -> JobError {
    match error {
        error if error.is_divergence() => refused(Code::BadManifest, "work.model", format!("on the held-out data, {error}")),
        error => error.into(),
    }
}

/// Reads an input blob and checks it off the async threads.
async fn check_blob(
    service: &Service,
    field: String,
    hash: BlobHash,
    check: impl FnOnce(&[u8]) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), JobError> {
    if service.store.blob(hash).await?.is_none() {
        return Err(refused(Code::UnknownBlob, &field, format!("blob {hash} was not uploaded")));
    }
    let bytes = service.blobs.read(hash).await.map_err(DriveError::from)?;
    match tokio::task::spawn_blocking(move || check(&bytes)).await.map_err(DriveError::from)? {
        Ok(()) => Ok(()),
        Err(refusal) => Err(refused(refusal.code(), &field, refusal.to_string())),
    }
}

async fn check_panels(
    service: &Service,
    field: &str,
    panels: &[BlobHash],
    extent: u64,
    k: u64,
    block: u32,
    dtype: Dtype,
) -> Result<(), JobError> {
    let of_a = field.ends_with("a_panels");
    for (i, &hash) in panels.iter().enumerate() {
        let extent = input::panel_len(extent, block, i);
        check_blob(service, format!("{field}[{i}]"), hash, move |bytes| {
            if of_a { input::check_a_panel(bytes, extent, k, dtype) } else { input::check_b_panel(bytes, k, extent, dtype) }
        })
        .await?;
    }
    Ok(())
}

async fn check_train(service: &Service, recipe: &TrainRecipe, shards: &[BlobHash], test: BlobHash) -> Result<(), JobError> {
    let values = recipe.model.parameters().map_or(u64::MAX, |p| p.iter().map(|p| p.values_count() as u64).sum());
    if values.saturating_mul(u64::from(recipe.units_per_round)) > ROUND_VALUES_MAX {
        let detail = format!("the updates of a round would hold more than {ROUND_VALUES_MAX} values together");
        return Err(refused(Code::BadManifest, "work.units_per_round", detail));
    }
    for (i, &hash) in shards.iter().enumerate() {
        let (model, rows) = (recipe.model.clone(), recipe.rows_per_shard);
        check_blob(service, format!("inputs.shards[{i}]"), hash, move |bytes| {
            input::check_shard(bytes, &model, Some(rows)).map(|_| ())
        })
        .await?;
    }
    let model = recipe.model.clone();
    check_blob(service, "inputs.test".to_owned(), test, move |bytes| match input::check_shard(bytes, &model, None)? {
        0 => Err(Refusal::Rows { got: 0, expected: 1 }),
        _ => Ok(()),
    })
    .await
}
