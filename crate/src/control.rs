//! Stop, pause and breathing room for a computation, steered from elsewhere. It schedules nothing and knows no clock of
//! its own: time and the event loop come from a [`Pace`], which the platform supplies.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::engine::EngineError;
use crate::governor::{LONG_SLICE_MS, Slice};

/// A future a [`Pace`] hands out; `Send` natively, where engines run on threads.
#[cfg(not(target_arch = "wasm32"))]
pub type PaceFuture = Pin<Box<dyn Future<Output = ()> + Send>>;
#[cfg(target_arch = "wasm32")]
pub type PaceFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Marks what must cross threads natively; no demand in wasm, where browser objects cannot.
#[cfg(not(target_arch = "wasm32"))]
pub trait Shared: Send + Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Send + Sync> Shared for T {}
#[cfg(target_arch = "wasm32")]
pub trait Shared {}
#[cfg(target_arch = "wasm32")]
impl<T> Shared for T {}

/// What an engine needs of its surroundings between two slices of work.
pub trait Pace: Shared {
    /// Milliseconds from any fixed origin. A constant means "no clock": slices then keep their first size.
    fn now_ms(&self) -> f64;
    /// How long a slice should take.
    fn slice_ms(&self) -> f64 {
        LONG_SLICE_MS
    }
    /// Operations per millisecond that slices ran at lately, for a computation to begin with; none before any did.
    fn speed(&self) -> Option<f64> {
        None
    }
    /// Most work of one kernel call, which a slice cannot interrupt, beside what the engine bounds it by.
    fn call_flop_max(&self) -> u64 {
        u64::MAX
    }
    /// Hears of work done.
    fn worked(&self, _slice: Slice) {}
    /// Resolves when the next slice may begin. A worker lets its event loop run here, and a duty limit idles here.
    fn breathe(&self) -> PaceFuture;
}

/// The pace where nobody supplied one: natively the monotonic clock and one turn of the executor; in wasm, where the
/// standard library has no clock, no clock and no turn.
struct DefaultPace {
    #[cfg(not(target_arch = "wasm32"))]
    origin: std::time::Instant,
}

impl Pace for DefaultPace {
    #[cfg(not(target_arch = "wasm32"))]
    fn now_ms(&self) -> f64 {
        self.origin.elapsed().as_secs_f64() * 1e3
    }

    #[cfg(target_arch = "wasm32")]
    fn now_ms(&self) -> f64 {
        0.0
    }

    fn breathe(&self) -> PaceFuture {
        Box::pin(TurnOnce(false))
    }
}

/// Pending once, so that whatever shares the executor gets a turn.
struct TurnOnce(bool);

impl Future for TurnOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const STOP: u8 = 2;

struct State {
    wish: AtomicU8,
    /// Steps done in the high half, steps in all in the low.
    progress: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    pace: Box<dyn Pace>,
}

