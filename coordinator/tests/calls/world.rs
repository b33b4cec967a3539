//! A coordinator of a test's own, the operator's calls, and small jobs whose right answers are known.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use manyhands::tensors;
use manyhands_coordinator::blobs::Bucket;
use manyhands_coordinator::clock::ManualClock;
use manyhands_coordinator::keys::blob_hash;
use manyhands_coordinator::store::Store;
use manyhands_coordinator::{App, Config, merge, referee};
use manyhands_protocol::JobId;
use manyhands_protocol::manifest::{Inputs, JobManifest, Submission};
use manyhands_protocol::rules::standing;
use manyhands_protocol::view::JobView;
use manyhands_protocol::work::{self, MatmulWork, TrainWork, Work};
use reqwest::{Client, Method, RequestBuilder, header};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

use crate::client::{Answer, Leased, Volunteer};
use crate::database::Database;

/// When every test begins.
pub const NOW_MS: u64 = 1_750_000_000_000;
/// Real time after which something that should happen has not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A draw that falls on no audit, and on a replica as long as there is any chance of one.
pub fn replicas_only() -> Result<f64, manyhands_coordinator::keys::KeyError> {
    Ok(standing::AUDIT_NEW)
}

/// One coordinator with its folder and its clock.
pub struct World {
    pub folder: TempDir,
    /// None of a coordinator that is not ours.
    database: Option<Database>,
    /// What the coordinator works on.
    store: Option<Arc<dyn Store>>,
    pub clock: Arc<ManualClock>,
    app: Option<App>,
    /// Address of a coordinator that is not ours to restart.
    elsewhere: Option<String>,
    change: fn(&mut Config),
    bucket: Option<Bucket>,
    pub admin: Client,
    pub token: String,
}

impl World {
    pub async fn start() -> World {
        World::start_with(|_| ()).await
    }

    /// Starts with other settings than the defaults.
    pub async fn start_with(change: fn(&mut Config)) -> World {
        World::start_all(change, None).await
    }

    /// Starts with its blobs in a bucket.
    pub async fn start_on(bucket: Bucket) -> World {
        World::start_all(|_| (), Some(bucket)).await
    }

