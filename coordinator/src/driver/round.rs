//! Ends rounds: merges the settled updates, evaluates the new checkpoint, and opens the next round or finishes the job.

use std::sync::Arc;

use manyhands_protocol::BlobHash;
use manyhands_protocol::log::entry::ModelState;
use manyhands_protocol::manifest::{Inputs, JobWork, TrainRecipe};
use manyhands_protocol::rules::merge::{Loss, is_worse};
use manyhands_protocol::view::JobState;

use super::DriveError;
use crate::keys::blob_hash;
use crate::merge::{self, OuterState, Update};
use crate::referee::{self, Evaluation};
use crate::scheduler;
use crate::service::Service;
use crate::store::{Job, MergedUnit, NewRound, RollBack, RoundClose};

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
    let merged = merge_units(service, recipe, state, &units).await?;
    let finite = merged.parameters.iter().chain(&merged.velocity).flatten().all(|v| v.is_finite());
    if !finite {
        let reason = format!("merging round {}: the model diverged, its merged parameters are not finite", job.round);
        return super::cancel(service, job.id, reason).await;
    }
    let evaluated = evaluate_state(service, recipe, &merged, test).await?;
    if is_worse(Loss { mean: current.loss, error: current.loss_error }, evaluated.loss()) && units.iter().any(|unit| unit.by_keys)
    {
        return roll_back(service, job, &current, &evaluated).await;
    }
    let next = store_evaluated(service, evaluated).await?;
    let round = job.round + 1;
    let done = recipe.target().is_reached(next.loss, next.accuracy) || round >= recipe.rounds_max;
    let merged = units;
    let units = if done { Vec::new() } else { scheduler::round_units(recipe, shards, next.checkpoint, round) };
    let rule = merge::rule_name(recipe.merge).to_owned();
    service.store.close_round(RoundClose { job: job.id, round: job.round, merged, next, rule, units }).await?;
    tracing::info!(job = %job.id, round, loss = next.loss, accuracy = next.accuracy, done, "round merged");
    Ok(())
}

/// Leaves the job at the checkpoint that it has, and has the referee compute what keys alone settled. Once at most: after that
/// the round's updates are the referee's, and go in whatever they make of the model.
async fn roll_back(service: &Service, job: &Job, current: &NewRound, evaluated: &Evaluated) -> Result<(), DriveError> {
    let (before, after) = (current.loss, evaluated.evaluation.loss);
    let opened = service
        .store
        .roll_back(RollBack {
            job: job.id,
            round: job.round,
            undone: ModelState { checkpoint: blob_hash(&evaluated.parameters), velocity: blob_hash(&evaluated.velocity) },
            kept: ModelState { checkpoint: current.checkpoint, velocity: current.velocity },
            reason: format!("the loss on the held-out data rose from {before} to {after}"),
        })
        .await?;
    tracing::warn!(job = %job.id, round = job.round, before, after, opened, "the merge made the model worse; rolled back");
    service.driver.notify_one();
    Ok(())
}

async fn merge_units(
    service: &Service,
    recipe: &TrainRecipe,
    state: OuterState,
    units: &[MergedUnit],
) -> Result<OuterState, DriveError> {
    let mut updates = Vec::with_capacity(units.len());
    for merged in units {
        let tensors = merge::read_tensors(&recipe.model, &service.blobs.read(merged.canonical).await?)?;
        updates.push(Update { unit: merged.unit, weight: f64::from(merged.weight_permille) / 1000.0, tensors });
    }
    let (rule, outer) = (recipe.merge, recipe.outer_optimizer.clone());
    Ok(tokio::task::spawn_blocking(move || merge::step(rule, &outer, &state, &updates)).await?)
}

/// Evaluates a checkpoint and stores it with its velocity, blobs before the row that will name them. A checkpoint whose
/// logits are not finite is an error, [`DriveError::is_divergence`].
pub async fn store_checkpoint(
    service: &Service,
    recipe: &TrainRecipe,
    state: &OuterState,
    test: BlobHash,
) -> Result<NewRound, DriveError> {
    let evaluated = evaluate_state(service, recipe, state, test).await?;
    store_evaluated(service, evaluated).await
}

/// A state of the outer optimiser as files, and how good its parameters are.
struct Evaluated {
    parameters: Vec<u8>,
    velocity: Vec<u8>,
    evaluation: Evaluation,
}

impl Evaluated {
    fn loss(&self) -> Loss {
        Loss { mean: self.evaluation.loss, error: self.evaluation.loss_error }
    }
}

async fn evaluate_state(
    service: &Service,
    recipe: &TrainRecipe,
    state: &OuterState,
    test: BlobHash,
) -> Result<Evaluated, DriveError> {
    let parameters = merge::write_tensors(&recipe.model, &state.parameters);
    let velocity = merge::write_tensors(&recipe.model, &state.velocity);
    let evaluation = evaluate(service, recipe, parameters.clone(), test).await?;
    Ok(Evaluated { parameters, velocity, evaluation })
}

async fn store_evaluated(service: &Service, evaluated: Evaluated) -> Result<NewRound, DriveError> {
    let at_ms = service.now_ms();
    let mut hashes = [BlobHash([0; 32]); 2];
    for (hash, bytes) in hashes.iter_mut().zip([evaluated.parameters, evaluated.velocity]) {
        *hash = service.put_blob(bytes).await?;
    }
    let Evaluation { loss, accuracy, loss_error } = evaluated.evaluation;
    Ok(NewRound { checkpoint: hashes[0], velocity: hashes[1], loss, loss_error, accuracy, at_ms })
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
