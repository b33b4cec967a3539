//! The Web Worker: a message loop around the volunteer crate, nothing else. One visit at a time.

mod messages;
mod tryout;

use std::cell::RefCell;

use futures::FutureExt;
use manyhands::volunteer::{Event, Settings, Switch, Volunteer, VolunteerError, Wish};
use manyhands::web::{KeyOptions, WebHost, origin};
use messages::{Start, ToWorker};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{DedicatedWorkerGlobalScope, MessageEvent};

thread_local! {
    /// The running visit's switch.
    static VISIT: RefCell<Option<Switch>> = const { RefCell::new(None) };
}

fn main() {
    std::panic::set_hook(Box::new(|info| {
        console_error_panic_hook::hook(info);
        post(&messages::error("panic", &info.to_string(), false));
        post(&messages::stopped("the worker failed"));
    }));
    let listen = Closure::<dyn Fn(MessageEvent)>::new(|event: MessageEvent| match ToWorker::read(event.data()) {
        Ok(message) => act(message),
        Err(field) => post(&messages::error("bad_message", &format!("a message's {field} is not understood"), false)),
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
    let wish = match message {
        ToWorker::Start(start) => return begin(start),
        ToWorker::Try { job, wish } => {
            return spawn_local(async move {
                post(&match tryout::run(job, &wish).await {
                    Ok(tried) => messages::tried(tried),
                    Err(fault) => messages::error("try_failed", &fault, true),
                });
            });
        }
        ToWorker::Pause => Wish::Pause,
        ToWorker::Resume => Wish::Run,
        ToWorker::Stop => Wish::Stop,
    };
    VISIT.with_borrow(|visit| {
        if let Some(switch) = visit {
            switch.set(wish);
        }
    });
}

/// Begins a visit, unless one is running.
fn begin(start: Start) {
    let switch = Switch::new();
    let is_first = VISIT.with_borrow_mut(|visit| {
        let is_first = visit.is_none();
        visit.get_or_insert_with(|| switch.clone());
        is_first
    });
    if is_first {
        spawn_local(async move {
            visit(start, switch).await;
            VISIT.set(None);
        });
    }
}

/// One visit, to its end; its last message is `state stopped`.
async fn visit(start: Start, switch: Switch) {
    let opened = futures::select_biased! {
        _ = switch.until(|w| w == Wish::Stop).fuse() => return post(&messages::stopped("")),
        opened = WebHost::open(KeyOptions::default()).fuse() => opened,
    };
    let host = match opened {
        Ok(host) => host,
        Err(fault) => {
            let error = VolunteerError::from(fault);
            post(&messages::error(error.code(), &error.to_string(), false));
            return post(&messages::stopped(&error.to_string()));
        }
    };
    let settings = Settings {
        origin: origin(),
        site: start.site,
        job: start.job,
        choice: start.choice,
        tune: start.tune,
        duty_percent: start.duty_percent,
        data_bytes_max: start.data_bytes_max,
        units_max: None,
        renew_consent: false,
        withdraw_at_end: false,
    };
    let volunteer = Volunteer { host, settings, switch };
    // The loop tells its error itself, as an event.
    let _ = volunteer.run(|event: Event| post(&messages::event(event))).await;
}
