//! The Web Worker: a message loop around the volunteer crate, nothing else. One visit at a time. Built twice: whole, and as
//! the small part that a visit begins with (`opening.rs`), which the page loads and which brings in the whole.

mod messages;
#[cfg(not(feature = "every-layer"))]
mod opening;
#[cfg(feature = "every-layer")]
mod tryout;

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt;
use manyhands::volunteer::{DataUse, Event, HostError, Settings, State, Switch, Volunteer, VolunteerError, Wish};
#[cfg(feature = "every-layer")]
use manyhands::web::{Bounds, DataDay, NAME, Tempo, aside, keyring, program_bytes};
use manyhands::web::{KeyOptions, WebGovernor, WebHost, origin};
use messages::{Start, ToWorker};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{DedicatedWorkerGlobalScope, MessageEvent};

thread_local! {
    static VISIT: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// What steers the running visit, and its data.
#[derive(Clone)]
struct Running {
    switch: Switch,
    governor: Rc<WebGovernor>,
    data: DataUse,
}

/// Code of a unit that only the whole worker can compute: no news to the page.
const BEYOND: &str = "beyond";

fn main() {
    std::panic::set_hook(Box::new(|info| {
        console_error_panic_hook::hook(info);
        post(&messages::error("panic", &info.to_string(), false));
        post(&messages::stopped("the worker failed"));
    }));
    let listen = Closure::<dyn Fn(MessageEvent)>::new(|event: MessageEvent| {
        // This may be the worker of a further lane, which hears no page.
        #[cfg(feature = "every-layer")]
        if aside::hear(&event.data(), post) {
            return;
        }
        match ToWorker::read(event.data()) {
            #[cfg(not(feature = "every-layer"))]
            Ok(message) => opening::hear(message, event.data()),
            #[cfg(feature = "every-layer")]
            Ok(message) => act(message),
            Err(field) => post(&messages::error("bad_message", &format!("a message's {field} is not understood"), false)),
        }
    });
    scope().set_onmessage(Some(listen.as_ref().unchecked_ref()));
    // Listens for as long as the worker lives.
    listen.forget();
    post(&messages::ready());
}

fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Sends a message to the page.
fn post(message: &JsValue) {
    // Fails only for values that cannot be cloned, which messages never hold.
    let _ = scope().post_message(message);
}

fn act(message: ToWorker) {
    let steer = |act: &dyn Fn(&WebGovernor)| VISIT.with_borrow(|visit| visit.iter().for_each(|visit| act(&visit.governor)));
    match message {
        ToWorker::Start(start) => {
            begin(start, async |start, running| {
                let outcome = visit(start, running).await.outcome;
                post(&messages::stopped(&outcome.err().map(|e| e.to_string()).unwrap_or_default()));
            });
        }
        #[cfg(not(feature = "every-layer"))]
        ToWorker::Try { .. } | ToWorker::Key => {}
        #[cfg(feature = "every-layer")]
        ToWorker::Try { job, wish } => {
            // What is tried during a visit is a part of what was consented to; without one nothing was.
            let (data, tempo) = VISIT.with_borrow(|visit| match visit {
                Some(visit) if wish.asked => (visit.data.clone(), Tempo::new(Bounds::NONE)),
                Some(visit) => (visit.data.clone(), visit.governor.tempo()),
                None => (DataUse::new(0, 0), Tempo::new(Bounds::NONE)),
            });
            spawn_local(async move {
                post(&match tryout::run(job, &wish, data, tempo).await {
                    Ok(tried) => messages::tried(tried),
                    Err(fault) => messages::error("try_failed", &fault, true),
                });
            });
        }
        #[cfg(feature = "every-layer")]
        ToWorker::Key(wish) => spawn_local(async {
            post(&match keyring::act(NAME, wish).await {
                Ok(done) => messages::key_done(done),
                Err(fault) => messages::error(&fault.code, &fault.message, false),
            });
        }),
        ToWorker::Pause => steer(&|governor| governor.wish(Wish::Pause)),
        ToWorker::Resume => steer(&|governor| governor.wish(Wish::Run)),
        ToWorker::Stop => steer(&|governor| governor.wish(Wish::Stop)),
        ToWorker::Conditions(conditions) => steer(&|governor| governor.look(conditions)),
        #[cfg(feature = "every-layer")]
        ToWorker::Moved(bytes) => VISIT.with_borrow(|visit| visit.iter().for_each(|visit| moved(visit.data.clone(), bytes))),
        ToWorker::Limit(percent) => steer(&|governor| governor.limit(percent)),
    }
}

/// Counts what moved for the visit beside its calls, there and for the day of all tabs.
#[cfg(feature = "every-layer")]
fn moved(data: DataUse, bytes: u64) {
    data.count(bytes);
    spawn_local(async move { DataDay::open(Some(NAME), data.bytes_max()).await.moved(bytes).await });
}

/// Begins a visit, unless one is running.
fn begin(start: Start, visit: impl AsyncFnOnce(Start, Running) + 'static) {
    let (switch, data) = (Switch::new(), DataUse::new(start.data_bytes_used, start.data_bytes_max));
    let governor = WebGovernor::new(start.duty_percent, switch.clone(), |decision| post(&messages::pace(decision)));
    let running = Running { switch, governor, data };
    let is_first = VISIT.with_borrow_mut(|visit| {
        let is_first = visit.is_none();
        visit.get_or_insert_with(|| running.clone());
        is_first
    });
    if is_first {
        spawn_local(async move {
            visit(start, running).await;
            VISIT.set(None);
        });
    }
}

fn tell_session(token: &str) {
    post(&messages::session(token));
}

/// What became of a visit.
struct Visited {
    outcome: Result<(), VolunteerError>,
    /// What the worker that goes on with it needs, beside its lease.
    #[cfg_attr(feature = "every-layer", expect(dead_code, reason = "no other worker goes on"))]
    kept: (Option<JsValue>, u64),
}

impl From<Result<(), VolunteerError>> for Visited {
    fn from(outcome: Result<(), VolunteerError>) -> Visited {
        Visited { outcome, kept: (None, 0) }
    }
}

/// One visit, to its end, of which the caller tells. The worker that a visit began with told how it started.
async fn visit(start: Start, Running { switch, governor, data }: Running) -> Visited {
    #[cfg(feature = "every-layer")]
    moved(data.clone(), program_bytes());
    let options = KeyOptions { unstored: start.key, ..KeyOptions::default() };
    let opened = futures::select_biased! {
        _ = switch.until(|w| w == Wish::Stop).fuse() => return Ok(()).into(),
        opened = WebHost::open(options, governor.tempo(), start.data_bytes_max, tell_session).fuse() => opened,
    };
    let host = match opened {
        Ok(host) => host,
        Err(HostError::Beyond) => return Err(VolunteerError::Beyond(None)).into(),
        Err(fault) => {
            let error = VolunteerError::from(fault);
            post(&messages::error(error.code(), &error.to_string(), false));
            return Err(error).into();
        }
    };
    let settings = Settings {
        origin: origin(),
        site: start.site,
        job: start.job,
        category: start.category,
        choice: start.choice,
        tune: start.tune,
        duty_percent: start.duty_percent,
        data_bytes_max: start.data_bytes_max,
        units_max: if cfg!(feature = "every-layer") { None } else { Some(1) },
        renew_consent: false,
        // The page does, for a key that is not kept: it outlives its workers.
        withdraw_at_end: false,
        begun: start.begun,
        lease: start.lease,
        #[cfg(feature = "every-layer")]
        lanes: aside::lanes_count(start.lanes),
        #[cfg(not(feature = "every-layer"))]
        lanes: 1,
    };
    let volunteer = Volunteer { host, settings, switch, data: data.clone() };
    let mut goes_on = start.goes_on;
    // The loop tells its error itself, as an event.
    let (engine, moved) = (governor.clone(), data);
    let tell = move |event: Event| {
        match &event {
            Event::Adapter { .. } => engine.renewed(),
            Event::Totals(_) => post(&messages::spent(engine.tempo().take_spent_ms())),
            Event::State { state: State::Stopped, .. } => return,
            Event::State { state: State::Starting | State::SelfTest, .. } if goes_on => return,
            Event::State { .. } => goes_on = false,
            Event::Error { code, .. } if code == BEYOND => return,
            _ => {}
        }
        post(&messages::event(event, moved.used_bytes()));
    };
    let outcome = futures::select_biased! {
        outcome = volunteer.run(tell).fuse() => outcome,
        never = governor.take_turns().fuse() => match never {},
    };
    Visited { outcome, kept: (volunteer.host.unstored_key(), volunteer.data.used_bytes()) }
}
