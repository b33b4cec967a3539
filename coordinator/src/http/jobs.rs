//! What anyone may read: the coordinator, its jobs and their live events, keys.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use manyhands_protocol::problem::Code;
use manyhands_protocol::view::{InfoView, JobState, JobView, JobsView, KeyView};
use manyhands_protocol::{JobId, KeyId, limits};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Checked, Failure, Shared, auth, body};
use crate::events::{JobEvent, read_event};
use crate::service::Service;

/// States that everyone may see in the list.
const LISTED: &[JobState] = &[JobState::Running, JobState::Paused, JobState::Finished];

/// `GET /v1/info`.
pub async fn info(State(service): Shared) -> Result<Json<InfoView>, Failure> {
    let now_ms = service.now_ms();
    Ok(Json(InfoView {
        name: service.config.name.clone(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_version: limits::PROTOCOL_VERSION,
        terms_version: limits::TERMS_VERSION,
        key: service.keys.id(),
        nonce: hex::encode(service.keys.nonce(now_ms)?),
        nonce_ms: limits::NONCE_MS,
        now_ms,
        lease_ms: limits::LEASE_MS,
        heartbeat_ms: limits::HEARTBEAT_MS,
        blob_bytes_max: limits::BLOB_BYTES_MAX,
        session_ms_max: limits::SESSION_MS_MAX,
        stopped: service.store.stopped().await?,
    }))
}

/// Views of all jobs in these states.
pub async fn views(service: &Service, states: &[JobState]) -> Result<JobsView, Failure> {
    let mut jobs = Vec::new();
    for job in service.store.jobs(states).await? {
        jobs.extend(service.store.job_view(job.id, service.now_ms()).await?.map(|(_, view)| view));
    }
    Ok(JobsView { jobs })
}

#[derive(Deserialize)]
pub struct ListQuery {
    site: Option<String>,
}

/// `GET /v1/jobs`, and `?site=NAME`: those that may run on a site.
pub async fn list(State(service): Shared, Checked(Query(query)): Checked<Query<ListQuery>>) -> Result<Json<JobsView>, Failure> {
    let mut list = views(&service, LISTED).await?;
    if let Some(name) = query.site {
        let Some(site) = service.store.site(&name).await? else {
            return Err(Failure::new(Code::UnknownSite, format!("no site {name}")));
        };
        list.jobs.retain(|job| site.categories.contains(&job.category));
    }
    Ok(Json(list))
}

/// The job with the id in the path. What the operator has not approved is for the operator alone.
async fn find(service: &Service, id: &str, headers: &HeaderMap) -> Result<JobView, Failure> {
    let id: JobId = body::parse_id(id, "job id")?;
    let unknown = || Failure::new(Code::UnknownJob, format!("no job {id}"));
    if !auth::is_admin(service, headers) && service.store.job(id).await?.is_none_or(|job| !job.approved) {
        return Err(unknown());
    }
    service.store.job_view(id, service.now_ms()).await?.map(|(_, view)| view).ok_or_else(unknown)
}

/// `GET /v1/jobs/{id}`.
pub async fn one(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Json<JobView>, Failure> {
    Ok(Json(find(&service, &id, &headers).await?))
}

/// `GET /v1/keys/{id}`.
pub async fn key(State(service): Shared, Checked(Path(id)): Checked<Path<String>>) -> Result<Json<KeyView>, Failure> {
    let id: KeyId = body::parse_id(&id, "key in lower-case hexadecimal")?;
    let found = service.store.key(id).await?;
    found.map(Json).ok_or_else(|| Failure::new(Code::UnknownKey, format!("key {id} never opened a session")))
}

/// `GET /v1/jobs/{id}/events`: the newest view at once, unless the client has it, and again after each change.
pub async fn events(
    State(service): Shared,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let job = find(&service, &id, &headers).await?.id;
    let Ok(slot) = service.streams.clone().try_acquire_owned() else {
        return Err(Failure::new(Code::TooManyRequests, "too many event streams are open; try again, or poll"));
    };
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    // Subscribed before the first view is read, so that no change falls between the two.
    let newest = service.events.subscribe(job);
    let first = read_event(&*service.store, job, service.now_ms()).await?.map(Arc::new);
    let listener = Listener { service, newest, pending: first, seen, _slot: slot };
    Ok(Sse::new(events_of(listener)).keep_alive(KeepAlive::default()).into_response())
}

struct Listener {
    service: Arc<Service>,
    newest: watch::Receiver<Option<Arc<JobEvent>>>,
    /// The first view, until it is sent.
    pending: Option<Arc<JobEvent>>,
    /// Version the client has.
    seen: Option<u64>,
    _slot: OwnedSemaphorePermit,
}

impl Listener {
    /// The next view the client does not have; none ends the stream.
    async fn next(&mut self) -> Option<Arc<JobEvent>> {
        loop {
            let event = match self.pending.take() {
                Some(event) => event,
                None => {
                    tokio::select! {
                        () = self.service.shutdown.cancelled() => return None,
                        changed = self.newest.changed() => changed.ok()?,
                    }
                    let Some(event) = self.newest.borrow_and_update().clone() else { continue };
                    event
                }
            };
            // A stored state that was restored from a backup may be older: then equality alone means that it is known.
            if self.seen != Some(event.version) {
                self.seen = Some(event.version);
                return Some(event);
            }
        }
    }
}

fn events_of(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(Event::default().event("job").id(event.version.to_string()).data(&event.json)), listener))
    })
}
