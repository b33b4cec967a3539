//! The volunteer's host in a terminal: reqwest, ed25519-dalek, and a session nobody shares.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use manyhands::control::{Control, Pace, PaceFuture};
use manyhands::governor::{Ledger, Slice};
use manyhands::volunteer::host::*;
use manyhands::volunteer::identity::{Identity, verify};
use manyhands::volunteer::lane::Thread;
use manyhands_coordinator::base_address;
use manyhands_protocol::problem::Problem;
use manyhands_protocol::view::InfoView;
use manyhands_protocol::{BlobHash, KeyId};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use sha2::{Digest, Sha256};

use super::tuning::{TuningFile, TuningLock};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One terminal's platform.
pub struct NativeHost {
    http: reqwest::Client,
    base: String,
    identity: Identity,
    stored: bool,
    sessions: RefCell<HashMap<String, StoredSession>>,
    /// Of the log of the one coordinator that there is.
    checkpoint: RefCell<Option<String>>,
    tuning: TuningFile,
    /// 1 to 100.
    duty_percent: u32,
    /// What all units together worked and rested.
    ledger: Arc<Mutex<Ledger>>,
}

impl NativeHost {
    pub fn new(
        coordinator: &str,
        identity: Identity,
        stored: bool,
        tuning: TuningFile,
        duty_percent: u32,
    ) -> anyhow::Result<NativeHost> {
        let base = base_address(coordinator)
            .with_context(|| format!("{coordinator} is not a coordinator's address, https://HOST or http://HOST:PORT"))?;
        // The protocol has no redirects, and a token must not follow one.
        let redirects = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(redirects).build()?;
        Ok(NativeHost {
            http,
            base,
            identity,
            stored,
            sessions: RefCell::default(),
            checkpoint: RefCell::default(),
            tuning,
            duty_percent,
            ledger: Arc::default(),
        })
    }
}

fn network(error: reqwest::Error) -> HostError {
    // reqwest's own text stops at "error sending request": the cause is further down.
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(e) = cause {
        text = e.to_string();
        cause = e.source();
    }
    HostError::Network(text)
}

impl Host for NativeHost {
    type Aside = Thread;
    type SessionLock = ();
    type TuningLock = TuningLock;

    async fn request(&self, request: Request<'_>) -> Result<Response, HostError> {
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut call = self.http.request(method, format!("{}{}", self.base, request.path));
        if let Some(token) = request.token {
            call = call.bearer_auth(token);
        }
        if let Some(content_type) = request.content_type {
            call = call.header(CONTENT_TYPE, content_type).body(request.body.to_vec());
        }
        let mut response = call.send().await.map_err(network)?;
        let retry_after_s = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(network)? {
            if (body.len() + piece.len()) as u64 > request.answer_bytes_max {
                return Err(HostError::TooLarge(request.answer_bytes_max));
            }
            body.extend_from_slice(&piece);
        }
        let retry_after_ms = retry_after_s.map(|s| s.saturating_mul(1000));
        Ok(Response { status: response.status().as_u16(), retry_after_ms, body })
    }

    async fn sha256(&self, bytes: &[u8]) -> Result<BlobHash, HostError> {
        Ok(BlobHash(Sha256::digest(bytes).into()))
    }

    fn key(&self) -> KeyId {
        self.identity.key()
    }

    fn key_is_stored(&self) -> bool {
        self.stored
    }

    async fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], HostError> {
        Ok(self.identity.sign(bytes))
    }

    async fn verify(&self, key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError> {
        Ok(verify(key, bytes, signature))
    }

    fn now_ms(&self) -> u64 {
        // Before 1970 only by a clock that is set wrong; the coordinator's own clock corrects that, too.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    async fn sleep(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn random(&self) -> f64 {
        // Jitter: without randomness all waits are the shortest, which does no harm.
        f64::from(getrandom::u32().unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
    }

    fn salt(&self) -> Result<[u8; 32], HostError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|e| HostError::Crypto(e.to_string()))?;
        Ok(salt)
    }

    fn control(&self) -> Control {
        if self.duty_percent >= 100 {
            return Control::new();
        }
        let duty_percent = f64::from(self.duty_percent);
        Control::with_pace(DutyPace { duty_percent, ledger: self.ledger.clone(), origin: Instant::now() })
    }

    async fn open_aside(&self) -> Result<Thread, HostError> {
        Ok(Thread)
    }

    fn read_info(&self, json: &[u8]) -> Option<Info> {
        let view: InfoView = serde_json::from_slice(json).ok()?;
        Some(Info {
            protocol_version: view.protocol_version,
            terms_version: view.terms_version,
            key: view.key,
            nonce: hex::decode(view.nonce).ok()?,
            now_ms: view.now_ms,
            heartbeat_ms: view.heartbeat_ms,
            session_ms_max: view.session_ms_max,
        })
    }

    fn read_problem(&self, json: &[u8]) -> Option<ProblemText> {
        let problem: Problem = serde_json::from_slice(json).ok()?;
        Some(ProblemText { code: problem.code, detail: problem.detail, retryable: problem.retryable })
    }

    async fn lock_session(&self, _coordinator: KeyId) -> Self::SessionLock {}

    async fn load_session(&self, name: &str) -> Option<StoredSession> {
        self.sessions.borrow().get(name).cloned()
    }

    async fn store_session(&self, name: &str, session: Option<&StoredSession>) {
        let mut sessions = self.sessions.borrow_mut();
        match session {
            Some(session) => sessions.insert(name.to_owned(), session.clone()),
            None => sessions.remove(name),
        };
    }

    async fn load_checkpoint(&self, _coordinator: KeyId) -> Option<String> {
        self.checkpoint.borrow().clone()
    }

    async fn store_checkpoint(&self, _coordinator: KeyId, _loaded: Option<&str>, note: &str) {
        self.checkpoint.replace(Some(note.to_owned()));
    }

    fn environment(&self) -> String {
        // The adapter's driver says it all.
        String::new()
    }

    async fn lock_tuning(&self) -> Option<TuningLock> {
        self.tuning.lock()
    }

    async fn load_tuning(&self, name: &str) -> Option<String> {
        self.tuning.load(name)
    }

    async fn store_tuning(&self, name: &str, text: &str) {
        self.tuning.store(name, text);
    }
}

/// Idles after each slice, on the computation's own thread.
struct DutyPace {
    duty_percent: f64,
    ledger: Arc<Mutex<Ledger>>,
    origin: Instant,
}

impl DutyPace {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no code panics while it holds this lock")
    }
}

impl Pace for DutyPace {
    fn now_ms(&self) -> f64 {
        self.origin.elapsed().as_secs_f64() * 1e3
    }

    fn worked(&self, slice: Slice) {
        self.ledger().work(slice.ms, self.duty_percent);
    }

    fn breathe(&self) -> PaceFuture {
        let begun = Instant::now();
        let owed_ms = self.ledger().owed_ms().max(0.0);
        std::thread::sleep(Duration::from_secs_f64(owed_ms / 1e3));
        self.ledger().rest(begun.elapsed().as_secs_f64() * 1e3);
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::key;
    use super::*;

    #[test]
    fn what_a_unit_owes_the_next_one_rests() {
        let host = NativeHost::new("http://127.0.0.1:1", key::fresh().unwrap(), false, TuningFile::beside(None), 25).unwrap();
        for units in 1..=3 {
            host.control().worked(Slice { flop: 1, ms: 2.0 });
            assert_eq!(host.ledger.lock().unwrap().owed_ms(), 6.0 * f64::from(units));
        }
    }
}
