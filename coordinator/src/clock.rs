//! Time as a dependency: the system's clock, and one that a test moves by hand. Nothing else here reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::watch;

/// Milliseconds since the Unix epoch, and waiting for them.
#[async_trait]
pub trait Clock: Send + Sync {
    fn now_ms(&self) -> u64;

    /// Returns once `now_ms` is at least `until_ms`.
    async fn wait_until(&self, until_ms: u64);

    /// Returns once so much time has passed, whatever becomes of `now_ms` meanwhile.
    async fn wait(&self, ms: u64);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// Longest single timer, so that a clock that is set forward is noticed.
const TIMER_MS_MAX: u64 = 60_000;

#[async_trait]
impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    async fn wait_until(&self, until_ms: u64) {
        loop {
            let left = until_ms.saturating_sub(self.now_ms());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left.min(TIMER_MS_MAX))).await;
        }
    }

    async fn wait(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(watch::Sender<u64>);

impl ManualClock {
    pub fn new(now_ms: u64) -> ManualClock {
        ManualClock(watch::Sender::new(now_ms))
    }

    pub fn advance(&self, ms: u64) {
        self.0.send_modify(|now| *now += ms);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        *self.0.borrow()
    }

    async fn wait_until(&self, until_ms: u64) {
        // The sender is in `self`, so the channel cannot close while this waits.
        let _ = self.0.subscribe().wait_for(|now| *now >= until_ms).await;
    }

    async fn wait(&self, ms: u64) {
        self.wait_until(self.now_ms() + ms).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn manual_time_passes_only_when_moved() {
        let clock = ManualClock::new(10);
        assert!(clock.wait_until(10).now_or_never().is_some());
        assert!(clock.wait_until(11).now_or_never().is_none());
        clock.advance(1);
        assert_eq!(clock.now_ms(), 11);
        assert!(clock.wait_until(11).now_or_never().is_some());
    }
}
