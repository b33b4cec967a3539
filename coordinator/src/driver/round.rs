//! Ends rounds: merges the settled updates, evaluates the new checkpoint, and opens the next round or finishes the job.

use std::sync::Arc;

use manyhands_protocol::log::entry::MergeInput;
use manyhands_protocol::manifest::{Inputs, JobWork, TrainRecipe};
use manyhands_protocol::view::JobState;
use manyhands_protocol::{BlobHash, UnitId};

use super::DriveError;
use crate::merge::{self, OuterState};
use crate::referee::{self, Evaluation};
use crate::scheduler;
use crate::service::Service;
use crate::store::{Job, NewRound, RoundClose};

/// Moves on a running job whose units are all settled.
pub async fn advance(service: &Arc<Service>, job: &Job) -> Result<(), DriveError> {
    match (&job.submission.manifest.work, &job.submission.inputs) {
        (JobWork::Train(recipe), Inputs::Train { shards, test }) => close_round(service, job, recipe, shards, *test).await,
        _ => Ok(service.store.set_job_state(job.id, &[JobState::Running], JobState::Finished).await?),
    }
}

async fn close_round(
    service: &Arc<Service>,
    job: &Job,
    recipe: &TrainRecipe,
    shards: &[BlobHash],
    test: BlobHash,
) -> Result<(), DriveError> {
    let Some(current) = service.store.round(job.id, job.round).await? else {
        return Err(DriveError::Damaged(format!("job {} has no round {}", job.id, job.round)));
    };
    let units = service.store.round_units(job.id, job.round).await?;
    if units.len() != recipe.units_per_round as usize {
        return Err(DriveError::Damaged(format!("round {} of job {} has {} settled units", job.round, job.id, units.len())));
    }
    let state = OuterState {
        parameters: merge::read_tensors(&recipe.model, &service.blobs.read(current.checkpoint).await?)?,
        velocity: merge::read_tensors(&recipe.model, &service.blobs.read(current.velocity).await?)?,
    };
    let inputs = units.iter().map(|&(unit, output)| MergeInput { unit, output, weight_micro: 1_000_000 }).collect();
    let merged = merge_units(service, recipe, state, &units).await?;
    let finite = merged.parameters.iter().chain(&merged.velocity).flatten().all(|v| v.is_finite());
    if !finite {
        let reason = format!("merging round {}: the model diverged, its merged parameters are not finite", job.round);
        return super::cancel(service, job.id, reason).await;
    }
    let next = store_checkpoint(service, recipe, &merged, test).await?;
    let round = job.round + 1;
    let done = recipe.target().is_reached(next.loss, next.accuracy) || round >= recipe.rounds_max;
    let units = if done { Vec::new() } else { scheduler::round_units(recipe, shards, next.checkpoint, round) };
    service
        .store
        .close_round(RoundClose { job: job.id, round: job.round, next, rule: merge::RULE.to_owned(), inputs, units })
        .await?;
    tracing::info!(job = %job.id, round, loss = next.loss, accuracy = next.accuracy, done, "round merged");
    Ok(())
}

async fn merge_units(
    service: &Service,
    recipe: &TrainRecipe,
    state: OuterState,
    units: &[(UnitId, BlobHash)],
) -> Result<OuterState, DriveError> {
    let mut updates = Vec::with_capacity(units.len());
    for &(unit, canonical) in units {
        updates.push((unit, merge::read_tensors(&recipe.model, &service.blobs.read(canonical).await?)?));
    }
    let outer = recipe.outer_optimizer.clone();
    Ok(tokio::task::spawn_blocking(move || merge::step(&outer, &state, &updates)).await?)
}

/// Evaluates a checkpoint and stores it with its velocity, blobs before the row that will name them. A checkpoint whose
/// logits are not finite is an error, [`DriveError::is_divergence`].
pub async fn store_checkpoint(
    service: &Service,
    recipe: &TrainRecipe,
    state: &OuterState,
    test: BlobHash,
) -> Result<NewRound, DriveError> {
    let parameters = merge::write_tensors(&recipe.model, &state.parameters);
    let velocity = merge::write_tensors(&recipe.model, &state.velocity);
    let evaluation = evaluate(service, recipe, parameters.clone(), test).await?;
    let at_ms = service.now_ms();
    let mut hashes = [BlobHash([0; 32]); 2];
    for (hash, bytes) in hashes.iter_mut().zip([parameters, velocity]) {
        *hash = service.put_blob(bytes).await?;
    }
    let Evaluation { loss, accuracy } = evaluation;
    Ok(NewRound { checkpoint: hashes[0], velocity: hashes[1], loss, accuracy, at_ms })
}

async fn evaluate(
    service: &Service,
    recipe: &TrainRecipe,
    parameters: Vec<u8>,
    test: BlobHash,
) -> Result<Evaluation, DriveError> {
    let (model, test) = (recipe.model.clone(), service.blobs.read(test).await?);
    let _slot = service.referee.acquire().await;
    Ok(tokio::task::spawn_blocking(move || referee::evaluate(&model, &parameters, &test)).await??)
}
