//! The visitor's Ed25519 key: WebCrypto's, which scripts can use but never read, kept in IndexedDB; where WebCrypto
//! lacks Ed25519, ed25519-dalek with the seed sealed under a WebCrypto key; in memory where storage is refused. Key
//! material goes nowhere else: not to messages, not to logs. The seal keeps the seed from whoever copies the database,
//! not from other scripts of this origin, which could use the sealing key as this code does.

use js_sys::{Array, Object, Uint8Array};
use manyhands_protocol::{BlobHash, KeyId};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Crypto, CryptoKey, SubtleCrypto, WorkerGlobalScope};

use super::database::{self, Database};
use super::fetch::describe;
use super::fields::{Fields, Record};
use super::locks;
use crate::volunteer::host::HostError;
use crate::volunteer::identity::Identity;

/// Where the key lives in its store.
const KEY: &str = "key";

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

enum Signer {
    WebCrypto(CryptoKey),
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
    pub async fn open(options: KeyOptions<'_>) -> Result<WebIdentity, JsValue> {
        if let Some(record) = options.unstored
            && let Some(identity) = load(Fields::new(record.clone())).await
        {
            return Ok(WebIdentity { stored: false, unstored: Some(record), ..identity });
        }
        // Two tabs that start together must not make two keys.
        let _lock = locks::lock("manyhands-identity").await;
        let database = match options.database {
            Some(name) => Database::open(name).await.ok(),
            None => None,
        };
        if let Some(database) = &database
            && let Ok(record) = database.get(database::IDENTITY, KEY).await
            && let Some(identity) = load(Fields::new(record)).await
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
            Signer::Dalek(identity) => Ok(identity.sign(bytes)),
            Signer::WebCrypto(key) => {
                let signature = JsFuture::from(subtle()?.sign_with_str_and_u8_array("Ed25519", key, bytes)?).await?;
                array(&signature).ok_or_else(|| JsValue::from_str("a signature that is not 64 bytes"))
            }
        }
    }
}

/// A fresh key and what to keep of it; nothing to keep where the seed cannot be sealed.
async fn make(webcrypto_ed25519: bool) -> Result<(WebIdentity, Option<JsValue>), JsValue> {
    if webcrypto_ed25519 && let Ok((private, key)) = generate().await {
        let record = Record::new().with("private", private.clone()).with("public", Uint8Array::from(&key.0[..]));
        return Ok((WebIdentity { signer: Signer::WebCrypto(private), key, stored: false, unstored: None }, Some(record.into())));
    }
    let mut seed = [0; 32];
    crypto()?.get_random_values_with_u8_array(&mut seed)?;
    let identity = Identity::from_seed(&seed);
    let record = seal(&seed).await.ok();
    seed.fill(0);
    let key = identity.key();
    Ok((WebIdentity { signer: Signer::Dalek(Box::new(identity)), key, stored: false, unstored: None }, record))
}

/// A key from what was kept; none where that is no key any more.
async fn load(record: Fields) -> Option<WebIdentity> {
    if let Some(private) = record.value("private") {
        let key = KeyId(array(&record.value("public")?)?);
        let private: CryptoKey = private.dyn_into().ok()?;
        return Some(WebIdentity { signer: Signer::WebCrypto(private), key, stored: true, unstored: None });
    }
    let wrap: CryptoKey = record.value("wrap")?.dyn_into().ok()?;
    let sealed = Uint8Array::new(&record.value("sealed")?).to_vec();
    let opened = subtle().ok()?.decrypt_with_object_and_u8_array(&gcm(&record.value("iv")?), &wrap, &sealed).ok()?;
    let mut seed: [u8; 32] = array(&JsFuture::from(opened).await.ok()?)?;
    let identity = Identity::from_seed(&seed);
    seed.fill(0);
    let key = identity.key();
    Some(WebIdentity { signer: Signer::Dalek(Box::new(identity)), key, stored: true, unstored: None })
}

async fn generate() -> Result<(CryptoKey, KeyId), JsValue> {
    let usages = Array::of2(&"sign".into(), &"verify".into());
    let algorithm = Record::new().with("name", "Ed25519").done();
    let pair = JsFuture::from(subtle()?.generate_key_with_object(&algorithm, false, &usages)?).await?;
    let pair = Fields::new(pair);
    let half = |name| pair.value(name).ok_or_else(|| JsValue::from_str("a key pair without halves"));
    let (private, public): (CryptoKey, CryptoKey) = (half("privateKey")?.dyn_into()?, half("publicKey")?.dyn_into()?);
    let raw = JsFuture::from(subtle()?.export_key("raw", &public)?).await?;
    let key = array(&raw).ok_or_else(|| JsValue::from_str("a public key that is not 32 bytes"))?;
    Ok((private, KeyId(key)))
}

/// The seed under a fresh AES-GCM key that no script can read.
async fn seal(seed: &[u8; 32]) -> Result<JsValue, JsValue> {
    let usages = Array::of2(&"encrypt".into(), &"decrypt".into());
    let algorithm = Record::new().with("name", "AES-GCM").with("length", 256).done();
    let wrap: CryptoKey = JsFuture::from(subtle()?.generate_key_with_object(&algorithm, false, &usages)?).await?.dyn_into()?;
    let mut iv = [0; 12];
    crypto()?.get_random_values_with_u8_array(&mut iv)?;
    let iv: JsValue = Uint8Array::from(&iv[..]).into();
    let sealed = JsFuture::from(subtle()?.encrypt_with_object_and_u8_array(&gcm(&iv), &wrap, seed)?).await?;
    Ok(Record::new().with("wrap", wrap).with("iv", iv).with("sealed", sealed).into())
}

fn gcm(iv: &JsValue) -> Object {
    Record::new().with("name", "AES-GCM").with("iv", iv.clone()).done()
}

/// Bytes of an ArrayBuffer or typed array, if they are exactly `N`.
fn array<const N: usize>(buffer: &JsValue) -> Option<[u8; N]> {
    Uint8Array::new(buffer).to_vec().try_into().ok()
}

fn crypto() -> Result<Crypto, JsValue> {
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
fn subtle() -> Result<SubtleCrypto, JsValue> {
    let subtle: JsValue = crypto()?.subtle().into();
    if subtle.is_undefined() { Err(JsValue::from_str("WebCrypto needs HTTPS")) } else { Ok(subtle.unchecked_into()) }
}
