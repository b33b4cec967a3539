//! The volunteer's host in a Web Worker.

use std::rc::Rc;

use manyhands_protocol::{BlobHash, KeyId};
use wasm_bindgen::{JsCast, JsValue};
use web_sys::WorkerGlobalScope;

use super::database::{self, Database};
use super::day::DataDay;
use super::fetch;
use super::fields::{Fields, Record};
use super::identity::{self, KeyOptions, WebIdentity};
use super::locks::{self, Lock};
use super::pace::{Tempo, WebPace};
use super::timer;
use crate::control::Control;
use crate::volunteer::host::*;

/// Fetch, WebCrypto, IndexedDB and Web Locks.
pub struct WebHost {
    origin: String,
    database_name: Option<String>,
    identity: WebIdentity,
    database: Option<Database>,
    tempo: Rc<Tempo>,
    day: DataDay,
    /// Hears the token of a session that ends with the visit, for its key does.
    tell_session: fn(&str),
}

impl WebHost {
    /// Opens storage and the visitor's key. The coordinator is this worker's own origin. Computations keep to `tempo`, and
    /// the day's data of all tabs to `day_bytes_max`, where 0 means no bound. Where the key is not stored, `tell_session` hears
    /// the token of each session that is opened: whoever outlives this worker can end them.
    pub async fn open(
        options: KeyOptions<'_>,
        tempo: Rc<Tempo>,
        day_bytes_max: u64,
        tell_session: fn(&str),
    ) -> Result<WebHost, HostError> {
        let name = options.database;
        let identity = WebIdentity::open(options).await?;
        let database = match name {
            Some(name) => Database::open(name).await.ok(),
            None => None,
        };
        let day = DataDay::open(name, day_bytes_max).await;
        Ok(WebHost { origin: origin(), database_name: name.map(str::to_owned), identity, database, tempo, day, tell_session })
    }
}

impl WebHost {
    /// A database of one store, beside that of the key.
    async fn side(&self, store: &'static [&'static str; 1]) -> Option<Database> {
        let name = format!("{}-{}", self.database_name.as_ref()?, store[0]);
        Database::open_with(&name, store).await.ok()
    }
}

impl WebHost {
    /// The key where it could not be stored, for this worker's other build alone.
    pub fn unstored_key(&self) -> Option<wasm_bindgen::JsValue> {
        self.identity.unstored.clone()
    }
}

/// The origin this worker was served from.
pub fn origin() -> String {
    js_sys::global().unchecked_into::<WorkerGlobalScope>().location().origin()
}

impl Host for WebHost {
    #[cfg(feature = "every-layer")]
    type Aside = super::aside::WebAside;
    #[cfg(not(feature = "every-layer"))]
    type Aside = std::convert::Infallible;
    type SessionLock = Lock;
    type TuningLock = Lock;

    async fn request(&self, request: Request<'_>) -> Result<Response, HostError> {
        fetch::exchange(&self.origin, request, &self.day).await
    }

    async fn sha256(&self, bytes: &[u8]) -> Result<BlobHash, HostError> {
        identity::sha256(bytes).await
    }

    fn key(&self) -> KeyId {
        self.identity.key
    }

    fn key_is_stored(&self) -> bool {
        self.identity.stored
    }

