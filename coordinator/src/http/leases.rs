//! Work units out: leases, heartbeats, giving back.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::JobState;
use manyhands_protocol::wire::{LeaseRequest, LeaseResponse, SignedBytes};
use manyhands_protocol::work::UnitManifest;
use manyhands_protocol::{JobId, LeaseId, cbor, cose, limits};

use super::{Checked, Failure, Shared, auth, body};
use crate::prefix::{self, Peer};
use crate::store::{Commits, LeaseAsk, Session};

/// When to ask again if nothing was free: soon while a round may end any moment, later while no job runs.
const RETRY_SOON_MS: u64 = 1_000;
const RETRY_LATER_MS: u64 = 5_000;

/// `POST /v1/leases`.
pub async fn ask(
    State(service): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Failure> {
    let session = auth::session(&service, &headers).await?;
    let bytes = body::read(&headers, request, body::CBOR, limits::CBOR_BODY_BYTES_MAX).await?;
    let request: LeaseRequest = cbor::decode_strict(&bytes).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    if !(1..=limits::LEASES_PER_CALL_MAX).contains(&request.units_max) {
        return Err(Failure::new(Code::BadRequest, format!("units_max must be 1 to {}", limits::LEASES_PER_CALL_MAX)));
    }
    let job = consented_job(&session, request.job)?;
    if let Some(id) = job
        && service.store.job(id).await?.is_none_or(|job| !job.approved)
    {
        return Err(Failure::new(Code::UnknownJob, format!("no job {id}")));
    }
    let ask = LeaseAsk {
        key: session.key,
        session: session.id,
        job,
        units_max: request.units_max,
        blob_bytes_max: request.blob_bytes_max,
        backend: request.backend.name(),
        commits: (service.config.challenge_rate > 0.0)
            .then_some(Commits { share_max: service.config.commit_share_max, steps_wanted: service.config.step_challenges }),
        prefix: prefix::tag_of(&service, peer, &headers),
        now_ms: service.now_ms(),
    };
    let sign = |manifest: &UnitManifest| service.keys.sign(cose::Kind::UnitManifest, cbor::encode(manifest));
    let (manifests, jobs) = service.store.lease(ask, &sign).await?;
    jobs.into_iter().for_each(|job| service.events.touch(job));
    if !manifests.is_empty() {
        // A new deadline may be the next thing to happen.
        service.driver.notify_one();
    }
    let retry_after_ms = match manifests.is_empty() {
        false => 0,
        true if service.store.jobs(&[JobState::Running]).await?.is_empty() => RETRY_LATER_MS,
        true => RETRY_SOON_MS,
    };
    let manifests = manifests.into_iter().map(SignedBytes).collect();
    let totals = service.store.totals(session.key).await?;
    Ok(body::cbor_response(StatusCode::OK, &LeaseResponse { manifests, retry_after_ms, totals }))
}

/// The one job to lease from, if consent or request name one.
fn consented_job(session: &Session, asked: Option<JobId>) -> Result<Option<JobId>, Failure> {
    match (session.job, asked) {
        (Some(agreed), Some(asked)) if agreed != asked => {
            Err(Failure::new(Code::BadConsent, format!("the consent is for job {agreed}, not for job {asked}")))
        }
        (agreed, asked) => Ok(agreed.or(asked)),
    }
}

/// `POST /v1/leases/{id}/heartbeat`.
pub async fn heartbeat(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let session = auth::session(&service, &headers).await?;
    let lease: LeaseId = body::parse_id(&id, "lease id")?;
    let answer = service.store.heartbeat(lease, session.key, service.now_ms()).await?;
    Ok(body::cbor_response(StatusCode::OK, &answer))
}

/// `DELETE /v1/leases/{id}`.
pub async fn give_back(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let session = auth::session(&service, &headers).await?;
    let lease: LeaseId = body::parse_id(&id, "lease id")?;
    let job = service.store.give_back(lease, session.key).await?;
    service.events.touch(job);
    // Nobody else may want the unit.
    service.driver.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
