//! The small worker that a visit begins with: it works off one unit if that is a product, then loads the whole worker into
//! the same thread, hands over what it was told, and is silent. A unit that it cannot compute goes along as it was leased.
//! Where the whole worker is, the build writes into this one's script (`LOAD`).

use std::cell::{Cell, RefCell};

use js_sys::{Function, Promise, Reflect, Uint8Array};
use manyhands::volunteer::{VolunteerError, Wish};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{MessageEvent, MessageEventInit};

use crate::messages::{self, BEGUN, DATA_BYTES_USED, GOES_ON, KEY, LEASE, Start, ToWorker};
use crate::{Running, VISIT, act, begin, post, scope, visit};

/// Global function that the script defines: loads the whole worker, checked by its hash, which then listens in our place.
const LOAD: &str = "manyhandsWhole";

thread_local! {
    /// Messages for the whole worker.
    static LATER: RefCell<Vec<JsValue>> = const { RefCell::new(Vec::new()) };
    /// The newest conditions and limit, which it has to know as well.
    static KNOWN: RefCell<[Option<JsValue>; 2]> = const { RefCell::new([None, None]) };
    /// Whether it is being loaded: from then on every message is for it.
    static LOADING: Cell<bool> = const { Cell::new(false) };
}

/// Acts on a message, or keeps it for the whole worker.
pub fn hear(message: ToWorker, raw: JsValue) {
    let keep = |raw| LATER.with_borrow_mut(|later| later.push(raw));
    match message {
        _ if LOADING.get() => keep(raw),
        ToWorker::Start(start) => begin(start, async move |start, running| {
            let (wish, governor) = (running.switch.clone(), running.governor.clone());
            match first_unit(start, &raw, running).await {
                Ok(()) if wish.wish() != Wish::Stop => {
                    let pause = governor.is_paused().then(|| messages::plain("pause"));
                    hand_over([raw].into_iter().chain(KNOWN.take().into_iter().flatten()).chain(pause).collect()).await;
                }
                Ok(()) => post(&messages::stopped("")),
                Err(error) => post(&messages::stopped(&error.to_string())),
            }
        }),
        // Answers need a model, and keys that leave or come more cryptography. A visit hands over soon by itself, and takes this along.
        ToWorker::Try { .. } | ToWorker::Key => {
            if VISIT.with_borrow(Option::is_some) {
                keep(raw);
            } else {
                spawn_local(hand_over(vec![raw]));
            }
        }
        message => {
            let known = match message {
                ToWorker::Conditions(_) => Some(0),
                ToWorker::Limit(_) => Some(1),
                _ => None,
            };
            if let Some(known) = known {
                KNOWN.with_borrow_mut(|all| all[known] = Some(raw));
            }
            act(message);
        }
    }
}

/// The visit as far as it goes here; writes into `raw` how the whole worker goes on.
async fn first_unit(start: Start, raw: &JsValue, running: Running) -> Result<(), VolunteerError> {
    // Setting a field fails only on frozen objects, which messages are not.
    let set = |name: &str, value: JsValue| drop(Reflect::set(raw, &name.into(), &value));
    set(GOES_ON, true.into());
    let visited = visit(start, running).await;
    let (key, data_bytes_used) = visited.kept;
    set(DATA_BYTES_USED, (data_bytes_used as f64).into());
    if let Some(key) = key {
        set(KEY, key);
    }
    match visited.outcome {
        Err(VolunteerError::Beyond(lease)) => {
            if let Some(lease) = lease {
                set(LEASE, Uint8Array::from(lease.as_slice()).into());
            }
            Ok(())
        }
        outcome => {
            set(BEGUN, true.into());
            outcome
        }
    }
}

/// Loads the whole worker and gives it `messages`, then what came meanwhile.
async fn hand_over(mut messages: Vec<JsValue>) {
    LOADING.set(true);
    let loaded =
        match Reflect::get(&js_sys::global(), &LOAD.into()).and_then(|load| load.dyn_into::<Function>()?.call0(&JsValue::NULL)) {
            Ok(promise) => JsFuture::from(Promise::resolve(&promise)).await,
            Err(fault) => Err(fault),
        };
    LOADING.set(false);
    messages.append(&mut LATER.take());
    if loaded.is_err() {
        post(&messages::error("load_failed", "the rest of the program could not be loaded", false));
        if messages.iter().any(messages::is_start) {
            post(&messages::stopped("the rest of the program could not be loaded"));
        }
        return;
    }
    for message in messages {
        let init = MessageEventInit::new();
        init.set_data(&message);
        if let Ok(event) = MessageEvent::new_with_event_init_dict("message", &init) {
            // Now heard by the whole worker; fails only for an event that is being dispatched already.
            let _ = scope().dispatch_event(&event);
        }
    }
}
