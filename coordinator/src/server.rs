//! Accepts connections: at most so many, none of them idle for ever between two requests, and all of them ended in an orderly
//! way. A client that stops reading an answer keeps its connection. Routes are in `http`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::prefix::Peer;

/// How long a connection may take to send a request's head, and how long it may be idle between two.
const HEAD_WAIT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head, and of what is read ahead of a slow handler.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept: the machine is out of file handles, say.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Serves until the shutdown, and then until the calls under way are answered.
pub async fn run(listener: TcpListener, router: Router, connections_count_max: usize, shutdown: CancellationToken) {
    let (slots, ending) = (Arc::new(Semaphore::new(connections_count_max)), GracefulShutdown::new());
    // Dropped with this future: then every connection is cut off.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let inner = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            inner.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = ending.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    ending.shutdown().await;
}

/// The next connection, once there is room for it; none after a failure.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, Peer, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, Peer(peer.ip()), slot))
        }
        Err(error) => {
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(ACCEPT_RETRY).await;
            None
        }
    }
}
