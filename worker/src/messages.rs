//! The messages between page and worker, typed: plain objects tagged by `type`. This file is the contract; the page's
//! copy of it for its type checker is www/types.d.ts. Fields are read and written by hand, which is smaller than a
//! serializer; nothing here acts on a message.
//!
//! Page to worker: `start {job: number|null, category: "", site: "", backend: "auto"|"any"|"gpu"|"cpu", tune: "auto"|"off",
//! duty_percent, data_bytes_max, lanes?}`, `pause`, `resume`, `stop`, `limit {duty_percent}`, `conditions {visible, in_use,
//! background, dropped: number|null, pressure: "nominal"|"serious"|"critical", battery: number|null, saver}`, `moved {bytes}` of the
//! visit's data by the page itself (the whole worker alone takes it),
//! `try {job, rows, prompt, seed, picture: Uint8Array|null, asked}`, `key {act: "replace"|"export"|"import", passphrase, file}`.
//!
//! Worker to page: `ready {whole?: true}`, `state {state, detail}`, `adapter {backend: "webgpu"|"wasm", adapter, reason, is_faster?}`,
//! `key {id, stored}`, `session {token}` of each session that is opened with a key that is not stored, for whoever outlives the worker to end, `unit {job, unit, kind, phase, step, steps, loss|null, reason, credit_flop, data_bytes}` (`data_bytes`
//! of the whole visit so far), `receipt {job, unit, index, size, receipt: Uint8Array}`, `totals {accepted, rejected, pending,
//! credit_flop}`, `spent {ms}` now and then, `pace {duty_percent, reason}` whenever the governor decides otherwise,
//! `answers {rows: [{pixels: Uint8Array, width, height, label: number|null, answer, probability}], bytes}`,
//! `sample {round, prompt, text, bytes}`, `key_done {id, file|null}`, `error {code, message, retryable}`. After `state stopped` the worker may be started again.
//! `ready` comes a second time when the whole worker takes over from the small one that a visit begins with; both speak
//! the same messages.

#[cfg(feature = "every-layer")]
use js_sys::Array;
use js_sys::Uint8Array;
use manyhands::governor::{Conditions, Decision, Pressure};
use manyhands::tuner::Tune;
use manyhands::volunteer::{Choice, Event};
use manyhands::web::fields::{Fields, Record};
#[cfg(feature = "every-layer")]
use manyhands::web::keyring;
use manyhands_protocol::JobId;
use manyhands_protocol::category::Category;
use wasm_bindgen::{JsCast, JsValue};

/// What the page asks for.
pub enum ToWorker {
    Start(Start),
    Pause,
    Resume,
    Stop,
    /// The visitor's newest limit, in percent.
    Limit(u32),
    Conditions(Conditions),
    /// Bytes that the page moved for the visit.
    #[cfg(feature = "every-layer")]
    Moved(u64),
    #[cfg_attr(not(feature = "every-layer"), expect(dead_code, reason = "answers are the whole worker's"))]
    Try {
        job: JobId,
        wish: TryWish,
    },
    #[cfg(not(feature = "every-layer"))]
    Key,
    #[cfg(feature = "every-layer")]
    Key(keyring::Wish),
}

/// What to try the newest model on: so many held-out pictures, or the visitor's own; or, of a model of text, the beginning it
/// goes on from, held-out text where that is empty. What is drawn by chance is drawn from the seed.
#[cfg_attr(not(feature = "every-layer"), expect(dead_code, reason = "the whole worker reads it"))]
pub struct TryWish {
    pub rows: usize,
    pub prompt: String,
    pub seed: u64,
    /// Grey values, 0 to 255, row by row.
    pub picture: Option<Vec<u8>>,
    /// The visitor waits for it. Else it is a part of the visit's work, and keeps to its limits.
    pub asked: bool,
}

