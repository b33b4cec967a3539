//! One HTTP exchange by fetch: same origin, bounded answer, abandoned when the future is dropped.

use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, Headers, ReadableStreamDefaultReader, RequestInit, RequestRedirect, WorkerGlobalScope};

use super::day::DataDay;
#[cfg(feature = "every-layer")]
use super::fields::Fields;
use crate::volunteer::host::{HostError, Request, Response};

/// Abandons the exchange when dropped; harmless once it is over.
struct AbortOnDrop(AbortController);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends `request` to `origin` and reads the whole answer, as far as the day's data reaches.
pub async fn exchange(origin: &str, request: Request<'_>, day: &DataDay) -> Result<Response, HostError> {
    if !day.take(request.body.len() as u64).await {
        return Err(HostError::DayLimit);
    }
    send(origin, request, day).await.unwrap_or_else(|error| Err(HostError::Network(describe(&error))))
}

async fn send(origin: &str, request: Request<'_>, day: &DataDay) -> Result<Result<Response, HostError>, JsValue> {
    let abort = AbortOnDrop(AbortController::new()?);
    let headers = Headers::new()?;
    let init = RequestInit::new();
    init.set_method(request.method.name());
    init.set_signal(Some(&abort.0.signal()));
    // The protocol has no redirects, and a token must not follow one.
    init.set_redirect(RequestRedirect::Error);
    if let Some(token) = request.token {
        headers.set("authorization", &format!("Bearer {token}"))?;
    }
    if let Some(content_type) = request.content_type {
        headers.set("content-type", content_type)?;
        init.set_body(&Uint8Array::from(request.body));
    }
    init.set_headers(&headers);
    let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
    let url = format!("{origin}{}", request.path);
    let response: web_sys::Response = JsFuture::from(scope.fetch_with_str_and_init(&url, &init)).await?.unchecked_into();
    let retry_after_ms =
        response.headers().get("retry-after")?.and_then(|s| s.parse::<u64>().ok()).map(|s| s.saturating_mul(1000));
    let read = read(&response, request.answer_bytes_max, day).await?;
    Ok(read.map(|body| Response { status: response.status(), retry_after_ms, body }))
}

/// The body, unless it is longer than `bytes_max` or than what the day has left; read piece by piece, so that no more than
/// that is ever held.
async fn read(response: &web_sys::Response, bytes_max: u64, day: &DataDay) -> Result<Result<Vec<u8>, HostError>, JsValue> {
    let mut bytes = Vec::new();
    let Some(stream) = response.body() else { return Ok(Ok(bytes)) };
    let reader: ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
    loop {
        let piece = JsFuture::from(reader.read()).await?;
        let value = Reflect::get(&piece, &"value".into())?;
        if value.is_undefined() {
            return Ok(Ok(bytes));
        }
        let value: Uint8Array = value.unchecked_into();
        if bytes.len() as u64 + u64::from(value.length()) > bytes_max {
            return Ok(Err(HostError::TooLarge(bytes_max)));
        }
        if !day.take(value.length().into()).await {
            return Ok(Err(HostError::DayLimit));
        }
        let start = bytes.len();
        bytes.resize(start + value.length() as usize, 0);
        value.copy_to(&mut bytes[start..]);
    }
}

/// Bytes that this worker's program took off the network since this was asked last: bodies of what was loaded, beside the
/// protocol's calls, which are counted as they are made. What came from the browser's cache is none.
#[cfg(feature = "every-layer")]
pub fn program_bytes() -> u64 {
    let Some(performance) = js_sys::global().unchecked_into::<WorkerGlobalScope>().performance() else { return 0 };
    let loaded = performance.get_entries_by_type("resource").into_iter().map(Fields::new);
    let program = loaded.filter(|entry| !entry.text("name").is_some_and(|name| name.contains("/v1/")));
    let bytes = program.filter_map(|entry| Some(entry.whole("transferSize")?.min(entry.whole("encodedBodySize")?))).sum();
    performance.clear_resource_timings();
    bytes
}

/// A JavaScript error in words.
pub fn describe(error: &JsValue) -> String {
    let message = Reflect::get(error, &"message".into()).ok().and_then(|m| m.as_string());
    message.or_else(|| error.as_string()).unwrap_or_else(|| "unknown error".to_owned())
}
