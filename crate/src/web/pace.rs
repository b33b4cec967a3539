//! How computations breathe in a worker: a turn of the event loop after each slice, so that messages and heartbeats get
//! through, idle time for the duty limit, and a wait where another tab has its turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures::FutureExt;
use js_sys::Promise;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{MessageChannel, Performance, WorkerGlobalScope};

use super::timer::sleep;
use crate::control::{Pace, PaceFuture};
use crate::governor::{LONG_SLICE_MS, Ledger, SHORT_SLICE_MS, Slice};
use crate::plan::FIRST_SPEED;

/// Calls are cut no smaller than this.
const CALL_FLOP_MIN: f64 = (1 << 20) as f64;
/// How much of a slice's speed goes into what the next computation begins with.
const WEIGHT: f64 = 0.1;

/// What computations keep to at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Above 0.
    pub duty_percent: f64,
    pub slice_ms: f64,
    /// Whether slices may begin: no other tab has its turn.
    pub open: bool,
}

impl Bounds {
    /// For what the visitor waits for.
    pub const NONE: Bounds = Bounds { duty_percent: 100.0, slice_ms: LONG_SLICE_MS, open: true };
}

type Ear = Box<dyn Fn(Slice)>;

/// What all computations of one worker keep to, and what is known of them. Its rest is one account: where a unit ends owing
/// some, the next begins with it.
pub struct Tempo {
    bounds: Cell<Bounds>,
    /// Computations that wait for `open`, and lanes at work elsewhere: this tab has a use for its turn.
    wanting_count: Cell<u32>,
    /// What slices took since somebody asked last.
    spent_ms: Cell<f64>,
    /// When a slice was last begun or ended.
    worked_at_ms: Cell<f64>,
    ledger: RefCell<Ledger>,
    speed: Cell<Option<f64>>,
    ear: RefCell<Option<Ear>>,
    waiting: RefCell<Vec<Waker>>,
    performance: Option<Performance>,
}

impl Tempo {
    pub fn new(bounds: Bounds) -> Rc<Tempo> {
        Rc::new(Tempo {
            bounds: Cell::new(bounds),
            wanting_count: Cell::new(0),
            spent_ms: Cell::new(0.0),
            worked_at_ms: Cell::new(f64::NEG_INFINITY),
            ledger: RefCell::default(),
            speed: Cell::new(None),
            ear: RefCell::new(None),
            waiting: RefCell::default(),
            performance: js_sys::global().unchecked_into::<WorkerGlobalScope>().performance(),
        })
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds.get()
    }

    pub fn set(&self, bounds: Bounds) {
        if self.bounds.replace(bounds) != bounds {
            self.wake();
        }
    }

    /// Forgets how fast slices were.
    pub fn renewed(&self) {
        self.speed.set(None);
    }

    /// Lets `ear` hear of every slice of this worker.
    pub fn listen(&self, ear: impl Fn(Slice) + 'static) {
        self.ear.replace(Some(Box::new(ear)));
    }

    /// The bounds once they are not these any more.
    pub async fn other_than(&self, told: Bounds) -> Bounds {
        self.until(|| (self.bounds.get() != told).then(|| self.bounds.get())).await
    }

    /// Resolves once there is a use for this tab's turn.
    pub async fn wanted(&self) {
        self.until(|| (self.wanting_count.get() > 0).then_some(())).await;
    }

    /// Whether anything was computed within so many milliseconds, or is to be.
    pub fn is_used(&self, within_ms: f64) -> bool {
        self.wanting_count.get() > 0 || self.now_ms() - self.worked_at_ms.get() < within_ms
    }

    /// Counts as a use of the turn until it is dropped.
    pub fn want(self: &Rc<Self>) -> Wanting {
        self.wanting_count.set(self.wanting_count.get() + 1);
        self.wake();
        Wanting(self.clone())
    }

    fn now_ms(&self) -> f64 {
        self.performance.as_ref().map_or_else(js_sys::Date::now, Performance::now)
    }

    /// What work took, here and in lanes, since this was asked last, in milliseconds.
    pub fn take_spent_ms(&self) -> f64 {
        self.spent_ms.take()
    }

