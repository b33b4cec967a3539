//! The page and the worker, embedded as they lie in `dist/` when this is built: one file is the whole installation.

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use manyhands_protocol::problem::Code;
use manyhands_protocol::site::is_name;
use rust_embed::RustEmbed;

use crate::http::Failure;
use crate::service::Service;

#[derive(RustEmbed)]
#[folder = "../dist"]
struct Dist;

/// The elements of all releases, `X.Y.Z.js` each, byte for byte: pages that pinned one keep it for ever, whatever is served by then.
/// `cargo xtask release-embed` adds one. Tests have one of their own.
#[derive(RustEmbed)]
#[cfg_attr(not(test), folder = "elements")]
#[cfg_attr(test, folder = "../tests/vectors/elements")]
struct Elements;

/// What the page may load: its own files. Its scripts may make no script of a text, and only its policy for the worker's
/// address (www/page/contribution.js) begins a worker. Who may frame it follows.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     worker-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; \
     trusted-types manyhands-worker; frame-ancestors ";
/// What the page for owners of other sites may frame beside that: the look at what they get.
const LOOK_POLICY: &str = "frame-src 'self'; ";
/// The same for a worker, whose policy comes with its script: nothing but calls, modules of its own and WebAssembly, which
/// `wasm-unsafe-eval` allows alone. Only its script's policy (xtask/src/web/finish.rs) begins a worker of its own.
const WORKER_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'; \
     require-trusted-types-for 'script'; trusted-types default; frame-ancestors ";
/// How the names of workers' scripts begin.
const WORKERS: &str = "manyhands-worker";

const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>Many Hands</title>\
     <p>This coordinator runs, but the page is not built: run <code>cargo xtask build-web</code> and build it again.";

/// The script that other sites load, as it lies in `dist/`; they name it by a version.
const ELEMENT: &str = "embed/many-hands.js";
/// The page that makes what other sites paste.
const GENERATOR: &str = "embed/index.html";
/// In the query of the page as the generator shows it, where it starts nothing (www/page/main.js).
const PREVIEW: &str = "preview";
/// The version that gets fixes: how long a browser may go without asking for them.
const ELEMENT_CACHE: &str = "public, max-age=300";
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Which pages may frame what is at this address, as Content Security Policy writes it: those of the registered site that
/// the query names (`/?site=NAME`), and none without one; the coordinator's own, which may do no less by themselves, where it
/// is a look at the page. The query is read as the page itself reads it: a name written otherwise is the same name.
pub async fn frame_ancestors(service: &Service, uri: &Uri) -> Result<String, Failure> {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return Ok("'none'".to_owned()) };
    if pairs.iter().any(|(name, _)| name == PREVIEW) {
        return Ok("'self'".to_owned());
    }
    let sites: Vec<_> = pairs.iter().filter(|(name, _)| name == "site").map(|(_, site)| site.as_str()).collect();
    match sites[..] {
        [] | [""] if service.config.embed_anywhere => Ok("*".to_owned()),
        [name] if is_name(name) => {
            let site = service.store.site(name).await?;
            Ok(site.map_or("'none'".to_owned(), |site| site.origins.join(" ")))
        }
        _ => Ok("'none'".to_owned()),
    }
}

/// The version of the element that a path names.
fn version(path: &str) -> Option<&str> {
    path.strip_prefix("embed/")?.strip_suffix("/many-hands.js")
}

/// The file in `dist/` that a path names, where it is no released element, and what its cache may do with it.
fn named(path: &str) -> (&str, &'static str) {
    match (path, version(path)) {
        ("", _) => ("index.html", "no-cache"),
        ("embed/", _) => (GENERATOR, "no-cache"),
        (_, Some("v1")) => (ELEMENT, ELEMENT_CACHE),
        // Not released yet: it may still change.
        (_, Some(env!("CARGO_PKG_VERSION"))) => (ELEMENT, "no-cache"),
        // A name with a hash in it never changes its bytes; anything else is asked for again and answered by its tag.
        _ if is_hashed(path) => (path, IMMUTABLE),
        _ => (path, "no-cache"),
    }
}

