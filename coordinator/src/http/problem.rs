//! Errors as RFC 9457 problem documents.

use std::fmt::Display;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use manyhands_protocol::problem::{Code, Problem};

use crate::blobs::BlobError;
use crate::driver::DriveError;
use crate::jobs::JobError;
use crate::keys::KeyError;
use crate::store::StoreError;

/// Seconds after which a call that may succeed later should be tried again.
const RETRY_AFTER_SECONDS: &str = "2";

/// An error answer.
#[derive(Debug)]
pub struct Failure(Box<Problem>);

impl Failure {
    pub fn new(code: Code, detail: impl Into<String>) -> Failure {
        Failure(Box::new(Problem::new(code, detail)))
    }

    /// Names the field at fault.
    pub fn with_field(self, field: impl Into<String>) -> Failure {
        Failure(Box::new(self.0.with_field(field)))
    }

    /// A failure on our side: logged in full, told in general.
    fn ours(error: &dyn std::error::Error) -> Failure {
        tracing::error!(%error, "a call failed");
        Failure::new(Code::StorageFailed, "the coordinator could not read or write its data; try again")
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = *self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&problem).unwrap_or_else(|_| "{}".to_owned());
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if problem.retryable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An extractor whose refusal is a problem document: parts of the path or the query that do not even decode.
pub struct Checked<E>(pub E);

impl<S: Send + Sync, E: FromRequestParts<S, Rejection: Display>> FromRequestParts<S> for Checked<E> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Checked<E>, Failure> {
        let extracted = E::from_request_parts(parts, state).await;
        extracted.map(Checked).map_err(|e| Failure::new(Code::BadRequest, e.to_string()))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Refused { code, detail } => Failure::new(code, detail),
            other => Failure::ours(&other),
        }
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Failure {
        match error {
            BlobError::HashMismatch(_) => Failure::new(Code::HashMismatch, error.to_string()),
            other => Failure::ours(&other),
        }
    }
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Failure {
        match error {
            DriveError::Store(error) => error.into(),
            DriveError::Blobs(error) => error.into(),
            other => Failure::ours(&other),
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::ours(&error)
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Failure {
        match error {
            JobError::Refused { code, detail, field } => {
                let problem = Problem::new(code, detail);
                Failure(Box::new(match field {
                    Some(field) => problem.with_field(field),
                    None => problem,
                }))
            }
            JobError::Failed(error) => error.into(),
        }
    }
}