/// A handle to steer one computation, or a row of them; clones steer the same. Stop is final.
#[derive(Clone)]
pub struct Control(Arc<State>);

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Control {
    pub fn new() -> Self {
        Self::with_pace(DefaultPace {
            #[cfg(not(target_arch = "wasm32"))]
            origin: std::time::Instant::now(),
        })
    }

    /// A control whose clock and breathing come from `pace`.
    #[cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
    pub fn with_pace(pace: impl Pace + 'static) -> Self {
        Self(Arc::new(State {
            wish: AtomicU8::new(RUN),
            progress: AtomicU64::new(0),
            waiting: Mutex::new(Vec::new()),
            pace: Box::new(pace),
        }))
    }

    /// Ends the computation at the next slice with [`EngineError::Stopped`]. Cannot be undone.
    pub fn stop(&self) {
        self.wish(|_| STOP);
    }

    /// Holds the computation at the next slice until [`Control::resume`] or [`Control::stop`].
    pub fn pause(&self) {
        self.wish(|now| if now == STOP { STOP } else { PAUSE });
    }

    pub fn resume(&self) {
        self.wish(|now| if now == STOP { STOP } else { RUN });
    }

    pub fn is_stopped(&self) -> bool {
        self.0.wish.load(Ordering::SeqCst) == STOP
    }

    pub fn is_paused(&self) -> bool {
        self.0.wish.load(Ordering::SeqCst) == PAUSE
    }

    /// Inner steps done and in all of the computation under way, for whoever shows progress.
    pub fn progress(&self) -> (u32, u32) {
        let both = self.0.progress.load(Ordering::Relaxed);
        ((both >> 32) as u32, both as u32)
    }

    pub(crate) fn set_progress(&self, done: u32, all: u32) {
        self.0.progress.store(u64::from(done) << 32 | u64::from(all), Ordering::Relaxed);
    }

    /// The pace's clock, in milliseconds from any fixed origin.
    pub fn now_ms(&self) -> f64 {
        self.0.pace.now_ms()
    }

    /// How long a slice should take, in milliseconds.
    pub fn slice_ms(&self) -> f64 {
        self.0.pace.slice_ms()
    }

    /// See [`Pace::speed`].
    pub fn speed(&self) -> Option<f64> {
        self.0.pace.speed()
    }

    /// See [`Pace::call_flop_max`].
    pub fn call_flop_max(&self) -> u64 {
        self.0.pace.call_flop_max()
    }

    /// Engines tell of all their work, whether they breathe after it or not: what comes next may have to rest for it.
    pub fn worked(&self, slice: Slice) {
        self.0.pace.worked(slice);
    }

    /// Engines await this between slices: it lets others run, waits out a pause, and fails once stopped.
    pub async fn between_slices(&self) -> Result<(), EngineError> {
        if !self.is_stopped() {
            self.0.pace.breathe().await;
        }
        self.until_paused(false).await;
        if self.is_stopped() { Err(EngineError::Stopped) } else { Ok(()) }
    }

    /// Resolves once the computation is to be held, or is not: for whoever passes that on to where it runs.
    pub async fn until_paused(&self, paused: bool) {
        Paused(self, paused).await;
    }

    fn wish(&self, next: impl Fn(u8) -> u8) {
        let mut waiting = self.waiting();
        let now = self.0.wish.load(Ordering::SeqCst);
        self.0.wish.store(next(now), Ordering::SeqCst);
        for waker in waiting.drain(..) {
            waker.wake();
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.0.waiting.lock().expect("no code panics while it holds this lock")
    }
}

/// Pending until paused, or until not.
struct Paused<'a>(&'a Control, bool);

impl Future for Paused<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.0.waiting();
        if self.0.is_paused() == self.1 {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>, count: &Arc<Count>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(count.clone())))
    }

    #[test]
    fn yields_once_then_goes_on() {
        let (control, count) = (Control::new(), Arc::new(Count(AtomicUsize::new(0))));
        let mut slice = Box::pin(control.between_slices());
        assert!(poll(slice.as_mut(), &count).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(poll(slice.as_mut(), &count), Poll::Ready(Ok(()))));
    }

    #[test]
    fn pause_holds_and_resume_wakes() {
        let (control, count) = (Control::new(), Arc::new(Count(AtomicUsize::new(0))));
        control.pause();
        let mut slice = Box::pin(control.between_slices());
        assert!(poll(slice.as_mut(), &count).is_pending());
        assert!(poll(slice.as_mut(), &count).is_pending());
        assert!(poll(slice.as_mut(), &count).is_pending());
        let before = count.0.load(Ordering::SeqCst);
        control.resume();
        assert!(count.0.load(Ordering::SeqCst) > before);
        assert!(matches!(poll(slice.as_mut(), &count), Poll::Ready(Ok(()))));
    }

    #[test]
    fn whoever_passes_a_pause_on_hears_of_it() {
        let (control, count) = (Control::new(), Arc::new(Count(AtomicUsize::new(0))));
        let mut paused = Box::pin(control.until_paused(true));
        assert!(poll(paused.as_mut(), &count).is_pending());
        assert!(poll(paused.as_mut(), &count).is_pending());
        control.pause();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once, however often it was looked at");
        assert!(poll(paused.as_mut(), &count).is_ready());
    }

    #[test]
    fn stop_is_final_and_ends_a_pause() {
        let (control, count) = (Control::new(), Arc::new(Count(AtomicUsize::new(0))));
        control.pause();
        let mut slice = Box::pin(control.between_slices());
        assert!(poll(slice.as_mut(), &count).is_pending());
        assert!(poll(slice.as_mut(), &count).is_pending());
        control.clone().stop();
        assert!(matches!(poll(slice.as_mut(), &count), Poll::Ready(Err(EngineError::Stopped))));
        control.resume();
        control.pause();
        let mut again = Box::pin(control.between_slices());
        assert!(matches!(poll(again.as_mut(), &count), Poll::Ready(Err(EngineError::Stopped))));
    }
}