/// Answers any path outside `/v1`, to be framed by those pages.
pub fn serve(uri: &Uri, request: &HeaderMap, framed_by: &str) -> Response {
    let path = uri.path().trim_start_matches('/');
    let released = version(path).and_then(|version| Elements::get(&format!("{version}.js")));
    let is_released = released.is_some();
    let (path, cache) = if is_released { (ELEMENT, IMMUTABLE) } else { named(path) };
    let mut response = match released.or_else(|| Dist::get(path)) {
        Some(file) if is_released => file_response(path, file, cache, request),
        Some(file) => match accepts_brotli(request).then(|| Dist::get(&format!("{path}.br"))).flatten() {
            Some(compressed) => brotli_response(path, compressed, cache, request),
            None => file_response(path, file, cache, request),
        },
        None if path == "index.html" => Html(NOT_BUILT).into_response(),
        None => return Failure::new(Code::NotFound, format!("nothing at {}", uri.path())).into_response(),
    };
    let headers = response.headers_mut();
    let allowed = if path.starts_with(WORKERS) { WORKER_POLICY } else { PAGE_POLICY };
    let frames = if path == GENERATOR { LOOK_POLICY } else { "" };
    let policy = format!("{frames}{allowed}{framed_by}");
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("origins are checked, and plain text"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    // Other sites load one script of ours, as a module, which takes CORS; everything else is for our own page.
    let is_element = path == ELEMENT;
    let policy = if is_element { "cross-origin" } else { "same-origin" };
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static(policy));
    if is_element {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// The same file as the page's build compressed it; its tag is its own, so that the two never pass for each other.
fn brotli_response(path: &str, file: rust_embed::EmbeddedFile, cache: &str, request: &HeaderMap) -> Response {
    let mut response = file_response(path, file, cache, request);
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

fn file_response(path: &str, file: rust_embed::EmbeddedFile, cache: &str, request: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", hex::encode(file.metadata.sha256_hash()));
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
    use futures::FutureExt as _;

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
    fn the_element_has_a_version_with_fixes_and_one_that_is_not_released() {
        assert_eq!(named("embed/v1/many-hands.js"), (ELEMENT, ELEMENT_CACHE));
        assert_eq!(named(concat!("embed/", env!("CARGO_PKG_VERSION"), "/many-hands.js")), (ELEMENT, "no-cache"));
        assert_eq!(named("embed/9.9.9/many-hands.js"), ("embed/9.9.9/many-hands.js", "no-cache"));
        assert_eq!(named("a-0123456789abcdef.js"), ("a-0123456789abcdef.js", IMMUTABLE));
        assert_eq!(named(""), ("index.html", "no-cache"));
        assert_eq!(named("embed/"), (GENERATOR, "no-cache"));
    }

    /// The test's release is older than this coordinator.
    #[test]
    fn a_released_element_is_served_for_ever() {
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("br"))]);
        let response = serve(&Uri::from_static("/embed/0.0.0/many-hands.js"), &headers, "'none'");
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: header::HeaderName| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header(header::CACHE_CONTROL), IMMUTABLE);
        assert_eq!(header(header::CONTENT_TYPE), "text/javascript; charset=utf-8");
        assert_eq!(header(header::ACCESS_CONTROL_ALLOW_ORIGIN), "*");
        assert_eq!(response.headers()["cross-origin-resource-policy"], "cross-origin");
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).now_or_never().unwrap().unwrap();
        assert_eq!(body, include_bytes!("../../tests/vectors/elements/0.0.0.js")[..]);
        for never in ["/embed/0.0.1/many-hands.js", "/embed/integrity/many-hands.js", "/embed/../0.0.0/many-hands.js"] {
            assert_eq!(serve(&Uri::from_static(never), &headers, "'none'").status(), StatusCode::NOT_FOUND, "{never}");
        }
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
