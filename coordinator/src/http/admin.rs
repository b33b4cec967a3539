//! The operator's calls. Each needs the operator's token.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use manyhands_protocol::manifest::{self, Submission};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{JobState, JobView, JobsView};
use manyhands_protocol::{BlobHash, JobId, limits};

use super::jobs::views;
use super::{Checked, Failure, Shared, auth, blobs, body};
use crate::driver::opening;
use crate::jobs::{self, JobError};
use crate::service::Service;

const ALL: &[JobState] = &[JobState::Submitted, JobState::Running, JobState::Paused, JobState::Cancelled, JobState::Finished];

/// `GET /v1/admin/jobs`.
pub async fn list(State(service): Shared, headers: HeaderMap) -> Result<Json<JobsView>, Failure> {
    auth::admin(&service, &headers)?;
    Ok(Json(views(&service, ALL).await?))
}

async fn view(service: &Service, id: JobId) -> Result<Json<JobView>, Failure> {
    match service.store.job_view(id, service.now_ms()).await? {
        Some((_, view)) => Ok(Json(view)),
        None => Err(Failure::new(Code::UnknownJob, format!("no job {id}"))),
    }
}

/// `GET /v1/admin/jobs/{id}`.
pub async fn one(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Json<JobView>, Failure> {
    auth::admin(&service, &headers)?;
    view(&service, body::parse_id(&id, "job id")?).await
}

/// `PUT /v1/admin/blobs/{sha256}`.
pub async fn upload(
    State(service): Shared,
    Checked(Path(hash)): Checked<Path<String>>,
    headers: HeaderMap,
    request: Body,
) -> Result<StatusCode, Failure> {
    auth::admin(&service, &headers)?;
    let hash: BlobHash = body::parse_id(&hash, "SHA-256 in lower-case hexadecimal")?;
    let bytes = blobs::upload_length(&headers)?;
    let received = blobs::receive(&service, &service.operator_uploads, hash, bytes, request).await?;
    let _publishing = service.publishing.read().await;
    received.finish().await?;
    let new = service.store.add_blob(hash, bytes, service.now_ms()).await?;
    Ok(if new { StatusCode::CREATED } else { StatusCode::OK })
}

/// `POST /v1/admin/jobs`.
pub async fn submit(State(service): Shared, headers: HeaderMap, request: Body) -> Result<Response, Failure> {
    auth::admin(&service, &headers)?;
    let bytes = body::read(&headers, request, body::JSON, limits::JSON_BODY_BYTES_MAX).await?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| Failure::new(Code::BadJson, e.to_string()))?;
    drop(value);
    let submission: Submission = manifest::parse_json(&bytes).map_err(|mut error| {
        // Paths are those of the owner's manifest, here as in its validation.
        if let Some(path) = error.field.strip_prefix("manifest.") {
            error.field = path.to_owned();
        }
        JobError::from(error)
    })?;
    let id = jobs::submit(&service, submission).await?;
    Ok((StatusCode::CREATED, view(&service, id).await?).into_response())
}

/// `POST /v1/admin/jobs/{id}/{approve|pause|resume|cancel}`.
pub async fn change(
    State(service): Shared,
    Checked(Path((id, action))): Checked<Path<(String, String)>>,
    headers: HeaderMap,
) -> Result<Json<JobView>, Failure> {
    auth::admin(&service, &headers)?;
    let id: JobId = body::parse_id(&id, "job id")?;
    let (from, to): (&[JobState], JobState) = match action.as_str() {
        "approve" => (&[JobState::Submitted], JobState::Running),
        "pause" => (&[JobState::Running], JobState::Paused),
        "resume" => (&[JobState::Paused], JobState::Running),
        "cancel" => (&[JobState::Submitted, JobState::Running, JobState::Paused], JobState::Cancelled),
        _ => return Err(Failure::new(Code::NotFound, format!("jobs have no {action}"))),
    };
    // The store takes a repeated change as done; a person who repeats it is told so.
    if let Some(job) = service.store.job(id).await?
        && !from.contains(&job.state)
    {
        let detail = format!("job {id} is {}, so {action} does not apply", job.state.name());
        return Err(Failure::new(Code::WrongJobState, detail));
    }
    service.store.set_job_state(id, from, to).await?;
    if to == JobState::Running
        && let Err(error) = opening::begin(&service, id).await
    {
        tracing::error!(job = %id, %error, "making opening units failed; it is tried again");
    }
    service.events.touch(id);
    service.driver.notify_one();
    view(&service, id).await
}

/// `GET /v1/admin/metrics`: OpenMetrics text.
pub async fn metrics(State(service): Shared, headers: HeaderMap) -> Result<Response, Failure> {
    auth::admin(&service, &headers)?;
    let text = crate::metrics::text(&service).await?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

/// `POST /v1/admin/stop`.
pub async fn stop(State(service): Shared, headers: HeaderMap) -> Result<StatusCode, Failure> {
    set_stopped(&service, &headers, true).await
}

/// `POST /v1/admin/resume`.
pub async fn resume(State(service): Shared, headers: HeaderMap) -> Result<StatusCode, Failure> {
    set_stopped(&service, &headers, false).await
}

async fn set_stopped(service: &Service, headers: &HeaderMap, stopped: bool) -> Result<StatusCode, Failure> {
    auth::admin(service, headers)?;
    service.store.set_stopped(stopped).await?;
    tracing::warn!(stopped, "the operator changed whether work is given out");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/admin/jobs/{id}/export`.
pub async fn export(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    auth::admin(&service, &headers)?;
    let exported = jobs::export::export(&service, body::parse_id(&id, "job id")?).await?;
    let headers = [(header::CONTENT_TYPE, body::OCTETS.to_owned()), (header::CONTENT_LENGTH, exported.bytes.to_string())];
    // After the head is sent, a failure can only cut the body short of its announced length.
    Ok((headers, Body::from_stream(exported.pieces)).into_response())
}
