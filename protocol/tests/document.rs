//! docs/protocol.md against the code: error codes, limits, byte examples and JSON examples, each both ways where a
//! list can be incomplete. It cannot tell whether the prose is right; the independent client does.

use std::collections::BTreeMap;

use manyhands_protocol::limits;
use manyhands_protocol::manifest::Submission;
use manyhands_protocol::problem::{Code, Problem};
use manyhands_protocol::site::{Site, SiteTotals};
use manyhands_protocol::view::{InfoView, JobView, KeyView};
use serde::Serialize;
use serde::de::DeserializeOwned;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");
const LIMITS_SOURCE: &str = include_str!("../src/limits.rs");

/// Lines below the heading that begins with `heading`, up to the next heading of the same level.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let mut lines = DOCUMENT.lines().skip_while(move |line| !line.starts_with(heading));
    assert!(lines.next().is_some(), "no section {heading}");
    lines.take_while(|line| !line.starts_with("## "))
}

/// Cells of the table rows of a section whose first cell is code.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    section(heading)
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

#[test]
fn error_codes_are_the_document_s() {
    let in_code: Vec<_> = Code::ALL
        .iter()
        .map(|c| vec![c.as_str().to_owned(), c.status().to_string(), if c.retryable() { "yes" } else { "no" }.to_owned()])
        .collect();
    let in_document: Vec<_> =
        rows("## 9.").into_iter().map(|row| row[..3].iter().map(|cell| cell.to_string()).collect::<Vec<_>>()).collect();
    assert_eq!(in_document, in_code);
    assert!(rows("## 9.").iter().all(|row| !row[3].is_empty()), "each code says when");
}

/// Name and value of the listed constants.
macro_rules! values {
    ($($name:ident)*) => { BTreeMap::from([$((stringify!($name), limits::$name as f64)),*]) };
}

#[test]
fn limits_are_the_document_s() {
    let values = values! {
        PROTOCOL_VERSION TERMS_VERSION CBOR_BODY_BYTES_MAX JSON_BODY_BYTES_MAX BLOB_BYTES_MAX OUTPUTS_COUNT_MAX
        UNACCEPTED_BYTES_PER_KEY_MAX UNACCEPTED_BYTES_MAX UPLOADS_PER_KEY_MAX UPLOAD_SILENCE_MS
        TEXT_BYTES_MAX SITE_NAME_BYTES_MAX SITE_ORIGINS_MAX KERNELS_COUNT_MAX KEY_ROTATIONS_MAX LEASES_PER_CALL_MAX LIVE_LEASES_PER_KEY_MAX LEASES_ENDED_MAX LEASE_MS LEASE_TOTAL_MS_MAX HEARTBEAT_MS
        SESSION_MS_MAX NONCE_MS CLOCK_SKEW_MS REPLICA_WAIT_MS REPLICA_LEASED_WAIT_MS REVEAL_BYTES_MAX CHALLENGE_WAIT_MS DIMENSION_MAX TENSOR_VALUES_MAX LAYERS_COUNT_MAX PARAMETERS_COUNT_MAX ACTIVATIONS_COUNT_MAX
        KERNEL_MAX POSITIONS_MAX VOCABULARY_MAX HEAD_WIDTH_MAX
        INNER_STEPS_MAX BATCH_MAX UNITS_PER_ROUND_MAX ROUNDS_MAX SHARDS_COUNT_MAX TENSORS_PER_FILE_MAX
        SAFETENSORS_HEADER_BYTES_MAX GRADIENT_TOLERANCE GRADIENT_TOLERANCE_SEQUENCE UPDATE_NORM_RATIO_MAX FREIVALDS_ROUNDS MATMUL_K_CHUNK
    };
    let in_source: Vec<_> = LIMITS_SOURCE.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    let in_document: Vec<_> = rows("## 12.").iter().map(|row| row[0]).collect();
    assert_eq!(in_document, in_source, "names, in the order of the source");
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), {
        let mut sorted = in_source;
        sorted.sort();
        sorted
    });
    for row in rows("## 12.") {
        let written: f64 = row[1].parse().expect("a number");
        assert_eq!(Some(&written), values.get(row[0]), "{}", row[0]);
    }
}

