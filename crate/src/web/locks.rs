//! Web Locks: one holder at a time among all tabs of this origin. Where the browser refuses them, everyone holds.

use futures::channel::oneshot;
use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::fields::{Fields, Record};

#[wasm_bindgen]
extern "C" {
    /// `navigator.locks`, which web-sys offers only as unstable.
    type LockManager;

    #[wasm_bindgen(method, catch)]
    fn request(this: &LockManager, name: &str, options: &JsValue, callback: &JsValue) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn query(this: &LockManager) -> Result<Promise, JsValue>;
}

/// A held lock; dropping it lets the next tab in.
pub struct Lock(Option<Function>);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(release) = &self.0 {
            let _ = release.call0(&JsValue::NULL);
        }
    }
}

/// Waits for the lock with this name.
pub async fn lock(name: &str) -> Lock {
    request(name, false).await.unwrap_or(Lock(None))
}

/// The lock with this name, unless another tab holds it.
pub async fn try_lock(name: &str) -> Option<Lock> {
    request(name, true).await
}

/// Whether anybody waits for the lock with this name.
pub async fn is_waited_for(name: &str) -> bool {
    let Some(Ok(asked)) = manager().map(|manager| manager.query()) else { return false };
    let Ok(state) = JsFuture::from(asked).await else { return false };
    let waits = |request: JsValue| Fields::new(request).text("name").as_deref() == Some(name);
    Fields::new(state).list("pending").is_some_and(|pending| pending.into_iter().any(waits))
}

/// The lock; none where the browser says that another tab holds it.
async fn request(name: &str, if_available: bool) -> Option<Lock> {
    let (send, receive) = oneshot::channel();
    // Called once the lock is ours; it is held until the promise given back here resolves. A waiter that gave up makes
    // `send` fail, which drops the lock and so releases it.
    let granted = Closure::once_into_js(move |lock: JsValue| {
        let mut send = Some(send);
        Promise::new(&mut |resolve, _| {
            let Some(send) = send.take() else { return };
            if lock.is_null() {
                let _ = resolve.call0(&JsValue::NULL);
                let _ = send.send(None);
            } else {
                let _ = send.send(Some(Lock(Some(resolve))));
            }
        })
    });
    let options = Record::new().with("ifAvailable", if_available);
    let requested = manager().and_then(|manager| manager.request(name, &options.into(), &granted).ok());
    let Some(requested) = requested else { return Some(Lock(None)) };
    // The browser may also refuse later, by rejecting; the callback then never runs.
    let refused = JsFuture::from(requested);
    match futures::future::select(receive, refused).await {
        futures::future::Either::Left((Ok(lock), _)) => lock,
        _ => Some(Lock(None)),
    }
}

fn manager() -> Option<LockManager> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).ok()?;
    let locks = Reflect::get(&navigator, &"locks".into()).ok()?;
    locks.is_object().then(|| locks.unchecked_into())
}
