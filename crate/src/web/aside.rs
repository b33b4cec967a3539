//! A further lane in a tab: a worker of its own, begun by the visit's worker with the same script, which computes units and
//! nothing else. It shares no memory, so no site has to isolate itself. Both ends of what the two say are here.
//!
//! Visit's worker to the lane's: `pace {duty_percent, slice_ms, open}` whenever that changes, `compute {work, first, second, states_every}`
//! (the work as CBOR, its inputs as files, 0 where nothing is to be committed to), `hold`, `go_on`. Back: `ready` once, as to a page; `progress {step, steps}` all the while; `computed {output, losses, states, end_leaves, spent_ms}` (the hashes committed to, one after another) or
//! `error {message}`.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::mpsc;
use futures::{FutureExt, StreamExt};
use js_sys::{Array, Float32Array, Reflect, Uint8Array};
use manyhands_protocol::work::Work;
use manyhands_protocol::{TreeHash, cbor};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Event, MessageEvent, Worker, WorkerGlobalScope, WorkerOptions, WorkerType};

use super::fields::{Fields, Record};
use super::pace::{Bounds, Tempo, WebPace};
use super::timer::sleep;
use crate::control::Control;
use crate::engine::Engine;
use crate::engine::states::Committed;
use crate::volunteer::host::HostError;
use crate::volunteer::{Aside, Computed, LANES_MAX, Task, VolunteerError};

/// Global that a built script sets: its own address, where the visit began with another script.
const HERE: &str = "manyhandsHere";
const NAME: &str = "many-hands-lane";
/// Longest wait for a lane's program, which the browser has in its cache.
const READY_MS_MAX: u64 = 60_000;
/// Between two signs of life of a lane that computes.
const PROGRESS_MS: u64 = 400;
/// A lane that is silent for so long is taken for dead: a browser tells nobody that it ended a worker.
const SILENCE_MS_MAX: u64 = 20_000;
/// What a lane keeps to until it is told.
const CLOSED: Bounds = Bounds { open: false, ..Bounds::NONE };

/// Units to compute at once: as many as were asked for; else one core stays free for the page and the rest of the computer.
pub fn lanes_count(asked: Option<u64>) -> usize {
    let cores = js_sys::global().unchecked_into::<WorkerGlobalScope>().navigator().hardware_concurrency();
    // NaN where the browser does not tell.
    let lanes = asked.map_or(cores as usize, |asked| asked as usize + 1).saturating_sub(1);
    lanes.clamp(1, LANES_MAX)
}

/// The visit's end of a lane.
pub struct WebAside {
    worker: Worker,
    heard: mpsc::UnboundedReceiver<Result<Fields, HostError>>,
    tempo: Rc<Tempo>,
    /// What the lane keeps to as far as it was told.
    told: Bounds,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut(Event)>,
}

impl Drop for WebAside {
    fn drop(&mut self) {
        self.worker.terminate();
    }
}