/// What the visitor agreed to by pressing Start.
pub struct Start {
    pub job: Option<JobId>,
    pub category: Option<Category>,
    pub site: String,
    pub choice: Choice,
    pub tune: Tune,
    pub duty_percent: u32,
    pub data_bytes_max: u64,
    /// Units to compute at once where no GPU computes; as many as suit the computer where that is not said.
    #[cfg(feature = "every-layer")]
    pub lanes: Option<u64>,
    /// The visit goes on from another worker, which told how it started.
    pub goes_on: bool,
    /// The lease to go on with, signed as it came.
    pub lease: Option<Vec<u8>>,
    /// Whether that one handed in the visit's first unit.
    pub begun: bool,
    /// The key to go on with where none is stored.
    pub key: Option<JsValue>,
    /// Bytes sent and received before.
    pub data_bytes_used: u64,
}

/// Fields that one worker adds to `start` for the next, never the page.
pub const GOES_ON: &str = "goes_on";
pub const LEASE: &str = "lease";
pub const BEGUN: &str = "begun";
pub const KEY: &str = "key";
pub const DATA_BYTES_USED: &str = "data_bytes_used";

/// Most rows one `try` may ask for.
const ROWS_MAX: u64 = 100;
/// Longest passphrase.
#[cfg(feature = "every-layer")]
const PASSPHRASE_BYTES_MAX: usize = 4096;
/// Longest beginning of a text.
const PROMPT_BYTES_MAX: usize = 1000;
/// Largest picture.
const PIXELS_MAX: usize = 1 << 18;

impl ToWorker {
    /// Reads a message; the error names the field at fault.
    pub fn read(message: JsValue) -> Result<ToWorker, &'static str> {
        let fields = Fields::new(message);
        match fields.text("type").as_deref() {
            Some("start") => Ok(ToWorker::Start(Start {
                job: match fields.value("job") {
                    None => None,
                    Some(_) => Some(JobId(fields.whole("job").ok_or("job")?)),
                },
                category: match fields.text("category").unwrap_or_default().as_str() {
                    "" => None,
                    name => Some(Category::parse(name).ok_or("category")?),
                },
                site: fields.text("site").unwrap_or_default(),
                choice: match fields.text("backend").as_deref() {
                    Some("auto") => Choice::Auto,
                    #[cfg(feature = "every-layer")]
                    Some("any") => Choice::Any,
                    // What begins a visit measures nothing.
                    #[cfg(not(feature = "every-layer"))]
                    Some("any") => Choice::Gpu,
                    Some("gpu") => Choice::Gpu,
                    Some("cpu") => Choice::Cpu,
                    _ => return Err("backend"),
                },
                tune: fields.text("tune").as_deref().and_then(Tune::parse).ok_or("tune")?,
                duty_percent: duty_percent(&fields)?,
                data_bytes_max: fields.whole("data_bytes_max").ok_or("data_bytes_max")?,
                #[cfg(feature = "every-layer")]
                lanes: fields.whole("lanes"),
                goes_on: fields.flag(GOES_ON).unwrap_or(false),
                lease: fields.value(LEASE).map(|bytes| Uint8Array::new(&bytes).to_vec()),
                begun: fields.flag(BEGUN).unwrap_or(false),
                key: fields.value(KEY),
                data_bytes_used: fields.whole(DATA_BYTES_USED).unwrap_or(0),
            })),
            Some("pause") => Ok(ToWorker::Pause),
            Some("resume") => Ok(ToWorker::Resume),
            Some("stop") => Ok(ToWorker::Stop),
            Some("limit") => Ok(ToWorker::Limit(duty_percent(&fields)?)),
            #[cfg(feature = "every-layer")]
            Some("moved") => Ok(ToWorker::Moved(fields.whole("bytes").ok_or("bytes")?)),
            Some("conditions") => Ok(ToWorker::Conditions(conditions(&fields)?)),
            Some("try") => Ok(ToWorker::Try {
                job: JobId(fields.whole("job").ok_or("job")?),
                wish: TryWish {
                    rows: fields.whole("rows").filter(|r| (1..=ROWS_MAX).contains(r)).ok_or("rows")? as usize,
                    prompt: fields.text("prompt").filter(|p| p.len() <= PROMPT_BYTES_MAX).ok_or("prompt")?,
                    seed: fields.whole("seed").ok_or("seed")?,
                    picture: picture(&fields)?,
                    asked: fields.flag("asked").ok_or("asked")?,
                },
            }),
            #[cfg(not(feature = "every-layer"))]
            Some("key") => Ok(ToWorker::Key),
            #[cfg(feature = "every-layer")]
            Some("key") => key(&fields).map(ToWorker::Key),
            _ => Err("type"),
        }
    }
}

