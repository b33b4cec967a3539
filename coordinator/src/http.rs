//! The HTTP face: routes, and what holds for every answer. What calls do is in the modules beside.

mod admin;
mod auth;
mod blobs;
mod body;
mod challenges;
mod health;
mod jobs;
mod leases;
mod log;
mod problem;
mod results;
mod rotations;
mod sessions;
mod sites;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use manyhands_protocol::problem::Code;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::assets;
use crate::service::Service;

pub use problem::{Checked, Failure};

/// Shared by all handlers.
pub type Shared = State<Arc<Service>>;

/// The whole application.
pub fn router(service: Arc<Service>) -> Router {
    let api = Router::new()
        .route("/v1/info", get(jobs::info))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{id}", get(jobs::one))
        .route("/v1/jobs/{id}/events", get(jobs::events))
        .route("/v1/keys/{id}", get(jobs::key))
        .route("/v1/sessions", post(sessions::open).delete(sessions::withdraw))
        .route("/v1/rotations", post(rotations::rotate))
        .route("/v1/leases", post(leases::ask))
        .route("/v1/leases/{id}", delete(leases::give_back))
        .route("/v1/leases/{id}/heartbeat", post(leases::heartbeat))
        .route("/v1/blobs/{hash}", get(blobs::download).put(blobs::upload))
        .route("/v1/results", post(results::submit))
        .route("/v1/challenges/{lease}", get(challenges::ask).post(challenges::answer))
        .route("/v1/log/{*path}", get(log::resource))
        .route("/v1/log/receipts/{index}", get(log::receipt))
        .route("/v1/log/receipts/lease/{id}", get(log::receipt_of_lease))
        .route("/v1/log/consistency/{first}", get(log::consistency))
        .route("/v1/sites/{name}/totals", get(sites::totals))
        .route("/v1/admin/sites", get(sites::list))
        .route("/v1/admin/sites/{name}", put(sites::put).delete(sites::remove))
        .route("/v1/admin/sites/{name}/token", post(sites::token))
        .route("/v1/admin/jobs", get(admin::list).post(admin::submit))
        .route("/v1/admin/jobs/{id}", get(admin::one))
        .route("/v1/admin/jobs/{id}/export", get(admin::export))
        .route("/v1/admin/jobs/{id}/{action}", post(admin::change))
        .route("/v1/admin/blobs/{hash}", put(admin::upload))
        .route("/v1/admin/metrics", get(admin::metrics))
        .route("/v1/admin/stop", post(admin::stop))
        .route("/v1/admin/resume", post(admin::resume))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(refuse_foreign_pages));
    api.fallback(page).layer(middleware::from_fn_with_state(service.clone(), every_answer)).with_state(service)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::new(Code::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}

/// Everything that is no route: the page's files, and 404 under `/v1`.
async fn page(State(service): Shared, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if uri.path() == "/v1" || uri.path().starts_with("/v1/") {
        return Failure::new(Code::NotFound, format!("nothing at {}", uri.path())).into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed(method, uri).await.into_response();
    }
    match assets::frame_ancestors(&service, &uri).await {
        Ok(framed_by) => assets::serve(&uri, &headers, &framed_by),
        Err(failure) => failure.into_response(),
    }
}

/// Calls that change something come from the coordinator's own page or from no page at all. Browsers say which in headers
/// that scripts cannot set; there are no CORS headers, so nothing a foreign page sends is answered to it either.
async fn refuse_foreign_pages(request: Request, next: Next) -> Response {
    if request.method().is_safe() || !is_foreign(request.headers()) {
        return next.run(request).await;
    }
    Failure::new(Code::ForeignOrigin, "this call comes from a page of another origin").into_response()
}

fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        if site != "same-origin" && site != "none" {
            return true;
        }
        // A development server that proxies for us changes `Host`, so what the browser says of its own page decides.
        if site == "same-origin" {
            return false;
        }
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin_host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin_host.is_none() || origin_host != host
}

/// Runs a call to its end also when its caller hangs up meanwhile: what follows a write, such as telling listeners and the driver
/// of it, would be left out else. None if the coordinator ended first.
async fn to_the_end<T: Send + 'static>(
    ended: CancellationToken,
    call: impl Future<Output = T> + Send + 'static,
) -> Result<Option<T>, JoinError> {
    tokio::spawn(async move { ended.run_until_cancelled(call).await }).await
}

/// Methods that change something and are told apart in metrics: a caller may send any word.
const METHODS: [Method; 3] = [Method::POST, Method::PUT, Method::DELETE];

/// Headers of every answer, its count, and a problem document in place of a panic.
async fn every_answer(State(service): Shared, request: Request, next: Next) -> Response {
    let (begun, path, method) = (Instant::now(), request.uri().path().to_owned(), request.method().clone());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = match to_the_end(service.ended.clone(), next.run(request)).await {
        Ok(Some(response)) => response,
        stopped => {
            if stopped.is_err() {
                tracing::error!(path, "a handler panicked");
            }
            Failure::new(Code::Internal, "the coordinator failed; this is not your fault").into_response()
        }
    };
    let method = if method.is_safe() || METHODS.contains(&method) { method.as_str() } else { "other" };
    service.metrics.answered(route.as_ref().map(MatchedPath::as_str), method, response.status().as_u16(), begun.elapsed());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&'static str, &str)], foreign: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(is_foreign(&headers), foreign, "{pairs:?}");
    }

    #[tokio::test]
    async fn a_call_goes_on_when_its_caller_hangs_up_and_no_longer_than_the_coordinator() {
        use futures::FutureExt;
        for (ends, expected) in [(false, Some("told")), (true, None)] {
            let ended = CancellationToken::new();
            let (go_on, waits) = tokio::sync::oneshot::channel::<()>();
            let (tell, told) = tokio::sync::oneshot::channel();
            let call = async move {
                let _ = waits.await;
                let _ = tell.send("told");
            };
            let caller = to_the_end(ended.clone(), call);
            // Asked once, and dropped.
            assert!(Box::pin(caller).as_mut().now_or_never().is_none());
            if ends {
                ended.cancel();
            }
            tokio::task::yield_now().await;
            let _ = go_on.send(());
            assert_eq!(told.await.ok(), expected);
        }
    }

    #[test]
    fn pages_of_other_origins_are_foreign() {
        check(&[("host", "hands.example")], false);
        check(&[("host", "hands.example"), ("origin", "https://hands.example")], false);
        check(&[("host", "127.0.0.1:8787"), ("origin", "http://127.0.0.1:8787")], false);
        check(&[("host", "127.0.0.1:8787"), ("origin", "http://127.0.0.1:9999")], true);
        check(&[("host", "hands.example"), ("origin", "https://evil.example")], true);
        check(&[("host", "hands.example"), ("origin", "https://hands.example.evil.example")], true);
        check(&[("host", "hands.example"), ("origin", "null")], true);
        check(&[("origin", "https://hands.example")], true);
        check(&[("host", "hands.example"), ("sec-fetch-site", "cross-site")], true);
        check(&[("host", "hands.example"), ("sec-fetch-site", "same-site")], true);
        check(&[("host", "hands.example"), ("sec-fetch-site", "none"), ("origin", "https://evil.example")], true);
        check(&[("host", "127.0.0.1:8787"), ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8080")], false);
    }
}
