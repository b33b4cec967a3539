//! The adapter's name as the browser tells it. wgpu passes on the description alone, which Chromium leaves empty.

use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// Fields of `GPUAdapterInfo` that make up a name, in this order.
const FIELDS: [&str; 4] = ["vendor", "architecture", "device", "description"];

/// Vendor, architecture and what else is told of the adapter that a browser gives for these options, as in
/// `google swiftshader`; none where the browser keeps it to itself.
pub async fn adapter_name(force_fallback_adapter: bool) -> Option<String> {
    let gpu = get(&get(&js_sys::global(), "navigator")?, "gpu")?;
    let options = Object::new();
    Reflect::set(&options, &"powerPreference".into(), &"high-performance".into()).ok()?;
    Reflect::set(&options, &"forceFallbackAdapter".into(), &force_fallback_adapter.into()).ok()?;
    let request: Function = get(&gpu, "requestAdapter")?.dyn_into().ok()?;
    let asked: Promise = request.call1(&gpu, &options).ok()?.dyn_into().ok()?;
    let info = get(&JsFuture::from(asked).await.ok()?, "info")?;
    let told: Vec<String> = FIELDS.iter().filter_map(|field| get(&info, field)?.as_string()).filter(|t| !t.is_empty()).collect();
    (!told.is_empty()).then(|| told.join(" "))
}

/// A property that is there.
fn get(of: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(of, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null())
}
