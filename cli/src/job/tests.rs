//! Arguments, tokens, texts, and that nothing is sent before the owner's input was checked. The commands against a real
//! coordinator are in the end-to-end tests.

use std::net::TcpListener;
use std::path::Path;

use clap::Parser;
use manyhands_protocol::manifest::{Category, Inputs, JobWork};
use manyhands_protocol::problem::{Code, Problem};
use manyhands_protocol::view::{JobState, TaxView};
use manyhands_protocol::work;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::operator;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &str) -> Result<Args, String> {
    CommandLine::try_parse_from(line.split_whitespace()).map(|c| c.args).map_err(|e| e.to_string())
}

const MANIFEST: &str = r#"{ "version": 1, "name": "t", "title": "t", "description": "t", "owner": "t", "category": "demo",
    "work": { "kind": "train",
        "model": { "input": { "shape": [2], "dtype": "f32", "scale": 1.0, "offset": 0.0 },
            "layers": [{ "type": "dense", "outputs": 3 }], "loss": "softmax_cross_entropy" },
        "inner_steps": 1, "batch": 2,
        "inner_optimizer": { "type": "sgd", "learning_rate": 0.1, "momentum": 0.0 },
        "outer_optimizer": { "type": "nesterov", "learning_rate": 0.7, "momentum": 0.9 },
        "units_per_round": 1, "rounds_max": 1, "target_accuracy": 1.0, "rows_per_shard": 2, "seed": 7 } }"#;

/// A folder of the test's own with a manifest and data.
fn folder(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    let matrices = manyhands::tensors::write_f32(&[("a", &[3, 2], &[1.0; 6]), ("b", &[2, 3], &[2.0; 6])]);
    std::fs::write(folder.path().join("product.safetensors"), matrices).unwrap();
    folder
}

fn prepare(folder: &Path, data: &str) -> Result<submit::Prepared, String> {
    submit::prepare(&folder.join("manifest.json"), &folder.join(data)).map_err(|e| e.to_string())
}

#[test]
fn one_target_or_all_but_not_both_or_none() {
    assert!(parse("job pause 3").is_ok());
    assert!(parse("job pause --all").is_ok());
    assert!(parse("job pause").is_err());
    assert!(parse("job resume 3 --all").is_err());
    assert!(parse("job status x").is_err());
    let args = parse("job --json list --coordinator http://example.org/").unwrap();
    assert!(args.operator.json && args.operator.coordinator == "http://example.org/");
}

#[test]
fn tokens_come_from_file_variable_or_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "abc\n").unwrap();
    assert_eq!(operator::client::token(Some(&file), Some("other".to_owned())).unwrap(), "abc");
    assert_eq!(operator::client::token(None, Some("other".to_owned())).unwrap(), "other");
    assert!(operator::client::token(Some(&folder.path().join("none")), None).unwrap_err().to_string().contains("none"));
    for bad in ["", " \n", "two\nlines", "ümlaut"] {
        assert!(operator::client::token(None, Some(bad.to_owned())).is_err(), "{bad:?}");
    }
}

#[test]
fn addresses_are_those_of_the_web() {
    for good in ["http://127.0.0.1:1/", "https://example.org"] {
        assert!(Client::new(good, "t".to_owned()).is_ok(), "{good}");
    }
    for bad in ["ftp://example.org", "127.0.0.1:1", ""] {
        assert!(Client::new(bad, "t".to_owned()).is_err(), "{bad}");
    }
}

#[test]
fn problems_show_field_detail_and_code() {
    let problem = Problem::new(Code::BadManifest, "must be 1 to 4096").with_field("work.block");
    assert_eq!(operator::print::problem(&problem), "work.block: must be 1 to 4096 (bad_manifest)");
    let problem = Problem::new(Code::BadManifest, "work.block: must be 1 to 4096").with_field("work.block");
    assert_eq!(operator::print::problem(&problem), "work.block: must be 1 to 4096 (bad_manifest)");
    let problem = Problem::new(Code::Stopped, "stopped by the operator");
    assert_eq!(operator::print::problem(&problem), "stopped by the operator (stopped; try again later)");
}

