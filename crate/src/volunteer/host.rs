//! What the loop needs of its surroundings: HTTP, hashing, a signing key, a clock, waiting, and a place for a session
//! that several tabs share. A browser and a terminal each implement it; it holds no rule of the protocol.

use manyhands_protocol::{BlobHash, KeyId};

use super::lane::Aside;
use crate::control::Control;

/// The platform under a volunteer. Futures need not be `Send`: the loop runs on one thread.
#[allow(async_fn_in_trait)]
pub trait Host {
    /// Held while a session is looked up or opened; dropping it lets the next in.
    type SessionLock;

    /// See [`Host::lock_tuning`].
    type TuningLock;

    /// See [`Host::open_aside`].
    type Aside: Aside;

    /// One HTTP exchange with the coordinator. Any status is an `Ok`. Dropping the future abandons the exchange.
    async fn request(&self, request: Request<'_>) -> Result<Response, HostError>;

    async fn sha256(&self, bytes: &[u8]) -> Result<BlobHash, HostError>;

    /// The public half of the key that [`Host::sign`] signs with.
    fn key(&self) -> KeyId;

    /// Whether the key outlives this visit.
    fn key_is_stored(&self) -> bool;

    /// Ed25519 (RFC 8032) over `bytes`.
    async fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], HostError>;

    /// Whether `signature` over `bytes` is `key`'s, by Ed25519 (RFC 8032).
    async fn verify(&self, key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError>;

    /// Milliseconds since the Unix epoch by the local clock, which may be wrong.
    fn now_ms(&self) -> u64;

    async fn sleep(&self, ms: u64);

    /// Uniform in [0, 1), for jitter only.
    fn random(&self) -> f64;

    /// 32 bytes that nobody can guess.
    fn salt(&self) -> Result<[u8; 32], HostError>;

    /// A fresh handle for one unit, whose pace keeps the platform responsive and honours the visitor's limit.
    fn control(&self) -> Control;

    /// A thread or worker that computes units on its CPU beside this one, each under the same limit.
    async fn open_aside(&self) -> Result<Self::Aside, HostError>;

    /// Reads the JSON of `GET /v1/info`.
    fn read_info(&self, json: &[u8]) -> Option<Info>;

    /// Reads a problem document.
    fn read_problem(&self, json: &[u8]) -> Option<ProblemText>;

    /// Waits until no other tab (or task) that shares the key is opening a session with this coordinator.
    async fn lock_session(&self, coordinator: KeyId) -> Self::SessionLock;

    /// The session kept under `name`, if any; called under the lock.
    async fn load_session(&self, name: &str) -> Option<StoredSession>;

    /// Keeps a session under `name`, or clears it; called under the lock. Failing to keep it is no error: the next tab
    /// then opens its own.
    async fn store_session(&self, name: &str, session: Option<&StoredSession>);

    /// The checkpoint of this coordinator's public log that was kept last, as a signed note.
    async fn load_checkpoint(&self, coordinator: KeyId) -> Option<String>;

    /// Keeps one in the place of the one that was loaded, unless another tab kept another there meanwhile: what that one saw is
    /// for the next look to compare with. Failing to keep it is no error: then a later visit has nothing to compare with.
    async fn store_checkpoint(&self, coordinator: KeyId, loaded: Option<&str>, note: &str);

    /// What kernels' times depend on beside adapter and driver: the browser and its version.
    fn environment(&self) -> String;

    /// Held while kernels are measured; none while another tab of this browser holds it. It goes with its holder, whatever
    /// ends that.
    async fn lock_tuning(&self) -> Option<Self::TuningLock>;

    /// The text kept under `name`, if any.
    async fn load_tuning(&self, name: &str) -> Option<String>;

    /// Keeps a text under `name`, durably: what follows may crash this program. Failing to keep it is no error.
    async fn store_tuning(&self, name: &str, text: &str);
}

/// A session that tabs with the same key share.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSession {
    pub token: String,
    /// By the coordinator's clock.
    pub expires_ms: u64,
}

/// HTTP methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    /// The method's name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// One exchange with the coordinator.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: Method,
    /// Path and query below the coordinator's origin, beginning with `/v1`.
    pub path: &'a str,
    /// Session token for `Authorization: Bearer`.
    pub token: Option<&'a str>,
    /// Set where there is a body.
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
    /// A longer answer is [`HostError::TooLarge`]; never more than this is held in memory.
    pub answer_bytes_max: u64,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// `Retry-After`, where it was given in seconds.
    pub retry_after_ms: Option<u64>,
    pub body: Vec<u8>,
}

/// What the platform could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("no answer from the coordinator: {0}")]
    Network(String),
    #[error("the coordinator's answer is longer than {0} bytes")]
    TooLarge(u64),
    /// All programs of this visitor's that count together have moved as much data as they may today.
    #[error("the amount of data for today is used up, in all tabs of this browser together")]
    DayLimit,
    #[error("cryptography failed here: {0}")]
    Crypto(String),
    /// A worker that computes could not be started, failed or fell silent.
    #[error("a worker that computes failed: {0}")]
    Worker(String),
    /// The platform lacks Ed25519, and so does this build: for a build that has it.
    #[error("neither this browser nor this build has Ed25519")]
    Beyond,
}

/// What the loop reads of `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub protocol_version: u32,
    pub terms_version: u32,
    pub key: KeyId,
    pub nonce: Vec<u8>,
    pub now_ms: u64,
    pub heartbeat_ms: u64,
    pub session_ms_max: u64,
}

/// What the loop reads of a problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemText {
    pub code: String,
    pub detail: String,
    pub retryable: bool,
}
