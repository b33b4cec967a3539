//! Challenges: who is asked to show a segment or a step, what is drawn, and what follows from the answers or their absence. Whether what
//! is shown is right is [`crate::verify`]'s; every stage is in the store, so that a restart goes on where it was.

use std::sync::Arc;

use manyhands::engine::states::Keyed;
use manyhands::tensors::{Shard, read_shard};
use manyhands_protocol::challenge::{Answer, ChallengeAnswer, Ends, Reveal, Segment};
use manyhands_protocol::rules::challenge::{self as rules, Form};
use manyhands_protocol::rules::standing;
use manyhands_protocol::statement::{ResultStatement, States};
use manyhands_protocol::work::{TrainWork, Work};
use manyhands_protocol::{BlobHash, TreeHash, cbor, cose, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{BATCH_COUNT, DriveError, Turn};
use crate::service::Service;
use crate::store::{Challenge, ChallengeClosed, ChallengeStage, NewChallenge, ResultRow, Unit};
use crate::verify::gradient;
use crate::verify::opened::{EndsOpening, Fault, Opening};
use crate::verify::segment::{self, SegmentFault};
use crate::verify::step::{Batch, Step, check_step};
use crate::{keys, merge, scheduler};

/// What the reason of a result begins with whose key was caught.
pub const CAUGHT: &str = "caught";
/// And of one whose volunteer did not answer, and was not there to.
pub const UNANSWERED: &str = "unanswered";

/// A line on which an answer still comes in time, 1 Mbit/s; a slower one has what computing leaves it.
const UPLINK_BYTES_PER_SECOND: u64 = 125_000;

/// A round waits for an answer no longer than this, beside the upload: whoever kept its states has little to compute.
const COMPUTE_MS_MAX: u64 = 5 * 60_000;

/// What a draw came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    Challenged,
    /// Not challenged though it might have been, or what was asked for is right: repeated the less for it ([`standing::relieves`]).
    Spared,
    /// No challenge looks at it.
    Left,
    /// Drawn, and nothing can be asked: it has no commitment, or a second key is at work on its unit. The referee looks instead, or
    /// whoever lies would see to that.
    Audit,
}

/// Draws whether a stored result is challenged, and where. The caller has found its structure sound.
pub async fn draw(service: &Service, result: &ResultRow, unit: &Unit, work: &TrainWork) -> Result<Drawn, DriveError> {
    let rate = service.config.challenge_rate;
    if let Some(challenge) = service.store.challenge(result.lease).await? {
        // What one finds is a lie or none. Of whom none was found the unit goes its way, as if nothing had been drawn.
        return Ok(match challenge.stage {
            stage if stage.is_open() => Drawn::Challenged,
            ChallengeStage::Passed if standing::relieves(Some(challenge.form), rate) => Drawn::Spared,
            _ => Drawn::Left,
        });
    }
    let Some(statement) = service.store.result_statement(result.id).await? else { return Ok(Drawn::Left) };
    let states = payload::<ResultStatement>(cose::Kind::Result, &statement)?.states;
    let is_asked = states.is_some() || scheduler::commit_share(&unit.work) <= service.config.commit_share_max;
    let form = scheduler::challenge_form(&unit.work, service.config.step_challenges).filter(|_| is_asked);
    let Some(form) = form else { return Ok(Drawn::Left) };
    let Some(States { every, .. }) = states else {
        return Ok(if (service.config.draw)()? < rate { Drawn::Audit } else { Drawn::Left });
    };
    if (service.config.draw)()? >= rate {
        return Ok(if standing::relieves(Some(form), rate) { Drawn::Spared } else { Drawn::Left });
    }
    // Each segment is as likely, so that a short one is no better place for a lie.
    let segments = work.inner_steps.div_ceil(every);
    let first = rules::draw(keys::random64()?, segments) * every;
    let (_, first_step, steps) = rules::segment_of(work.inner_steps, every, first);
    let (now_ms, times) = (service.now_ms(), service.store.lease_times(result.lease).await?);
    let deadline_ms = now_ms + wait_ms(times, &unit.work, form);
    let challenge = NewChallenge { result: result.id, form, first_step, steps, now_ms, deadline_ms };
    let opened = service.store.open_challenge(challenge).await?;
    if opened {
        tracing::info!(result = result.id, unit = %unit.id, key = %result.key, form = form.name(), first_step, steps, "challenged");
    }
    Ok(if opened { Drawn::Challenged } else { Drawn::Audit })
}

