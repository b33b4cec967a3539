//! The file that a key is kept in outside the browser: JSON around its PKCS#8 form, under AES-256-GCM with a key that PBKDF2
//! derives from a passphrase. docs/protocol.md specifies it. It stores nothing and signs nothing.

use js_sys::{Array, JSON, Uint8Array};
use manyhands_protocol::KeyId;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::CryptoKey;

use super::fields::{Fields, Record};
use super::identity::{self, array, crypto, subtle};
use crate::keyfile::{BYTES_MAX, CIPHER, FORMAT, ITERATIONS, ITERATIONS_MAX, KDF, PKCS8, SEALED_BYTES, VERSION};
use crate::volunteer::identity::Identity;

/// Why a file gives no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFault {
    TooLong,
    NotJson,
    Version,
    Damaged,
    WrongPassphrase,
    Crypto(String),
}

impl FileFault {
    /// Stable code for messages.
    pub fn code(&self) -> &'static str {
        match self {
            FileFault::TooLong => "key_file_long",
            FileFault::NotJson => "key_file_no_json",
            FileFault::Version => "key_file_version",
            FileFault::Damaged => "key_file_damaged",
            FileFault::WrongPassphrase => "key_passphrase_wrong",
            FileFault::Crypto(_) => "crypto",
        }
    }
}

struct Sealed {
    key: KeyId,
    iterations: u64,
    salt: [u8; 16],
    iv: [u8; 12],
    sealed: [u8; SEALED_BYTES],
}

impl Sealed {
    /// What the checksum is over: it tells a damaged file from a wrong passphrase, and nothing more.
    fn text(&self) -> String {
        let Sealed { key, iterations, salt, iv, sealed } = self;
        let [salt, iv, sealed] = [hex::encode(salt), hex::encode(iv), hex::encode(sealed)];
        format!("{FORMAT} {VERSION} {key} {iterations} {salt} {iv} {sealed}")
    }

    async fn checksum(&self) -> Result<String, FileFault> {
        let hash = identity::sha256(self.text().as_bytes()).await.map_err(|e| FileFault::Crypto(e.to_string()))?;
        Ok(hash.to_string())
    }

    async fn write(&self) -> Result<String, FileFault> {
        let kdf = Record::new()
            .with("name", KDF)
            .with("iterations", self.iterations as f64)
            .with("salt", hex::encode(self.salt))
            .done();
        let cipher = Record::new().with("name", CIPHER).with("iv", hex::encode(self.iv)).done();
        let file = Record::new()
            .with("format", FORMAT)
            .with("version", VERSION as f64)
            .with("key", self.key.to_string())
            .with("kdf", kdf)
            .with("cipher", cipher)
            .with("sealed", hex::encode(self.sealed))
            .with("checksum", self.checksum().await?);
        let text = JSON::stringify_with_replacer_and_space(&file.into(), &JsValue::NULL, &2.into()).map_err(crypto_fault)?;
        Ok(format!("{}\n", String::from(text)))
    }

    async fn read(text: &str) -> Result<Sealed, FileFault> {
        if text.len() > BYTES_MAX {
            return Err(FileFault::TooLong);
        }
        let fields = Fields::parse(text.as_bytes()).ok_or(FileFault::NotJson)?;
        if fields.text("format").as_deref() != Some(FORMAT) {
            return Err(FileFault::Damaged);
        }
        if fields.whole("version") != Some(VERSION) {
            return Err(FileFault::Version);
        }
        let file = Sealed::fields(&fields).ok_or(FileFault::Damaged)?;
        if fields.text("checksum") != Some(file.checksum().await?) {
            return Err(FileFault::Damaged);
        }
        Ok(file)
    }

    fn fields(fields: &Fields) -> Option<Sealed> {
        let (kdf, cipher) = (fields.object("kdf")?, fields.object("cipher")?);
        if kdf.text("name")? != KDF || cipher.text("name")? != CIPHER {
            return None;
        }
        Some(Sealed {
            key: fields.text("key")?.parse().ok()?,
            iterations: kdf.whole("iterations").filter(|n| (ITERATIONS.into()..=ITERATIONS_MAX.into()).contains(n))?,
            salt: bytes(&kdf, "salt")?,
            iv: bytes(&cipher, "iv")?,
            sealed: bytes(fields, "sealed")?,
        })
    }

