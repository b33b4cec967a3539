//! www/types.d.ts against the views: whatever the page's type checker believes of the coordinator's JSON is there, under
//! this name and of this type. The worker's messages are not compared here; the browser tests pass through all of them.

use manyhands_protocol::view::JobState;
use serde_json::Value;

const TYPES: &str = include_str!("../../www/types.d.ts");
const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// Fields of an interface: name, and type up to the semicolon.
fn fields(interface: &str) -> Vec<(&'static str, &'static str)> {
    let head = format!("export interface {interface} {{");
    let body = TYPES.split_once(&head).unwrap_or_else(|| panic!("no interface {interface}")).1;
    let body = body.split_once("\n}").expect("an interface ends").0;
    body.lines().filter_map(|line| line.trim().strip_suffix(';')?.split_once(": ")).collect()
}

/// Whether `value` may stand where TypeScript says `kind`.
fn fits(value: &Value, kind: &str) -> bool {
    kind.split(" | ").any(|kind| match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ if kind.ends_with("[]") || kind == "JobState" => value.is_array() || value.is_string(),
        quoted if quoted.starts_with('"') => value.as_str() == Some(quoted.trim_matches('"')),
        _ => value.is_object(),
    })
}

/// What does not agree, one text for each field.
fn faults(interface: &str, value: &Value) -> Vec<String> {
    let fields = fields(interface);
    assert!(!fields.is_empty(), "{interface} has no fields");
    let fault = |(name, kind): &(&str, &str)| match value.get(name.trim_end_matches('?')) {
        Some(value) if fits(value, kind) => None,
        Some(value) => Some(format!("{interface}.{name} is {kind}, the coordinator sends {value}")),
        None if name.ends_with('?') => None,
        None => Some(format!("{interface}.{name} is not sent")),
    };
    fields.iter().filter_map(fault).collect()
}

/// The document's JSON example with this name, which tests/document.rs holds to the view.
fn example(name: &str) -> Value {
    let block = DOCUMENT.split_once(&format!("```json {name}\n")).expect("the document has an example").1;
    serde_json::from_str(block.split_once("\n```").expect("an example ends").0).expect("an example is JSON")
}

#[test]
fn the_page_s_types_are_the_views() {
    let job = example("JobView");
    let train = &job["train"];
    for (interface, value) in [
        ("InfoView", &example("InfoView")),
        ("JobView", &job),
        ("TrainView", train),
        ("Model", &train["model"]),
        ("RoundView", &train["history"][0]),
        ("ProblemView", &example("problem")),
    ] {
        assert_eq!(faults(interface, value), Vec::<String>::new());
    }
    let states = TYPES.split_once("type JobState = ").expect("a type of states").1.split_once(';').expect("it ends").0;
    let states: Vec<_> = states.split(" | ").map(|state| JobState::parse(state.trim_matches('"'))).collect();
    assert!(states.iter().all(Option::is_some) && states.len() == 5, "{states:?}");
}

#[test]
fn a_difference_is_found() {
    let mut round = example("JobView")["train"]["history"][0].clone();
    round["accuracy"] = Value::String("0.8".to_owned());
    round.as_object_mut().expect("an object").remove("loss");
    assert_eq!(faults("RoundView", &round).len(), 2);
}
