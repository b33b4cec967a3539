//! Calls to the coordinator: bounds on size, time and the data consented to, problem documents into errors, and
//! retries. Which call means what is the business of its callers.

use std::cell::{Cell, RefCell};

use futures::FutureExt;
use futures::lock::Mutex;
use manyhands_protocol::cbor;

use super::backoff::Backoff;
use super::data::DataUse;
use super::error::VolunteerError;
use super::event::{Event, State};
use super::host::{Host, HostError, Method, Request, Response};
use super::run::{Settings, Volunteer};
use super::session::Sessions;

/// Content type of plain CBOR bodies.
pub const CBOR: &str = "application/cbor";
/// Content type of signed bodies.
pub const COSE: &str = "application/cose";
/// Content type of blobs.
pub const OCTETS: &str = "application/octet-stream";

/// Longest answer of any call but a blob's.
pub const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Longest exchange without a blob.
const CALL_MS_MAX: u64 = 15_000;
/// Longest exchange with a blob.
const BLOB_MS_MAX: u64 = 120_000;

/// Tells events outwards and keeps the state last told.
pub(super) struct Reporter {
    tell: RefCell<Box<dyn FnMut(Event)>>,
    state: Cell<State>,
    unreachable: Cell<bool>,
    /// Units under computation.
    at_work_count: Cell<u32>,
}

/// A unit under computation, for the [`Reporter`].
pub(super) struct AtWork<'a>(&'a Cell<u32>);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Reporter {
    pub fn new(tell: Box<dyn FnMut(Event)>) -> Self {
        Self {
            tell: RefCell::new(tell),
            state: Cell::new(State::Stopped),
            unreachable: Cell::new(false),
            at_work_count: Cell::new(0),
        }
    }

    pub fn tell(&self, event: Event) {
        (self.tell.borrow_mut())(event);
    }

    /// Tells that the visit works, and keeps to that as long as any unit is computed, whatever the other lanes wait for.
    pub fn at_work(&self) -> AtWork<'_> {
        if self.state.get() != State::Paused {
            self.state(State::Working, "");
        }
        self.at_work_count.set(self.at_work_count.get() + 1);
        AtWork(&self.at_work_count)
    }

    /// Tells a state, once.
    pub fn state(&self, state: State, detail: &str) {
        if state == State::Waiting && self.at_work_count.get() > 0 {
            return self.reached();
        }
        let (was_unreachable, before) = (self.unreachable.replace(false), self.state.replace(state));
        if was_unreachable || before != state || !detail.is_empty() {
            self.tell(Event::State { state, detail: detail.to_owned() });
        }
    }

    pub fn error(&self, error: &VolunteerError) {
        self.tell(Event::Error {
            code: error.code().to_owned(),
            message: error.to_string(),
            retryable: error.retryable() || !error.ends_visit(),
        });
    }

    /// Tells that nobody answers, once, until [`Reporter::reached`].
    pub fn unreachable(&self, error: &VolunteerError) {
        if !self.unreachable.replace(true) {
            self.tell(Event::State { state: State::Unreachable, detail: error.to_string() });
        }
    }

    /// Somebody answers: tells the state that held before.
    pub fn reached(&self) {
        if self.unreachable.replace(false) {
            self.tell(Event::State { state: self.state.get(), detail: String::new() });
        }
    }
}

/// One volunteer's line to its coordinator.
pub(super) struct Client<'a, H: Host> {
    pub host: &'a H,
    pub settings: &'a Settings,
    pub reporter: &'a Reporter,
    pub sessions: Sessions,
    /// Held while a blob is on its way: one at a time, for all lanes have one allowance of data and one line, and the
    /// coordinator takes few uploads of a key at once.
    pub transfers: Mutex<()>,
    data: &'a DataUse,
}

impl<'a, H: Host> Client<'a, H> {
    pub fn new(volunteer: &'a Volunteer<H>, reporter: &'a Reporter) -> Self {
        let Volunteer { host, settings, data, .. } = volunteer;
        Self { host, settings, reporter, sessions: Sessions::default(), transfers: Mutex::default(), data }
    }

    /// One attempt, without a session.
    pub async fn plain(&self, mut request: Request<'_>) -> Result<Vec<u8>, VolunteerError> {
        let left = self.data.left_bytes();
        let sent = request.body.len() as u64;
        if sent > left {
            return Err(VolunteerError::DataLimit);
        }
        request.answer_bytes_max = request.answer_bytes_max.min(left - sent);
        let is_blob = request.content_type == Some(OCTETS) || request.path.starts_with("/v1/blobs/");
        let bound_ms = if is_blob { BLOB_MS_MAX } else { CALL_MS_MAX };
        let answer = futures::select_biased! {
            answer = self.host.request(request).fuse() => answer,
            () = self.host.sleep(bound_ms).fuse() => return Err(VolunteerError::TimedOut(bound_ms)),
        };
        let response = match answer {
            Err(HostError::TooLarge(max)) if max >= left - sent => return Err(VolunteerError::DataLimit),
            other => other?,
        };
        self.data.count(sent + response.body.len() as u64);
        self.judge(response)
    }

    /// One attempt under the session, which is opened where there is none and opened anew, once, where the coordinator
    /// does not know it any more.
    pub async fn authorised(&self, request: Request<'_>) -> Result<Vec<u8>, VolunteerError> {
        let token = self.token().await?;
        match self.plain(Request { token: Some(&token), ..request }).await {
            Err(e) if e.is_session() => {
                self.sessions.refuse(token);
                let token = self.token().await?;
                self.plain(Request { token: Some(&token), ..request }).await
            }
            other => other,
        }
    }

    /// An authorised call with a CBOR answer.
    pub async fn call<T>(&self, method: Method, path: &str, content_type: Option<&str>, body: &[u8]) -> Result<T, VolunteerError>
    where
        T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
    {
        let request = Request { method, path, token: None, content_type, body, answer_bytes_max: ANSWER_BYTES_MAX };
        let answer = self.authorised(request).await?;
        cbor::decode_strict(&answer).map_err(|e| VolunteerError::Answer(e.to_string()))
    }

    /// Attempts until one succeeds, fails for good, or `until_ms` (local clock) has passed.
    pub async fn retry<T>(
        &self,
        until_ms: Option<u64>,
        mut attempt: impl AsyncFnMut() -> Result<T, VolunteerError>,
    ) -> Result<T, VolunteerError> {
        let mut backoff = Backoff::default();
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    self.reporter.reached();
                    return Ok(value);
                }
                Err(e) => e,
            };
            if !error.retryable() || until_ms.is_some_and(|until| self.host.now_ms() >= until) {
                return Err(error);
            }
            if error.is_unreachable() {
                self.reporter.unreachable(&error);
            } else {
                self.reporter.state(State::Waiting, &error.to_string());
            }
            self.host.sleep(backoff.next_ms(self.host.random(), error.retry_after_ms())).await;
        }
    }

    fn judge(&self, response: Response) -> Result<Vec<u8>, VolunteerError> {
        let Response { status, retry_after_ms, body } = response;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(match self.host.read_problem(&body) {
            Some(p) => VolunteerError::Refused { status, code: p.code, detail: p.detail, retryable: p.retryable, retry_after_ms },
            // Not a problem document: a proxy's page, or no coordinator at all behind this address.
            None => VolunteerError::Refused {
                status,
                code: String::new(),
                detail: "not an answer of this protocol".to_owned(),
                retryable: status >= 500 || status == 429 || status == 408,
                retry_after_ms,
            },
        })
    }
}
