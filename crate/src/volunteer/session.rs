//! Opening a session with a signed consent, sharing it with the other tabs of the same key, and opening another when
//! it ends; never beyond what was consented to. Calls under a session are `call`'s business.

use std::cell::RefCell;

use futures::lock::Mutex;
use manyhands_protocol::statement::Consent;
use manyhands_protocol::wire::SessionOpened;
use manyhands_protocol::{KeyId, cbor, cose, limits};

use super::call::{ANSWER_BYTES_MAX, COSE, Client};
use super::error::VolunteerError;
use super::host::{Host, Info, Method, Request, StoredSession};

/// A session this close to its end is not used any more.
const MARGIN_MS: u64 = 60_000;

/// The volunteer's session and what it rests on.
#[derive(Default)]
pub(super) struct Sessions {
    /// One task at a time opens; heartbeat and upload may both find the session gone.
    opening: Mutex<()>,
    known: RefCell<Known>,
}

#[derive(Default)]
struct Known {
    session: Option<StoredSession>,
    /// The token the coordinator last refused.
    refused: Option<String>,
    coordinator: Option<KeyId>,
    /// End of the time consented to, by the coordinator's clock.
    consent_until_ms: Option<u64>,
    /// The coordinator's clock minus ours.
    clock_offset_ms: i64,
    heartbeat_ms: u64,
}

impl Sessions {
    /// Forgets the session with this token.
    pub fn refuse(&self, token: String) {
        let mut known = self.known.borrow_mut();
        if known.session.as_ref().is_some_and(|s| s.token == token) {
            known.session = None;
        }
        known.refused = Some(token);
    }

    /// The coordinator's key, once a session was opened.
    pub fn coordinator(&self) -> Option<KeyId> {
        self.known.borrow().coordinator
    }

    /// Milliseconds between heartbeats, as the coordinator asks, within reason.
    pub fn heartbeat_ms(&self) -> u64 {
        self.known.borrow().heartbeat_ms.clamp(1_000, limits::LEASE_MS / 3)
    }

    /// The coordinator's clock, as far as known.
    pub fn coordinator_now_ms(&self, local_now_ms: u64) -> u64 {
        local_now_ms.saturating_add_signed(self.known.borrow().clock_offset_ms)
    }

    fn live_token(&self, local_now_ms: u64) -> Option<String> {
        let now_ms = self.coordinator_now_ms(local_now_ms);
        let known = self.known.borrow();
        known.session.as_ref().filter(|s| s.expires_ms > now_ms + MARGIN_MS).map(|s| s.token.clone())
    }

    /// Takes in what the coordinator says of itself, refusing another coordinator or a version not spoken here.
    fn learn(&self, info: &Info, local_now_ms: u64, renew: bool) -> Result<u64, VolunteerError> {
        if info.protocol_version != limits::PROTOCOL_VERSION || info.terms_version != limits::TERMS_VERSION {
            return Err(VolunteerError::Version {
                protocol: info.protocol_version,
                terms: info.terms_version,
                ours: format!("protocol {}, terms {}", limits::PROTOCOL_VERSION, limits::TERMS_VERSION),
            });
        }
        let mut known = self.known.borrow_mut();
        if known.coordinator.is_some_and(|key| key != info.key) {
            return Err(VolunteerError::CoordinatorChanged);
        }
        known.coordinator = Some(info.key);
        known.clock_offset_ms = info.now_ms.wrapping_sub(local_now_ms) as i64;
        known.heartbeat_ms = info.heartbeat_ms;
        let longest = info.now_ms.saturating_add(info.session_ms_max.min(limits::SESSION_MS_MAX));
        let until_ms = match known.consent_until_ms {
            Some(until_ms) if !renew => until_ms,
            _ => longest,
        };
        known.consent_until_ms = Some(until_ms);
        if until_ms <= info.now_ms + MARGIN_MS {
            return Err(VolunteerError::ConsentExpired);
        }
        Ok(until_ms.min(longest))
    }
}

