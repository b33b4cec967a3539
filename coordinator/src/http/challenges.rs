//! What a challenge asks, and the answers to it.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use manyhands_protocol::challenge::{Answer, Ask, ChallengeAnswer, ChallengeResponse};
use manyhands_protocol::problem::Code;
use manyhands_protocol::rules::challenge::draw;
use manyhands_protocol::{LeaseId, cbor, cose, limits};

use super::{Checked, Failure, Shared, auth, body, sessions};
use crate::driver::challenge::{unanswered, wait_ms};
use crate::keys;
use crate::store::{Challenge, ChallengeAnswered, ChallengeStage};

/// `GET /v1/challenges/{lease}`.
pub async fn ask(
    State(service): Shared,
    Checked(Path(lease)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let session = auth::session(&service, &headers).await?;
    let lease: LeaseId = body::parse_id(&lease, "lease id")?;
    let challenge = service.store.challenge(lease).await?;
    match challenge {
        Some(challenge) if challenge.key == session.key => Ok(asked(&challenge)),
        Some(_) => Err(Failure::new(Code::NotYourLease, format!("lease {lease} belongs to another key"))),
        None => Err(Failure::new(Code::UnknownChallenge, format!("no result of lease {lease} was challenged"))),
    }
}

/// `POST /v1/challenges/{lease}`.
pub async fn answer(
    State(service): Shared,
    Checked(Path(lease)): Checked<Path<String>>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Failure> {
    let session = auth::session(&service, &headers).await?;
    let lease: LeaseId = body::parse_id(&lease, "lease id")?;
    let statement = body::read(&headers, request, body::COSE, limits::CBOR_BODY_BYTES_MAX).await?;
    let (key, payload) = sessions::open_signed(cose::Kind::ChallengeAnswer, &statement)?;
    if key != session.key {
        return Err(Failure::new(Code::WrongKey, format!("the answer is by {key}, the session is of {}", session.key)));
    }
    let answer: ChallengeAnswer = cbor::decode_strict(&payload).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    if answer.version != limits::PROTOCOL_VERSION || answer.lease != lease {
        return Err(Failure::new(Code::BadRequest, "the answer is of another version, or about another lease"));
    }
    let Some(challenge) = service.store.challenge(lease).await?.filter(|challenge| challenge.key == key) else {
        return Err(Failure::new(Code::UnknownChallenge, format!("no result of this key's under lease {lease} was challenged")));
    };
    let now_ms = service.now_ms();
    let (to_stage, file) = match answer.answer {
        Answer::Segment(_) => (ChallengeStage::Segment, None),
        Answer::Trace(_) => (ChallengeStage::Trace, None),
        Answer::Ends(ends) => (ChallengeStage::Ends, Some((ends.hash, ends.bytes))),
        Answer::Reveal(reveal) => (ChallengeStage::Reveal, Some((reveal.hash, reveal.bytes))),
        Answer::Unable => {
            if challenge.stage.is_open() && challenge.stage != ChallengeStage::Check {
                unanswered(&service, &challenge).await?;
            }
            return Ok(nothing(lease));
        }
    };
    // Drawn once the segment is committed to.
    let step = match to_stage {
        ChallengeStage::Segment => Some(challenge.first_step + draw(keys::random64()?, challenge.steps)),
        _ => None,
    };
    let Some(unit) = service.store.unit(challenge.unit).await? else {
        return Err(Failure::new(Code::UnknownChallenge, format!("the unit of lease {lease} is gone")));
    };
    let deadline_ms = now_ms + wait_ms(service.store.lease_times(lease).await?, &unit.work, challenge.form);
    let answered = ChallengeAnswered { lease, key, to_stage, statement, step, file, now_ms, deadline_ms };
    let challenge = service.store.answer_challenge(answered).await?;
    service.driver.notify_one();
    Ok(asked(&challenge))
}

fn asked(challenge: &Challenge) -> Response {
    let lease = challenge.lease;
    let ask = match (challenge.stage, challenge.step) {
        (ChallengeStage::Ends, _) => Ask::Ends { first_step: challenge.first_step, steps: challenge.steps },
        (ChallengeStage::Segment, _) => Ask::Segment { first_step: challenge.first_step, steps: challenge.steps },
        (ChallengeStage::Trace, Some(step)) => Ask::Trace { step },
        (ChallengeStage::Reveal, Some(step)) => Ask::Reveal { step, layers: Vec::new() },
        _ => return nothing(lease),
    };
    body::cbor_response(StatusCode::OK, &ChallengeResponse { lease, ask, deadline_ms: challenge.deadline_ms })
}

fn nothing(lease: LeaseId) -> Response {
    body::cbor_response(StatusCode::OK, &ChallengeResponse { lease, ask: Ask::Nothing, deadline_ms: 0 })
}