/// How long an answer may take: to compute, by when the lease was given and its result came, and to upload.
pub fn wait_ms([issued_ms, received_ms]: [u64; 2], work: &Work, form: Form) -> u64 {
    let upload_ms = scheduler::shown_bytes(work, form).saturating_mul(1000) / UPLINK_BYTES_PER_SECOND;
    let compute_ms = (3 * received_ms.saturating_sub(issued_ms)).min(COMPUTE_MS_MAX);
    limits::CHALLENGE_WAIT_MS + compute_ms + upload_ms
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
            let (to_check, missed): (Vec<_>, Vec<_>) =
                challenges.into_iter().partition(|challenge| challenge.stage == ChallengeStage::Check);
            for challenge in missed {
                turn.note(now_ms, "ending a challenge", miss(service, &challenge, now_ms).await);
            }
            for challenge in to_check {
                // One a turn, as the referee's. One that fails holds up none of the others.
                if turn.note(now_ms, "checking what was shown", check(service, &challenge).await).is_some() {
                    return;
                }
            }
        }
        Err(error) => {
            turn.note::<()>(now_ms, "looking for challenges", Err(error.into()));
        }
    }
}

/// Nobody answered in time: a key that is there and does not answer is caught, one that is gone is not believed.
async fn miss(service: &Service, challenge: &Challenge, now_ms: u64) -> Result<(), DriveError> {
    if service.store.is_present(challenge.key, challenge.asked_ms, challenge.deadline_ms).await? {
        return caught(service, challenge, "no answer in time", 0).await;
    }
    debug_assert!(now_ms >= challenge.deadline_ms);
    unanswered(service, challenge).await
}

/// A result that its volunteer cannot answer for. One that never can is caught.
pub async fn unanswered(service: &Service, challenge: &Challenge) -> Result<(), DriveError> {
    let counts = service.store.challenge_counts(challenge.key).await?;
    if rules::is_selective(counts.asked, counts.unanswered + 1) {
        return caught(service, challenge, "too many challenges were left unanswered", 0).await;
    }
    let reason = format!("{UNANSWERED}: the {} that was asked for was not shown", challenge.form.name());
    close(service, challenge, ChallengeStage::Unanswered, reason, 0).await
}

/// The key of a challenged result lied, or would not show that it did not.
async fn caught(service: &Service, challenge: &Challenge, reason: &str, check_flop: u64) -> Result<(), DriveError> {
    tracing::warn!(result = challenge.result, unit = %challenge.unit, key = %challenge.key, reason, "caught");
    close(service, challenge, ChallengeStage::Caught, format!("{CAUGHT}: {reason}"), check_flop).await
}

async fn close(
    service: &Service,
    challenge: &Challenge,
    outcome: ChallengeStage,
    reason: String,
    check_flop: u64,
) -> Result<(), DriveError> {
    let reason = crate::verify::cut(reason);
    let (result, stage, now_ms) = (challenge.result, challenge.stage, service.now_ms());
    let closed = ChallengeClosed { result, stage, outcome, reason, check_flop, now_ms };
    service.store.close_challenge(closed).await?;
    if let Some(unit) = service.store.unit(challenge.unit).await? {
        service.events.touch(unit.job);
    }
    service.driver.notify_one();
    Ok(())
}

/// A shown step, read from the store.
struct ShownStep {
    states: States,
    step: u32,
    segment: Segment,
    trace: TreeHash,
    reveal: Reveal,
}

/// The ends of a segment, likewise.
struct ShownEnds {
    states: States,
    first_step: u32,
    steps: u32,
    ends: Ends,
}

enum Shown {
    Step(Box<ShownStep>),
    Ends(ShownEnds),
}

impl Shown {
    fn file(&self) -> BlobHash {
        match self {
            Shown::Step(shown) => shown.reveal.hash,
            Shown::Ends(shown) => shown.ends.hash,
        }
    }
}

async fn shown(service: &Service, challenge: &Challenge) -> Result<Shown, DriveError> {
    let missing = || DriveError::Damaged(format!("the challenge of lease {} lacks an answer", challenge.lease));
    let answer = |bytes: &Option<Vec<u8>>| -> Result<Answer, DriveError> {
        let bytes = bytes.as_ref().ok_or_else(missing)?;
        Ok(payload::<ChallengeAnswer>(cose::Kind::ChallengeAnswer, bytes)?.answer)
    };
    let statement = service.store.result_statement(challenge.result).await?.ok_or_else(missing)?;
    let states = payload::<ResultStatement>(cose::Kind::Result, &statement)?.states.ok_or_else(missing)?;
    if challenge.form == Form::Segment {
        let Answer::Ends(ends) = answer(&challenge.reveal)? else { return Err(missing()) };
        return Ok(Shown::Ends(ShownEnds { states, first_step: challenge.first_step, steps: challenge.steps, ends }));
    }
    let step = challenge.step.ok_or_else(missing)?;
    match (answer(&challenge.segment)?, answer(&challenge.trace)?, answer(&challenge.reveal)?) {
        (Answer::Segment(segment), Answer::Trace(trace), Answer::Reveal(reveal)) => {
            Ok(Shown::Step(Box::new(ShownStep { states, step, segment, trace, reveal })))
        }
        _ => Err(missing()),
    }
}

