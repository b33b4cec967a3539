//! Computing beside the caller: natively on a thread of its own, for an engine there may keep its thread busy for as long
//! as a slice lasts and heartbeats must go on; in a worker the engine yields to the event loop.

use crate::engine::EngineError;

#[cfg(not(target_arch = "wasm32"))]
pub async fn beside<T, F>(compute: impl FnOnce() -> F + Send + 'static) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EngineError>>,
{
    let (send, receive) = futures::channel::oneshot::channel();
    std::thread::spawn(move || {
        // The receiver is gone when the visit ended meanwhile.
        let _ = send.send(futures::executor::block_on(compute()));
    });
    receive.await.unwrap_or_else(|_| Err(EngineError::Validation("the computation panicked".to_owned())))
}

#[cfg(target_arch = "wasm32")]
pub async fn beside<T, F>(compute: impl FnOnce() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    compute().await
}
