//! Blob bytes: uploads under a lease, downloads of what is public.

use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use manyhands_protocol::problem::Code;
use manyhands_protocol::{BlobHash, LeaseId, limits};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Checked, Failure, Shared, auth, body};
use crate::blobs::Upload;
use crate::service::Service;

/// Longest time an upload may take.
const UPLOAD_WAIT: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
pub struct UploadQuery {
    lease: Option<String>,
}

/// `PUT /v1/blobs/{sha256}?lease={id}`.
pub async fn upload(
    State(service): Shared,
    Checked(Path(hash)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<UploadQuery>>,
    headers: HeaderMap,
    request: Body,
) -> Result<StatusCode, Failure> {
    let session = auth::session(&service, &headers).await?;
    let hash: BlobHash = body::parse_id(&hash, "SHA-256 in lower-case hexadecimal")?;
    let Some(lease) = query.lease else {
        return Err(Failure::new(Code::BadRequest, "the query must name the lease: ?lease=ID"));
    };
    let lease: LeaseId = body::parse_id(&lease, "lease id")?;
    let bytes = upload_length(&headers)?;
    service.store.check_upload(lease, session.key, hash, bytes, service.now_ms()).await?;
    // One at a time for each lease, so that its allowance bounds what it can have written.
    let Some(_entered) = service.uploading.enter(lease) else {
        return Err(Failure::new(Code::TooManyRequests, format!("another upload under lease {lease} is under way")));
    };
    let Some(_place) = service.enter_upload(session.key) else {
        let detail = format!("{} uploads of this key are under way", limits::UPLOADS_PER_KEY_MAX);
        return Err(Failure::new(Code::TooManyRequests, detail));
    };
    let received = receive(&service, &service.uploads, hash, bytes, request).await?;
    // The lease may have ended meanwhile: better before there is a file than after.
    service.store.check_upload(lease, session.key, hash, bytes, service.now_ms()).await?;
    let _publishing = service.publishing.read().await;
    received.finish().await?;
    let new = service.store.add_upload(lease, session.key, hash, bytes, service.now_ms()).await?;
    Ok(if new { StatusCode::CREATED } else { StatusCode::OK })
}

/// The announced length of a blob, checked against the limit.
pub fn upload_length(headers: &HeaderMap) -> Result<u64, Failure> {
    body::check_type(headers, body::OCTETS)?;
    let Some(bytes) = body::announced_length(headers)? else {
        return Err(Failure::new(Code::LengthRequired, "an upload needs Content-Length"));
    };
    if bytes > limits::BLOB_BYTES_MAX {
        return Err(Failure::new(Code::BodyTooLarge, format!("a blob has at most {} bytes", limits::BLOB_BYTES_MAX)));
    }
    Ok(bytes)
}

/// Streams a body of exactly `bytes` towards the blob store. To be finished by the caller, under `service.publishing`.
pub async fn receive(service: &Service, slots: &Semaphore, hash: BlobHash, bytes: u64, request: Body) -> Result<Upload, Failure> {
    let Ok(_slot) = slots.try_acquire() else {
        return Err(Failure::new(Code::TooManyRequests, "many uploads are under way; try again"));
    };
    let receive = async {
        let mut upload = service.blobs.begin(hash);
        let (mut received, mut pieces) = (0, request.into_data_stream());
        let silence = service.config.upload_silence;
        let silent = |_| Failure::new(Code::BadRequest, format!("the upload was silent for {} ms", silence.as_millis()));
        while let Some(piece) = timeout(silence, pieces.next()).await.map_err(silent)? {
            let piece = piece.map_err(|e| Failure::new(Code::BadRequest, format!("the upload ended early: {e}")))?;
            received += piece.len() as u64;
            if received > bytes {
                return Err(Failure::new(Code::BadRequest, "the body is longer than Content-Length"));
            }
            upload.write(&piece).await?;
        }
        if received != bytes {
            return Err(Failure::new(Code::BadRequest, format!("{received} of {bytes} bytes arrived")));
        }
        Ok(upload)
    };
    match timeout(UPLOAD_WAIT, receive).await {
        Ok(received) => received,
        Err(_) => Err(Failure::new(Code::BadRequest, format!("the upload took longer than {} s", UPLOAD_WAIT.as_secs()))),
    }
}

/// `GET /v1/blobs/{sha256}`, and `HEAD`.
pub async fn download(
    State(service): Shared,
    Checked(Path(hash)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let hash: BlobHash = body::parse_id(&hash, "SHA-256 in lower-case hexadecimal")?;
    // A blob that exists but is not public is no different from one that does not.
    let blob = match service.store.blob(hash).await? {
        Some(blob) if blob.public => blob,
        _ => return Err(Failure::new(Code::UnknownBlob, format!("no public blob {hash}"))),
    };
    let etag = format!("\"{hash}\"");
    let fixed = [
        (header::CONTENT_TYPE, body::OCTETS.to_owned()),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, etag.clone()),
    ];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tags| tags.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, fixed).into_response());
    }
    let range = headers.get(header::RANGE).and_then(|range| single_range(range, blob.bytes));
    let stream = service.blobs.stream(hash, range.clone()).await?;
    let (status, length) = match &range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.end - range.start),
        None => (StatusCode::OK, blob.bytes),
    };
    let mut response = (status, fixed, [(header::CONTENT_LENGTH, length.to_string())], Body::from_stream(stream)).into_response();
    if let Some(range) = range {
        let value = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.bytes);
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

/// One satisfiable `bytes=a-b` or `bytes=a-` range. Anything else is ignored, as RFC 9110 section 14.2 allows.
fn single_range(value: &HeaderValue, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = first.parse().ok()?;
    let end = if last.is_empty() { bytes } else { last.parse::<u64>().ok()?.checked_add(1)?.min(bytes) };
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_or_the_whole() {
        let check =
            |text: &'static str, expected| assert_eq!(single_range(&HeaderValue::from_static(text), 10), expected, "{text}");
        check("bytes=2-4", Some(2..5));
        check("bytes=2-", Some(2..10));
        check("bytes=2-99", Some(2..10));
        check("bytes=10-", None);
        check("bytes=4-2", None);
        check("bytes=-3", None);
        check("bytes=0-1,3-4", None);
        check("bytes=0-18446744073709551615", None);
        check("items=0-1", None);
    }
}
