//! The visitor's wish (run, pause, stop), set from outside the loop and awaited inside. It does nothing to a running
//! computation by itself: the loop passes the wish on.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

/// What the visitor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Run,
    Pause,
    /// Final.
    Stop,
}

struct Inner {
    wish: Wish,
    waiting: Vec<Waker>,
}

/// A shared wish; clones are the same switch.
#[derive(Clone)]
pub struct Switch(Arc<Mutex<Inner>>);

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// Set to run.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { wish: Wish::Run, waiting: Vec::new() })))
    }

    /// Sets the wish; nothing undoes a stop.
    pub fn set(&self, wish: Wish) {
        let mut inner = self.inner();
        if inner.wish != Wish::Stop {
            inner.wish = wish;
        }
        for waker in inner.waiting.drain(..) {
            waker.wake();
        }
    }

    pub fn wish(&self) -> Wish {
        self.inner().wish
    }

    /// Resolves once the wish satisfies `accept`, and gives it.
    pub async fn until(&self, accept: impl Fn(Wish) -> bool) -> Wish {
        poll_fn(|context| {
            let mut inner = self.inner();
            if accept(inner.wish) {
                return Poll::Ready(inner.wish);
            }
            if !inner.waiting.iter().any(|w| w.will_wake(context.waker())) {
                inner.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn stop_is_final_and_wakes() {
        let switch = Switch::new();
        let mut stopped = Box::pin(switch.until(|w| w == Wish::Stop));
        assert_eq!((&mut stopped).now_or_never(), None);
        switch.set(Wish::Pause);
        assert_eq!((&mut stopped).now_or_never(), None);
        switch.clone().set(Wish::Stop);
        switch.set(Wish::Run);
        assert_eq!(stopped.now_or_never(), Some(Wish::Stop));
    }
}
