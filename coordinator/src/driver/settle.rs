//! Settles gradient units, by two keys that agree or the coordinator's own computation, and products that nobody computes.

use std::sync::Arc;

use manyhands_protocol::BlobHash;
use manyhands_protocol::rules::settle::{may_be_rounding, tolerance};
use manyhands_protocol::wire::Verdict;
use manyhands_protocol::work::{MatmulWork, TrainWork, Work};

use super::DriveError;
use super::check::{self, DISAGREES};
use crate::service::Service;
use crate::store::{Judgement, ResultRow, SettledBy, Settlement, Unit};
use crate::verify::gradient;
use crate::{merge, referee as native};

/// Most updates of one unit that are in memory at once; results beyond are judged one by one, as late ones.
const UPDATES_COUNT_MAX: usize = 4;

type Update = Vec<Vec<f32>>;

fn train_work(unit: &Unit) -> Result<&TrainWork, DriveError> {
    match &unit.work {
        Work::Train(work) => Ok(work),
        Work::Matmul(_) => Err(DriveError::Damaged(format!("unit {} waits for a comparison of products", unit.id))),
    }
}

/// The unit's pending results with their updates, oldest first, at most `count_max`. A malformed one is rejected here.
async fn updates(
    service: &Service,
    unit: &Unit,
    work: &TrainWork,
    count_max: usize,
) -> Result<Vec<(ResultRow, Update)>, DriveError> {
    let mut found = Vec::new();
    for result in service.store.unit_results(unit.id).await? {
        if result.verdict != Verdict::Pending || found.len() == count_max {
            continue;
        }
        match check::read_update(service, work, &result).await? {
            Ok(update) => found.push((result, update)),
            Err(refusal) => {
                service.store.judge(Judgement::reject(result.id, check::reason(&refusal)), service.now_ms()).await?;
            }
        }
    }
    Ok(found)
}

/// Compares the first two results; settles the unit if they agree, and calls the referee if not.
pub async fn compare(service: &Arc<Service>, unit: &Unit) -> Result<(), DriveError> {
    let work = train_work(unit)?;
    let updates = updates(service, unit, work, 2).await?;
    let [(first, a), (second, b)] = updates.as_slice() else {
        // One was malformed: the next turn sees what is left.
        return Ok(());
    };
    if !gradient::compare(a, b, tolerance(&work.model)) {
        let distance = gradient::distance(a, b);
        tracing::info!(unit = %unit.id, keys = %format!("{} {}", first.key, second.key), distance, "results disagree");
        return referee(service, unit).await;
    }
    let judgements = vec![Judgement::accept(first.id), Judgement::accept(second.id)];
    let (canonical, now_ms) = (first.output, service.now_ms());
    service.store.settle(Settlement { unit: unit.id, canonical, by: SettledBy::Quorum, judgements, now_ms }).await?;
    service.events.touch(unit.job);
    Ok(())
}

/// Computes the unit and judges its results by that. Results that come in meanwhile are judged after, as late ones.
pub async fn referee(service: &Arc<Service>, unit: &Unit) -> Result<(), DriveError> {
    let work = match &unit.work {
        Work::Matmul(work) => return product(service, unit, work).await,
        Work::Train(work) => work,
    };
    let checkpoint = service.blobs.read(work.checkpoint).await?;
    let shard = service.blobs.read(work.shard).await?;
    let own = {
        let (_slot, work) = (service.referee.acquire().await, work.clone());
        tokio::task::spawn_blocking(move || native::compute_update(&work, &checkpoint, &shard)).await??
    };
    let mut canonical = None;
    let results = updates(service, unit, work, UPDATES_COUNT_MAX).await?;
    for (result, update) in &results {
        if gradient::compare(&own, update, tolerance(&work.model)) {
            canonical = canonical.or(Some(result.output));
        }
    }
    let judgements = against_referee(service, work, &own, results).await?;
    let canonical = match canonical {
        Some(hash) => hash,
        None => service.put_blob(merge::write_tensors(&work.model, &own)).await?,
    };
    end(service, unit, canonical, judgements).await
}

/// The verdicts on results of a unit that the referee computed. One that disagrees is a lie, unless rounding alone leads there:
/// then it is accepted, and the round goes on with the referee's.
pub async fn against_referee(
    service: &Service,
    work: &TrainWork,
    settled: &Update,
    results: Vec<(ResultRow, Update)>,
) -> Result<Vec<Judgement>, DriveError> {
    let (mut judgements, mut doubtful, mut doubted) = (Vec::new(), Vec::new(), Vec::new());
    for (result, update) in results {
        let distance = gradient::distance(settled, &update);
        if gradient::compare(settled, &update, tolerance(&work.model)) {
            judgements.push(Judgement::accept(result.id));
        } else if may_be_rounding(distance) {
            doubtful.push((result, distance));
            doubted.push(update);
        } else {
            tracing::info!(result = result.id, unit = %result.unit, key = %result.key, distance, "rejected: the referee disagrees");
            judgements.push(Judgement::catch(result.id, DISAGREES));
        }
    }
    if doubtful.is_empty() {
        return Ok(judgements);
    }
    let _slot = service.referee.acquire().await;
    let (checkpoint, shard) = (service.blobs.read(work.checkpoint).await?, service.blobs.read(work.shard).await?);
    let work = work.clone();
    let given = tokio::task::spawn_blocking(move || native::rounding_gives(&work, &checkpoint, &shard, &doubted)).await??;
    for ((result, distance), rounding) in doubtful.into_iter().zip(given) {
        tracing::info!(result = result.id, unit = %result.unit, key = %result.key, distance, rounding, "the referee disagrees");
        judgements.push(if rounding { Judgement::accept(result.id) } else { Judgement::catch(result.id, DISAGREES) });
    }
    Ok(judgements)
}

/// Computes a product that no volunteer did. A result that comes in meanwhile is checked by algebra, like any other.
async fn product(service: &Service, unit: &Unit, work: &MatmulWork) -> Result<(), DriveError> {
    let (a, b) = (service.blobs.read(work.a).await?, service.blobs.read(work.b).await?);
    let bytes = {
        let (_slot, work) = (service.referee.acquire().await, work.clone());
        tokio::task::spawn_blocking(move || native::compute_product(&work, &a, &b)).await??
    };
    let canonical = service.put_blob(bytes).await?;
    end(service, unit, canonical, Vec::new()).await
}

async fn end(service: &Service, unit: &Unit, canonical: BlobHash, judgements: Vec<Judgement>) -> Result<(), DriveError> {
    let now_ms = service.now_ms();
    service.store.settle(Settlement { unit: unit.id, canonical, by: SettledBy::Referee, judgements, now_ms }).await?;
    service.events.touch(unit.job);
    Ok(())
}
