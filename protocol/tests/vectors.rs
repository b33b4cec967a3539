//! Golden vectors: what this crate encodes is byte for byte what tests/vectors/make.py made with other libraries.
//!
//! Every vector is also cut at each length and extended by one byte, and must be refused each time.

use std::fmt::Debug;
use std::path::PathBuf;

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier};
use manyhands_protocol::category::Category;
use manyhands_protocol::cbor::{decode_strict, encode};
use manyhands_protocol::challenge::{Answer, Ask, ChallengeAnswer, ChallengeResponse, Ends, Reveal, Segment};
use manyhands_protocol::cose::{Kind, open, prepare};
use manyhands_protocol::ids::{BlobHash, JobId, KeyId, LeaseId, TreeHash, UnitId};
use manyhands_protocol::log::entry::{
    self, Credit, Entry, KeyEvent, LogCheckpoint, LogConsent, LogInput, LogJob, LogKey, LogMerge, LogResult, LogRetraction,
    LogRollBack, MergeInput, MergedBy, ModelState, Role,
};
use manyhands_protocol::log::note::{self, Checkpoint, Note};
use manyhands_protocol::log::receipt::{self, Receipt};
use manyhands_protocol::log::tile::{self, Edge};
use manyhands_protocol::log::tree::leaf_hash;
use manyhands_protocol::model::{Input, InputType, Layer, Loss, Model};
use manyhands_protocol::statement::{
    Backend, Consent, Kernels, Output, ProductKernel, ResultDetails, ResultStatement, Rotation, States, Timings,
};
use manyhands_protocol::states::{self, Tree};
use manyhands_protocol::wire::{
    HeartbeatResponse, LeaseRequest, LeaseResponse, ResultRequest, ResultResponse, RotationRequest, SessionOpened, SignedBytes,
    Totals, Verdict,
};
use manyhands_protocol::work::{self, InnerOptimizer, MatmulWork, TrainWork, UnitManifest, Work};
use minicbor::{Decode, Encode};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

const NOW_MS: u64 = 1_750_000_000_000;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

/// Bytes of a vector: hexadecimal digits up to `#` on each line.
fn vector(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.hex"))).expect("the vector is in tests/vectors");
    let digits: String = text.lines().flat_map(|line| line.split('#').next()).flat_map(str::split_whitespace).collect();
    hex::decode(digits).expect("hexadecimal before each #")
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn volunteer() -> KeyId {
    KeyId(key(1).verifying_key().to_bytes())
}

fn coordinator() -> KeyId {
    KeyId(key(2).verifying_key().to_bytes())
}

fn hash(bytes: impl AsRef<[u8]>) -> BlobHash {
    BlobHash(Sha256::digest(bytes).into())
}

/// A body that is not signed.
fn check_body<T>(name: &str, value: &T)
where
    T: Encode<()> + for<'b> Decode<'b, ()> + Debug + PartialEq,
{
    let bytes = vector(name);
    assert_eq!(hex::encode(encode(value)), hex::encode(&bytes), "{name}: encode");
    assert_eq!(decode_strict::<T>(&bytes).as_ref(), Ok(value), "{name}: decode");
    check_refusals(name, &bytes, |b| decode_strict::<T>(b).is_err());
}

/// A signed statement: envelope, signature and payload.
fn check_signed<T>(name: &str, kind: Kind, signer: &SigningKey, value: &T)
where
    T: Encode<()> + for<'b> Decode<'b, ()> + Debug + PartialEq,
{
    let bytes = vector(name);
    let unsigned = prepare(kind, KeyId(signer.verifying_key().to_bytes()), encode(value));
    let signature = signer.sign(&unsigned.to_be_signed());
    assert_eq!(hex::encode(unsigned.finish(signature.to_bytes())), hex::encode(&bytes), "{name}: encode and sign");

    let opened = open(kind, &bytes).expect("a golden vector opens");
    assert_eq!(opened.key.0, signer.verifying_key().to_bytes(), "{name}: key");
    let signature = Signature::from_bytes(&opened.signature);
    assert!(signer.verifying_key().verify(&opened.to_be_signed, &signature).is_ok(), "{name}: signature");
    assert_eq!(decode_strict::<T>(&opened.payload).as_ref(), Ok(value), "{name}: decode");
    check_refusals(name, &bytes, |b| open(kind, b).is_err());
    check_refusals(name, &opened.payload, |b| decode_strict::<T>(b).is_err());

    // A flipped bit anywhere is refused by the structure or by the signature.
    for i in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[i / 8] ^= 1 << (i % 8);
        let accepted = open(kind, &changed).is_ok_and(|o| {
            o.key.0 == signer.verifying_key().to_bytes()
                && signer.verifying_key().verify(&o.to_be_signed, &Signature::from_bytes(&o.signature)).is_ok()
        });
        assert!(!accepted, "{name}: bit {i} flipped");
    }
}

