//! The page and the worker, embedded as they lie in `dist/` when this is built: one file is the whole installation.

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use manyhands_protocol::problem::Code;
use rust_embed::RustEmbed;

use crate::http::Failure;

#[derive(RustEmbed)]
#[folder = "../dist"]
struct Dist;

/// What the page may load: its own files, and pictures it makes itself. `wasm-unsafe-eval` allows WebAssembly alone.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
     img-src 'self' data: blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>Many Hands</title>\
     <p>This coordinator runs, but the page is not built: run <code>cargo xtask build-web</code> and build it again.";

/// Answers any path outside `/v1`.
pub async fn serve(uri: Uri, request: HeaderMap) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let mut response = match Dist::get(path) {
        Some(file) => match accepts_brotli(&request).then(|| Dist::get(&format!("{path}.br"))).flatten() {
            Some(compressed) => brotli_response(path, compressed, &request),
            None => file_response(path, file, &request),
        },
        None if path == "index.html" => Html(NOT_BUILT).into_response(),
        None => return Failure::new(Code::NotFound, format!("nothing at {}", uri.path())).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// The same file as the page's build compressed it; its tag is its own, so that the two never pass for each other.
fn brotli_response(path: &str, file: rust_embed::EmbeddedFile, request: &HeaderMap) -> Response {
    let mut response = file_response(path, file, request);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
    response
}

/// Whether the request takes brotli (RFC 9110 section 12.5.3). Browsers offer it over HTTPS and on loopback.
fn accepts_brotli(request: &HeaderMap) -> bool {
    let Some(accepted) = request.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()) else { return false };
    accepted.split(',').any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        coding.trim() == "br" && !refused
    })
}

fn file_response(path: &str, file: rust_embed::EmbeddedFile, request: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", hex::encode(file.metadata.sha256_hash()));
    // A name with a hash in it never changes its bytes; anything else is asked for again and answered by its tag.
    let cache = if is_hashed(path) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|tags| tags.as_bytes() == etag.as_bytes());
    let headers =
        [(header::CONTENT_TYPE, content_type(path).to_owned()), (header::CACHE_CONTROL, cache.to_owned()), (header::ETAG, etag)];
    if known { (StatusCode::NOT_MODIFIED, headers).into_response() } else { (headers, file.data.into_owned()).into_response() }
}

/// Whether a file name ends in a hash as the page's build writes it: `name-0123456789abcdef.js`, `name-…_bg.wasm`.
fn is_hashed(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.strip_suffix("_bg").unwrap_or(stem);
    stem.rsplit_once('-').is_some_and(|(_, hash)| hash.len() >= 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json" | "map" | "webmanifest") => "application/json",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brotli_only_where_it_is_accepted() {
        let check = |value: &'static str, expected| {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_brotli(&headers), expected, "{value}");
        };
        check("gzip, deflate, br, zstd", true);
        check("gzip, br;q=0.5", true);
        check("gzip, br;q=0", false);
        check("gzip", false);
        check("brx", false);
        assert!(!accepts_brotli(&HeaderMap::new()));
    }

    #[test]
    fn only_hashed_names_are_immutable() {
        for path in ["worker-0123456789abcdef.js", "worker-0123456789abcdef_bg.wasm", "sub/style-deadbeef.css"] {
            assert!(is_hashed(path), "{path}");
        }
        for path in ["index.html", "many-hands.js", "worker.js", "a-bad.js", "chart-deadbeeg.js", "x-deadbeef/y.js"] {
            assert!(!is_hashed(path), "{path}");
        }
    }
}
