//! How much of the device a visit takes right now, and why not more: a pure decision over what the page and the slices of
//! work tell. It reads no clock, measures nothing and waits for nobody.

/// A slice of work while somebody uses the page: half a frame of sixty a second.
pub const SHORT_SLICE_MS: f64 = 8.0;
/// One while nobody does. Ten of them fit into the second within which Stop must work.
pub const LONG_SLICE_MS: f64 = 50.0;

/// The page's frames may drop so much more often than without work, as a share.
const DROPPED_MAX: f64 = 0.1;
/// At or below this they count as undisturbed again.
const DROPPED_FINE: f64 = 0.03;
/// Below this share of their own best speed, slices say that the device is hot, or busy with something else.
const SLOW_SHARE: f64 = 0.6;
/// Above this they are as fast as ever.
const FAST_SHARE: f64 = 0.8;
/// Work over which speed is averaged, in milliseconds: many training steps. Heat comes slowly.
const SPEED_MS: f64 = 8_000.0;
/// Work between two judgements of speed.
const JUDGED_MS: f64 = 8_000.0;
/// Work in which the best speed known fades to a third: another kind of unit may have none like it.
const FADING_MS: f64 = 600_000.0;
/// Backing off leaves at least this share of the visitor's limit.
const FACTOR_MIN: f64 = 0.125;
/// After so many looks at the least share, what still drops is not the work's doing.
const LEAST_LOOKS: u32 = 4;
/// On battery nothing is computed below this level.
const BATTERY_MIN: f64 = 0.3;
/// Rest that may be made up for later: more would let a long wait turn into a burst.
const CREDIT_MS: f64 = 20.0;

/// How busy the computer is, by Compute Pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Also where the browser does not tell.
    Nominal,
    Serious,
    Critical,
}

/// What the page sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    pub visible: bool,
    /// Somebody may be using the page, or the one around it.
    pub in_use: bool,
    /// The visitor chose to go on while the page is hidden.
    pub background: bool,
    /// Share of the page's frames that were dropped lately; none where that was not looked at.
    pub dropped: Option<f64>,
    pub pressure: Pressure,
    /// Level of the battery, 0 to 1, while the computer runs on it.
    pub battery: Option<f64>,
    /// The visitor asked sites to spare data.
    pub saver: bool,
}

impl Default for Conditions {
    /// A page in use, of which nothing else is known.
    fn default() -> Self {
        let pressure = Pressure::Nominal;
        Self { visible: true, in_use: true, background: false, dropped: None, pressure, battery: None, saver: false }
    }
}

/// Why a visit takes less than its visitor's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Nothing,
    Hidden,
    Saver,
    Battery,
    Frames,
    Pressure,
    Slow,
    /// Other tabs work under the same limit.
    Shared,
}

impl Reason {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Nothing => "",
            Reason::Hidden => "hidden",
            Reason::Saver => "saver",
            Reason::Battery => "battery",
            Reason::Frames => "frames",
            Reason::Pressure => "pressure",
            Reason::Slow => "slow",
            Reason::Shared => "shared",
        }
    }
}

/// What work keeps to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Share of time, above 0 to 100; 0 where nothing may run.
    pub duty_percent: f64,
    /// How long a slice should take.
    pub slice_ms: f64,
    pub reason: Reason,
}

/// Work that was done in one go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slice {
    pub flop: u64,
    pub ms: f64,
}

/// The state behind decisions of one visit.
#[derive(Debug)]
pub struct Governor {
    consented_percent: u32,
    limit_percent: u32,
    conditions: Conditions,
    shared: bool,
    /// Whether work was done since the last look at frames.
    worked: bool,
    /// The least share of frames that was seen to drop without work: a page that was busy once must not hide what work does.
    usual_dropped: Option<f64>,
    frames_factor: f64,
    /// Looks in a row at the least share at which too many dropped.
    least_looks: u32,
    speed: Speed,
}

/// Slices' speed against their own best, in operations per millisecond.
#[derive(Debug)]
struct Speed {
    seen_ms: f64,
    now: f64,
    best: f64,
    unjudged_ms: f64,
    factor: f64,
}

impl Governor {
    /// Of a visitor who agreed to this share, 1 to 100.
    pub fn new(consented_percent: u32) -> Self {
        let consented_percent = consented_percent.clamp(1, 100);
        Self {
            consented_percent,
            limit_percent: consented_percent,
            conditions: Conditions::default(),
            shared: false,
            worked: false,
            usual_dropped: None,
            frames_factor: 1.0,
            least_looks: 0,
            speed: Speed::UNKNOWN,
        }
    }

