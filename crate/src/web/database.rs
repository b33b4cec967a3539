//! IndexedDB in four functions: open, get, put, delete, on two stores with keys beside values. Third-party frames may
//! be refused it; callers then do without.

use js_sys::{Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{IdbDatabase, IdbFactory, IdbObjectStore, IdbRequest, IdbTransactionMode};

/// The database's name in a browser.
pub const NAME: &str = "manyhands";
/// The volunteer's key.
pub const IDENTITY: &str = "identity";
/// What was measured of kernels: a database of its own, opened when it is needed.
pub const TUNING: &str = "tuning";
/// The last checkpoint of each coordinator's public log: a database of its own.
pub const CHECKPOINTS: &str = "checkpoints";
/// How much data moved today: a database of its own, opened when it is needed.
pub const DAY: &str = "day";
/// Session tokens and their ends, by coordinator and scope of consent.
pub const SESSIONS: &str = "sessions";

const VERSION: u32 = 1;

/// An open database; closed when dropped.
pub struct Database(IdbDatabase);

impl Drop for Database {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Database {
    /// Opens the database with this name, making its stores where they are missing.
    pub async fn open(name: &str) -> Result<Database, JsValue> {
        Self::open_with(name, &[IDENTITY, SESSIONS]).await
    }

    /// A database with these stores.
    pub async fn open_with(name: &str, stores: &'static [&'static str]) -> Result<Database, JsValue> {
        let factory: IdbFactory = Reflect::get(&js_sys::global(), &"indexedDB".into())?.dyn_into()?;
        let request = factory.open_with_u32(name, VERSION)?;
        let opening = request.clone();
        let upgrade = Closure::once_into_js(move || {
            if let Ok(database) = opening.result() {
                let database: IdbDatabase = database.unchecked_into();
                for store in stores {
                    let _ = database.create_object_store(store);
                }
            }
        });
        request.set_onupgradeneeded(Some(upgrade.unchecked_ref()));
        done(&request).await.map(|database| Database(database.unchecked_into()))
    }

    /// The value under `key`; undefined where there is none.
    pub async fn get(&self, store: &str, key: &str) -> Result<JsValue, JsValue> {
        done(&self.store(store, IdbTransactionMode::Readonly)?.get(&key.into())?).await
    }

    /// Keeps `value` under `key`. Resolves once the write is accepted; a crash right after may still lose it.
    pub async fn put(&self, store: &str, key: &str, value: &JsValue) -> Result<(), JsValue> {
        done(&self.store(store, IdbTransactionMode::Readwrite)?.put_with_key(value, &key.into())?).await.map(drop)
    }

    /// Keeps `value` under `key`. Resolves once the write is committed: a crash of the browser leaves it.
    pub async fn put_durably(&self, store: &str, key: &str, value: &JsValue) -> Result<(), JsValue> {
        let transaction = self.0.transaction_with_str_and_mode(store, IdbTransactionMode::Readwrite)?;
        transaction.object_store(store)?.put_with_key(value, &key.into())?;
        let committed = Promise::new(&mut |resolve, reject| {
            transaction.set_oncomplete(Some(&resolve));
            transaction.set_onabort(Some(&reject));
        });
        JsFuture::from(committed).await.map(drop)
    }

    /// Puts what `change` makes of the value under `key` in its place; no other tab writes in between.
    pub async fn update(&self, store: &str, key: &str, change: impl FnOnce(JsValue) -> JsValue) -> Result<(), JsValue> {
        let store = self.store(store, IdbTransactionMode::Readwrite)?;
        // A transaction lives on through what is run by its request's own event, as this is.
        let kept = done(&store.get(&key.into())?).await?;
        done(&store.put_with_key(&change(kept), &key.into())?).await.map(drop)
    }

    /// Removes what is under `key`, if anything.
    pub async fn delete(&self, store: &str, key: &str) -> Result<(), JsValue> {
        done(&self.store(store, IdbTransactionMode::Readwrite)?.delete(&key.into())?).await.map(drop)
    }

    fn store(&self, name: &str, mode: IdbTransactionMode) -> Result<IdbObjectStore, JsValue> {
        self.0.transaction_with_str_and_mode(name, mode)?.object_store(name)
    }
}

/// Waits for a request and gives its result.
async fn done(request: &IdbRequest) -> Result<JsValue, JsValue> {
    let settled = Promise::new(&mut |resolve, reject| {
        request.set_onsuccess(Some(&resolve));
        request.set_onerror(Some(&reject));
    });
    JsFuture::from(settled).await?;
    request.result()
}