/// Checks everything that was shown: openings first, then the segment or the step itself, the latter by numbers drawn now.
async fn check(service: &Service, challenge: &Challenge) -> Result<(), DriveError> {
    let damaged = |what: &str| DriveError::Damaged(format!("the challenge of lease {}: {what}", challenge.lease));
    let unit = service.store.unit(challenge.unit).await?.ok_or_else(|| damaged("no unit"))?;
    let check_flop = scheduler::challenge_flop(&unit.work, challenge.form, challenge.steps);
    let Work::Train(work) = unit.work else { return Err(damaged("of a product")) };
    let result = service.store.result(challenge.result).await?.ok_or_else(|| damaged("no result"))?;
    let shown = shown(service, challenge).await?;
    let _slot = match challenge.form {
        Form::Segment => service.referee.acquire().await,
        Form::Step => service.checks.acquire().await,
    };
    let (checkpoint, shard) = (service.blobs.read(work.checkpoint).await?, service.blobs.read(work.shard).await?);
    let (output, file) = (service.blobs.read(result.output).await?, service.blobs.read(shown.file()).await?);
    let rng = ChaCha20Rng::from_seed(keys::random32()?);
    let checked = tokio::task::spawn_blocking(move || check_shown(&work, &shown, [&checkpoint, &shard, &output, &file], rng));
    match checked.await?? {
        Ok(()) => close(service, challenge, ChallengeStage::Passed, String::new(), check_flop).await,
        Err(reason) => caught(service, challenge, &reason, check_flop).await,
    }
}

/// The inner error is the volunteer's fault.
fn check_shown(
    work: &TrainWork,
    shown: &Shown,
    [checkpoint, shard, output, file]: [&[u8]; 4],
    rng: ChaCha20Rng,
) -> Result<Result<(), String>, DriveError> {
    let checkpoint = merge::read_tensors(&work.model, checkpoint)?;
    let shard = read_shard(shard, &work.model)?;
    let delta = match gradient::check_update(work, &checkpoint, output) {
        Ok(delta) => delta,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    match shown {
        Shown::Step(shown) => check_shown_step(work, shown, [&checkpoint, &delta], &shard, file, rng),
        Shown::Ends(shown) => check_shown_ends(work, shown, [&checkpoint, &delta], &shard, file),
    }
}

fn check_shown_ends(
    work: &TrainWork,
    &ShownEnds { states, first_step, steps, ref ends }: &ShownEnds,
    [checkpoint, delta]: [&[Vec<f32>]; 2],
    shard: &Shard,
    file: &[u8],
) -> Result<Result<(), String>, DriveError> {
    let shown = match (EndsOpening { work, states, first_step, steps, ends, file }).check() {
        Ok(shown) => shown,
        Err(Fault::Model(fault)) => return Err(DriveError::Damaged(fault)),
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    let segment = segment::Segment { work, checkpoint, delta, shard, first_step, steps };
    match segment.check(shown) {
        Err(SegmentFault::Model(fault)) => Err(DriveError::Damaged(fault)),
        checked => Ok(checked.map(drop).map_err(|fault| fault.to_string())),
    }
}

fn check_shown_step(
    work: &TrainWork,
    &ShownStep { states, step, ref segment, trace, ref reveal }: &ShownStep,
    [checkpoint, delta]: [&[Vec<f32>]; 2],
    shard: &Shard,
    file: &[u8],
    mut rng: ChaCha20Rng,
) -> Result<Result<(), String>, DriveError> {
    let shown = match (Opening { work, states, checkpoint, delta, step, segment, trace, reveal, file }).check() {
        Ok(shown) => shown,
        Err(Fault::Model(fault)) => return Err(DriveError::Damaged(fault)),
        Err(fault) => return Ok(Err(fault.to_string())),
    };
    let Keyed { before, trace, after } = shown.keyed(work).map_err(|e| DriveError::Damaged(e.to_string()))?;
    let batch = Batch::of(work, shard, step).ok_or_else(|| DriveError::Damaged("a shard that is not of its unit".to_owned()))?;
    let settled_from = (step + 1 == work.inner_steps).then_some(checkpoint);
    let step = Step { work, number: step, batch, before: &before, trace: &trace, after: &after, settled_from };
    Ok(check_step(&step, &mut rng).map(drop).map_err(|refusal| refusal.to_string()))
}
