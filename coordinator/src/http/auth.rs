//! Who calls: a session's key, or the operator.

use axum::http::{HeaderMap, header};
use manyhands_protocol::problem::Code;

use super::Failure;
use crate::keys;
use crate::service::Service;
use crate::store::Session;

/// The token of the `Authorization` header.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The caller's session, if it is open now.
pub async fn session(service: &Service, headers: &HeaderMap) -> Result<Session, Failure> {
    let Some(token) = bearer(headers) else {
        return Err(Failure::new(Code::NoSession, "this call needs a session: POST /v1/sessions opens one"));
    };
    match service.store.session(keys::sha256(token.as_bytes())).await? {
        None => Err(Failure::new(Code::NoSession, "no session has this token")),
        Some(session) if session.withdrawn => Err(Failure::new(Code::NoSession, "the consent was withdrawn")),
        Some(session) if session.expires_ms <= service.now_ms() => {
            Err(Failure::new(Code::SessionExpired, "the session has expired"))
        }
        Some(session) => Ok(session),
    }
}

/// Whether the caller is the operator.
pub fn is_admin(service: &Service, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|token| service.keys.is_admin(token))
}

/// Refuses anyone but the operator.
pub fn admin(service: &Service, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(token) = bearer(headers) else {
        return Err(Failure::new(Code::NoAdmin, "this call needs the operator's token, and none was sent"));
    };
    if service.keys.is_admin(token) {
        return Ok(());
    }
    Err(Failure::new(Code::NoAdmin, "the token that was sent is not this coordinator's operator's"))
}