impl<H: Host> Client<'_, H> {
    /// A live session token, opening or sharing a session where there is none. One attempt.
    pub async fn token(&self) -> Result<String, VolunteerError> {
        let _one_at_a_time = self.sessions.opening.lock().await;
        if let Some(token) = self.sessions.live_token(self.host.now_ms()) {
            return Ok(token);
        }
        let info = self.info().await?;
        let until_ms = self.sessions.learn(&info, self.host.now_ms(), self.settings.renew_consent)?;
        let name = self.session_name(info.key);
        let _lock = self.host.lock_session(info.key).await;
        if let Some(stored) = self.host.load_session(&name).await {
            let refused = self.sessions.known.borrow().refused.as_ref() == Some(&stored.token);
            if !refused && stored.expires_ms > info.now_ms + MARGIN_MS {
                self.sessions.known.borrow_mut().session = Some(stored.clone());
                return Ok(stored.token);
            }
            self.host.store_session(&name, None).await;
        }
        let opened = self.open(&info, until_ms).await?;
        let session = StoredSession { token: opened.token, expires_ms: opened.expires_ms };
        self.host.store_session(&name, Some(&session)).await;
        self.sessions.known.borrow_mut().session = Some(session.clone());
        Ok(session.token)
    }

    /// Ends the session for every tab that shares it: the visitor withdraws consent. One attempt, best effort.
    pub async fn withdraw(&self) -> Result<(), VolunteerError> {
        let (Some(key), Some(token)) = (self.sessions.coordinator(), self.sessions.live_token(self.host.now_ms())) else {
            return Ok(());
        };
        let request = Request {
            method: Method::Delete,
            path: "/v1/sessions",
            token: Some(&token),
            content_type: None,
            body: &[],
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        self.plain(request).await?;
        let _lock = self.host.lock_session(key).await;
        self.host.store_session(&self.session_name(key), None).await;
        self.sessions.refuse(token);
        Ok(())
    }

    async fn info(&self) -> Result<Info, VolunteerError> {
        let request = Request {
            method: Method::Get,
            path: "/v1/info",
            token: None,
            content_type: None,
            body: &[],
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let body = self.plain(request).await?;
        self.host.read_info(&body).ok_or_else(|| VolunteerError::Answer("/v1/info is not what the protocol says".to_owned()))
    }

    async fn open(&self, info: &Info, until_ms: u64) -> Result<SessionOpened, VolunteerError> {
        let consent = Consent {
            version: limits::PROTOCOL_VERSION,
            audience: info.key,
            nonce: info.nonce.clone(),
            origin: self.settings.origin.clone(),
            site: self.settings.site.clone(),
            job: self.settings.job,
            duty_percent: self.settings.duty_percent,
            data_bytes_max: self.settings.data_bytes_max,
            terms_version: info.terms_version,
            issued_ms: info.now_ms,
            expires_ms: until_ms,
            category: self.settings.category,
        };
        let unsigned = cose::prepare(cose::Kind::Consent, self.host.key(), cbor::encode(&consent));
        let signature = self.host.sign(&unsigned.to_be_signed()).await?;
        let body = unsigned.finish(signature);
        let request = Request {
            method: Method::Post,
            path: "/v1/sessions",
            token: None,
            content_type: Some(COSE),
            body: &body,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.plain(request).await?;
        cbor::decode_strict(&answer).map_err(|e| VolunteerError::Answer(e.to_string()))
    }

    /// Where a session is kept: one per coordinator, key and scope of consent, for a session is one key's and no tab may
    /// work under a wider consent than its visitor gave.
    fn session_name(&self, coordinator: KeyId) -> String {
        let s = self.settings;
        let job = s.job.map(|job| job.to_string()).or(s.category.map(|kind| kind.name().to_owned())).unwrap_or_default();
        let (duty, data) = (s.duty_percent, s.data_bytes_max);
        let key = self.host.key();
        format!("session {coordinator} {key} {} {} {job} {duty} {data} {}", s.origin, s.site, limits::TERMS_VERSION)
    }
}
