//! Waiting, in a future that clears its timer when dropped.

use futures::channel::oneshot;
use gloo::timers::callback::Timeout;

/// Resolves after `ms` milliseconds.
pub async fn sleep(ms: u64) {
    let (send, receive) = oneshot::channel::<()>();
    // A timer's longest wait is 2^31 - 1 ms; it also fires when the receiver is gone.
    let _timer = Timeout::new(ms.min(i32::MAX as u64) as u32, move || {
        let _ = send.send(());
    });
    let _ = receive.await;
}
