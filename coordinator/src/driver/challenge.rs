//! Challenges: who is asked to show a step, what is drawn, and what follows from the answers or their absence. Whether what
//! is shown is right is [`crate::verify`]'s; every stage is in the store, so that a restart goes on where it was.

use std::sync::Arc;

use manyhands::engine::states::Keyed;
use manyhands::tensors::read_shard;
use manyhands_protocol::challenge::{Answer, ChallengeAnswer, Reveal, Segment};
use manyhands_protocol::rules::challenge as rules;
use manyhands_protocol::statement::{ResultStatement, States};
use manyhands_protocol::work::{TrainWork, Work};
use manyhands_protocol::{TreeHash, cbor, cose, limits};
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{BATCH_COUNT, DriveError, Turn};
use crate::service::Service;
use crate::store::{Challenge, ChallengeClosed, ChallengeStage, NewChallenge, ResultRow, Unit};
use crate::verify::gradient;
use crate::verify::opened::{Fault, Opening};
use crate::verify::step::{Batch, Step, check_step};
use crate::{keys, merge};

/// What the reason of a result begins with whose key was caught.
pub const CAUGHT: &str = "caught";
/// And of one whose volunteer did not answer, and was not there to.
pub const UNANSWERED: &str = "unanswered";

/// 64 bits that nobody can foretell.
pub fn random() -> Result<u64, DriveError> {
    Ok(ChaCha20Rng::from_seed(keys::random32()?).next_u64())
}

/// Draws whether a stored result is challenged, and where. The caller has found its structure sound. True if it is.
pub async fn draw(service: &Service, result: &ResultRow, unit: &Unit, work: &TrainWork) -> Result<bool, DriveError> {
    if let Some(challenge) = service.store.challenge(result.lease).await? {
        return Ok(challenge.stage.is_open());
    }
    let Some(statement) = service.store.result_statement(result.id).await? else { return Ok(false) };
    let Some(States { every, .. }) = payload::<ResultStatement>(cose::Kind::Result, &statement)?.states else { return Ok(false) };
    if !rules::happens(random()?, service.config.challenge_rate) {
        return Ok(false);
    }
    let (_, first_step, steps) = rules::segment_of(work.inner_steps, every, rules::draw(random()?, work.inner_steps));
    let (now_ms, lease) = (service.now_ms(), service.store.lease_times(result.lease).await?);
    let deadline_ms = now_ms + wait_ms(lease);
    let challenge = NewChallenge { result: result.id, first_step, steps, now_ms, deadline_ms };
    let opened = service.store.open_challenge(challenge).await?;
    if opened {
        tracing::info!(result = result.id, unit = %unit.id, key = %result.key, first_step, steps, "challenged");
    }
    Ok(opened)
}

/// How long an answer may take, by when the lease was given and its result came.
pub fn wait_ms([issued_ms, received_ms]: [u64; 2]) -> u64 {
    limits::CHALLENGE_WAIT_MS + 3 * received_ms.saturating_sub(issued_ms)
}

/// The payload of a statement that was checked when it came.
fn payload<T>(kind: cose::Kind, statement: &[u8]) -> Result<T, DriveError>
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
{
    let damaged = |e: String| DriveError::Damaged(format!("a signed statement: {e}"));
    let opened = cose::open(kind, statement).map_err(|e| damaged(e.to_string()))?;
    cbor::decode_strict(&opened.payload).map_err(|e| damaged(e.to_string()))
}

