//! What wgpu keeps from the browser's adapter: its name, of which it passes on the description alone, which Chromium
//! leaves empty; and the feature `subgroups`, which version 30 does not ask for on WebGPU.

use std::cell::Cell;
use std::rc::Rc;

use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, future_to_promise};

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

/// The feature that [`next_device_with_subgroups`] adds.
const SUBGROUPS: &str = "subgroups";

/// Makes the device of the next adapter that is asked for have subgroups, if the adapter has them; true in the cell once
/// that device was asked for with them. Both calls are left as they were after they were made once.
pub fn next_device_with_subgroups() -> Rc<Cell<bool>> {
    let enabled = Rc::new(Cell::new(false));
    let told = enabled.clone();
    if let Some(gpu) = get(&js_sys::global(), "navigator").and_then(|navigator| get(&navigator, "gpu")) {
        once(&gpu.clone(), "requestAdapter", move |request, options| {
            let asked: Promise = request.call1(&gpu, &options)?.dyn_into()?;
            Ok(future_to_promise(async move {
                let adapter = JsFuture::from(asked).await?;
                add_subgroups(&adapter, told);
                Ok(adapter)
            })
            .into())
        });
    }
    enabled
}

fn add_subgroups(adapter: &JsValue, told: Rc<Cell<bool>>) {
    let has = || -> Option<bool> {
        let features = get(adapter, "features")?;
        let has: Function = get(&features, "has")?.dyn_into().ok()?;
        has.call1(&features, &SUBGROUPS.into()).ok()?.as_bool()
    };
    if has() != Some(true) {
        return;
    }
    let owner = adapter.clone();
    once(adapter, "requestDevice", move |request, descriptor| {
        let features = get(&descriptor, "requiredFeatures").map_or_else(Array::new, |features| Array::from(&features));
        features.push(&SUBGROUPS.into());
        told.set(Reflect::set(&descriptor, &"requiredFeatures".into(), &features)?);
        request.call1(&owner, &descriptor)
    });
}

/// Puts a function of one argument before a method of `object`, for its next call only.
fn once(object: &JsValue, method: &'static str, instead: impl FnOnce(Function, JsValue) -> Result<JsValue, JsValue> + 'static) {
    let Some(original) = get(object, method).and_then(|value| value.dyn_into::<Function>().ok()) else { return };
    let owner: Object = object.clone().unchecked_into();
    let replacement = Closure::once_into_js(move |argument: JsValue| {
        Reflect::delete_property(&owner, &method.into())?;
        instead(original, argument)
    });
    // An object that refuses properties keeps its method: there is one feature less.
    let _ = Reflect::set(object, &method.into(), &replacement);
}

/// A property that is there.
fn get(of: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(of, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null())
}