impl WebAside {
    /// Begins the worker; resolves once it is ready.
    pub async fn open(tempo: Rc<Tempo>) -> Result<WebAside, HostError> {
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        options.set_name(NAME);
        let worker = Worker::new_with_options(&address(), &options).map_err(|_| failed("it cannot be started here"))?;
        let (send, heard) = mpsc::unbounded();
        let told = send.clone();
        let message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let fields = Fields::new(event.data());
            let _ = told.unbounded_send(match fields.text("type").as_deref() {
                Some("error") => Err(failed(&fields.text("message").unwrap_or_default())),
                _ => Ok(fields),
            });
        });
        let error = Closure::<dyn FnMut(Event)>::new(move |event: Event| {
            // Else it would go on to the page as an error of the visit's worker.
            event.prevent_default();
            let what = Fields::new(event.into()).text("message").unwrap_or_else(|| "it could not be loaded".to_owned());
            let _ = send.unbounded_send(Err(failed(&what)));
        });
        worker.set_onmessage(Some(message.as_ref().unchecked_ref()));
        worker.set_onerror(Some(error.as_ref().unchecked_ref()));
        let mut aside = WebAside { worker, heard, tempo, told: CLOSED, _on_message: message, _on_error: error };
        while aside.hear(READY_MS_MAX).await?.text("type").as_deref() != Some("ready") {}
        Ok(aside)
    }

    /// The lane's next message.
    async fn hear(&mut self, limit_ms: u64) -> Result<Fields, HostError> {
        futures::select_biased! {
            heard = self.heard.next().fuse() => heard.unwrap_or_else(|| Err(failed("it is gone"))),
            () = sleep(limit_ms).fuse() => Err(failed(&format!("nothing was heard of it for {} s", limit_ms / 1000))),
        }
    }

    /// Tells the lane what to keep to.
    fn pace(&mut self, bounds: Bounds) -> Result<(), HostError> {
        self.told = bounds;
        let Bounds { duty_percent, slice_ms, open } = bounds;
        let message = Record::new().with("type", "pace").with("duty_percent", duty_percent);
        self.post(message.with("slice_ms", slice_ms).with("open", open), &Array::new())
    }

    fn post(&self, message: Record, transferred: &Array) -> Result<(), HostError> {
        let message = JsValue::from(message);
        self.worker.post_message_with_transfer(&message, transferred).map_err(|_| failed("it takes no messages"))
    }
}

impl Aside for WebAside {
    async fn compute(&mut self, task: Task, control: &Control) -> Result<Computed, VolunteerError> {
        let [first, second] = task.inputs.map(|bytes| Uint8Array::from(bytes.as_slice()));
        let transferred = Array::of2(&first.buffer(), &second.buffer());
        let message = Record::new()
            .with("type", "compute")
            .with("work", Uint8Array::from(cbor::encode(&task.work).as_slice()))
            .with("first", first)
            .with("second", second)
            .with("states_every", task.states_every.unwrap_or(0));
        self.post(message, &transferred)?;
        let _wanting = self.tempo.want();
        let mut held = false;
        loop {
            let (tempo, told) = (self.tempo.clone(), self.told);
            let heard = futures::select_biased! {
                heard = self.hear(SILENCE_MS_MAX).fuse() => heard?,
                bounds = tempo.other_than(told).fuse() => {
                    self.pace(bounds)?;
                    continue;
                }
                () = control.until_paused(!held).fuse() => {
                    held = !held;
                    self.post(Record::new().with("type", if held { "hold" } else { "go_on" }), &Array::new())?;
                    continue;
                }
            };
            let whole = |name| heard.whole(name).unwrap_or(0) as u32;
            match (heard.text("type").as_deref(), heard.value("output"), heard.value("losses")) {
                (Some("progress"), ..) => control.set_progress(whole("step"), whole("steps")),
                (Some("computed"), Some(output), Some(losses)) => {
                    self.tempo.spend(heard.number("spent_ms").unwrap_or(0.0));
                    return Ok(Computed {
                        output: Uint8Array::new(&output).to_vec(),
                        losses: Float32Array::new(&losses).to_vec(),
                        committed: task.states_every.and_then(|every| committed(&heard, every)),
                    });
                }
                _ => {}
            }
        }
    }
}

/// Hashes one after another.
fn joined(hashes: Option<&[TreeHash]>) -> Uint8Array {
    Uint8Array::from(hashes.unwrap_or_default().iter().flat_map(|hash| hash.0).collect::<Vec<_>>().as_slice())
}

/// What a lane committed to. It keeps no state to begin a replay with: that begins with the checkpoint.
fn committed(fields: &Fields, every: u32) -> Option<Committed> {
    let hashes = |name| {
        let bytes = fields.value(name).map(|bytes| Uint8Array::new(&bytes).to_vec())?;
        Some(bytes.as_chunks().0.iter().map(|hash| TreeHash(*hash)).collect::<Vec<_>>())
    };
    let (states, end_leaves) = (hashes("states")?, hashes("end_leaves")?);
    (!states.is_empty()).then(|| Committed { every, states, end_leaves, snapshots: Vec::new() })
}

