//! What a load balancer or a service manager asks: whether the process answers, and whether it can do its work.

use axum::extract::State;
use axum::http::StatusCode;

use super::{Failure, Shared};

/// `GET /healthz`: the process answers.
pub async fn alive() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: the store and the blobs answer, and no end is under way.
pub async fn ready(State(service): Shared) -> Result<(StatusCode, &'static str), Failure> {
    if service.shutdown.is_cancelled() {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "ending\n"));
    }
    service.store.stopped().await?;
    service.blobs.answers().await?;
    Ok((StatusCode::OK, "ready\n"))
}