    async fn start_all(change: fn(&mut Config), bucket: Option<Bucket>) -> World {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(NOW_MS)));
        let database = Some(Database::new(folder.path()).await);
        let (admin, token) = (Client::new(), String::new());
        let mut world = World { folder, database, store: None, clock, app: None, elsewhere: None, change, bucket, admin, token };
        world.start_app().await;
        world
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new(self.folder.path());
        config.listen.set_port(0);
        config.clock = self.clock.clone();
        // Most tests are about the job's own units.
        config.opening_units_count = 0;
        config.draw = replicas_only;
        config.bucket = self.bucket.clone();
        (self.change)(&mut config);
        config
    }

    async fn start_app(&mut self) {
        let store = self.database().open().await;
        let app = App::start_with(self.config(), store.clone()).await.unwrap();
        self.store = Some(store);
        self.token = std::fs::read_to_string(&app.admin_token_path).unwrap().trim().to_owned();
        self.app = Some(app);
    }

    pub fn store(&self) -> &dyn Store {
        &**self.store.as_ref().expect("running")
    }

    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("of its own")
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().expect("running")
    }

    pub fn url(&self) -> String {
        self.elsewhere.clone().unwrap_or_else(|| self.app().url())
    }

    /// The operator's calls to a coordinator that the test holds itself; inputs are uploaded until storage takes them.
    pub fn watching(app: &App) -> World {
        let folder = tempfile::tempdir().unwrap();
        let token = std::fs::read_to_string(&app.admin_token_path).unwrap().trim().to_owned();
        let clock = Arc::new(ManualClock::new(NOW_MS));
        World {
            folder,
            database: None,
            store: None,
            clock,
            app: None,
            elsewhere: Some(app.url()),
            change: |_| (),
            bucket: None,
            admin: Client::new(),
            token,
        }
    }

    /// Ends the coordinator where it stands, as a kill would, and starts another on its folder.
    pub async fn kill_and_restart(&mut self) {
        self.kill_and_restart_after(0).await;
    }

    /// The same, so many milliseconds later.
    pub async fn kill_and_restart_after(&mut self, ms: u64) {
        drop((self.app.take(), self.store.take()));
        self.clock.advance(ms);
        self.start_app().await;
    }

    /// Ends the test: everything that must always hold does.
    pub async fn finish(mut self) {
        self.check().await;
        self.app.take().expect("running").shutdown().await;
    }

    pub async fn check(&self) {
        assert_eq!(self.app().check_invariants().await.unwrap(), Vec::<String>::new());
    }

    pub async fn join(&self, seed: u8) -> Volunteer {
        Volunteer::join(&self.url(), seed).await
    }

    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.admin.request(method, format!("{}/v1/admin{path}", self.url())).bearer_auth(&self.token)
    }

    pub async fn order(&self, path: &str) -> Answer {
        Answer::of(self.operator(Method::POST, path)).await
    }

    pub async fn put_input(&self, bytes: Vec<u8>) -> manyhands_protocol::BlobHash {
        let hash = blob_hash(&bytes);
        let put = || {
            let request = self.operator(Method::PUT, &format!("/blobs/{hash}"));
            Answer::of(request.header(header::CONTENT_TYPE, "application/octet-stream").body(bytes.clone()))
        };
        let mut answer = put().await;
        if answer.status == 503 {
            answer = put().await;
        }
        assert!(answer.status.is_success(), "{answer}");
        hash
    }

    pub async fn try_create(&self, submission: &Submission) -> Answer {
        let body = serde_json::to_vec(submission).unwrap();
        let request = self.operator(Method::POST, "/jobs").header(header::CONTENT_TYPE, "application/json");
        Answer::of(request.body(body)).await
    }

    /// Submits and approves.
    pub async fn create(&self, submission: &Submission) -> JobId {
        let answer = self.try_create(submission).await;
        answer.is(201);
        let job = answer.json::<JobView>().id;
        self.order(&format!("/jobs/{job}/approve")).await.is(200);
        job
    }

    pub async fn view(&self, job: JobId) -> JobView {
        Answer::of(self.operator(Method::GET, &format!("/jobs/{job}"))).await.json()
    }

    /// Follows the job's event stream until a view satisfies `wanted`.
    pub async fn follow(&self, job: JobId, wanted: impl Fn(&JobView) -> bool) -> JobView {
        let response = self.admin.get(format!("{}/v1/jobs/{job}/events", self.url())).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (mut pieces, mut text, mut last) = (response.bytes_stream(), String::new(), None);
        let follow = async {
            loop {
                text.push_str(std::str::from_utf8(&pieces.next().await.expect("the stream goes on").unwrap()).unwrap());
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                    text = rest.to_owned();
                    let Some(data) = data else { continue };
                    let view: JobView = serde_json::from_str(&data).unwrap();
                    if wanted(&view) {
                        return view;
                    }
                    last = Some(view);
                }
            }
        };
        let followed = tokio::time::timeout(PATIENCE, follow).await;
        followed.unwrap_or_else(|_| panic!("not so within {PATIENCE:?}; last seen: {last:#?}"))
    }

    /// A product of 5×7 and 7×6 in blocks of 4: four units.
    pub async fn product_job(&self) -> JobId {
        self.create(&self.product().await).await
    }

    pub async fn product(&self) -> Submission {
        self.product_of(work::Dtype::F32).await
    }

    /// The same product of operands of this type.
    pub async fn product_of(&self, dtype: work::Dtype) -> Submission {
        let panels = [("a", 4, 7), ("a", 1, 7), ("b", 7, 4), ("b", 7, 2)];
        let panels = panels.map(|(name, rows, columns)| panel(name, rows, columns, dtype));
        let mut hashes = Vec::new();
        for panel in panels {
            hashes.push(self.put_input(panel).await);
        }
        let (a_panels, b_panels) = (hashes[..2].to_vec(), hashes[2..].to_vec());
        let work = json!({ "kind": "matmul", "block": 4, "dtype": dtype });
        Submission { manifest: manifest(work), inputs: Inputs::Matmul { m: 5, k: 7, n: 6, a_panels, b_panels } }
    }

    /// A small classifier: two units a round, three rounds at most, a target it cannot reach.
    pub async fn train_job(&self) -> JobId {
        self.create(&self.train(1.0).await).await
    }

    pub async fn train(&self, target_accuracy: f64) -> Submission {
        let shards = vec![self.put_input(examples(1, 16)).await, self.put_input(examples(2, 16)).await];
        let test = self.put_input(examples(3, 12)).await;
        let work = json!({
            "kind": "train",
            "model": {
                "input": { "shape": [6], "dtype": "u8", "scale": 0.00390625, "offset": 0.0 },
                "layers": [{ "type": "dense", "outputs": 5 }, { "type": "relu" }, { "type": "dense", "outputs": 3 }],
                "loss": "softmax_cross_entropy"
            },
            "inner_steps": 3, "batch": 4,
            "inner_optimizer": { "type": "sgd", "learning_rate": 0.125, "momentum": 0.5 },
            "outer_optimizer": { "type": "nesterov", "learning_rate": 0.5, "momentum": 0.5 },
            "units_per_round": 2, "rounds_max": 3, "target_accuracy": target_accuracy, "rows_per_shard": 16, "seed": 5
        });
        Submission { manifest: manifest(work), inputs: Inputs::Train { shards, test } }
    }
}

