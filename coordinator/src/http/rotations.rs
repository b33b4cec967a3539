//! A new key in the place of an old one.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::Rotation;
use manyhands_protocol::wire::RotationRequest;
use manyhands_protocol::{KeyId, cbor, cose, limits};

use super::sessions::open_signed;
use super::{Failure, Shared, body};
use crate::store::NewRotation;

/// `POST /v1/rotations`.
pub async fn rotate(State(service): Shared, headers: HeaderMap, request: Body) -> Result<StatusCode, Failure> {
    let bytes = body::read(&headers, request, body::CBOR, limits::CBOR_BODY_BYTES_MAX).await?;
    let request: RotationRequest = cbor::decode_strict(&bytes).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    let rotation = check(&request, service.keys.id())?;
    let now_ms = service.now_ms();
    if !service.keys.nonce_is_fresh(&rotation.nonce, now_ms) {
        // The same again, long after.
        let known = service.store.key(rotation.old).await?;
        return match known.and_then(|view| view.replaced_by) {
            Some(new) if new == rotation.new => Ok(StatusCode::NO_CONTENT),
            _ => Err(Failure::new(
                Code::BadNonce,
                "the nonce is not of this coordinator, or too old: GET /v1/info gives a new one",
            )),
        };
    }
    let Rotation { old, new, .. } = rotation;
    let (by_old, by_new) = (request.by_old.0, request.by_new.0);
    let jobs = service.store.rotate(NewRotation { old, new, by_old, by_new, now_ms }).await?;
    jobs.into_iter().for_each(|job| service.events.touch(job));
    service.driver.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

/// What can be told without the store: that either key signed the same, and what it says.
fn check(request: &RotationRequest, audience: KeyId) -> Result<Rotation, Failure> {
    let (old, payload) = open_signed(cose::Kind::Rotation, &request.by_old.0)?;
    let (new, same) = open_signed(cose::Kind::Rotation, &request.by_new.0)?;
    let rotation: Rotation = cbor::decode_strict(&payload).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    let check = |ok: bool, code, detail: &str| if ok { Ok(()) } else { Err(Failure::new(code, detail)) };
    check(payload == same, Code::BadRotation, "the two keys signed different statements")?;
    check(
        (rotation.old, rotation.new) == (old, new),
        Code::WrongKey,
        "the statement names other keys than those that signed it",
    )?;
    check(rotation.version == limits::PROTOCOL_VERSION, Code::BadRotation, "the statement is of another protocol version")?;
    check(rotation.audience == audience, Code::BadRotation, "the statement is for another coordinator")?;
    check(old != new, Code::BadRotation, "a key cannot take its own place")?;
    Ok(rotation)
}