fn check_refusals(name: &str, bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
    assert!(!refused(bytes), "{name}: the check itself must accept the vector");
    for n in 0..bytes.len() {
        assert!(refused(&bytes[..n]), "{name}: cut to {n} bytes");
    }
    for extra in [0x00, 0xff, 0xf6] {
        assert!(refused(&[bytes, &[extra]].concat()), "{name}: followed by {extra:02x}");
    }
}

fn manifest(unit: u64, lease: u64, work: Work, upload_bytes_max: u64) -> UnitManifest {
    UnitManifest {
        version: 1,
        job: JobId(7),
        unit: UnitId(unit),
        lease: LeaseId(lease),
        key: volunteer(),
        issued_ms: NOW_MS,
        deadline_ms: NOW_MS + 60_000,
        work,
        upload_bytes_max,
        states_every: None,
    }
}

fn matmul_manifest() -> UnitManifest {
    let work = MatmulWork { a: hash("a"), b: hash("b"), m: 256, k: 1000, n: 17, dtype: work::Dtype::F32 };
    manifest(41, 900, Work::Matmul(work), 262_144)
}

fn f16_manifest() -> UnitManifest {
    let work = MatmulWork { a: hash("a"), b: hash("b"), m: 256, k: 1000, n: 17, dtype: work::Dtype::F16 };
    manifest(43, 902, Work::Matmul(work), 262_144)
}

fn train_manifest() -> UnitManifest {
    let work = TrainWork {
        model: Model {
            input: Input { shape: vec![4], dtype: InputType::U8, scale: 1.0 / 255.0, offset: 0.0 },
            layers: vec![Layer::Dense { outputs: 3 }, Layer::Relu, Layer::Dense { outputs: 2 }],
            loss: Loss::SoftmaxCrossEntropy,
        },
        checkpoint: hash("checkpoint"),
        shard: hash("shard"),
        round: 12,
        first_row: 64,
        batch: 32,
        inner_steps: 30,
        optimizer: InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.5, clip_norm: 0.0 },
    };
    manifest(42, 901, Work::Train(work), 4_096)
}

#[test]
fn consent() {
    let value = Consent {
        version: 1,
        audience: coordinator(),
        nonce: (0..32).collect(),
        origin: "http://127.0.0.1:8787".to_owned(),
        site: String::new(),
        job: None,
        duty_percent: 50,
        data_bytes_max: 0,
        terms_version: 1,
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + 3_600_000,
        category: None,
    };
    check_signed("consent", Kind::Consent, &key(1), &value);
    let value = Consent { site: "shop".to_owned(), category: Some(Category::PublicGood), ..value };
    check_signed("consent-category", Kind::Consent, &key(1), &value);
}

#[test]
fn rotations() {
    let successor = KeyId(key(3).verifying_key().to_bytes());
    let value = Rotation { version: 1, audience: coordinator(), nonce: (0..32).collect(), old: volunteer(), new: successor };
    check_signed("rotation", Kind::Rotation, &key(1), &value);
    let unsigned = prepare(Kind::Rotation, successor, encode(&value));
    let by_new = unsigned.finish(key(3).sign(&unsigned.to_be_signed()).to_bytes());
    let (by_old, by_new) = (SignedBytes(vector("rotation")), SignedBytes(by_new));
    check_body("rotation-request", &RotationRequest { by_old, by_new });
}

