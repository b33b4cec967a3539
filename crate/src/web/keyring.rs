//! What a visitor may do with their key beside signing: put a new one in its place, save that to a file, take one from a file.
//! The caller sees to it that no tab signs meanwhile. A key that was made for Start is never readable; one that is saved is
//! made for it, and readable while its file is written.

use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::Rotation;
use manyhands_protocol::wire::{RotationRequest, SignedBytes};
use manyhands_protocol::{KeyId, cbor, cose, limits};
use wasm_bindgen::JsValue;

use super::database::{Database, IDENTITY};
use super::day::DataDay;
use super::fields::Fields;
use super::host::origin;
use super::identity::{self, KEY, LOCK, WebIdentity};
use super::keyfile::{self, FileFault};
use super::{fetch, locks};
use crate::volunteer::host::{Method, Request, Response};

/// Beside the key: the one that is to take its place, until the coordinator says that it did.
const NEXT: &str = "next";
/// Longest answer of the calls that a replacement takes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What the visitor wishes.
pub enum Wish {
    Replace,
    /// A new key, saved to a file.
    Export {
        passphrase: String,
    },
    /// A key from a file.
    Import {
        passphrase: String,
        file: String,
    },
}

/// The key in use from now on, and the text of its file.
pub struct Done {
    pub key: KeyId,
    pub file: Option<String>,
}

/// What kept the key as it was.
pub struct Fault {
    /// Stable code for messages.
    pub code: String,
    pub message: String,
}

impl Fault {
    fn new(code: &str, message: impl Into<String>) -> Fault {
        Fault { code: code.to_owned(), message: message.into() }
    }

    fn storage(error: JsValue) -> Fault {
        Fault::new("key_storage", fetch::describe(&error))
    }

    fn crypto(error: impl ToString) -> Fault {
        Fault::new("crypto", error.to_string())
    }
}

impl From<FileFault> for Fault {
    fn from(fault: FileFault) -> Fault {
        Fault::new(fault.code(), if let FileFault::Crypto(why) = fault { why } else { String::new() })
    }
}

/// Does it; where it fails, the key in use is the one before.
pub async fn act(database: &str, wish: Wish) -> Result<Done, Fault> {
    let _lock = locks::lock(LOCK).await;
    let ring = Ring(Database::open(database).await.map_err(Fault::storage)?);
    let finished = ring.finish().await?;
    match wish {
        Wish::Replace => {
            if let Some(key) = finished {
                return Ok(Done { key, file: None });
            }
            let (new, record) = identity::make(true).await.map_err(Fault::crypto)?;
            let record = record.ok_or_else(|| Fault::crypto("the key cannot be kept"))?;
            ring.replace(&new, &record).await?;
            Ok(Done { key: new.key, file: None })
        }
        Wish::Export { passphrase } => {
            let mut seed = identity::random_seed().map_err(identity::crypto_error).map_err(Fault::crypto)?;
            let made = futures::future::try_join(async { Ok(keyfile::seal(&seed, &passphrase).await?) }, kept(&seed)).await;
            seed.fill(0);
            let (file, (new, record)) = made?;
            ring.replace(&new, &record).await?;
            Ok(Done { key: new.key, file: Some(file) })
        }
        Wish::Import { passphrase, file } => {
            let mut seed = keyfile::open(&file, &passphrase).await?;
            let made = kept(&seed).await;
            seed.fill(0);
            let (new, record) = made?;
            ring.put(KEY, &record).await?;
            Ok(Done { key: new.key, file: None })
        }
    }
}

/// The key of a seed, and what to keep of it, which no script can read it from.
async fn kept(seed: &[u8; 32]) -> Result<(WebIdentity, JsValue), Fault> {
    identity::from_seed(seed).await.map_err(identity::crypto_error).map_err(Fault::crypto)
}

struct Ring(Database);

impl Ring {
    async fn put(&self, name: &str, record: &JsValue) -> Result<(), Fault> {
        self.0.put_durably(IDENTITY, name, record).await.map_err(Fault::storage)
    }