/// Checks what was shown, and ends what was waited for in vain.
pub(super) async fn turn(service: &Arc<Service>, now_ms: u64, turn: &mut Turn) {
    match service.store.challenges_due(now_ms, BATCH_COUNT).await {
        Ok((challenges, next_ms)) => {
            turn.wake_ms = turn.wake_ms.min(next_ms.unwrap_or(u64::MAX));
            for challenge in challenges {
                let done = match challenge.stage {
                    ChallengeStage::Check => check(service, &challenge).await,
                    _ => miss(service, &challenge, now_ms).await,
                };
                turn.note(now_ms, "ending a challenge", done);
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for challenges", Err(error.into()));
        }
    }
}

/// Nobody answered in time: a key that is there and does not answer is caught, one that is gone is not believed.
async fn miss(service: &Service, challenge: &Challenge, now_ms: u64) -> Result<(), DriveError> {
    if service.store.is_present(challenge.key, challenge.stage_ms).await? {
        return caught(service, challenge, "no answer in time").await;
    }
    debug_assert!(now_ms >= challenge.deadline_ms);
    unanswered(service, challenge).await
}

/// A result that its volunteer cannot answer for. One that never can is caught.
pub async fn unanswered(service: &Service, challenge: &Challenge) -> Result<(), DriveError> {
    let counts = service.store.challenge_counts(challenge.key).await?;
    if rules::is_selective(counts.asked, counts.unanswered + 1) {
        return caught(service, challenge, "too many challenges were left unanswered").await;
    }
    let reason = format!("{UNANSWERED}: the step that was asked for was not shown");
    close(service, challenge, ChallengeStage::Unanswered, reason).await
}

/// The key of a challenged result lied, or would not show that it did not.
async fn caught(service: &Service, challenge: &Challenge, reason: &str) -> Result<(), DriveError> {
    tracing::warn!(result = challenge.result, unit = %challenge.unit, key = %challenge.key, reason, "caught");
    close(service, challenge, ChallengeStage::Caught, format!("{CAUGHT}: {reason}")).await
}

async fn close(service: &Service, challenge: &Challenge, outcome: ChallengeStage, reason: String) -> Result<(), DriveError> {
    let reason = crate::verify::cut(reason);
    let closed = ChallengeClosed { result: challenge.result, outcome, reason, now_ms: service.now_ms() };
    service.store.close_challenge(closed).await?;
    if let Some(unit) = service.store.unit(challenge.unit).await? {
        service.events.touch(unit.job);
    }
    service.driver.notify_one();
    Ok(())
}

/// What was shown, read from the store.
struct Shown {
    states: States,
    segment: Segment,
    trace: TreeHash,
    reveal: Reveal,
}

async fn shown(service: &Service, challenge: &Challenge) -> Result<Shown, DriveError> {
    let missing = || DriveError::Damaged(format!("the challenge of lease {} lacks an answer", challenge.lease));
    let answer = |bytes: &Option<Vec<u8>>| -> Result<Answer, DriveError> {
        let bytes = bytes.as_ref().ok_or_else(missing)?;
        Ok(payload::<ChallengeAnswer>(cose::Kind::ChallengeAnswer, bytes)?.answer)
    };
    let statement = service.store.result_statement(challenge.result).await?.ok_or_else(missing)?;
    let states = payload::<ResultStatement>(cose::Kind::Result, &statement)?.states.ok_or_else(missing)?;
    match (answer(&challenge.segment)?, answer(&challenge.trace)?, answer(&challenge.reveal)?) {
        (Answer::Segment(segment), Answer::Trace(trace), Answer::Reveal(reveal)) => Ok(Shown { states, segment, trace, reveal }),
        _ => Err(missing()),
    }
}

/// Checks everything that was shown: openings first, then the step itself, by numbers drawn now.
async fn check(service: &Service, challenge: &Challenge) -> Result<(), DriveError> {
    let damaged = |what: &str| DriveError::Damaged(format!("the challenge of lease {}: {what}", challenge.lease));
    let (Some(unit), Some(step)) = (service.store.unit(challenge.unit).await?, challenge.step) else {
        return Err(damaged("no unit or no step"));
    };
    let Work::Train(work) = unit.work else { return Err(damaged("of a product")) };
    let result = service.store.result(challenge.result).await?.ok_or_else(|| damaged("no result"))?;
    let shown = shown(service, challenge).await?;
    let _slot = service.checks.acquire().await;
    let (checkpoint, shard) = (service.blobs.read(work.checkpoint).await?, service.blobs.read(work.shard).await?);
    let (output, file) = (service.blobs.read(result.output).await?, service.blobs.read(shown.reveal.hash).await?);
    let rng = ChaCha20Rng::from_seed(keys::random32()?);
    let checked =
        tokio::task::spawn_blocking(move || check_shown(&work, step, &shown, [&checkpoint, &shard, &output, &file], rng));
    match checked.await?? {
        Ok(()) => close(service, challenge, ChallengeStage::Passed, String::new()).await,
        Err(reason) => caught(service, challenge, &reason).await,
    }
}

/// The inner error is the volunteer's fault.
fn check_shown(
    work: &TrainWork,
    step: u32,
    shown: &Shown,
    [checkpoint, shard, output, file]: [&[u8]; 4],
    mut rng: ChaCha20Rng,
) -> Result<Result<(), String>, DriveError> {
    let checkpoint = merge::read_tensors(&work.model, checkpoint)?;
    let shard = read_shard(shard, &work.model)?;
    let delta = match gradient::check_update(work, &checkpoint, output) {
        Ok(delta) => delta,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    let Shown { states, segment, trace, reveal } = shown;
    let opening =
        Opening { work, states: *states, checkpoint: &checkpoint, delta: &delta, step, segment, trace: *trace, reveal, file };
    let shown = match opening.check() {
        Ok(shown) => shown,
        Err(Fault::Model(fault)) => return Err(DriveError::Damaged(fault)),
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    let Keyed { before, trace, after } = shown.keyed(work).map_err(|e| DriveError::Damaged(e.to_string()))?;
    let batch = Batch::of(work, &shard, step).ok_or_else(|| DriveError::Damaged("a shard that is not of its unit".to_owned()))?;
    let settled_from = (step + 1 == work.inner_steps).then_some(checkpoint.as_slice());
    let step = Step { work, number: step, batch, before: &before, trace: &trace, after: &after, settled_from };
    Ok(check_step(&step, &mut rng).map(drop).map_err(|refusal| refusal.to_string()))
}