#[test]
fn unit_manifests() {
    check_signed("unit-manifest-matmul", Kind::UnitManifest, &key(2), &matmul_manifest());
    check_signed("unit-manifest-train", Kind::UnitManifest, &key(2), &train_manifest());
    let committing = UnitManifest { states_every: Some(4), ..train_manifest() };
    check_signed("unit-manifest-train-states", Kind::UnitManifest, &key(2), &committing);
    let mut clipping = UnitManifest { unit: UnitId(44), lease: LeaseId(903), ..train_manifest() };
    let Work::Train(work) = &mut clipping.work else { panic!("it trains") };
    work.optimizer = InnerOptimizer::Sgd { learning_rate: 0.05, momentum: 0.5, clip_norm: 0.25 };
    check_signed("unit-manifest-train-clipped", Kind::UnitManifest, &key(2), &clipping);
    assert_eq!(clipping.work.validate(), Ok(()));
    check_signed("unit-manifest-matmul-f16", Kind::UnitManifest, &key(2), &f16_manifest());
    assert_eq!(matmul_manifest().work.validate(), Ok(()));
    assert_eq!(f16_manifest().work.validate(), Ok(()));
    assert_eq!(train_manifest().work.validate(), Ok(()));
}

#[test]
fn results() {
    let result = |kind: &str, unit, lease, name: &str, bytes, backend, losses_micro| ResultStatement {
        version: 1,
        job: JobId(7),
        unit: UnitId(unit),
        lease: LeaseId(lease),
        manifest: hash(vector(&format!("unit-manifest-{kind}"))),
        outputs: vec![Output { name: name.to_owned(), hash: hash(name), bytes }],
        backend,
        details: hash(vector(&format!("result-details-{kind}"))),
        losses_micro,
        states: None,
    };
    let details = |adapter: &str, kernels| ResultDetails {
        salt: std::array::from_fn(|i| i as u8),
        adapter: adapter.to_owned(),
        timings: Timings { fetch_ms: 12, compute_ms: 345 },
        kernels,
    };
    let matmul = result("matmul", 41, 900, "c", 17_472, Backend::Other, vec![]);
    check_signed("result-matmul", Kind::Result, &key(1), &matmul);
    let losses = vec![1_098_612, 1_000_000, 0];
    let products =
        vec![ProductKernel { m: 32, k: 4, n: 3, transposed_a: false, transposed_b: true, kernel: "matmul_quad".to_owned() }];
    let train = result("train", 42, 901, "delta", 368, Backend::Webgpu, losses);
    check_signed("result-train", Kind::Result, &key(1), &train);
    check_body("result-details-matmul", &details("", None));
    let kernels = Kernels { version: "0123456789abcdef".to_owned(), products };
    check_body("result-details-train", &details("swiftshader", Some(kernels)));
    let states = Some(States { every: 4, root: node("states") });
    let manifest = hash(vector("unit-manifest-train-states"));
    check_signed("result-train-states", Kind::Result, &key(1), &ResultStatement { states, manifest, ..train });
    let details = vector("result-details-matmul");
    check_body("result-request", &ResultRequest { statement: SignedBytes(vector("result-matmul")), details });
}

fn check_entry<T: Entry + Debug + PartialEq>(name: &str, value: &T) {
    assert_eq!(Kind::logged(T::KIND.content_type()), Some(T::KIND));
    assert!(T::KIND.content_type().contains(&format!(".{name}+")));
    check_signed(name, T::KIND, &key(2), value);
}

