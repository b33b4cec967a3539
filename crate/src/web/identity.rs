//! The visitor's Ed25519 key: WebCrypto's, which scripts can use but never read, kept in IndexedDB; where WebCrypto
//! lacks Ed25519, what `sealed` makes, in a build that has it; in memory where storage is refused. Key material goes
//! nowhere else: not to messages, not to logs.

use js_sys::{Array, Uint8Array};
use manyhands_protocol::{BlobHash, KeyId};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Crypto, CryptoKey, SubtleCrypto, WorkerGlobalScope};

use super::database::{self, Database};
use super::fetch::describe;
use super::fields::{Fields, Record};
use super::locks;
#[cfg(feature = "every-layer")]
use super::sealed;
use crate::volunteer::host::HostError;
#[cfg(feature = "every-layer")]
use crate::volunteer::identity::Identity;

/// Where the key lives in its store.
pub(super) const KEY: &str = "key";
/// Held while the store is read or written: two tabs that start together must not make two keys.
pub(super) const LOCK: &str = "manyhands-identity";

/// Which ways to a key are open; tests close some.
#[derive(Debug, Clone)]
pub struct KeyOptions<'a> {
    /// Database to keep the key in; none means memory only.
    pub database: Option<&'a str>,
    /// The key to go on with, as [`WebIdentity::unstored`] gave it.
    pub unstored: Option<JsValue>,
    /// Whether WebCrypto's own Ed25519 may be used.
    pub webcrypto_ed25519: bool,
}

impl Default for KeyOptions<'_> {
    fn default() -> Self {
        Self { database: Some(database::NAME), unstored: None, webcrypto_ed25519: true }
    }
}

/// What WebCrypto calls Ed25519 and its own form of public keys.
const ED25519: &str = "Ed25519";
const RAW: &str = "raw";

enum Signer {
    WebCrypto(CryptoKey),
    #[cfg(feature = "every-layer")]
    Dalek(Box<Identity>),
}

/// A key that signs.
pub struct WebIdentity {
    signer: Signer,
    pub key: KeyId,
    /// Whether it outlives the visit.
    pub stored: bool,
    /// What this worker's other build can go on with where nothing could be stored. Never for the page: scripts that
    /// have it can sign.
    pub unstored: Option<JsValue>,
}

impl WebIdentity {
    /// The key of this browser profile (and, in a frame, of the embedding site), made where there is none.
    /// [`HostError::Beyond`] where only a build with an Ed25519 of its own can sign.
    pub async fn open(options: KeyOptions<'_>) -> Result<WebIdentity, HostError> {
        if let Some(record) = options.unstored
            && let Some(identity) = load(Fields::new(record.clone())).await?
        {
            return Ok(WebIdentity { stored: false, unstored: Some(record), ..identity });
        }
        let _lock = locks::lock(LOCK).await;
        let database = match options.database {
            Some(name) => Database::open(name).await.ok(),
            None => None,
        };
        if let Some(database) = &database
            && let Ok(record) = database.get(database::IDENTITY, KEY).await
            && let Some(identity) = load(Fields::new(record)).await?
        {
            return Ok(identity);
        }
        let (mut identity, record) = make(options.webcrypto_ed25519).await?;
        if let (Some(database), Some(record)) = (&database, &record) {
            identity.stored = database.put(database::IDENTITY, KEY, record).await.is_ok();
        }
        identity.unstored = record.filter(|_| !identity.stored);
        Ok(identity)
    }

    /// Ed25519 over `bytes`.
    pub async fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], JsValue> {
        match &self.signer {
            #[cfg(feature = "every-layer")]
            Signer::Dalek(identity) => Ok(identity.sign(bytes)),
            Signer::WebCrypto(key) => {
                let signature = JsFuture::from(subtle()?.sign_with_str_and_u8_array(ED25519, key, bytes)?).await?;
                array(&signature).ok_or_else(|| JsValue::from_str("a signature that is not 64 bytes"))
            }
        }
    }

    fn webcrypto(private: CryptoKey, key: KeyId, stored: bool) -> Self {
        Self { signer: Signer::WebCrypto(private), key, stored, unstored: None }
    }

    #[cfg(feature = "every-layer")]
    fn dalek(identity: Identity, stored: bool) -> Self {
        Self { key: identity.key(), signer: Signer::Dalek(Box::new(identity)), stored, unstored: None }
    }
}

/// A fresh key and what to keep of it; nothing to keep where a seed cannot be sealed.
pub(super) async fn make(webcrypto_ed25519: bool) -> Result<(WebIdentity, Option<JsValue>), HostError> {
    if webcrypto_ed25519 && let Ok((private, key)) = generate().await {
        let record = webcrypto_record(&private, key);
        return Ok((WebIdentity::webcrypto(private, key, false), Some(record)));
    }
    #[cfg(feature = "every-layer")]
    return sealed::make().await.map(|(identity, record)| (WebIdentity::dalek(identity, false), record)).map_err(crypto_error);
    #[cfg(not(feature = "every-layer"))]
    Err(HostError::Beyond)
}

