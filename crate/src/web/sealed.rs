//! The way round a WebCrypto without Ed25519: ed25519-dalek, its seed kept under an AES-GCM key of WebCrypto's. The seal
//! keeps the seed from whoever copies the database, not from other scripts of this origin, which could use the sealing
//! key as this code does.

use js_sys::{Array, Object, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::CryptoKey;

use super::fields::{Fields, Record};
use super::identity::{array, crypto, random_seed, subtle};
use crate::volunteer::identity::Identity;

/// A fresh key and what to keep of it; nothing where the seed cannot be sealed.
pub async fn make() -> Result<(Identity, Option<JsValue>), JsValue> {
    let mut seed = random_seed()?;
    let identity = Identity::from_seed(&seed);
    let record = seal(&seed).await.ok();
    seed.fill(0);
    Ok((identity, record))
}

/// The key in what was kept, if there is one.
pub async fn open(record: &Fields) -> Option<Identity> {
    let wrap: CryptoKey = record.value("wrap")?.dyn_into().ok()?;
    let sealed = Uint8Array::new(&record.value("sealed")?).to_vec();
    let opened = subtle().ok()?.decrypt_with_object_and_u8_array(&gcm(&record.value("iv")?), &wrap, &sealed).ok()?;
    let mut seed: [u8; 32] = array(&JsFuture::from(opened).await.ok()?)?;
    let identity = Identity::from_seed(&seed);
    seed.fill(0);
    Some(identity)
}

/// The seed under a fresh AES-GCM key that no script can read.
pub async fn seal(seed: &[u8; 32]) -> Result<JsValue, JsValue> {
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