    /// The visitor's newest limit. More than was agreed to takes a new consent, and is not given here.
    pub fn limit(&mut self, percent: u32) {
        self.limit_percent = percent.clamp(1, self.consented_percent);
    }

    /// Hears what the page sees.
    pub fn look(&mut self, conditions: Conditions) {
        if let Some(dropped) = conditions.dropped {
            self.dropped(dropped);
        }
        self.conditions = conditions;
    }

    fn dropped(&mut self, dropped: f64) {
        if !std::mem::take(&mut self.worked) {
            self.usual_dropped = Some(self.usual_dropped.map_or(dropped, |usual| usual.min(dropped)));
            return;
        }
        let more = dropped - self.usual_dropped.unwrap_or(0.0);
        let is_least = self.frames_factor <= FACTOR_MIN;
        self.least_looks = if is_least && more > DROPPED_MAX { self.least_looks + 1 } else { 0 };
        if self.least_looks == LEAST_LOOKS {
            // The page is busy with something else, or its window is on a slower screen now.
            self.usual_dropped = Some(dropped);
        } else if more > DROPPED_MAX {
            self.frames_factor = (self.frames_factor / 2.0).max(FACTOR_MIN);
        } else if more <= DROPPED_FINE {
            self.frames_factor = (self.frames_factor * 1.25).min(1.0);
        }
    }

    /// Hears of work done.
    pub fn worked(&mut self, slice: Slice) {
        self.worked = true;
        self.speed.hear(slice);
    }

    /// Another engine computes from here on, and has a speed of its own.
    pub fn renewed(&mut self) {
        self.speed = Speed::UNKNOWN;
    }

    /// Hears whether other tabs wait for their turn.
    pub fn shared(&mut self, shared: bool) {
        self.shared = shared;
    }

    pub fn decide(&self) -> Decision {
        let Conditions { visible, in_use, background, pressure, battery, saver, .. } = self.conditions;
        let limit = f64::from(self.limit_percent);
        let slice_ms = if visible && (in_use || limit < 100.0) { SHORT_SLICE_MS } else { LONG_SLICE_MS };
        let held = |reason| Decision { duty_percent: 0.0, slice_ms, reason };
        if !visible && !background {
            return held(Reason::Hidden);
        }
        if saver {
            return held(Reason::Saver);
        }
        if battery.is_some_and(|level| level < BATTERY_MIN) {
            return held(Reason::Battery);
        }
        let pressed = match pressure {
            Pressure::Nominal => 1.0,
            Pressure::Serious => 0.5,
            Pressure::Critical => 0.25,
        };
        let shared = if self.shared { Reason::Shared } else { Reason::Nothing };
        let mut least = (1.0, shared);
        for (factor, reason) in
            [(self.frames_factor, Reason::Frames), (pressed, Reason::Pressure), (self.speed.factor, Reason::Slow)]
        {
            if factor < least.0 {
                least = (factor, reason);
            }
        }
        Decision { duty_percent: limit * least.0, slice_ms, reason: least.1 }
    }
}

impl Speed {
    const UNKNOWN: Speed = Speed { seen_ms: 0.0, now: 0.0, best: 0.0, unjudged_ms: 0.0, factor: 1.0 };

    fn hear(&mut self, slice: Slice) {
        if slice.ms <= 0.0 || slice.flop == 0 {
            return;
        }
        self.seen_ms += slice.ms;
        // An average of all there was, until that is long enough.
        let weight = (slice.ms / self.seen_ms.min(SPEED_MS)).min(1.0);
        self.now += weight * (slice.flop as f64 / slice.ms - self.now);
        if self.seen_ms < SPEED_MS {
            return;
        }
        self.best = (self.best * (-slice.ms / FADING_MS).exp()).max(self.now);
        self.unjudged_ms += slice.ms;
        if self.unjudged_ms < JUDGED_MS {
            return;
        }
        self.unjudged_ms = 0.0;
        let share = self.now / self.best;
        if share < SLOW_SHARE {
            self.factor = (self.factor * 0.7).max(FACTOR_MIN);
        } else if share > FAST_SHARE {
            self.factor = (self.factor * 1.25).min(1.0);
        }
    }
}