fn manifest(work: serde_json::Value) -> JobManifest {
    let manifest = json!({
        "version": 1, "name": "small", "title": "Small", "description": "A small job.", "owner": "A test",
        "category": "demo", "work": work
    });
    serde_json::from_value(manifest).unwrap()
}

/// A panel of small whole numbers, different for each shape.
fn panel(name: &str, rows: usize, columns: usize, dtype: work::Dtype) -> Vec<u8> {
    let numbers: Vec<usize> = (0..rows * columns).map(|i| (i * 7 + rows * 3 + columns) % 11).collect();
    if dtype == work::Dtype::F32 {
        let values: Vec<f32> = numbers.iter().map(|&number| number as f32 - 5.0).collect();
        return tensors::write_f32(&[(name, &[rows, columns], &values)]);
    }
    // -5 to 5; a single row is subnormal: 1 to 11 times 2⁻²⁴.
    const PATTERNS: [u16; 11] = [0xC500, 0xC400, 0xC200, 0xC000, 0xBC00, 0x0000, 0x3C00, 0x4000, 0x4200, 0x4400, 0x4500];
    let pattern = |number: usize| if rows == 1 { number as u16 + 1 } else { PATTERNS[number] };
    let data: Vec<u8> = numbers.iter().flat_map(|&number| pattern(number).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F16, vec![rows, columns], &data).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

/// Noise with labels at random, so that no model is right about all of it.
pub fn examples(seed: u64, rows: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let x: Vec<u8> = (0..rows * 6).map(|_| next()).collect();
    let y: Vec<u8> = (0..rows).map(|_| next() % 3).collect();
    let x = TensorView::new(Dtype::U8, vec![rows, 6], &x).unwrap();
    let y = TensorView::new(Dtype::U8, vec![rows], &y).unwrap();
    safetensors::serialize([("x", x), ("y", y)], None).unwrap()
}

pub fn matmul_work(lease: &Leased) -> &MatmulWork {
    match &lease.manifest.work {
        Work::Matmul(work) => work,
        Work::Train(_) => panic!("not a product"),
    }
}

pub fn train_work(lease: &Leased) -> &TrainWork {
    match &lease.manifest.work {
        Work::Train(work) => work,
        Work::Matmul(_) => panic!("not a gradient unit"),
    }
}

impl Volunteer {
    pub async fn fetch(&self, hash: manyhands_protocol::BlobHash) -> Vec<u8> {
        let answer = self.get(&format!("/v1/blobs/{hash}")).await;
        answer.is(200);
        assert_eq!(blob_hash(&answer.body), hash);
        answer.body
    }

    /// The right product, row-major.
    pub async fn product_values(&self, lease: &Leased) -> Vec<f32> {
        let work = matmul_work(lease);
        let (m, k, n) = (work.m as usize, work.k as usize, work.n as usize);
        let a = tensors::read_operand(&self.fetch(work.a).await, "a", [m, k], work.dtype).unwrap().widened();
        let b = tensors::read_operand(&self.fetch(work.b).await, "b", [k, n], work.dtype).unwrap().widened();
        let entry = |at: usize| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum();
        (0..m * n).map(entry).collect()
    }

    /// The right product as an output.
    pub async fn product_bytes(&self, lease: &Leased) -> Vec<u8> {
        product_file(lease, &self.product_values(lease).await)
    }

    /// The right update of a gradient unit.
    pub async fn update(&self, lease: &Leased) -> Vec<Vec<f32>> {
        let work = train_work(lease);
        let (checkpoint, shard) = (self.fetch(work.checkpoint).await, self.fetch(work.shard).await);
        referee::compute_update(work, &checkpoint, &shard).unwrap()
    }

    /// The right update as an output.
    pub async fn update_bytes(&self, lease: &Leased) -> Vec<u8> {
        update_file(lease, &self.update(lease).await)
    }
}

/// Values as the output of a product.
pub fn product_file(lease: &Leased, values: &[f32]) -> Vec<u8> {
    let work = matmul_work(lease);
    tensors::write_f32(&[("c", &[work.m as usize, work.n as usize], values)])
}

/// Tensors as the output of a gradient unit.
pub fn update_file(lease: &Leased, update: &[Vec<f32>]) -> Vec<u8> {
    merge::write_tensors(&train_work(lease).model, update)
}
