//! How long to wait before trying again. Pure: the caller brings the randomness and does the waiting.

/// First wait, before jitter.
pub const FIRST_MS: u64 = 250;
/// Longest wait that grows from failures; a coordinator may ask for more, up to [`ASKED_MS_MAX`].
pub const GROWN_MS_MAX: u64 = 15_000;
/// Longest wait a coordinator can ask for.
pub const ASKED_MS_MAX: u64 = 120_000;

/// Waits that double, with jitter, so that tabs of a restarted coordinator do not return all at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait. `random` is uniform in [0, 1); `asked_ms` is what the answer asked for, and is never undercut.
    pub fn next_ms(&mut self, random: f64, asked_ms: Option<u64>) -> u64 {
        let full = FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(GROWN_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        let jittered = full / 2 + (random.clamp(0.0, 1.0) * (full / 2) as f64) as u64;
        jittered.max(asked_ms.unwrap_or(0).min(ASKED_MS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_honours_what_was_asked() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| backoff.next_ms(0.0, None)).collect();
        assert_eq!(waits, [125, 250, 500, 1000, 2000, 4000, 7500, 7500, 7500]);
        assert_eq!(backoff.next_ms(1.0, None), GROWN_MS_MAX);
        assert_eq!(Backoff::default().next_ms(0.5, Some(9_000)), 9_000);
        assert_eq!(Backoff::default().next_ms(0.5, Some(u64::MAX)), ASKED_MS_MAX);
        assert_eq!(Backoff::default().next_ms(f64::NAN, None), 125);
    }
}