/// Milliseconds to idle after `worked_ms` of work, so that the device works this share of the time.
pub fn idle_ms(worked_ms: f64, duty_percent: f64) -> f64 {
    let duty = duty_percent.clamp(0.1, 100.0);
    worked_ms.max(0.0) * (100.0 - duty) / duty
}

/// Rest that work still has to be followed by. Timers are coarse: what one idled too long or too short, the next makes up.
#[derive(Debug, Default)]
pub struct Ledger {
    owed_ms: f64,
}

impl Ledger {
    pub fn work(&mut self, worked_ms: f64, duty_percent: f64) {
        self.owed_ms += idle_ms(worked_ms, duty_percent);
    }

    pub fn rest(&mut self, rested_ms: f64) {
        self.owed_ms = (self.owed_ms - rested_ms.max(0.0)).max(-CREDIT_MS);
    }

    pub fn owed_ms(&self) -> f64 {
        self.owed_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(conditions: Conditions) -> (f64, Reason) {
        let mut governor = Governor::new(40);
        governor.look(conditions);
        let Decision { duty_percent, reason, .. } = governor.decide();
        (duty_percent, reason)
    }

    fn seen(change: impl Fn(&mut Conditions)) -> Conditions {
        let mut conditions = Conditions::default();
        change(&mut conditions);
        conditions
    }

    #[test]
    fn what_holds_work_and_what_slows_it() {
        assert_eq!(decided(seen(|_| ())), (40.0, Reason::Nothing));
        assert_eq!(decided(seen(|c| c.visible = false)), (0.0, Reason::Hidden));
        assert_eq!(decided(seen(|c| (c.visible, c.background) = (false, true))), (40.0, Reason::Nothing));
        assert_eq!(decided(seen(|c| c.saver = true)), (0.0, Reason::Saver));
        assert_eq!(decided(seen(|c| c.battery = Some(0.29))), (0.0, Reason::Battery));
        assert_eq!(decided(seen(|c| c.battery = Some(0.3))), (40.0, Reason::Nothing));
        assert_eq!(decided(seen(|c| c.pressure = Pressure::Serious)), (20.0, Reason::Pressure));
        assert_eq!(decided(seen(|c| c.pressure = Pressure::Critical)), (10.0, Reason::Pressure));
    }

    #[test]
    fn the_limit_stays_within_what_was_agreed_to() {
        let mut governor = Governor::new(40);
        let limited = |governor: &mut Governor, percent| {
            governor.limit(percent);
            governor.decide().duty_percent
        };
        assert_eq!(limited(&mut governor, 10), 10.0);
        assert_eq!(limited(&mut governor, 40), 40.0);
        assert_eq!(limited(&mut governor, 41), 40.0);
        assert_eq!(limited(&mut governor, 0), 1.0);
    }

    #[test]
    fn slices_are_short_where_somebody_may_notice() {
        let slice = |percent, conditions| {
            let mut governor = Governor::new(percent);
            governor.look(conditions);
            governor.decide().slice_ms
        };
        assert_eq!(slice(30, seen(|_| ())), SHORT_SLICE_MS);
        assert_eq!(slice(30, seen(|c| c.in_use = false)), SHORT_SLICE_MS);
        assert_eq!(slice(100, seen(|_| ())), SHORT_SLICE_MS);
        assert_eq!(slice(100, seen(|c| c.in_use = false)), LONG_SLICE_MS);
        assert_eq!(slice(30, seen(|c| (c.visible, c.background) = (false, true))), LONG_SLICE_MS);
    }

    #[test]
    fn dropped_frames_halve_the_share_and_smooth_ones_bring_it_back() {
        let mut governor = Governor::new(40);
        let look = |governor: &mut Governor, dropped, worked| {
            if worked {
                governor.worked(Slice { flop: 1, ms: 8.0 });
            }
            governor.look(seen(|c| c.dropped = Some(dropped)));
            let Decision { duty_percent, reason, .. } = governor.decide();
            (duty_percent, reason)
        };
        // Without work they drop by themselves.
        assert_eq!(look(&mut governor, 0.2, false), (40.0, Reason::Nothing));
        assert_eq!(look(&mut governor, 0.29, true), (40.0, Reason::Nothing));
        assert_eq!(look(&mut governor, 0.31, true), (20.0, Reason::Frames));
        assert_eq!(look(&mut governor, 0.31, true), (10.0, Reason::Frames));
        for _ in 0..4 {
            assert_eq!(look(&mut governor, 1.0, true), (5.0, Reason::Frames));
        }
        assert_eq!(look(&mut governor, 0.22, true), (6.25, Reason::Frames));
        for _ in 0..9 {
            look(&mut governor, 0.2, true);
        }
        assert_eq!(governor.decide(), Governor::new(40).decide());
        // A page that was busy once, without us, is not for good.
        assert_eq!(look(&mut governor, 0.9, false), (40.0, Reason::Nothing));
        assert_eq!(look(&mut governor, 0.31, true), (20.0, Reason::Frames));
        assert_eq!(look(&mut governor, 0.0, false), (20.0, Reason::Frames));
        assert_eq!(look(&mut governor, 0.11, true), (10.0, Reason::Frames));
        for _ in 0..9 {
            look(&mut governor, 0.0, true);
        }
        assert_eq!(governor.decide(), Governor::new(40).decide());
        // What drops at the least share, again and again, is not the work's doing.
        for duty in [20.0, 10.0, 5.0, 5.0, 5.0, 5.0, 5.0, 6.25] {
            assert_eq!(look(&mut governor, 0.5, true), (duty, Reason::Frames));
        }
        assert_eq!(look(&mut governor, 0.61, true), (5.0, Reason::Frames));
        for _ in 0..10 {
            look(&mut governor, 0.5, true);
        }
        assert_eq!(governor.decide(), Governor::new(40).decide());
        // What was not looked at changes nothing.
        governor.look(seen(|_| ()));
        assert_eq!(governor.decide(), Governor::new(40).decide());
    }

    #[test]
    fn slices_that_slow_down_ask_for_a_rest() {
        let mut governor = Governor::new(40);
        let work = |governor: &mut Governor, flop, ms| {
            for _ in 0..5000 {
                governor.worked(Slice { flop, ms });
            }
            let Decision { duty_percent, reason, .. } = governor.decide();
            (duty_percent, reason)
        };
        assert_eq!(work(&mut governor, 8000, 8.0), (40.0, Reason::Nothing));
        // A quarter slower may be another program.
        assert_eq!(work(&mut governor, 6000, 8.0), (40.0, Reason::Nothing));
        let (duty, reason) = work(&mut governor, 3000, 8.0);
        assert!((5.0..40.0).contains(&duty) && reason == Reason::Slow, "{duty} {reason:?}");
        assert_eq!(work(&mut governor, 80_000, 80.0), (40.0, Reason::Nothing));
        // Without a clock nothing is known.
        assert_eq!(work(&mut governor, 1, 0.0), (40.0, Reason::Nothing));
        // Another engine is not hot because it is no match for the one before.
        governor.renewed();
        assert_eq!(work(&mut governor, 100, 8.0), (40.0, Reason::Nothing));
    }

    #[test]
    fn tabs_that_take_turns_say_so() {
        let mut governor = Governor::new(40);
        governor.shared(true);
        assert_eq!(governor.decide(), Decision { duty_percent: 40.0, slice_ms: SHORT_SLICE_MS, reason: Reason::Shared });
    }

    #[test]
    fn the_duty_limit_is_a_share_of_time() {
        assert_eq!(idle_ms(10.0, 100.0), 0.0);
        assert_eq!(idle_ms(10.0, 50.0), 10.0);
        assert_eq!(idle_ms(10.0, 25.0), 30.0);
        assert_eq!(idle_ms(f64::NAN, 50.0), 0.0);
        assert!(idle_ms(10.0, 0.0).is_finite());
    }

    /// Timers that oversleep, and a long wait in between: the share is kept, and never made up for in a burst.
    #[test]
    fn the_ledger_evens_out_what_timers_do() {
        let mut ledger = Ledger::default();
        let (mut worked, mut all) = (0.0, 0.0);
        for slice in 0..1000 {
            let ms = f64::from(slice % 7 + 5);
            ledger.work(ms, 30.0);
            let idle = ledger.owed_ms();
            let rested = if idle >= 1.0 { idle.floor() + f64::from(slice % 5) } else { 0.0 };
            ledger.rest(rested);
            (worked, all) = (worked + ms, all + ms + rested);
        }
        assert!((worked / all - 0.3).abs() < 0.005, "{}", worked / all);
        ledger.rest(1e6);
        assert_eq!(ledger.owed_ms(), -CREDIT_MS);
    }
}
