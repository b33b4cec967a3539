//! A visit's governor in a worker: passes on what page and slices tell to the decision (`crate::governor`), and the decision
//! to computations, the visit's switch and the page. And the turns that tabs of one storage partition take, so that the
//! limit holds for all of them together.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use futures::FutureExt;

use super::locks;
use super::pace::{Bounds, Tempo};
use super::timer::sleep;
use crate::governor::{Conditions, Decision, Governor};
use crate::volunteer::{Switch, Wish};

/// Held by the tab whose slices may begin.
const TURN: &str = "manyhands-turn";
/// How long a turn lasts where others wait.
const TURN_MS: u64 = 500;

/// One visit's.
pub struct WebGovernor {
    governor: RefCell<Governor>,
    tempo: Rc<Tempo>,
    switch: Switch,
    /// The visitor pressed Pause.
    paused: Cell<bool>,
    told: Cell<Option<Decision>>,
    tell: fn(Decision),
}

impl WebGovernor {
    /// Of a visit under a consent to this share; `tell` hears each new decision.
    pub fn new(consented_percent: u32, switch: Switch, tell: fn(Decision)) -> Rc<WebGovernor> {
        let governor = Governor::new(consented_percent);
        let Decision { duty_percent, slice_ms, .. } = governor.decide();
        // Closed until the first turn.
        let tempo = Tempo::new(Bounds { duty_percent, slice_ms, open: false });
        let (governor, paused, told) = (RefCell::new(governor), Cell::new(false), Cell::new(None));
        let this = Rc::new(WebGovernor { governor, tempo, switch, paused, told, tell });
        let ear = Rc::downgrade(&this);
        this.tempo.listen(move |slice| {
            if let Some(this) = ear.upgrade() {
                this.governor.borrow_mut().worked(slice);
                this.apply();
            }
        });
        this
    }

    /// What this worker's computations keep to.
    pub fn tempo(&self) -> Rc<Tempo> {
        self.tempo.clone()
    }

    pub fn limit(&self, percent: u32) {
        self.governor.borrow_mut().limit(percent);
        self.apply();
    }

    pub fn look(&self, conditions: Conditions) {
        self.governor.borrow_mut().look(conditions);
        self.apply();
    }

    /// Another engine computes from here on.
    pub fn renewed(&self) {
        self.governor.borrow_mut().renewed();
        self.tempo.renewed();
        self.apply();
    }

    /// What the visitor wishes. Nothing runs while either they or the governor hold it.
    pub fn wish(&self, wish: Wish) {
        self.paused.set(wish == Wish::Pause);
        if wish == Wish::Stop {
            self.switch.set(Wish::Stop);
        }
        self.apply();
    }

    /// Whether the visitor pressed Pause last.
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    fn apply(&self) {
        let decision = self.governor.borrow().decide();
        let held = decision.duty_percent <= 0.0;
        if !held {
            let Decision { duty_percent, slice_ms, .. } = decision;
            self.tempo.set(Bounds { duty_percent, slice_ms, ..self.tempo.bounds() });
        }
        let wish = if held || self.paused.get() { Wish::Pause } else { Wish::Run };
        if self.switch.wish() != wish {
            self.switch.set(wish);
        }
        if self.told.replace(Some(decision)) != Some(decision) {
            (self.tell)(decision);
        }
    }

    fn open(&self, open: bool) {
        self.tempo.set(Bounds { open, ..self.tempo.bounds() });
    }

    /// Takes this tab's turn whenever it has a use for one, and gives it away when others wait. A tab that is held, or
    /// computes nothing, has none.
    pub async fn take_turns(&self) -> Infallible {
        loop {
            self.switch.until(|wish| wish == Wish::Run).await;
            self.tempo.wanted().await;
            let lock = locks::lock(TURN).await;
            self.open(true);
            let mut go_on = true;
            while go_on {
                futures::select_biased! {
                    _ = self.switch.until(|wish| wish != Wish::Run).fuse() => break,
                    () = sleep(TURN_MS).fuse() => {}
                }
                let others = locks::is_waited_for(TURN).await;
                self.governor.borrow_mut().shared(others);
                self.apply();
                go_on = !others && self.tempo.is_used(TURN_MS as f64);
            }
            self.open(false);
            drop(lock);
        }
    }
}
