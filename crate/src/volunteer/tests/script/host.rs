//! What the volunteer's loop asks of its host, answered by the script: calls with their faults, and a clock that moves
//! only when the loop waits.

use std::task::Poll;

use manyhands_protocol::problem::Code;
use manyhands_protocol::{BlobHash, KeyId, limits};

use super::{Fault, ScriptHost, Timer, a_bytes, hash, ok, problem};
use crate::control::Control;
use crate::volunteer::host::*;
use crate::volunteer::identity::verify;
use crate::volunteer::ledger::LOOK_MS;
use crate::volunteer::unit::PROGRESS_MS;
use crate::volunteer::*;

/// A thread that computes, and fails on cue.
pub struct ScriptAside(ScriptHost);

impl Aside for ScriptAside {
    async fn compute(&mut self, task: Task, control: &Control) -> Result<Computed, VolunteerError> {
        let fault = self.0.fault("aside computes");
        let computing = &self.0.0.computing;
        computing.set(computing.get() - i32::from(fault.is_some()));
        match fault {
            None => lane::Thread.compute(task, control).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(_) => Err(HostError::Worker("killed".to_owned()).into()),
        }
    }
}

impl Host for ScriptHost {
    type Aside = ScriptAside;
    type SessionLock = ();
    type TuningLock = ();

    async fn request(&self, request: Request<'_>) -> Result<Response, HostError> {
        let call = format!("{} {}", request.method.name(), request.path);
        if !call.ends_with("/heartbeat") {
            self.0.log.borrow_mut().push(call.clone());
        }
        if self.0.stop_at.get().is_some_and(|at| call.starts_with(at)) {
            self.0.switch.set(Wish::Stop);
        }
        let is_blob = call.contains("/v1/blobs/");
        let (now, most) = self.0.transfers.get();
        let now = now + u32::from(is_blob);
        self.0.transfers.set((now, most.max(now)));
        let response = match self.fault(&call) {
            Some(Fault::Slow) => {
                self.sleep(100).await;
                self.answer(&call, &request)
            }
            None => self.answer(&call, &request),
            Some(Fault::Network) => return Err(HostError::Network("refused".to_owned())),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangAndTakeBack) => {
                self.0.keep.set(Some(false));
                std::future::pending().await
            }
            Some(Fault::Problem(code, retry_after_ms)) => problem(code, retry_after_ms),
            Some(Fault::Html(status)) => Response { status, retry_after_ms: None, body: b"<html>".to_vec() },
            Some(Fault::LostAnswer) => {
                self.answer(&call, &request);
                return Err(HostError::Network("reset".to_owned()));
            }
            Some(Fault::Late(ms)) => {
                let answer = self.answer(&call, &request);
                self.sleep(ms).await;
                answer
            }
            Some(Fault::WrongBytes) => ok(a_bytes().into_iter().rev().collect()),
        };
        if response.body.len() as u64 > request.answer_bytes_max {
            return Err(HostError::TooLarge(request.answer_bytes_max));
        }
        let (now, most) = self.0.transfers.get();
        self.0.transfers.set((now - u32::from(is_blob), most));
        let moved = request.body.len() + response.body.len();
        self.0.moved_bytes.set(self.0.moved_bytes.get() + moved as u64);
        Ok(response)
    }

    async fn sha256(&self, bytes: &[u8]) -> Result<BlobHash, HostError> {
        Ok(hash(bytes))
    }

    fn key(&self) -> KeyId {
        self.0.volunteer.key()
    }

    fn key_is_stored(&self) -> bool {
        false
    }

    async fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], HostError> {
        Ok(self.0.volunteer.sign(bytes))
    }

    async fn verify(&self, key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError> {
        if self.0.lacks_ed25519.get() { Err(HostError::Beyond) } else { Ok(verify(key, bytes, signature)) }
    }

    fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    async fn sleep(&self, ms: u64) {
        let timer = Timer { world: &self.0, id: self.0.timers_count.replace(self.0.timers_count.get() + 1) };
        let due_ms = self.0.now_ms.get() + ms;
        std::future::poll_fn(|context| {
            let never = ms == PROGRESS_MS
                || ms == LOOK_MS && self.0.history.borrow().is_none()
                || ms == limits::HEARTBEAT_MS && self.0.keep.get().is_none();
            if never {
                return Poll::Pending;
            }
            let mut timers = self.0.timers.borrow_mut();
            if self.0.now_ms.get() >= due_ms {
                return Poll::Ready(());
            }
            timers.insert(timer.id, (due_ms, context.waker().clone()));
            Poll::Pending
        })
        .await;
        if ms != limits::HEARTBEAT_MS {
            self.0.log.borrow_mut().push(format!("wait {ms}"));
        }
    }

    fn salt(&self) -> Result<[u8; 32], HostError> {
        Ok([7; 32])
    }

    fn random(&self) -> f64 {
        0.0
    }

    fn control(&self) -> Control {
        Control::new()
    }

    async fn open_aside(&self) -> Result<ScriptAside, HostError> {
        self.0.log.borrow_mut().push("aside opens".to_owned());
        match self.fault("aside opens") {
            None => Ok(ScriptAside(self.clone())),
            Some(_) => Err(HostError::Worker("no such thing".to_owned())),
        }
    }

    fn read_info(&self, _json: &[u8]) -> Option<Info> {
        Some(Info {
            protocol_version: limits::PROTOCOL_VERSION,
            terms_version: limits::TERMS_VERSION,
            key: self.0.coordinator.borrow().key(),
            nonce: vec![1; 16],
            now_ms: self.0.now_ms.get(),
            heartbeat_ms: limits::HEARTBEAT_MS,
            session_ms_max: limits::SESSION_MS_MAX,
        })
    }

    fn read_problem(&self, json: &[u8]) -> Option<ProblemText> {
        let code = Code::parse(std::str::from_utf8(json).ok()?)?;
        Some(ProblemText { code: code.as_str().to_owned(), detail: String::new(), retryable: code.retryable() })
    }

    async fn load_checkpoint(&self, _coordinator: KeyId) -> Option<String> {
        self.0.checkpoint.borrow().clone()
    }

    async fn store_checkpoint(&self, _coordinator: KeyId, loaded: Option<&str>, note: &str) {
        if !self.0.forgets.get() && self.0.checkpoint.borrow().as_deref() == loaded {
            self.0.checkpoint.replace(Some(note.to_owned()));
        }
    }

    async fn lock_session(&self, _coordinator: KeyId) -> Self::SessionLock {}

    async fn load_session(&self, name: &str) -> Option<StoredSession> {
        self.0.stored.borrow().get(name).cloned()
    }

    async fn store_session(&self, name: &str, session: Option<&StoredSession>) {
        let mut stored = self.0.stored.borrow_mut();
        match session {
            Some(session) => stored.insert(name.to_owned(), session.clone()),
            None => stored.remove(name),
        };
    }

    fn environment(&self) -> String {
        "script".to_owned()
    }

    async fn lock_tuning(&self) -> Option<()> {
        Some(())
    }

    async fn load_tuning(&self, name: &str) -> Option<String> {
        self.0.tuning.borrow().get(name).cloned()
    }

    async fn store_tuning(&self, name: &str, text: &str) {
        self.0.tuning.borrow_mut().insert(name.to_owned(), text.to_owned());
    }
}