#[cfg(feature = "every-layer")]
fn key(fields: &Fields) -> Result<keyring::Wish, &'static str> {
    let passphrase = || fields.text("passphrase").filter(|p| (1..=PASSPHRASE_BYTES_MAX).contains(&p.len())).ok_or("passphrase");
    match fields.text("act").as_deref() {
        Some("replace") => Ok(keyring::Wish::Replace),
        Some("export") => Ok(keyring::Wish::Export { passphrase: passphrase()? }),
        Some("import") => Ok(keyring::Wish::Import { passphrase: passphrase()?, file: fields.text("file").ok_or("file")? }),
        _ => Err("act"),
    }
}

fn duty_percent(fields: &Fields) -> Result<u32, &'static str> {
    fields.whole("duty_percent").filter(|percent| (1..=100).contains(percent)).map(|percent| percent as u32).ok_or("duty_percent")
}

/// No copy is made of more than a picture may have.
fn picture(fields: &Fields) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(value) = fields.value("picture") else { return Ok(None) };
    let pixels: Uint8Array = value.dyn_into().map_err(|_| "picture")?;
    if pixels.length() as usize > PIXELS_MAX { Err("picture") } else { Ok(Some(pixels.to_vec())) }
}

fn conditions(fields: &Fields) -> Result<Conditions, &'static str> {
    let share = |name| fields.number(name).filter(|share| (0.0..=1.0).contains(share));
    Ok(Conditions {
        visible: fields.flag("visible").ok_or("visible")?,
        in_use: fields.flag("in_use").ok_or("in_use")?,
        background: fields.flag("background").ok_or("background")?,
        dropped: share("dropped"),
        pressure: match fields.text("pressure").as_deref() {
            Some("nominal") => Pressure::Nominal,
            Some("serious") => Pressure::Serious,
            Some("critical") => Pressure::Critical,
            _ => return Err("pressure"),
        },
        battery: share("battery"),
        saver: fields.flag("saver").ok_or("saver")?,
    })
}

/// One example with the model's answer. Only what is held out has a label.
#[cfg(feature = "every-layer")]
pub struct Answer {
    pub pixels: Vec<u8>,
    pub width: u32,
    pub height: u32,
    pub label: Option<u32>,
    pub answer: u32,
    pub probability: f32,
}

/// What the newest model says to a [`TryWish`], and how many bytes were fetched for it.
#[cfg(feature = "every-layer")]
pub struct Tried {
    pub what: What,
    pub bytes: u64,
}

#[cfg(feature = "every-layer")]
pub enum What {
    Answers(Vec<Answer>),
    /// What the model of this round wrote after the prompt.
    Sample {
        round: u32,
        prompt: String,
        text: String,
    },
}

fn message(kind: &str) -> Record {
    Record::new().with("type", kind)
}

/// A message of nothing but its type.
#[cfg(not(feature = "every-layer"))]
pub fn plain(kind: &str) -> JsValue {
    message(kind).into()
}

/// Whether a visit was asked for.
#[cfg(not(feature = "every-layer"))]
pub fn is_start(message: &JsValue) -> bool {
    Fields::new(message.clone()).text("type").as_deref() == Some("start")
}

