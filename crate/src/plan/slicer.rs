//! How much work goes between two breaths: a budget in floating-point operations that follows the time slices take.

use crate::control::Control;
use crate::engine::EngineError;

/// How long a slice should take. Ten of them fit into the second within which Stop must work.
const SLICE_MS: f64 = 50.0;
/// Work of the first slice: 30 to 60 milliseconds on a software adapter.
const FIRST_FLOP: u64 = 1 << 27;
const LEAST_FLOP: u64 = 1 << 22;
const MOST_FLOP: u64 = 1 << 44;

/// The budget of one computation.
pub struct Slicer<'a> {
    control: &'a Control,
    budget_flop: u64,
    spent_flop: u64,
    started_ms: f64,
}

impl<'a> Slicer<'a> {
    pub fn new(control: &'a Control) -> Self {
        Self { control, budget_flop: FIRST_FLOP, spent_flop: 0, started_ms: control.now_ms() }
    }

    /// One slice without an end, for measurements.
    pub fn endless(control: &'a Control) -> Self {
        Self { budget_flop: u64::MAX, ..Self::new(control) }
    }

    /// Counts work; true once the slice is full.
    pub fn add(&mut self, flop: u64) -> bool {
        self.spent_flop = self.spent_flop.saturating_add(flop);
        self.spent_flop >= self.budget_flop
    }

    /// Ends a slice whose work is done, lets others run and begins the next.
    pub async fn breathe(&mut self) -> Result<(), EngineError> {
        let worked_ms = self.control.now_ms() - self.started_ms;
        if worked_ms > 2.0 * SLICE_MS {
            self.budget_flop = (self.budget_flop / 2).max(LEAST_FLOP);
        } else if worked_ms > 0.0 && worked_ms < SLICE_MS / 2.0 && self.spent_flop >= self.budget_flop {
            self.budget_flop = (self.budget_flop * 2).min(MOST_FLOP);
        }
        self.spent_flop = 0;
        self.control.between_slices(worked_ms).await?;
        self.started_ms = self.control.now_ms();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Pace, PaceFuture};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock that the test moves, by a millisecond per so much work.
    struct Scripted {
        now_ms: std::sync::Arc<AtomicU64>,
        slices: std::sync::Arc<Mutex<Vec<f64>>>,
    }

    impl Pace for Scripted {
        fn now_ms(&self) -> f64 {
            self.now_ms.load(Ordering::SeqCst) as f64
        }

        fn breathe(&self, worked_ms: f64) -> PaceFuture {
            self.slices.lock().unwrap().push(worked_ms);
            Box::pin(std::future::ready(()))
        }
    }

    fn slices(flop_per_ms: u64, work: u64) -> Vec<f64> {
        let (now_ms, slices) = <(std::sync::Arc<AtomicU64>, std::sync::Arc<Mutex<Vec<f64>>>)>::default();
        let control = Control::with_pace(Scripted { now_ms: now_ms.clone(), slices: slices.clone() });
        let mut slicer = Slicer::new(&control);
        let (call, mut done, mut unaccounted) = (1u64 << 20, 0u64, 0u64);
        while done < work {
            done += call;
            unaccounted += call;
            now_ms.fetch_add(unaccounted / flop_per_ms, Ordering::SeqCst);
            unaccounted %= flop_per_ms;
            if slicer.add(call) {
                pollster::block_on(slicer.breathe()).unwrap();
            }
        }
        let slices = slices.lock().unwrap();
        slices.clone()
    }

    #[test]
    fn slices_settle_near_the_aim() {
        for flop_per_ms in [200_000, 3_000_000, 100_000_000] {
            let slices = slices(flop_per_ms, 60_000 * flop_per_ms.min(3_000_000));
            let last = slices.last().copied().expect("slices were taken");
            assert!((SLICE_MS / 4.0..=4.0 * SLICE_MS).contains(&last), "{flop_per_ms}: {last} ms");
        }
    }
}
