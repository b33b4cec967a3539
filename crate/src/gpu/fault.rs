//! The first thing that went wrong with a device outside any call that could report it: loss, or an error nobody's
//! scope caught. Waiting for a device is waiting for it or for its fault.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use crate::engine::EngineError;

#[derive(Default)]
struct State {
    error: Option<EngineError>,
    /// One for each [`Raised`] that was looked at.
    waiting: Vec<(u64, Waker)>,
    raised_count: u64,
}

/// Shared between an engine and its device's callbacks.
#[derive(Clone, Default)]
pub struct Fault(Arc<Mutex<State>>);

impl Fault {
    /// Keeps the first error and wakes whoever waits. A loss replaces what it caused.
    pub fn raise(&self, error: EngineError) {
        let mut state = self.state();
        if state.error.is_none() || matches!(error, EngineError::DeviceLost(_)) {
            state.error = Some(error);
        }
        let waiting = std::mem::take(&mut state.waiting);
        // A waker may drop who waits, and with it a [`Raised`].
        drop(state);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Fails if anything was raised. A lost device stays lost; other errors are reported once.
    pub fn check(&self) -> Result<(), EngineError> {
        let mut state = self.state();
        match &state.error {
            Some(lost @ EngineError::DeviceLost(_)) => Err(lost.clone()),
            _ => state.error.take().map_or(Ok(()), Err),
        }
    }

    /// Resolves once something was raised.
    pub fn raised(&self) -> Raised<'_> {
        let mut state = self.state();
        state.raised_count += 1;
        Raised { fault: self, id: state.raised_count }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// See [`Fault::raised`].
pub struct Raised<'a> {
    fault: &'a Fault,
    id: u64,
}

impl Future for Raised<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.fault.state();
        if state.error.is_some() {
            return Poll::Ready(());
        }
        state.waiting.retain(|(id, _)| *id != self.id);
        state.waiting.push((self.id, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.fault.state().waiting.retain(|(id, _)| *id != self.id);
    }
}

/// wgpu's error in the engine's terms.
pub fn engine_error(error: wgpu::Error) -> EngineError {
    match error {
        wgpu::Error::OutOfMemory { source } => EngineError::OutOfMemory(source.to_string()),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            EngineError::Validation(description)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wgpus_errors_keep_their_kind() {
        let source = || Box::new(std::fmt::Error);
        let memory = engine_error(wgpu::Error::OutOfMemory { source: source() });
        assert!(matches!(memory, EngineError::OutOfMemory(_)) && memory.retryable());
        let description = "a call".to_owned();
        let refused = engine_error(wgpu::Error::Validation { source: source(), description: description.clone() });
        assert_eq!(refused, EngineError::Validation(description.clone()));
        let internal = engine_error(wgpu::Error::Internal { source: source(), description: description.clone() });
        assert_eq!(internal, EngineError::Validation(description));
    }

    #[test]
    fn a_loss_stays_and_other_errors_are_told_once() {
        let fault = Fault::default();
        assert_eq!(fault.check(), Ok(()));
        fault.raise(EngineError::Validation("a".to_owned()));
        fault.raise(EngineError::Validation("b".to_owned()));
        assert_eq!(fault.check(), Err(EngineError::Validation("a".to_owned())));
        assert_eq!(fault.check(), Ok(()));
        fault.raise(EngineError::Validation("c".to_owned()));
        fault.raise(EngineError::DeviceLost("d".to_owned()));
        assert_eq!(fault.check(), Err(EngineError::DeviceLost("d".to_owned())));
        assert_eq!(fault.check(), Err(EngineError::DeviceLost("d".to_owned())));
        pollster::block_on(fault.raised());
    }

    #[test]
    fn whoever_waits_is_kept_once_and_until_then() {
        let fault = Fault::default();
        let waiting = || fault.state().waiting.len();
        let mut context = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (fault.raised(), fault.raised());
        for _ in 0..3 {
            assert!(Pin::new(&mut first).poll(&mut context).is_pending());
            assert!(Pin::new(&mut second).poll(&mut context).is_pending());
        }
        assert_eq!(waiting(), 2);
        drop(first);
        assert_eq!(waiting(), 1);
        fault.raise(EngineError::Validation("a".to_owned()));
        assert_eq!(waiting(), 0);
        assert!(Pin::new(&mut second).poll(&mut context).is_ready());
    }
}
