//! A volunteer that signs and sends whatever it is told to, right or wrong.

use ed25519_dalek::{Signer, SigningKey};
use manyhands_coordinator::keys::{blob_hash, sha256};
use manyhands_protocol::problem::{Code, Problem};
use manyhands_protocol::statement::{Backend, Consent, DeviceClass, Output, ResultStatement, Timings};
use manyhands_protocol::view::InfoView;
use manyhands_protocol::wire::{HeartbeatResponse, LeaseRequest, LeaseResponse, ResultResponse, SessionOpened};
use manyhands_protocol::work::{UnitManifest, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, cbor, cose, limits};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.expect("a whole body").to_vec() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The answer's CBOR; panics on anything else.
    pub fn cbor<T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>>(&self) -> T {
        assert!(self.status.is_success(), "{self}");
        assert_eq!(self.header("content-type"), "application/cbor", "{self}");
        cbor::decode_strict(&self.body).unwrap()
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{self}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The problem document, which must be whole and of this code.
    #[track_caller]
    pub fn refused(&self, code: Code) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self}");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.code, code.as_str(), "{self}");
        assert_eq!(self.status.as_u16(), code.status(), "{self}");
        assert_eq!(problem, Problem { field: problem.field.clone(), ..Problem::new(code, problem.detail.clone()) });
        assert!(!problem.detail.is_empty());
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        assert_eq!(self.header("access-control-allow-origin"), "");
        problem
    }

    #[track_caller]
    pub fn is(&self, status: u16) {
        assert_eq!(self.status.as_u16(), status, "{self}");
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// A lease with everything a result needs.
#[derive(Debug, Clone)]
pub struct Leased {
    pub manifest: UnitManifest,
    /// The signed bytes.
    pub signed: Vec<u8>,
}

/// A key with at most one session.
pub struct Volunteer {
    pub http: Client,
    pub url: String,
    pub key: SigningKey,
    pub token: String,
    /// The coordinator's key.
    pub coordinator: KeyId,
}

impl Volunteer {
    /// A volunteer whose key is made from `seed`, without a session.
    pub async fn new(url: &str, seed: u8) -> Volunteer {
        let (http, url) = (Client::new(), url.to_owned());
        let info: InfoView = Answer::of(http.get(format!("{url}/v1/info"))).await.json();
        Volunteer { http, url, key: SigningKey::from_bytes(&[seed; 32]), token: String::new(), coordinator: info.key }
    }

    /// A volunteer with a session for any job.
    pub async fn join(url: &str, seed: u8) -> Volunteer {
        let mut volunteer = Volunteer::new(url, seed).await;
        let consent = volunteer.consent().await;
        volunteer.open(&consent).await;
        volunteer
    }

    pub fn id(&self) -> KeyId {
        KeyId(self.key.verifying_key().to_bytes())
    }

    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    pub async fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        Answer::of(self.call(Method::POST, path).header(header::CONTENT_TYPE, content_type).body(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.call(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.call(Method::DELETE, path)).await
    }

    pub async fn info(&self) -> InfoView {
        self.get("/v1/info").await.json()
    }

    /// An envelope by this key around `payload`.
    pub fn sign(&self, kind: cose::Kind, payload: Vec<u8>) -> Vec<u8> {
        let unsigned = cose::prepare(kind, self.id(), payload);
        let signature = self.key.sign(&unsigned.to_be_signed());
        unsigned.finish(signature.to_bytes())
    }

    /// A consent that opens a session, with a fresh nonce.
    pub async fn consent(&self) -> Consent {
        let info = self.info().await;
        Consent {
            version: limits::PROTOCOL_VERSION,
            audience: info.key,
            nonce: hex::decode(info.nonce).unwrap(),
            origin: "native".to_owned(),
            site: String::new(),
            job: None,
            duty_percent: 100,
            data_bytes_max: 0,
            terms_version: limits::TERMS_VERSION,
            issued_ms: info.now_ms,
            expires_ms: info.now_ms + limits::SESSION_MS_MAX,
            category: None,
        }
    }

    pub async fn try_open(&self, consent: &Consent) -> Answer {
        self.post("/v1/sessions", "application/cose", self.sign(cose::Kind::Consent, cbor::encode(consent))).await
    }

    pub async fn open(&mut self, consent: &Consent) {
        let answer = self.try_open(consent).await;
        answer.is(201);
        self.token = answer.cbor::<SessionOpened>().token;
    }

    pub async fn try_lease(&self, units_max: u32, job: Option<JobId>) -> Answer {
        let ask = LeaseRequest { units_max, backend: Backend::Other, job, blob_bytes_max: limits::BLOB_BYTES_MAX };
        self.post("/v1/leases", "application/cbor", cbor::encode(&ask)).await
    }

    pub async fn lease_response(&self, units_max: u32) -> LeaseResponse {
        self.try_lease(units_max, None).await.cbor()
    }

    /// At most `units_max` leases, their manifests checked as a volunteer must.
    pub async fn lease(&self, units_max: u32) -> Vec<Leased> {
        let response = self.lease_response(units_max).await;
        assert_eq!(response.retry_after_ms == 0, !response.manifests.is_empty());
        response.manifests.into_iter().map(|signed| self.open_manifest(signed.0)).collect()
    }

    /// A signed manifest, checked as a volunteer must.
    pub fn open_manifest(&self, signed: Vec<u8>) -> Leased {
        let opened = cose::open(cose::Kind::UnitManifest, &signed).unwrap();
        assert_eq!(opened.key, self.coordinator);
        assert!(manyhands_coordinator::keys::signed_by(opened.key, &opened.to_be_signed, &opened.signature));
        let manifest: UnitManifest = cbor::decode_strict(&opened.payload).unwrap();
        assert_eq!(manifest.key, self.id());
        assert_eq!(manifest.work.validate(), Ok(()));
        Leased { manifest, signed }
    }

    /// Exactly one lease.
    pub async fn lease_one(&self) -> Leased {
        let mut leases = self.lease(1).await;
        assert_eq!(leases.len(), 1, "a unit is free");
        leases.remove(0)
    }

    pub async fn try_heartbeat(&self, lease: &Leased) -> Answer {
        Answer::of(self.call(Method::POST, &format!("/v1/leases/{}/heartbeat", lease.manifest.lease))).await
    }

    pub async fn heartbeat(&self, lease: &Leased) -> HeartbeatResponse {
        self.try_heartbeat(lease).await.cbor()
    }

    pub async fn give_back(&self, lease: &Leased) -> Answer {
        self.delete(&format!("/v1/leases/{}", lease.manifest.lease)).await
    }

    pub async fn try_upload(&self, lease: &Leased, hash: BlobHash, bytes: Vec<u8>) -> Answer {
        let path = format!("/v1/blobs/{hash}?lease={}", lease.manifest.lease);
        let request = self.call(Method::PUT, &path).header(header::CONTENT_TYPE, "application/octet-stream");
        // Said also where it is 0, which the client would leave out.
        Answer::of(request.header(header::CONTENT_LENGTH, bytes.len()).body(bytes)).await
    }

    pub async fn upload(&self, lease: &Leased, bytes: Vec<u8>) {
        let answer = self.try_upload(lease, blob_hash(&bytes), bytes).await;
        assert!(answer.status == 201 || answer.status == 200, "{answer}");
    }

    /// The statement an honest volunteer would sign for this output.
    pub fn statement(&self, lease: &Leased, output: &[u8]) -> ResultStatement {
        let UnitManifest { job, unit, lease: id, work, .. } = &lease.manifest;
        let losses = match work {
            Work::Matmul(_) => 0,
            Work::Train(work) => work.inner_steps as usize,
        };
        ResultStatement {
            version: limits::PROTOCOL_VERSION,
            job: *job,
            unit: *unit,
            lease: *id,
            manifest: BlobHash(sha256(&lease.signed)),
            outputs: vec![Output { name: work.output_name().to_owned(), hash: blob_hash(output), bytes: output.len() as u64 }],
            device: DeviceClass { backend: Backend::Other, adapter: String::new() },
            timings: Timings { fetch_ms: 1, compute_ms: 2 },
            losses_micro: vec![1_000_000; losses],
            kernels: None,
            states: None,
        }
    }

    pub async fn post_result(&self, envelope: Vec<u8>) -> Answer {
        self.post("/v1/results", "application/cose", envelope).await
    }

    /// Signs and sends a statement.
    pub async fn try_submit(&self, statement: &ResultStatement) -> Answer {
        self.post_result(self.sign(cose::Kind::Result, cbor::encode(statement))).await
    }

    /// Uploads an output and submits the honest statement about it.
    pub async fn submit(&self, lease: &Leased, output: Vec<u8>) -> ResultResponse {
        let statement = self.statement(lease, &output);
        self.upload(lease, output).await;
        self.try_submit(&statement).await.cbor()
    }
}
