//! Results in, verdicts out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::ResultStatement;
use manyhands_protocol::wire::{ResultResponse, Verdict};
use manyhands_protocol::{cbor, cose, limits};

use super::{Failure, Shared, auth, body, sessions};
use crate::driver::check;
use crate::service::{QueuedCheck, Service};
use crate::store::{Challenge, NewResult, ResultRow};

/// `POST /v1/results`.
pub async fn submit(State(service): Shared, headers: HeaderMap, request: Body) -> Result<Response, Failure> {
    let session = auth::session(&service, &headers).await?;
    let statement = body::read(&headers, request, body::COSE, limits::CBOR_BODY_BYTES_MAX).await?;
    let (key, payload) = sessions::open_signed(cose::Kind::Result, &statement)?;
    if key != session.key {
        return Err(Failure::new(Code::WrongKey, format!("the statement is by {key}, the session is of {}", session.key)));
    }
    let result: ResultStatement = cbor::decode_strict(&payload).map_err(|e| Failure::new(Code::BadCbor, e.to_string()))?;
    if result.version != limits::PROTOCOL_VERSION {
        return Err(Failure::new(Code::BadRequest, "the statement is of another protocol version"));
    }
    if let Some(field) = result.overlong() {
        return Err(Failure::new(Code::BadRequest, format!("{field} is too long")));
    }
    let [output] = result.outputs.as_slice() else {
        return Err(Failure::new(
            Code::BadRequest,
            format!("a unit has one output, the statement names {}", result.outputs.len()),
        ));
    };
    // Before anything is stored: a result that is stored is also checked.
    let Some(queued) = service.queue_check() else {
        return Err(Failure::new(Code::TooManyRequests, "many results wait to be checked; try again"));
    };
    let new = NewResult {
        job: result.job,
        unit: result.unit,
        lease: result.lease,
        key,
        manifest: result.manifest,
        statement,
        output_name: output.name.clone(),
        output: output.hash,
        output_bytes: output.bytes,
        losses_count: result.losses_micro.len(),
        states_every: result.states.map(|states| states.every),
        backend: result.device.backend.name(),
        received_ms: service.now_ms(),
    };
    let (row, is_new) = service.store.add_result(new).await?;
    let row = if is_new {
        service.events.touch(row.job);
        checked(&service, row, queued).await?
    } else {
        // Its check is under way, or the driver's to repeat: asking for the verdict costs no other.
        row
    };
    let is_open = |challenge: Challenge| challenge.stage.is_open();
    let verdict = match row.verdict {
        Verdict::Pending if service.store.challenge(row.lease).await?.is_some_and(is_open) => Verdict::Challenged,
        verdict => verdict,
    };
    let answer = ResultResponse { unit: row.unit, lease: row.lease, verdict, reason: row.reason, credit_flop: row.credit_flop };
    Ok(body::cbor_response(StatusCode::OK, &answer))
}

/// The result after its check. The check goes on when the caller hangs up; when it fails on our side, the driver repeats it
/// and the caller hears `pending` meanwhile.
async fn checked(service: &Arc<Service>, row: ResultRow, queued: QueuedCheck) -> Result<ResultRow, Failure> {
    let (id, task_service, task_row) = (row.id, service.clone(), row.clone());
    let check = tokio::spawn(async move {
        // Held as long as the check lasts, not as long as the caller waits.
        let _queued = queued;
        let Some(_entered) = task_service.checking.enter(id) else { return };
        if let Err(error) = check::check_result(&task_service, &task_row).await {
            tracing::error!(result = id, %error, "a check failed; it is tried again");
        }
    });
    if check.await.is_err() {
        tracing::error!(result = id, "a check panicked; it is tried again");
    }
    // Also after a failure: the driver looks for what was left.
    service.driver.notify_one();
    Ok(service.store.result(id).await?.unwrap_or(row))
}
