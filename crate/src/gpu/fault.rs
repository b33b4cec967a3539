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
    waiting: Vec<Waker>,
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
        state.waiting.drain(..).for_each(Waker::wake);
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
        Raised(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// See [`Fault::raised`].
pub struct Raised<'a>(&'a Fault);

impl Future for Raised<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.error.is_some() {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
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
}