    /// AES-GCM's parameters: the key's id is bound to what is sealed.
    fn gcm(&self) -> js_sys::Object {
        let (iv, id) = (Uint8Array::from(&self.iv[..]), Uint8Array::from(&self.key.0[..]));
        Record::new().with("name", "AES-GCM").with("iv", iv).with("additionalData", id).done()
    }

    /// The key that the passphrase stands for, for `usage` alone.
    async fn derived(&self, passphrase: &str, usage: &str) -> Result<CryptoKey, JsValue> {
        let raw = Uint8Array::from(passphrase.as_bytes());
        let subtle = subtle()?;
        let base: CryptoKey =
            JsFuture::from(subtle.import_key_with_str("raw", &raw, "PBKDF2", false, &Array::of1(&"deriveKey".into()))?)
                .await?
                .dyn_into()?;
        let kdf = Record::new()
            .with("name", "PBKDF2")
            .with("hash", "SHA-256")
            .with("salt", Uint8Array::from(&self.salt[..]))
            .with("iterations", self.iterations as f64)
            .done();
        let aes = Record::new().with("name", "AES-GCM").with("length", 256).done();
        let derived = subtle.derive_key_with_object_and_object(&kdf, &base, &aes, false, &Array::of1(&usage.into()))?;
        JsFuture::from(derived).await?.dyn_into()
    }
}

/// The PKCS#8 form of the key with this seed.
pub(super) fn pkcs8(seed: &[u8; 32]) -> [u8; PKCS8.len() + 32] {
    let mut form = [0; PKCS8.len() + 32];
    form[..PKCS8.len()].copy_from_slice(&PKCS8);
    form[PKCS8.len()..].copy_from_slice(seed);
    form
}

/// The file of the key with this seed.
pub async fn seal(seed: &[u8; 32], passphrase: &str) -> Result<String, FileFault> {
    let (mut salt, mut iv) = ([0; 16], [0; 12]);
    let mut plain = pkcs8(seed);
    let sealed = async {
        crypto()?.get_random_values_with_u8_array(&mut salt)?;
        crypto()?.get_random_values_with_u8_array(&mut iv)?;
        let mut file =
            Sealed { key: Identity::from_seed(seed).key(), iterations: ITERATIONS.into(), salt, iv, sealed: [0; SEALED_BYTES] };
        let key = file.derived(passphrase, "encrypt").await?;
        let sealed = JsFuture::from(subtle()?.encrypt_with_object_and_u8_array(&file.gcm(), &key, &plain)?).await?;
        file.sealed = array(&sealed).ok_or_else(|| JsValue::from_str("a sealed key of another length"))?;
        Ok(file)
    };
    let sealed: Result<Sealed, JsValue> = sealed.await;
    plain.fill(0);
    sealed.map_err(crypto_fault)?.write().await
}

/// The seed of the key in a file.
pub async fn open(text: &str, passphrase: &str) -> Result<[u8; 32], FileFault> {
    let file = Sealed::read(text).await?;
    let key = file.derived(passphrase, "decrypt").await.map_err(crypto_fault)?;
    let opened = subtle().and_then(|subtle| subtle.decrypt_with_object_and_u8_array(&file.gcm(), &key, &file.sealed));
    // The checksum holds, so it is not the file.
    let plain = JsFuture::from(opened.map_err(crypto_fault)?).await.map_err(|_| FileFault::WrongPassphrase)?;
    let mut plain: [u8; PKCS8.len() + 32] = array(&plain).ok_or(FileFault::Damaged)?;
    let mut seed = [0; 32];
    seed.copy_from_slice(&plain[PKCS8.len()..]);
    let right = plain.starts_with(&PKCS8) && Identity::from_seed(&seed).key() == file.key;
    plain.fill(0);
    if right { Ok(seed) } else { Err(FileFault::Damaged) }
}

fn bytes<const N: usize>(fields: &Fields, name: &str) -> Option<[u8; N]> {
    hex::decode(fields.text(name)?).ok()?.try_into().ok()
}

fn crypto_fault(error: JsValue) -> FileFault {
    FileFault::Crypto(super::fetch::describe(&error))
}
