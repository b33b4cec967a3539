//! How much work goes between two breaths: as many operations as take a slice's time at the speed of the slices before.

use crate::control::Control;
use crate::engine::EngineError;
use crate::governor::Slice;

/// Speed of the first slice of all, in operations per millisecond: about a software adapter's.
pub const FIRST_SPEED: f64 = (1 << 27) as f64 / 50.0;
const LEAST_FLOP: f64 = (1 << 20) as f64;
const MOST_FLOP: f64 = (1u64 << 44) as f64;
/// How much of a slice's speed goes into what the next is planned by. Calls differ: one slice says little; but one that was
/// too long is felt.
const WEIGHT: f64 = 0.3;
const SLOWER_WEIGHT: f64 = 0.6;

/// The slices of one computation.
pub struct Slicer<'a> {
    control: &'a Control,
    speed: f64,
    spent_flop: u64,
    started_ms: f64,
    endless: bool,
}

impl<'a> Slicer<'a> {
    pub fn new(control: &'a Control) -> Self {
        let speed = control.speed().unwrap_or(FIRST_SPEED);
        Self { control, speed, spent_flop: 0, started_ms: control.now_ms(), endless: false }
    }

    /// One slice without an end, for measurements.
    pub fn endless(control: &'a Control) -> Self {
        Self { endless: true, ..Self::new(control) }
    }

    /// Whether so much more would make this slice too long. One that is empty takes a call of any size.
    pub fn is_full_for(&self, flop: u64) -> bool {
        let most = (self.speed * self.control.slice_ms()).clamp(LEAST_FLOP, MOST_FLOP);
        !self.endless && self.spent_flop > 0 && self.spent_flop.saturating_add(flop) as f64 > most
    }

    /// Counts work.
    pub fn add(&mut self, flop: u64) {
        self.spent_flop = self.spent_flop.saturating_add(flop);
    }

    /// Ends a slice whose work is done, lets others run and begins the next.
    pub async fn breathe(&mut self) -> Result<(), EngineError> {
        self.end();
        self.control.between_slices().await?;
        self.started_ms = self.control.now_ms();
        Ok(())
    }

    /// Ends the last slice of a computation, whose work is done.
    pub fn end(&mut self) {
        let (flop, now_ms) = (std::mem::take(&mut self.spent_flop), self.control.now_ms());
        let ms = now_ms - self.started_ms;
        self.started_ms = now_ms;
        if flop == 0 || ms <= 0.0 {
            return;
        }
        // A slice that something else held up must not make the next ones tiny.
        let seen = (flop as f64 / ms).clamp(self.speed / 4.0, self.speed * 4.0);
        self.speed += if seen < self.speed { SLOWER_WEIGHT } else { WEIGHT } * (seen - self.speed);
        self.control.worked(Slice { flop, ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Pace, PaceFuture};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    /// A clock that the test moves, by a millisecond per so much work.
    #[derive(Clone, Default)]
    struct Scripted {
        now_us: Arc<AtomicU64>,
        slices: Arc<Mutex<Vec<Slice>>>,
        slice_ms: u32,
    }

    impl Pace for Scripted {
        fn now_ms(&self) -> f64 {
            self.now_us.load(Ordering::SeqCst) as f64 / 1e3
        }

        fn slice_ms(&self) -> f64 {
            f64::from(self.slice_ms)
        }

        fn worked(&self, slice: Slice) {
            self.slices.lock().unwrap().push(slice);
        }

        fn breathe(&self) -> PaceFuture {
            Box::pin(std::future::ready(()))
        }
    }

    /// Runs calls of these sizes in turn until so many milliseconds of work are done.
    fn slices(slice_ms: u32, flop_per_ms: u64, calls: &[u64], work_ms: u64) -> Vec<Slice> {
        let pace = Scripted { slice_ms, ..Scripted::default() };
        let control = Control::with_pace(pace.clone());
        let mut slicer = Slicer::new(&control);
        let mut calls = calls.iter().cycle();
        while pace.now_ms() < work_ms as f64 {
            let call = *calls.next().unwrap();
            if slicer.is_full_for(call) {
                pollster::block_on(slicer.breathe()).unwrap();
            }
            slicer.add(call);
            pace.now_us.fetch_add(call * 1000 / flop_per_ms, Ordering::SeqCst);
        }
        slicer.end();
        let slices = pace.slices.lock().unwrap();
        slices.clone()
    }

    #[test]
    fn slices_settle_at_the_aim_and_count_all_work() {
        for slice_ms in [8, 50] {
            for flop_per_ms in [200_000, 3_000_000, 100_000_000] {
                let calls = [1 << 18, 1 << 16, 1 << 19];
                let slices = slices(slice_ms, flop_per_ms, &calls, 6_000);
                let late = &slices[slices.len() / 2..slices.len() - 1];
                let aim = f64::from(slice_ms);
                for slice in late {
                    assert!(slice.ms <= aim * 1.01 && slice.ms >= aim / 2.0, "{flop_per_ms}, {slice_ms}: {slice:?}");
                }
                let all: f64 = slices.iter().map(|slice| slice.ms).sum();
                assert!((6_000.0..6_010.0).contains(&all), "{all}");
            }
        }
    }

    /// A call that is longer than a slice has one of its own.
    #[test]
    fn long_calls_stand_alone() {
        let slices = slices(8, 1_000_000, &[1 << 25, 1 << 10], 1_000);
        assert!(slices.iter().all(|slice| slice.flop <= (1 << 25) + (1 << 10)), "{slices:?}");
    }
}