    async fn key(&self, name: &str) -> Result<Option<(WebIdentity, JsValue)>, Fault> {
        let record = self.0.get(IDENTITY, name).await.map_err(Fault::storage)?;
        let found = identity::load(Fields::new(record.clone())).await.map_err(Fault::crypto)?;
        Ok(found.map(|key| (key, record)))
    }

    /// Finishes a replacement whose answer did not come, and gives its key.
    async fn finish(&self) -> Result<Option<KeyId>, Fault> {
        let Some((new, record)) = self.key(NEXT).await? else { return Ok(None) };
        self.replace(&new, &record).await?;
        Ok(Some(new.key))
    }

    /// Has the coordinator put `new` in the place of the key in use, then does the same here. Both are kept until it is done.
    async fn replace(&self, new: &WebIdentity, record: &JsValue) -> Result<(), Fault> {
        if let Some((old, _)) = self.key(KEY).await?
            && old.key != new.key
        {
            self.put(NEXT, record).await?;
            let refused = match rotate(&old, new).await? {
                Ok(()) => None,
                // It earned nothing that could pass on.
                Err(fault) if fault.code == Code::UnknownKey.as_str() => None,
                refused => refused.err(),
            };
            if let Some(fault) = refused {
                self.0.delete(IDENTITY, NEXT).await.map_err(Fault::storage)?;
                return Err(fault);
            }
        }
        self.put(KEY, record).await?;
        self.0.delete(IDENTITY, NEXT).await.map_err(Fault::storage)
    }
}

/// `POST /v1/rotations`: what the coordinator says of it, or why that is not known.
async fn rotate(old: &WebIdentity, new: &WebIdentity) -> Result<Result<(), Fault>, Fault> {
    let info = call(Method::Get, "/v1/info", None, &[]).await?;
    let unread = || Fault::new("bad_answer", "/v1/info is not what the protocol says");
    let info = Fields::parse(&info.body).ok_or_else(unread)?;
    let rotation = Rotation {
        version: limits::PROTOCOL_VERSION,
        audience: info.text("key").and_then(|key| key.parse().ok()).ok_or_else(unread)?,
        nonce: info.text("nonce").and_then(|nonce| hex::decode(nonce).ok()).ok_or_else(unread)?,
        old: old.key,
        new: new.key,
    };
    let request = RotationRequest { by_old: signed(old, &rotation).await?, by_new: signed(new, &rotation).await? };
    let answer = call(Method::Post, "/v1/rotations", Some("application/cbor"), &cbor::encode(&request)).await?;
    if (200..300).contains(&answer.status) {
        return Ok(Ok(()));
    }
    let problem = Fields::parse(&answer.body).and_then(|fields| Some((fields.text("code")?, fields.text("detail")?)));
    match problem {
        Some((code, detail)) if answer.status < 500 => Ok(Err(Fault::new(&code, detail))),
        _ => Err(Fault::new("unreachable", format!("HTTP {}", answer.status))),
    }
}

async fn signed(key: &WebIdentity, rotation: &Rotation) -> Result<SignedBytes, Fault> {
    let unsigned = cose::prepare(cose::Kind::Rotation, key.key, cbor::encode(rotation));
    let signature = key.sign(&unsigned.to_be_signed()).await.map_err(identity::crypto_error).map_err(Fault::crypto)?;
    Ok(SignedBytes(unsigned.finish(signature)))
}

async fn call(method: Method, path: &str, content_type: Option<&'static str>, body: &[u8]) -> Result<Response, Fault> {
    let request = Request { method, path, token: None, content_type, body, answer_bytes_max: ANSWER_BYTES_MAX };
    // Not a part of any visit's data.
    let day = DataDay::open(None, 0).await;
    fetch::exchange(&origin(), request, &day).await.map_err(|e| Fault::new("unreachable", e.to_string()))
}