#[test]
fn log_statements() {
    let state =
        |name: &str| ModelState { checkpoint: hash(format!("checkpoint {name}")), velocity: hash(format!("velocity {name}")) };
    let (version, job) = (entry::VERSION, JobId(7));
    let result = LogResult {
        version,
        job,
        unit: UnitId(41),
        result: SignedBytes(vector("result-matmul")),
        work: matmul_manifest().work,
        settled_by: "algebra".to_owned(),
        credit: Credit { flop: 2 * 256 * 1000 * 17, bytes: 17_472 },
    };
    check_entry("log-result", &result);
    check_entry("log-job", &LogJob { version, job, manifest: br#"{"version":1}"#.to_vec(), inputs_count: 3 });
    check_entry("log-input", &LogInput { version, job, role: Role::Shard, place: 1, hash: hash("shard") });
    let checkpoint =
        LogCheckpoint { version, job, round: 12, state: state("12"), loss_micro: 1_098_612, accuracy_micro: 812_500 };
    check_entry("log-checkpoint", &checkpoint);
    let input = |unit, settled_by| {
        let output = hash(format!("delta {unit}"));
        MergeInput { unit: UnitId(unit), output, weight_micro: 1_000_000, settled_by }
    };
    let merge = LogMerge {
        version,
        job,
        round: 11,
        rule: "mean-nesterov".to_owned(),
        before: state("11"),
        after: state("12"),
        inputs_count: 2,
        first: 0,
        inputs: vec![input(42, MergedBy::Quorum), input(43, MergedBy::Referee)],
    };
    check_entry("log-merge", &merge);
    let reason = "held-out loss".to_owned();
    check_entry("log-roll-back", &LogRollBack { version, job, round: 11, from: state("12"), to: state("11"), reason });
    let successor = Some(KeyId(key(3).verifying_key().to_bytes()));
    check_entry("log-key", &LogKey { version, key: volunteer(), event: KeyEvent::Rotated, successor });
    let salted: Vec<u8> = (0..32).chain(*b"a signed consent").collect();
    check_entry("log-consent", &LogConsent { version, commitment: hash(salted) });
    let result = hash(vector("result-matmul"));
    check_entry("log-retraction", &LogRetraction { version, job, unit: UnitId(41), result });
}

/// The log of the first seven statements above, and what is proven of it.
#[test]
fn log_tree() {
    let statements =
        ["log-result", "log-job", "log-input", "log-checkpoint", "log-merge", "log-roll-back", "log-key"].map(vector);
    let entries = statements.iter().map(Vec::as_slice);
    assert_eq!(vector("log-entries"), tile::bundle(entries.clone()));
    assert_eq!(tile::unbundle(&vector("log-entries")), Some(entries.clone().collect()));
    let mut edge = Edge::default();
    let mut roots = vec![edge.root()];
    for entry in entries {
        edge.append(leaf_hash(entry));
        roots.push(edge.root());
    }
    assert_eq!((vector("log-tile"), edge.tiles.len()), (edge.tiles[0].concat(), 1));
    let root = roots[7];

    let signed = |receipt: &Receipt| {
        let signature = Signature::from_bytes(&receipt.signature);
        receipt.key == coordinator()
            && key(2).verifying_key().verify(&receipt::to_be_signed(receipt.key, &root), &signature).is_ok()
    };
    let inclusion = receipt::decode(&vector("log-receipt")).expect("a receipt");
    assert!(signed(&inclusion));
    assert_eq!(receipt::encode(inclusion.key, &inclusion.proof, inclusion.signature), vector("log-receipt"));
    assert_eq!(inclusion.root_with(&statements[2]), Some(root));
    assert_ne!(inclusion.root_with(&statements[3]), Some(root));
    let consistency = receipt::decode(&vector("log-consistency")).expect("a receipt");
    assert!(signed(&consistency));
    assert!(consistency.connects((3, roots[3]), (7, root)));
    assert!(!consistency.connects((3, roots[2]), (7, root)) && !consistency.connects((2, roots[2]), (7, root)));

    let text = std::fs::read_to_string(folder().join("log-note.txt")).expect("the note");
    let note = Note::parse(&text).expect("a note");
    let origin = note::origin(coordinator());
    assert_eq!(Checkpoint::parse(&note.text), Some(Checkpoint { origin: origin.clone(), size: 7, root }));
    let signature = key(2).sign(note.text.as_bytes()).to_bytes();
    assert_eq!(note.by(&origin, note::ED25519, coordinator()).collect::<Vec<_>>(), [&signature]);
    assert_eq!(note.encode(), text);
}

#[test]
fn sessions_and_leases() {
    check_body("session-opened", &SessionOpened { token: "0f1e2d3c".to_owned(), expires_ms: NOW_MS + 3_600_000 });
    let request = LeaseRequest { units_max: 2, backend: Backend::Other, job: Some(JobId(7)), blob_bytes_max: 67_108_864 };
    check_body("lease-request", &request);
    let any = LeaseRequest { units_max: 1, backend: Backend::Webgpu, job: None, blob_bytes_max: 67_108_864 };
    check_body("lease-request-any", &any);
    let response = LeaseResponse {
        manifests: vec![SignedBytes(vector("unit-manifest-matmul"))],
        retry_after_ms: 0,
        totals: Totals { accepted: 3, rejected: 1, pending: 2, credit_flop: 1_000_000_000 },
    };
    check_body("lease-response", &response);
    let none = LeaseResponse { manifests: vec![], retry_after_ms: 2_000, totals: Totals::default() };
    check_body("lease-response-none", &none);
    check_body("heartbeat-response", &HeartbeatResponse { keep: true, deadline_ms: NOW_MS + 65_000 });
}

#[test]
fn verdicts() {
    let answer = |verdict, reason: &str, credit_flop| ResultResponse {
        unit: UnitId(41),
        lease: LeaseId(900),
        verdict,
        reason: reason.to_owned(),
        credit_flop,
    };
    check_body("result-response", &answer(Verdict::Accepted, "", 8_704_000));
    let rejected = answer(Verdict::Rejected, "wrong_tensor: row 3 is not the product", 0);
    check_body("result-response-rejected", &rejected);
    let challenged = ResultResponse { unit: UnitId(42), lease: LeaseId(901), ..answer(Verdict::Challenged, "", 0) };
    check_body("result-response-challenged", &challenged);
}

fn node(text: &str) -> TreeHash {
    TreeHash(hash(text).0)
}

#[test]
fn challenges() {
    let response = |ask, deadline_ms| ChallengeResponse { lease: LeaseId(901), ask, deadline_ms };
    let until_ms = NOW_MS + 30_000;
    check_body("challenge-segment", &response(Ask::Segment { first_step: 8, steps: 4 }, until_ms));
    check_body("challenge-trace", &response(Ask::Trace { step: 10 }, until_ms));
    check_body("challenge-reveal", &response(Ask::Reveal { step: 10, layers: Vec::new() }, until_ms));
    check_body("challenge-ends", &response(Ask::Ends { first_step: 8, steps: 4 }, until_ms));
    check_body("challenge-nothing", &response(Ask::Nothing, 0));
    let answer = |name: &str, answer| {
        let value = ChallengeAnswer { version: 1, lease: LeaseId(901), answer };
        check_signed(name, Kind::ChallengeAnswer, &key(1), &value);
    };
    let nodes = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
    let segment = Segment {
        root: node("segment"),
        first: node("state 8"),
        last: node("state 12"),
        first_committed: nodes(&["a", "b"]),
        last_committed: nodes(&["c", "b"]),
        first_path: nodes(&["d"]),
        last_path: nodes(&["e"]),
        initial_path: nodes(&["f", "g"]),
        end_leaves: nodes(&["h", "i", "j"]),
        end_path: Vec::new(),
    };
    answer("challenge-answer-segment", Answer::Segment(segment));
    answer("challenge-answer-trace", Answer::Trace(node("trace")));
    let paths = [nodes(&["k", "l"]), nodes(&["m", "l"])];
    let [before_path, after_path] = paths;
    answer("challenge-answer-reveal", Answer::Reveal(Reveal { hash: hash("reveal"), bytes: 1_048_576, before_path, after_path }));
    let [first_path, last_path] = [nodes(&["a", "b"]), nodes(&["c", "b"])];
    answer("challenge-answer-ends", Answer::Ends(Ends { hash: hash("ends"), bytes: 524_288, first_path, last_path }));
    answer("challenge-answer-unable", Answer::Unable);
}

/// The trees of make.py: three states of two tensors each.
#[test]
fn state_trees() {
    let state = |n: u8| {
        let leaf = |name: &str, values: [f32; 2]| Tree::State.leaf(name, &values.map(f32::to_le_bytes).concat());
        states::root(&[leaf("layers.0.weight", [f32::from(n), 1.0]), leaf("layers.0.weight.velocity", [0.0, f32::from(n)])])
    };
    let all = [state(0), state(1), state(2)];
    let trace = Tree::Trace.leaf("layers.0.0.output", &1f32.to_le_bytes());
    let made = [all[0], trace, states::root_of_states(&all)].map(|hash| hash.0).concat();
    assert_eq!(hex::encode(made), hex::encode(vector("state-trees")));
}

/// The element type is there where it is not f32, as 1; a unit of f32 is that of before there were others.
#[test]
fn element_types_have_one_encoding() {
    let with = |dtype: &[u8]| {
        let mut bytes =
            encode(&Work::Matmul(MatmulWork { a: hash("a"), b: hash("b"), m: 1, k: 2, n: 3, dtype: work::Dtype::F32 }));
        assert_eq!(bytes[2], 0xa5, "a map of five");
        if !dtype.is_empty() {
            bytes[2] = 0xa6;
            bytes.push(5);
            bytes.extend(dtype);
        }
        decode_strict::<Work>(&bytes)
    };
    let dtype = |work| match work {
        Ok(Work::Matmul(work)) => Some(work.dtype),
        _ => None,
    };
    assert_eq!(dtype(with(&[])), Some(work::Dtype::F32));
    assert_eq!(dtype(with(&[0x01])), Some(work::Dtype::F16));
    for other in [&[0x00][..], &[0x02], &[0x18, 0x01], &[0xf6], &[0x20]] {
        assert_eq!(dtype(with(other)), None, "{other:?}");
    }
}

/// Absent and null are two encodings of "none"; only the shorter one is deterministic here.
#[test]
fn null_for_an_absent_field_is_refused() {
    assert!(decode_strict::<LeaseRequest>(&hex::decode("a40001010002f6031a04000000").expect("hex")).is_err());
    assert!(decode_strict::<LeaseRequest>(&hex::decode("a300010100031a04000000").expect("hex")).is_ok());
}

/// Laid out by hand in make.py, written here by the library that the engine uses.
#[test]
fn tensor_file() {
    let values: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![1, 2], &values).expect("two values");
    let bytes = safetensors::serialize([("a", view)], None).expect("one tensor");
    let expected = vector("safetensors-a");
    assert_eq!(hex::encode(bytes), hex::encode(&expected));
    for n in 0..expected.len() {
        assert!(SafeTensors::deserialize(&expected[..n]).is_err(), "cut to {n} bytes");
    }
}

#[test]
fn every_vector_is_tested() {
    let this = include_str!("vectors.rs");
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("tests/vectors").map(|e| e.expect("entry").path()) {
        if entry.extension().is_some_and(|e| e == "hex") {
            let name = entry.file_stem().and_then(|s| s.to_str()).expect("a plain name").to_owned();
            assert!(
                ['(', '[', ' '].iter().any(|before| this.contains(&format!("{before}\"{name}\""))),
                "{name}.hex is checked by no test"
            );
            count += 1;
        }
    }
    assert!(count >= 9, "only {count} vectors found");
}

/// Bytes that nobody chose: what decodes is what it encodes to, and nothing panics.
#[test]
fn challenge_bytes_from_anywhere() {
    let good = [vector("challenge-reveal"), vector("challenge-segment"), vector("challenge-ends")];
    let statements = ["segment", "reveal", "trace", "ends", "unable"].map(|kind| format!("challenge-answer-{kind}"));
    let payloads = statements.map(|name| open(Kind::ChallengeAnswer, &vector(&name)).expect("a golden vector opens").payload);
    let mut state = 7u64;
    let mut random = |count: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % count
    };
    let mut taken = 0;
    for _ in 0..20_000 {
        for (bytes, is_answer) in good.iter().map(|bytes| (bytes, false)).chain(payloads.iter().map(|bytes| (bytes, true))) {
            let mut bent = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(bent.len());
                bent[at] = random(256) as u8;
            }
            let again = match is_answer {
                true => decode_strict::<ChallengeAnswer>(&bent).map(|value| encode(&value)),
                false => decode_strict::<ChallengeResponse>(&bent).map(|value| encode(&value)),
            };
            if let Ok(again) = again {
                assert_eq!(again, bent);
                taken += 1;
            }
        }
    }
    assert!(taken > 100, "some bent bytes are still statements: {taken}");
}
