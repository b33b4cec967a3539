//! Request bodies: the right type, not too long, not too slow.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use manyhands_protocol::cbor;
use manyhands_protocol::problem::Code;
use minicbor::Encode;

use super::Failure;

pub const CBOR: &str = "application/cbor";
pub const COSE: &str = "application/cose";
pub const JSON: &str = "application/json";
pub const OCTETS: &str = "application/octet-stream";

/// Longest time a body of a call may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(30);

/// Refuses a body of another type; parameters of the type do not matter.
pub fn check_type(headers: &HeaderMap, expected: &'static str) -> Result<(), Failure> {
    let got = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = got.split(';').next().unwrap_or(got).trim();
    if essence.eq_ignore_ascii_case(expected) {
        Ok(())
    } else {
        Err(Failure::new(Code::WrongContentType, format!("the body's type is {got}, this call takes {expected}")))
    }
}

/// The length that the request announces, if it does.
pub fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|value| value.parse().ok());
    length.map(Some).ok_or_else(|| Failure::new(Code::BadRequest, "Content-Length is no number"))
}

fn too_large(bytes_max: usize) -> Failure {
    Failure::new(Code::BodyTooLarge, format!("the body is longer than {bytes_max} bytes"))
}

/// The whole body, of at most `bytes_max` bytes.
pub async fn read(headers: &HeaderMap, body: Body, expected: &'static str, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    check_type(headers, expected)?;
    if announced_length(headers)?.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let read = async {
        let (mut bytes, mut pieces) = (Vec::new(), body.into_data_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| Failure::new(Code::BadRequest, format!("the body ended early: {e}")))?;
            if bytes.len() + piece.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    match tokio::time::timeout(BODY_WAIT, read).await {
        Ok(read) => read,
        Err(_) => Err(Failure::new(Code::BadRequest, format!("the body took longer than {} s", BODY_WAIT.as_secs()))),
    }
}

/// A CBOR answer.
pub fn cbor_response<T: Encode<()>>(status: StatusCode, value: &T) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(CBOR))], cbor::encode(value)).into_response()
}

/// An id from the path.
pub fn parse_id<T: FromStr>(text: &str, what: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::new(Code::BadRequest, format!("{text} is not a {what}")))
}