    async fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], HostError> {
        self.identity.sign(bytes).await.map_err(identity::crypto_error)
    }

    #[cfg(feature = "every-layer")]
    async fn verify(&self, key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError> {
        Ok(crate::volunteer::identity::verify(key, bytes, signature))
    }

    #[cfg(not(feature = "every-layer"))]
    async fn verify(&self, key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError> {
        identity::verify(key, bytes, signature).await
    }

    fn now_ms(&self) -> u64 {
        js_sys::Date::now() as u64
    }

    async fn sleep(&self, ms: u64) {
        timer::sleep(ms).await;
    }

    fn random(&self) -> f64 {
        js_sys::Math::random()
    }

    fn salt(&self) -> Result<[u8; 32], HostError> {
        identity::random_seed().map_err(identity::crypto_error)
    }

    fn control(&self) -> Control {
        Control::with_pace(WebPace::new(self.tempo.clone()))
    }

    #[cfg(feature = "every-layer")]
    async fn open_aside(&self) -> Result<Self::Aside, HostError> {
        super::aside::WebAside::open(self.tempo.clone()).await
    }

    #[cfg(not(feature = "every-layer"))]
    async fn open_aside(&self) -> Result<Self::Aside, HostError> {
        Err(HostError::Worker("the part that a visit begins with has one lane".to_owned()))
    }

    fn read_info(&self, json: &[u8]) -> Option<Info> {
        let fields = Fields::parse(json)?;
        let small = |name| fields.whole(name).and_then(|n| u32::try_from(n).ok());
        Some(Info {
            protocol_version: small("protocol_version")?,
            terms_version: small("terms_version")?,
            key: fields.text("key")?.parse().ok()?,
            nonce: hex::decode(fields.text("nonce")?).ok()?,
            now_ms: fields.whole("now_ms")?,
            heartbeat_ms: fields.whole("heartbeat_ms")?,
            session_ms_max: fields.whole("session_ms_max")?,
        })
    }

    fn read_problem(&self, json: &[u8]) -> Option<ProblemText> {
        let fields = Fields::parse(json)?;
        Some(ProblemText {
            code: fields.text("code")?,
            detail: fields.text("detail").unwrap_or_default(),
            retryable: fields.flag("retryable").unwrap_or(false),
        })
    }

    async fn lock_session(&self, coordinator: KeyId) -> Lock {
        locks::lock(&format!("manyhands-session-{coordinator}")).await
    }

    async fn load_session(&self, name: &str) -> Option<StoredSession> {
        let record = Fields::new(self.database.as_ref()?.get(database::SESSIONS, name).await.ok()?);
        Some(StoredSession { token: record.text("token")?, expires_ms: record.whole("expires_ms")? })
    }

    async fn store_session(&self, name: &str, session: Option<&StoredSession>) {
        if let Some(session) = session.filter(|_| !self.identity.stored) {
            (self.tell_session)(&session.token);
        }
        let Some(database) = &self.database else { return };
        let _ = match session {
            Some(session) => {
                let record = Record::new().with("token", session.token.as_str()).with("expires_ms", session.expires_ms as f64);
                database.put(database::SESSIONS, name, &record.into()).await
            }
            None => database.delete(database::SESSIONS, name).await,
        };
    }

    async fn load_checkpoint(&self, coordinator: KeyId) -> Option<String> {
        self.side(&[database::CHECKPOINTS]).await?.get(database::CHECKPOINTS, &coordinator.to_string()).await.ok()?.as_string()
    }

    async fn store_checkpoint(&self, coordinator: KeyId, loaded: Option<&str>, note: &str) {
        if let Some(database) = self.side(&[database::CHECKPOINTS]).await {
            let ours = |kept: JsValue| if kept.as_string().as_deref() == loaded { note.into() } else { kept };
            let _ = database.update(database::CHECKPOINTS, &coordinator.to_string(), ours).await;
        }
    }

    fn environment(&self) -> String {
        js_sys::global().unchecked_into::<WorkerGlobalScope>().navigator().user_agent().unwrap_or_default()
    }

    async fn lock_tuning(&self) -> Option<Lock> {
        locks::try_lock("manyhands-tuning").await
    }

    async fn load_tuning(&self, name: &str) -> Option<String> {
        self.side(&[database::TUNING]).await?.get(database::TUNING, name).await.ok()?.as_string()
    }

    async fn store_tuning(&self, name: &str, text: &str) {
        if let Some(database) = self.side(&[database::TUNING]).await {
            let _ = database.put_durably(database::TUNING, name, &text.into()).await;
        }
    }
}