/// Code blocks after a fence line that is exactly `opening`.
fn blocks(opening: &str) -> Vec<String> {
    let (mut found, mut lines) = (Vec::new(), DOCUMENT.lines());
    while lines.any(|line| line == opening) {
        found.push(lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect());
    }
    found
}

#[test]
fn byte_examples_are_the_vectors() {
    let names: Vec<_> = DOCUMENT.lines().filter_map(|line| line.strip_prefix("<!-- vector: ")?.strip_suffix(" -->")).collect();
    let examples = blocks("```hex");
    assert_eq!(names.len(), examples.len());
    for (name, example) in names.iter().zip(examples) {
        let path = format!("{}/../tests/vectors/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(example, std::fs::read_to_string(path).expect("the vector exists"), "{name}");
    }
    for name in ["consent", "unit-manifest-matmul", "unit-manifest-train", "result-matmul", "lease-request", "session-opened"] {
        assert!(names.contains(&name), "{name} has no example");
    }
}

/// The example parses into the view and the view writes every member of the example, and no other.
fn check_json<T: Serialize + DeserializeOwned>(name: &str) -> T {
    let blocks = blocks(&format!("```json {name}"));
    let [example] = blocks.as_slice() else { panic!("{name}: {} examples", blocks.len()) };
    let view: T = serde_json::from_str(example).unwrap_or_else(|e| panic!("{name}: {e}"));
    let expected: serde_json::Value = serde_json::from_str(example).expect("it parsed before");
    let written = serde_json::to_value(&view).expect("a view is JSON");
    assert_eq!(single(written), single(expected), "{name}");
    view
}

/// f32 fields are written as f64 of another spelling: compare numbers as f32.
fn single(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(n) if n.is_f64() => n.as_f64().map(|f| Value::from(f as f32 as f64)).expect("is_f64"),
        Value::Array(items) => items.into_iter().map(single).collect(),
        Value::Object(members) => members.into_iter().map(|(k, v)| (k, single(v))).collect(),
        other => other,
    }
}

#[test]
fn the_key_file_is_the_vector() {
    let path = format!("{}/../tests/vectors/key-file.json", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(blocks("```json KeyFile"), [std::fs::read_to_string(path).expect("the vector exists")]);
}

#[test]
fn json_examples_are_the_views() {
    let info: InfoView = check_json("InfoView");
    assert_eq!((info.nonce_ms, info.lease_ms), (limits::NONCE_MS, limits::LEASE_MS));
    assert_eq!((info.heartbeat_ms, info.blob_bytes_max), (limits::HEARTBEAT_MS, limits::BLOB_BYTES_MAX));
    assert_eq!(info.session_ms_max, limits::SESSION_MS_MAX);
    check_json::<JobView>("JobView");
    check_json::<KeyView>("KeyView");
    check_json::<SiteTotals>("SiteTotals");
    let site: Site = check_json("Site");
    assert_eq!(site.validate(), Ok(()));
    let submission: Submission = check_json("Submission");
    assert_eq!(submission.validate(), Ok(()));
    let problem: Problem = check_json("problem");
    assert_eq!(problem, Problem::new(Code::NotYourLease, problem.detail.clone()));
}

/// Codes are written as code in the prose; none may be one that does not exist.
#[test]
fn prose_names_no_unknown_code() {
    let known = |word: &str| Code::parse(word).is_some();
    let suspicious = DOCUMENT.split('`').skip(1).step_by(2).filter(|word| {
        ["bad_", "unknown_", "wrong_", "not_", "too_many"].iter().any(|p| word.starts_with(p)) && !word.contains(' ')
    });
    for word in suspicious {
        assert!(known(word), "`{word}` is no error code");
    }
}