    /// Counts what was worked elsewhere.
    pub fn spend(&self, ms: f64) {
        self.spent_ms.set(self.spent_ms.get() + ms);
    }

    fn worked(&self, slice: Slice) {
        self.spend(slice.ms);
        self.ledger.borrow_mut().work(slice.ms, self.bounds.get().duty_percent);
        self.worked_at_ms.set(self.now_ms());
        if slice.flop > 0 && slice.ms > 0.0 {
            let seen = slice.flop as f64 / slice.ms;
            self.speed.set(Some(self.speed.get().map_or(seen, |speed| speed + WEIGHT * (seen - speed))));
        }
        if let Some(ear) = &*self.ear.borrow() {
            ear(slice);
        }
    }

    /// Resolves when the next slice may begin: this tab has its turn, and what is owed was rested within turns. In another
    /// tab's turn that one works, which is no rest.
    async fn breathe(self: Rc<Self>, channel: Option<MessageChannel>) {
        loop {
            if !self.bounds.get().open {
                let _wanting = self.want();
                self.until(|| self.bounds.get().open.then_some(())).await;
            }
            let owed_ms = self.ledger.borrow().owed_ms();
            let before_ms = self.now_ms();
            let rest = async {
                match &channel {
                    Some(channel) if owed_ms < 1.0 => turn(channel).await,
                    _ => sleep(owed_ms.max(0.0) as u64).await,
                }
            };
            futures::select_biased! {
                () = self.until(|| (!self.bounds.get().open).then_some(())).fuse() => {}
                () = rest.fuse() => {}
            }
            self.ledger.borrow_mut().rest(self.now_ms() - before_ms);
            if self.bounds.get().open {
                self.worked_at_ms.set(self.now_ms());
                return;
            }
        }
    }

    async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        poll_fn(|context| match look() {
            Some(seen) => Poll::Ready(seen),
            None => {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }

    fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// See [`Tempo::want`].
pub struct Wanting(Rc<Tempo>);

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.wanting_count.set(self.0.wanting_count.get() - 1);
    }
}

/// The pace of one unit.
pub struct WebPace {
    tempo: Rc<Tempo>,
    /// Messages to oneself come round in one turn, where nested timers take at least 4 ms.
    channel: Option<MessageChannel>,
    /// Whether the engine is the one whose speed the tempo knows.
    is_engine: bool,
}

impl WebPace {
    pub fn new(tempo: Rc<Tempo>) -> Self {
        Self { tempo, channel: MessageChannel::new().ok(), is_engine: true }
    }

    /// Of work that is not the visit's engine's, and says nothing of its speed.
    pub fn beside(tempo: Rc<Tempo>) -> Self {
        let mut pace = Self::new(tempo);
        pace.is_engine = false;
        pace
    }
}

impl Pace for WebPace {
    fn now_ms(&self) -> f64 {
        self.tempo.now_ms()
    }

    fn slice_ms(&self) -> f64 {
        self.tempo.bounds().slice_ms
    }

    fn speed(&self) -> Option<f64> {
        self.tempo.speed.get().filter(|_| self.is_engine)
    }

    /// A short slice's: a visitor may come back to the page in the middle of a unit.
    fn call_flop_max(&self) -> u64 {
        let speed = self.speed().unwrap_or(FIRST_SPEED);
        (speed * SHORT_SLICE_MS).max(CALL_FLOP_MIN) as u64
    }

    fn worked(&self, slice: Slice) {
        self.tempo.worked(if self.is_engine { slice } else { Slice { flop: 0, ..slice } });
    }

    fn breathe(&self) -> PaceFuture {
        Box::pin(self.tempo.clone().breathe(self.channel.clone()))
    }
}

impl Drop for WebPace {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            channel.port1().close();
        }
    }
}

async fn turn(channel: &MessageChannel) {
    let (here, there) = (channel.port1(), channel.port2());
    let back = Promise::new(&mut |resolve, _| {
        here.set_onmessage(Some(&resolve));
        if there.post_message(&JsValue::NULL).is_err() {
            let _ = resolve.call0(&JsValue::NULL);
        }
    });
    let _ = JsFuture::from(back).await;
}