#[test]
fn data_of_the_wrong_kind_is_named() {
    let train = folder(MANIFEST);
    assert!(prepare(train.path(), "product.safetensors").unwrap_err().contains("must be a folder"));
    assert!(prepare(train.path(), "").unwrap_err().contains("train.safetensors"));
    let (head, _) = MANIFEST.split_once("\"work\"").unwrap();
    let matmul = folder(&format!(r#"{head} "work": {{ "kind": "matmul", "block": 2 }} }}"#));
    assert!(prepare(matmul.path(), "").unwrap_err().contains("not a folder"));
    let prepared = prepare(matmul.path(), "product.safetensors").unwrap();
    let Inputs::Matmul { m: 3, k: 2, n: 3, a_panels, b_panels } = prepared.submission.inputs else {
        panic!("{:?}", prepared.submission.inputs)
    };
    assert_eq!((a_panels.len(), b_panels.len()), (2, 2));
}

/// The manifest says of which type A and B are, and a file of another is told apart.
#[test]
fn products_are_handed_in_as_their_manifest_says() {
    let (head, _) = MANIFEST.split_once("\"work\"").unwrap();
    let of = |dtype: &str| folder(&format!(r#"{head} "work": {{ "kind": "matmul", "block": 2{dtype} }} }}"#));
    let f16 = of(r#", "dtype": "f16""#);
    let ones = [0x3C00u16; 6].map(u16::to_le_bytes).concat();
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F16, shape.to_vec(), &ones).unwrap();
    let file = safetensors::serialize([("a", view([3, 2])), ("b", view([2, 3]))], None).unwrap();
    let plain = of("");
    for folder in [&f16, &plain] {
        std::fs::write(folder.path().join("half.safetensors"), &file).unwrap();
    }
    let prepared = prepare(f16.path(), "half.safetensors").unwrap();
    let JobWork::Matmul(recipe) = &prepared.submission.manifest.work else { panic!("a product") };
    assert_eq!(recipe.dtype, work::Dtype::F16);
    let error = prepare(f16.path(), "product.safetensors").unwrap_err();
    assert!(error.contains("tensor a: has element type F32, F16 is expected by work.dtype"), "{error}");
    let error = prepare(plain.path(), "half.safetensors").unwrap_err();
    assert!(error.contains("tensor a: has element type F16, F32 is expected by work.dtype"), "{error}");
    let error = prepare(of(r#", "dtype": "bf16""#).path(), "product.safetensors").unwrap_err();
    assert!(error.contains("work.dtype") || error.contains("manifest.json: work"), "{error}");
}

/// A manifest that cannot run is refused by field, and the coordinator is not even called.
#[tokio::test]
async fn a_bad_manifest_names_its_field_and_nothing_is_sent() {
    let coordinator = TcpListener::bind("127.0.0.1:0").unwrap();
    coordinator.set_nonblocking(true).unwrap();
    let address = coordinator.local_addr().unwrap();
    for (from, to, field) in [
        ("\"batch\": 2", "\"batch\": 0", "work.batch"),
        ("\"outputs\": 3", "\"outputs\": 0", "work.model.layers[0].outputs"),
        ("\"seed\": 7", "\"sede\": 7", "work"),
    ] {
        let folder = folder(&MANIFEST.replace(from, to));
        let path = folder.path().display();
        let args = parse(&format!("job --coordinator http://{address} submit {path}/manifest.json --data {path}")).unwrap();
        let error = execute(args).await.unwrap_err().to_string();
        assert!(error.contains(&format!("manifest.json: {field}: ")), "{error}");
    }
    assert_eq!(coordinator.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "something was sent");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_an_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{address}"), "t".to_owned()).unwrap();
    let error = client.jobs().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("http://{address} does not answer: ")), "{error}");
}

#[test]
fn tables_line_up_and_show_no_control_characters() {
    let view = JobView {
        id: JobId(7),
        name: "t".to_owned(),
        title: "a\u{1b}[2Jb".to_owned(),
        description: String::new(),
        owner: "o".to_owned(),
        category: Category::Demo,
        kind: "matmul".to_owned(),
        state: JobState::Running,
        reason: String::new(),
        units_total: 4,
        units_settled: 3,
        contributors: 2,
        contributors_now: 1,
        results_accepted: 3,
        results_rejected: 1,
        units_refereed: 0,
        tax: TaxView::of(1000, 1050, 20, 5),
        train: None,
    };
    let text = print::job(&view, false);
    assert!(text.contains("progress      3 of 4 units"), "{text}");
    assert!(text.contains("title         a?[2Jb"), "{text}");
    assert!(text.contains("tax           7.5 % (replicas 5.0 %, audits 2.0 %, checks 0.5 %)"), "{text}");
    let text = print::jobs(std::slice::from_ref(&view), false);
    assert_eq!(text.lines().last().unwrap(), "7   running  matmul  3 of 4 units  -       3         1         t");
    let back: JobView = serde_json::from_str(&print::job(&view, true)).unwrap();
    assert_eq!(back, view);
}

/// The bundled jobs can be handed in as they are, and say of themselves what is true.
#[test]
fn bundled_jobs_are_in_order() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
    for (name, data) in [("fashion-mlp", "fashion-mlp"), ("fashion-cnn", "fashion-mlp"), ("austen-gpt", "austen-gpt")] {
        let prepared = submit::prepare(&demo.join(name).join("manifest.json"), &demo.join(data)).unwrap();
        let manifest = &prepared.submission.manifest;
        let JobWork::Train(recipe) = &manifest.work else { panic!("{name} trains") };
        let parameters: usize = recipe.model.parameters().unwrap().iter().map(|p| p.values_count()).sum();
        let written = format!("{},{:03} numbers to learn", parameters / 1000, parameters % 1000);
        assert!(manifest.description.contains(&written), "{name} has {parameters} parameters: {}", manifest.description);
    }
}
