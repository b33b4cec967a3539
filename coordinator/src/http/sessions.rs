//! Consent in, session out; and withdrawal.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use manyhands_protocol::cose::{self, EnvelopeError};
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::is_name;
use manyhands_protocol::statement::Consent;
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::SessionOpened;
use manyhands_protocol::{KeyId, cbor, limits};

use super::{Failure, Shared, auth, body};
use crate::keys;
use crate::prefix::{self, Peer};
use crate::service::Service;
use crate::store::NewSession;

/// Takes a signed statement apart and checks its signature; gives the signer and the payload.
pub fn open_signed(kind: cose::Kind, bytes: &[u8]) -> Result<(KeyId, Vec<u8>), Failure> {
    let opened = cose::open(kind, bytes).map_err(|error| {
        let code = match error {
            EnvelopeError::Algorithm => Code::WrongAlgorithm,
            EnvelopeError::KeyId => Code::WrongKey,
            EnvelopeError::Signature => Code::BadSignature,
            EnvelopeError::ContentType(_) => Code::WrongContentType,
            EnvelopeError::Structure(_) | EnvelopeError::Header | EnvelopeError::Payload => Code::BadCbor,
        };
        Failure::new(code, error.to_string())
    })?;
    if keys::signed_by(opened.key, &opened.to_be_signed, &opened.signature) {
        Ok((opened.key, opened.payload))
    } else {
        Err(Failure::new(Code::BadSignature, format!("the signature is not by {} over these bytes", opened.key)))
    }
}

/// `POST /v1/sessions`.
pub async fn open(
    State(service): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Failure> {
    let statement = body::read(&headers, request, body::COSE, limits::CBOR_BODY_BYTES_MAX).await?;
    let (key, payload) = open_signed(cose::Kind::Consent, &statement)?;
    let consent: Consent = cbor::decode_strict(&payload).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    let now_ms = service.now_ms();
    check_consent(&consent, service.keys.id(), now_ms)?;
    if !service.keys.nonce_is_fresh(&consent.nonce, now_ms) {
        return Err(Failure::new(
            Code::BadNonce,
            "the nonce is not of this coordinator, or too old: GET /v1/info gives a new one",
        ));
    }
    check_job(&service, &consent).await?;
    check_site(&service, &consent).await?;
    let network = prefix::tag_of(&service, peer, &headers);
    if network.is_some_and(|tag| !service.prefixes.admit(tag, service.config.sessions_per_network_max, now_ms)) {
        return Err(Failure::new(Code::TooManyRequests, "too many sessions were opened from this network within the hour"));
    }
    let token = hex::encode(keys::random32()?);
    service
        .store
        .open_session(NewSession {
            token_hash: keys::sha256(token.as_bytes()),
            key,
            nonce: consent.nonce,
            consent: statement,
            consent_salt: keys::random32()?,
            job: consent.job,
            category: consent.category,
            site: (!consent.site.is_empty()).then_some(consent.site),
            opened_ms: now_ms,
            expires_ms: consent.expires_ms,
        })
        .await?;
    Ok(body::cbor_response(StatusCode::CREATED, &SessionOpened { token, expires_ms: consent.expires_ms }))
}

/// What a consent must say, apart from its nonce and its job.
fn check_consent(consent: &Consent, audience: KeyId, now_ms: u64) -> Result<(), Failure> {
    let check = |ok: bool, detail: &str| if ok { Ok(()) } else { Err(Failure::new(Code::BadConsent, detail)) };
    check(consent.version == limits::PROTOCOL_VERSION, "the statement is of another protocol version")?;
    check(consent.audience == audience, "the statement is for another coordinator")?;
    check(consent.terms_version == limits::TERMS_VERSION, "the terms have another version by now")?;
    check((1..=100).contains(&consent.duty_percent), "duty_percent must be 1 to 100")?;
    check(!consent.origin.is_empty(), "origin must not be empty")?;
    check(consent.job.is_none() || consent.category.is_none(), "a consent is to one job or to a category, not to both")?;
    for text in [&consent.origin, &consent.site] {
        check(text.len() <= limits::TEXT_BYTES_MAX, "origin or site is too long")?;
    }
    check(
        consent.issued_ms <= now_ms.saturating_add(limits::CLOCK_SKEW_MS),
        "the statement is from the future: check the clock",
    )?;
    check(consent.expires_ms > now_ms, "the statement has expired")?;
    check(consent.expires_ms > consent.issued_ms, "the statement expires before it was issued")?;
    check(consent.expires_ms - consent.issued_ms <= limits::SESSION_MS_MAX, "the statement is valid for too long")
}

async fn check_job(service: &Service, consent: &Consent) -> Result<(), Failure> {
    let Some(id) = consent.job else { return Ok(()) };
    match service.store.job(id).await? {
        Some(job) if job.approved => match job.state {
            JobState::Running | JobState::Paused => Ok(()),
            state => Err(Failure::new(Code::WrongJobState, format!("job {id} is {}", state.name()))),
        },
        _ => Err(Failure::new(Code::UnknownJob, format!("no job {id}"))),
    }
}

/// A site must be registered, and allow the job or the category that the consent names; any other job is checked where it is
/// leased.
async fn check_site(service: &Service, consent: &Consent) -> Result<(), Failure> {
    if consent.site.is_empty() {
        return Ok(());
    }
    let bad = |detail: String| Err(Failure::new(Code::BadConsent, detail));
    let site = match is_name(&consent.site) {
        true => service.store.site(&consent.site).await?,
        false => None,
    };
    let Some(site) = site else {
        return bad(format!("no site {} is registered here", consent.site));
    };
    let job = match consent.job {
        Some(id) => service.store.job(id).await?,
        None => None,
    };
    let category = job.map(|job| job.submission.manifest.category).or(consent.category);
    match category.filter(|category| !site.categories.contains(category)) {
        Some(category) => bad(format!("site {} does not allow {} jobs", site.name, category.name())),
        None => Ok(()),
    }
}

/// `DELETE /v1/sessions`.
pub async fn withdraw(State(service): Shared, headers: HeaderMap) -> Result<StatusCode, Failure> {
    let session = auth::session(&service, &headers).await?;
    let jobs = service.store.withdraw_session(session.id, service.now_ms()).await?;
    jobs.into_iter().for_each(|job| service.events.touch(job));
    service.driver.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
