//! Checks one result on its own: a product by algebra, an update for its structure, a late one against what its unit was
//! settled with. Ends in a verdict, or in none where an update must wait for its comparison.

use std::sync::Arc;

use manyhands::tensors;
use manyhands_protocol::rules::settle::tolerance;
use manyhands_protocol::work::{Dtype, MatmulWork, TrainWork, Work};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::challenge::Drawn;
use super::{DriveError, challenge, settle};
use crate::service::Service;
use crate::store::{Judgement, ResultRow, SettledBy, Settlement, Unit};
use crate::verify::freivalds::ProductShape;
use crate::verify::{Refusal, gradient, product};
use crate::{keys, merge};

/// What a rejected result of a unit that was settled otherwise is told.
pub const DISAGREES: &str = "disagrees: the update differs from the settled one by more than the tolerance";

/// Checks a pending result. The caller has entered it in `service.checking`.
pub async fn check_result(service: &Arc<Service>, result: &ResultRow) -> Result<(), DriveError> {
    let Some(unit) = service.store.unit(result.unit).await? else {
        return Err(DriveError::Damaged(format!("no unit {}", result.unit)));
    };
    match &unit.work {
        Work::Matmul(work) => {
            let refusal = product_refusal(service, work, result).await?;
            judge_product(service, result, &unit, refusal).await?;
        }
        Work::Train(work) => check_update(service, result, &unit, work).await?,
    }
    service.events.touch(result.job);
    service.driver.notify_one();
    Ok(())
}

async fn judge_product(service: &Service, result: &ResultRow, unit: &Unit, refusal: Option<Refusal>) -> Result<(), DriveError> {
    let (id, now_ms) = (result.id, service.now_ms());
    if let Some(refusal) = refusal {
        tracing::info!(result = id, unit = %unit.id, key = %result.key, %refusal, "rejected");
        let judgement = if refusal.proves_a_lie() { Judgement::catch } else { Judgement::reject }(id, reason(&refusal));
        return Ok(service.store.judge(judgement, now_ms).await?);
    }
    let judgements = vec![Judgement::accept(id)];
    let settlement = Settlement { unit: unit.id, canonical: result.output, by: SettledBy::Algebra, judgements, now_ms };
    service.store.settle(settlement).await?;
    // The unit may have been settled by another right result meanwhile: this one is right all the same.
    Ok(service.store.judge(Judgement::accept(id), now_ms).await?)
}

/// Reads the product's blobs and checks it against vectors drawn now, after the result was stored.
async fn product_refusal(service: &Service, work: &MatmulWork, result: &ResultRow) -> Result<Option<Refusal>, DriveError> {
    // Before anything is read: the slots bound the memory that checks take together.
    let _slot = service.checks.acquire().await;
    let (a, b) = (service.blobs.read(work.a).await?, service.blobs.read(work.b).await?);
    let c = service.blobs.read(result.output).await?;
    let mut rng = ChaCha20Rng::from_seed(keys::random32()?);
    let dtype = work.dtype;
    let shape = ProductShape { m: work.m as usize, k: work.k as usize, n: work.n as usize };
    let checked = tokio::task::spawn_blocking(move || -> Result<Option<Refusal>, manyhands::TensorError> {
        let ProductShape { m, k, n } = shape;
        let a = tensors::read_operand(&a, "a", [m, k], dtype)?.widened();
        let b = tensors::read_operand(&b, "b", [k, n], dtype)?.widened();
        let c = match tensors::read_operand(&c, "c", [m, n], Dtype::F32) {
            Ok(c) => c.widened(),
            Err(e) => return Ok(Some(Refusal::from(e))),
        };
        Ok(product::check(shape, &a, &b, &c, &mut rng).err())
    });
    Ok(checked.await??)
}

/// The reason a rejected result carries: the stable code first.
pub fn reason(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.code().as_str(), refusal.reason())
}

async fn check_update(service: &Service, result: &ResultRow, unit: &Unit, work: &TrainWork) -> Result<(), DriveError> {
    let now_ms = service.now_ms();
    let update = match read_update(service, work, result).await? {
        Ok(update) => update,
        Err(refusal) => {
            tracing::info!(result = result.id, unit = %unit.id, key = %result.key, %refusal, "rejected");
            return Ok(service.store.judge(Judgement::reject(result.id, reason(&refusal)), now_ms).await?);
        }
    };
    let Some(canonical) = unit.canonical else {
        let drawn = challenge::draw(service, result, unit, work).await?;
        if drawn != Drawn::Challenged {
            // Whoever computed nothing agrees with all others who did: that goes to the referee, which a draw of 0 always means.
            let is_audit = drawn == Drawn::Audit || gradient::norm(&update) == 0.0;
            let draw = if is_audit { 0.0 } else { (service.config.draw)()? };
            service.store.decide(result.id, drawn == Drawn::Spared, draw, now_ms).await?;
        }
        return Ok(());
    };
    let settled = merge::read_tensors(&work.model, &service.blobs.read(canonical).await?)?;
    if unit.settled_by == Some(SettledBy::Referee) {
        for judgement in settle::against_referee(service, work, &settled, vec![(result.clone(), update)]).await? {
            service.store.judge(judgement, now_ms).await?;
        }
        return Ok(());
    }
    let judgement = if gradient::compare(&settled, &update, tolerance(&work.model)) {
        Judgement::accept(result.id)
    } else {
        Judgement::reject(result.id, DISAGREES)
    };
    Ok(service.store.judge(judgement, now_ms).await?)
}

/// A result's update, if it has the right structure and a sane norm.
pub async fn read_update(
    service: &Service,
    work: &TrainWork,
    result: &ResultRow,
) -> Result<Result<Vec<Vec<f32>>, Refusal>, DriveError> {
    let _slot = service.checks.acquire().await;
    let checkpoint = service.blobs.read(work.checkpoint).await?;
    let output = service.blobs.read(result.output).await?;
    let work = work.clone();
    let read = tokio::task::spawn_blocking(move || {
        let checkpoint = merge::read_tensors(&work.model, &checkpoint)?;
        Ok::<_, DriveError>(gradient::check_update(&work, &checkpoint, &output))
    });
    read.await?
}