fn failed(what: &str) -> HostError {
    HostError::Worker(what.to_owned())
}

/// Where the script of the whole worker is.
fn address() -> String {
    let built = Reflect::get(&js_sys::global(), &HERE.into()).ok().and_then(|here| here.as_string());
    built.unwrap_or_else(|| js_sys::global().unchecked_into::<WorkerGlobalScope>().location().href())
}

thread_local! {
    /// In a lane's worker, what steers the unit it computes.
    static STEERED: RefCell<Option<Control>> = const { RefCell::new(None) };
    /// In a lane's worker, what it keeps to.
    static TEMPO: Rc<Tempo> = Tempo::new(CLOSED);
}

/// In a lane's worker: acts on a message of the visit's; false where it is none of these.
pub fn hear(message: &JsValue, post: fn(&JsValue)) -> bool {
    let fields = Fields::new(message.clone());
    let steer = |act: fn(&Control)| STEERED.with_borrow(|steered| steered.iter().for_each(act));
    match fields.text("type").as_deref() {
        Some("pace") => TEMPO.with(|tempo| tempo.set(bounds(&fields))),
        Some("hold") => steer(Control::pause),
        Some("go_on") => steer(Control::resume),
        Some("compute") => spawn_local(async move {
            let answer = match compute(&fields, post).await {
                Ok(Computed { output, losses, committed }) => Record::new()
                    .with("type", "computed")
                    .with("output", Uint8Array::from(output.as_slice()))
                    .with("losses", Float32Array::from(losses.as_slice()))
                    .with("states", joined(committed.as_ref().map(|committed| committed.states.as_slice())))
                    .with("end_leaves", joined(committed.as_ref().map(|committed| committed.end_leaves.as_slice())))
                    .with("spent_ms", TEMPO.with(|tempo| tempo.take_spent_ms())),
                Err(fault) => Record::new().with("type", "error").with("message", fault),
            };
            post(&answer.into());
        }),
        _ => return false,
    }
    true
}

/// A lane that knows nothing may do nothing.
fn bounds(fields: &Fields) -> Bounds {
    match (fields.number("duty_percent"), fields.number("slice_ms"), fields.flag("open")) {
        (Some(duty_percent), Some(slice_ms), Some(open)) => Bounds { duty_percent, slice_ms, open },
        _ => CLOSED,
    }
}

/// The unit of a `compute` message, with signs of life meanwhile.
async fn compute(fields: &Fields, post: fn(&JsValue)) -> Result<Computed, String> {
    let bytes = |name| fields.value(name).map(|bytes| Uint8Array::new(&bytes).to_vec()).ok_or("a message without its unit");
    let work: Work = cbor::decode_strict(&bytes("work")?).map_err(|e| e.to_string())?;
    let inputs = [Arc::new(bytes("first")?), Arc::new(bytes("second")?)];
    let states_every = fields.whole("states_every").filter(|every| *every > 0).map(|every| every as u32);
    let task = Task { work, inputs, states_every };
    let control = Control::with_pace(WebPace::new(TEMPO.with(Rc::clone)));
    STEERED.replace(Some(control.clone()));
    // The visit's worker tested this path when it opened it: the same program on the same processor.
    let engine = Engine::cpu();
    futures::select_biased! {
        computed = task.compute(&engine, &control).fuse() => computed.map_err(|e| e.to_string()),
        never = tell(&control, post).fuse() => match never {},
    }
}

async fn tell(control: &Control, post: fn(&JsValue)) -> Infallible {
    loop {
        sleep(PROGRESS_MS).await;
        let (step, steps) = control.progress();
        post(&Record::new().with("type", "progress").with("step", step).with("steps", steps).into());
    }
}