/// The key of a seed and what to keep of it, from which no script can read it.
#[cfg(feature = "every-layer")]
pub(super) async fn from_seed(seed: &[u8; 32]) -> Result<(WebIdentity, JsValue), JsValue> {
    let identity = Identity::from_seed(seed);
    let key = identity.key();
    let pkcs8 = Uint8Array::from(&super::keyfile::pkcs8(seed)[..]);
    let imported = async {
        let imported = subtle()?.import_key_with_str("pkcs8", &pkcs8, ED25519, false, &Array::of1(&"sign".into()))?;
        JsFuture::from(imported).await?.dyn_into::<CryptoKey>()
    };
    let imported = imported.await;
    pkcs8.fill(0, 0, pkcs8.length());
    Ok(match imported {
        Ok(private) => {
            let record = webcrypto_record(&private, key);
            (WebIdentity::webcrypto(private, key, true), record)
        }
        Err(_) => (WebIdentity::dalek(identity, true), sealed::seal(seed).await?),
    })
}

/// 32 bytes that nobody can guess.
pub(super) fn random_seed() -> Result<[u8; 32], JsValue> {
    let mut seed = [0; 32];
    crypto()?.get_random_values_with_u8_array(&mut seed)?;
    Ok(seed)
}

fn webcrypto_record(private: &CryptoKey, key: KeyId) -> JsValue {
    Record::new().with("private", private.clone()).with("public", Uint8Array::from(&key.0[..])).into()
}

/// A key from what was kept; none where that is no key any more.
pub(super) async fn load(record: Fields) -> Result<Option<WebIdentity>, HostError> {
    if let Some(private) = record.value("private") {
        let key = record.value("public").and_then(|public| array(&public)).map(KeyId);
        return Ok(key.and_then(|key| Some(WebIdentity::webcrypto(private.dyn_into().ok()?, key, true))));
    }
    #[cfg(feature = "every-layer")]
    return Ok(sealed::open(&record).await.map(|identity| WebIdentity::dalek(identity, true)));
    #[cfg(not(feature = "every-layer"))]
    if record.value("sealed").is_some() { Err(HostError::Beyond) } else { Ok(None) }
}

/// Whether `signature` over `bytes` is `key`'s, by WebCrypto. [`HostError::Beyond`] where that cannot tell.
pub async fn verify(key: KeyId, bytes: &[u8], signature: &[u8; 64]) -> Result<bool, HostError> {
    let answer = async {
        let (subtle, usages) = (subtle()?, Array::of1(&"verify".into()));
        let raw = Uint8Array::from(&key.0[..]);
        let key = JsFuture::from(subtle.import_key_with_str(RAW, &raw, ED25519, false, &usages)?).await?.dyn_into()?;
        JsFuture::from(subtle.verify_with_str_and_u8_array_and_u8_array(ED25519, &key, signature, bytes)?).await
    };
    let answer: Result<JsValue, JsValue> = answer.await;
    answer.ok().and_then(|answer| answer.as_bool()).ok_or(HostError::Beyond)
}

async fn generate() -> Result<(CryptoKey, KeyId), JsValue> {
    let usages = Array::of2(&"sign".into(), &"verify".into());
    let algorithm = Record::new().with("name", ED25519).done();
    let pair = JsFuture::from(subtle()?.generate_key_with_object(&algorithm, false, &usages)?).await?;
    let pair = Fields::new(pair);
    let half = |name| pair.value(name).ok_or_else(|| JsValue::from_str("a key pair without halves"));
    let (private, public): (CryptoKey, CryptoKey) = (half("privateKey")?.dyn_into()?, half("publicKey")?.dyn_into()?);
    let raw = JsFuture::from(subtle()?.export_key(RAW, &public)?).await?;
    let key = array(&raw).ok_or_else(|| JsValue::from_str("a public key that is not 32 bytes"))?;
    Ok((private, KeyId(key)))
}

/// Bytes of an ArrayBuffer or typed array, if they are exactly `N`.
pub(super) fn array<const N: usize>(buffer: &JsValue) -> Option<[u8; N]> {
    Uint8Array::new(buffer).to_vec().try_into().ok()
}

pub(super) fn crypto() -> Result<Crypto, JsValue> {
    js_sys::global().unchecked_into::<WorkerGlobalScope>().crypto()
}

/// SHA-256 by WebCrypto.
pub async fn sha256(bytes: &[u8]) -> Result<BlobHash, HostError> {
    let digest = async { JsFuture::from(subtle()?.digest_with_str_and_u8_array("SHA-256", bytes)?).await };
    let digest = digest.await.map_err(crypto_error)?;
    array(&digest).map(BlobHash).ok_or_else(|| HostError::Crypto("a SHA-256 that is not 32 bytes".to_owned()))
}

/// A failure of WebCrypto in words.
pub fn crypto_error(error: JsValue) -> HostError {
    HostError::Crypto(describe(&error))
}

/// WebCrypto, which plain HTTP off loopback does not offer.
pub(super) fn subtle() -> Result<SubtleCrypto, JsValue> {
    let subtle: JsValue = crypto()?.subtle().into();
    if subtle.is_undefined() { Err(JsValue::from_str("WebCrypto needs HTTPS")) } else { Ok(subtle.unchecked_into()) }
}