pub fn ready() -> JsValue {
    let record = message("ready");
    #[cfg(feature = "every-layer")]
    let record = record.with("whole", true);
    record.into()
}

pub fn session(token: &str) -> JsValue {
    message("session").with("token", token).into()
}

pub fn error(code: &str, text: &str, retryable: bool) -> JsValue {
    message("error").with("code", code).with("message", text).with("retryable", retryable).into()
}

pub fn pace(decision: Decision) -> JsValue {
    message("pace").with("duty_percent", decision.duty_percent).with("reason", decision.reason.name()).into()
}

/// How long work took since this was told last.
pub fn spent(ms: f64) -> JsValue {
    message("spent").with("ms", ms).into()
}

pub fn stopped(detail: &str) -> JsValue {
    message("state").with("state", "stopped").with("detail", detail).into()
}

#[cfg(feature = "every-layer")]
pub fn tried(tried: Tried) -> JsValue {
    let bytes = tried.bytes as f64;
    let rows = match tried.what {
        What::Answers(rows) => rows,
        What::Sample { round, prompt, text } => {
            return message("sample").with("round", round).with("prompt", prompt).with("text", text).with("bytes", bytes).into();
        }
    };
    let list = Array::new();
    for row in rows {
        let record = Record::new()
            .with("pixels", Uint8Array::from(row.pixels.as_slice()))
            .with("width", row.width)
            .with("height", row.height)
            .with("label", row.label.map_or(JsValue::NULL, JsValue::from))
            .with("answer", row.answer)
            .with("probability", row.probability);
        list.push(&record.into());
    }
    message("answers").with("rows", list).with("bytes", bytes).into()
}

#[cfg(feature = "every-layer")]
pub fn key_done(done: keyring::Done) -> JsValue {
    let file = done.file.map_or(JsValue::NULL, JsValue::from);
    message("key_done").with("id", done.key.to_string()).with("file", file).into()
}

/// The message for something that happened in the loop, after so many bytes of data. Counts go as numbers: exact up to 2^53.
pub fn event(event: Event, data_bytes: u64) -> JsValue {
    match event {
        Event::State { state, detail } => message("state").with("state", state.name()).with("detail", detail),
        Event::Adapter {
            backend,
            adapter,
            reason,
            #[cfg(feature = "every-layer")]
            is_faster,
        } => {
            let record = message("adapter").with("backend", backend.name()).with("adapter", adapter).with("reason", reason);
            #[cfg(feature = "every-layer")]
            let record = record.with("is_faster", is_faster);
            record
        }
        Event::Key { id, stored } => message("key").with("id", id.to_string()).with("stored", stored),
        Event::Unit(u) => message("unit")
            .with("job", u.job.0 as f64)
            .with("unit", u.unit.0 as f64)
            .with("kind", u.kind.name())
            .with("phase", u.phase.name())
            .with("step", u.step)
            .with("steps", u.steps)
            .with("loss", u.loss.map_or(JsValue::NULL, JsValue::from))
            .with("reason", u.reason)
            .with("credit_flop", u.credit_flop as f64)
            .with("data_bytes", data_bytes as f64),
        #[cfg(feature = "every-layer")]
        Event::Receipt(receipt) => message("receipt")
            .with("job", receipt.job.0 as f64)
            .with("unit", receipt.unit.0 as f64)
            .with("index", receipt.index as f64)
            .with("size", receipt.size as f64)
            .with("receipt", Uint8Array::from(receipt.bytes.as_slice())),
        Event::Totals(t) => message("totals")
            .with("accepted", t.accepted as f64)
            .with("rejected", t.rejected as f64)
            .with("pending", t.pending as f64)
            .with("credit_flop", t.credit_flop as f64),
        Event::Error { code, message, retryable } => return error(&code, &message, retryable),
    }
    .into()
}
