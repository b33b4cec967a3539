//! The public log, for anyone: its checkpoint, tiles and entries, and receipts.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use manyhands_protocol::LeaseId;
use manyhands_protocol::log::receipt::ReceiptResponse;
use manyhands_protocol::log::tile::{self, Resource};
use manyhands_protocol::problem::Code;
use serde::Deserialize;

use super::{Checked, Failure, Shared, body};
use crate::log;
use crate::service::Service;
use crate::store::LogHead;

const TEXT: &str = "text/plain; charset=utf-8";
/// What is named by its place in the log never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";

#[derive(Deserialize)]
pub struct CheckpointQuery {
    /// Of the newest checkpoint that so many witnesses cosigned; the newest of all where that is not said.
    cosignatures: Option<usize>,
}

/// `GET /v1/log/{path}`: what C2SP tlog-tiles lays out.
pub async fn resource(
    State(service): Shared,
    Checked(Path(path)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<CheckpointQuery>>,
) -> Result<Response, Failure> {
    let nothing = || Failure::new(Code::NotFound, format!("the log has no {path}"));
    let resource = Resource::parse(&path).ok_or_else(nothing)?;
    let head = head(&service).await?;
    let has = |level, number, width| width <= tile::width(level, number, head.size);
    match resource {
        Resource::Checkpoint => {
            let note = match query.cosignatures {
                None | Some(0) => service.witnesses.on(&head),
                Some(count) => service.witnesses.newest_with(count).ok_or_else(|| {
                    Failure::new(Code::NotLogged, format!("no checkpoint has {count} cosignatures of witnesses yet"))
                })?,
            };
            Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], note).into_response())
        }
        Resource::Tile { level, number, width } if has(level, number, width) => {
            let hashes = service.store.log_tile(level, number).await?.ok_or_else(nothing)?;
            Ok(unchanging(hashes[..width as usize].concat()))
        }
        Resource::Entries { number, width } if has(0, number, width) => {
            let entries = service.store.log_entries(number * tile::WIDTH, width).await?;
            Ok(unchanging(tile::bundle(entries.iter().map(Vec::as_slice))))
        }
        Resource::Tile { .. } | Resource::Entries { .. } => Err(nothing()),
    }
}

fn unchanging(bytes: Vec<u8>) -> Response {
    let kind = [(header::CONTENT_TYPE, body::OCTETS), (header::CACHE_CONTROL, FOREVER)];
    (kind.map(|(name, value)| (name, HeaderValue::from_static(value))), bytes).into_response()
}

async fn head(service: &Service) -> Result<LogHead, Failure> {
    let head = service.store.log_head().await?;
    head.ok_or_else(|| Failure::new(Code::NotLogged, "the log has no checkpoint yet"))
}

#[derive(Deserialize)]
pub struct SizeQuery {
    /// Of the tree that the receipt is about; the newest one's where that is not said.
    size: Option<u64>,
}

impl SizeQuery {
    async fn of(self, service: &Service) -> Result<u64, Failure> {
        let newest = head(service).await?.size;
        match self.size {
            Some(size) if size > newest => Err(Failure::new(Code::NotLogged, format!("the log has {newest} entries"))),
            size => Ok(size.unwrap_or(newest)),
        }
    }
}

/// `GET /v1/log/receipts/{index}`.
pub async fn receipt(
    State(service): Shared,
    Checked(Path(index)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<SizeQuery>>,
) -> Result<Response, Failure> {
    let index = body::parse_id(&index, "place in the log")?;
    of_entry(&service, index, query.of(&service).await?).await
}

/// `GET /v1/log/receipts/lease/{id}`: of the result that was given under this lease.
pub async fn receipt_of_lease(
    State(service): Shared,
    Checked(Path(lease)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<SizeQuery>>,
) -> Result<Response, Failure> {
    let lease: LeaseId = body::parse_id(&lease, "lease")?;
    let size = query.of(&service).await?;
    let index = service.store.log_index(lease).await?;
    let index = index.ok_or_else(|| Failure::new(Code::NotLogged, format!("no result of lease {lease} is in the log")))?;
    of_entry(&service, index, size).await
}

async fn of_entry(service: &Service, index: u64, size: u64) -> Result<Response, Failure> {
    let not_logged = || Failure::new(Code::NotLogged, format!("the tree of {size} entries has no {index}"));
    let receipt = log::inclusion(service, index, size).await?.ok_or_else(not_logged)?;
    let entry = service.store.log_entries(index, 1).await?.pop().ok_or_else(not_logged)?;
    Ok(body::cbor_response(StatusCode::OK, &ReceiptResponse { index, entry, receipt }))
}

/// `GET /v1/log/consistency/{first}`: that the log still begins with its first so many entries.
pub async fn consistency(
    State(service): Shared,
    Checked(Path(first)): Checked<Path<String>>,
    Checked(Query(query)): Checked<Query<SizeQuery>>,
) -> Result<Response, Failure> {
    let first: u64 = body::parse_id(&first, "number of entries")?;
    let size = query.of(&service).await?;
    let receipt = log::consistency(&service, first, size).await?;
    let receipt = receipt.ok_or_else(|| Failure::new(Code::NotLogged, format!("{first} entries are more than {size}")))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(body::COSE))], receipt).into_response())
}
