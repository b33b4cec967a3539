//! A host over a coordinator that fits in memory and fails on cue, for failure sequences only: what a coordinator
//! decides is tested with the real one. Its clock moves only when the loop waits.

mod host;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use manyhands_protocol::cose::{self, Kind};
use manyhands_protocol::problem::Code;
use manyhands_protocol::statement::{Consent, ResultStatement};
use manyhands_protocol::wire::*;
use manyhands_protocol::work::{Dtype, MatmulWork, UnitManifest, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, UnitId, cbor, limits};
use sha2::{Digest, Sha256};

use super::ledger::History;
use crate::tuner::Tune;
use crate::volunteer::host::*;
use crate::volunteer::identity::Identity;
use crate::volunteer::*;

/// What goes wrong with a call.
#[derive(Clone)]
pub enum Fault {
    Network,
    /// Never answers.
    Hang,
    /// Never answers, and the next heartbeat takes the lease back.
    HangAndTakeBack,
    Problem(Code, Option<u64>),
    /// A page of something else.
    Html(u16),
    /// The call takes effect, and its answer is lost.
    LostAnswer,
    /// The call takes effect, and its answer comes after so many milliseconds.
    Late(u64),
    /// Answers after a while.
    Slow,
    /// Other bytes than asked for.
    WrongBytes,
}

pub struct World {
    pub now_ms: Cell<u64>,
    pub coordinator: RefCell<Identity>,
    volunteer: Identity,
    /// `(call, fault)`: the first entry that is the call's beginning or end is used up.
    pub faults: RefCell<VecDeque<(&'static str, Fault)>>,
    /// Calls and waits in order, heartbeats left out.
    pub log: RefCell<Vec<String>>,
    pub consents: RefCell<Vec<Consent>>,
    pub results: RefCell<Vec<Vec<u8>>>,
    pub verdicts: RefCell<VecDeque<Verdict>>,
    /// What answers to leases say of this key's results.
    pub totals: Cell<Totals>,
    /// Whether they say what is true instead.
    pub totals_are_true: Cell<bool>,
    /// Units whose thread computes: the clock stands meanwhile.
    pub computing: Cell<i32>,
    /// Blobs on their way, now and at most so far.
    pub transfers: Cell<(u32, u32)>,
    /// Bodies of calls and answers.
    pub moved_bytes: Cell<u64>,
    pub units_left: Cell<u64>,
    leased_count: Cell<u64>,
    pub sessions_count: Cell<u64>,
    /// Stop when this many were opened.
    pub sessions_max: Cell<u64>,
    pub blobs: RefCell<HashMap<BlobHash, Vec<u8>>>,
    pub stored: RefCell<HashMap<String, StoredSession>>,
    pub tuning: RefCell<HashMap<String, String>>,
    /// What was sent and received before a visit goes on.
    pub data_bytes_used: Cell<u64>,
    /// Heartbeats answer this; none: the time for one never comes.
    pub keep: Cell<Option<bool>>,
    pub events: RefCell<Vec<Event>>,
    pub switch: Switch,
    /// Stop when this call is made.
    pub stop_at: Cell<Option<&'static str>>,
    /// Whether signatures are beyond this platform and its build.
    pub lacks_ed25519: Cell<bool>,
    /// The public log; without one nobody looks at it.
    pub history: RefCell<Option<History>>,
    /// Whether the log has other statements in the place of ours.
    pub logs_others: Cell<bool>,
    /// The checkpoint that this host keeps.
    pub checkpoint: RefCell<Option<String>>,
    /// It keeps none.
    pub forgets: Cell<bool>,
    /// Waits in progress: when they end, and whom to wake.
    timers: RefCell<BTreeMap<u64, (u64, Waker)>>,
    timers_count: Cell<u64>,
}

/// A wait in progress.
struct Timer<'a> {
    world: &'a World,
    id: u64,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.world.timers.borrow_mut().remove(&self.id);
    }
}

/// Remembers that it woke, and wakes the thread that drives.
struct Unpark(AtomicBool, Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        self.1.unpark();
    }
}

#[derive(Clone)]
pub struct ScriptHost(pub Rc<World>);

/// Consent without bounds, and no end.
pub fn settings() -> Settings {
    Settings {
        origin: "native".to_owned(),
        site: String::new(),
        job: None,
        category: None,
        choice: Choice::Cpu,
        tune: Tune::Auto,
        duty_percent: 100,
        data_bytes_max: 0,
        units_max: None,
        renew_consent: false,
        begun: false,
        lease: None,
        lanes: 1,
        withdraw_at_end: false,
    }
}

pub fn hash(bytes: &[u8]) -> BlobHash {
    BlobHash(Sha256::digest(bytes).into())
}

pub fn a_bytes() -> Vec<u8> {
    crate::tensors::write_f32(&[("a", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])])
}

pub fn b_bytes() -> Vec<u8> {
    crate::tensors::write_f32(&[("b", &[3, 1], &[1.0, 0.0, -1.0])])
}

impl ScriptHost {
    pub fn new(units: u64, faults: &[(&'static str, Fault)]) -> Self {
        let blobs = [a_bytes(), b_bytes()].into_iter().map(|bytes| (hash(&bytes), bytes)).collect();
        ScriptHost(Rc::new(World {
            now_ms: Cell::new(1_700_000_000_000),
            coordinator: RefCell::new(Identity::from_seed(&[5; 32])),
            volunteer: Identity::from_seed(&[7; 32]),
            faults: RefCell::new(faults.iter().cloned().collect()),
            log: RefCell::default(),
            consents: RefCell::default(),
            results: RefCell::default(),
            verdicts: RefCell::default(),
            totals: Cell::default(),
            totals_are_true: Cell::new(false),
            transfers: Cell::default(),
            moved_bytes: Cell::new(0),
            computing: Cell::new(0),
            units_left: Cell::new(units),
            leased_count: Cell::new(0),
            sessions_count: Cell::new(0),
            sessions_max: Cell::new(u64::MAX),
            blobs: RefCell::new(blobs),
            stored: RefCell::default(),
            tuning: RefCell::default(),
            data_bytes_used: Cell::new(0),
            keep: Cell::new(None),
            events: RefCell::default(),
            switch: Switch::new(),
            stop_at: Cell::new(None),
            lacks_ed25519: Cell::new(false),
            history: RefCell::default(),
            logs_others: Cell::new(false),
            checkpoint: RefCell::default(),
            forgets: Cell::default(),
            timers: RefCell::default(),
            timers_count: Cell::new(0),
        }))
    }

    /// One visit that ends after `units` verdicts.
    pub fn visit(&self, change: impl FnOnce(&mut Settings)) -> Result<(), VolunteerError> {
        let mut settings = Settings { units_max: Some(self.0.units_left.get()), ..settings() };
        change(&mut settings);
        self.visit_telling(settings, |_| ())
    }

    /// One visit, where the test sees each event as it is told.
    pub fn visit_telling(&self, settings: Settings, see: impl FnMut(&Event) + 'static) -> Result<(), VolunteerError> {
        self.drive(self.begin(settings, see))
    }

    pub async fn begin(&self, settings: Settings, mut see: impl FnMut(&Event) + 'static) -> Result<(), VolunteerError> {
        let data = DataUse::new(self.0.data_bytes_used.get(), settings.data_bytes_max);
        let volunteer = Volunteer { host: self.clone(), settings, switch: self.0.switch.clone(), data };
        let world = self.0.clone();
        let tell = move |event| {
            see(&event);
            if let Event::Unit(unit) = &event {
                let change = match unit.phase {
                    Phase::Computing => 1,
                    Phase::Computed => -1,
                    _ => 0,
                };
                world.computing.set(world.computing.get() + change);
            }
            world.events.borrow_mut().push(event);
        };
        volunteer.run(tell).await
    }

    /// One visit that is stopped after so many milliseconds.
    pub fn visit_for(&self, settings: Settings, ms: u64, see: impl FnMut(&Event) + 'static) -> Result<(), VolunteerError> {
        let stop = async {
            self.sleep(ms).await;
            self.0.switch.set(Wish::Stop);
        };
        self.drive(futures::future::join(self.begin(settings, see), stop)).0
    }

    /// Runs a future to its end. Where it waits for the clock only, the clock moves to the wait that ends first; where
    /// it waits for the computation's thread, this thread does, too.
    pub fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let unpark = Arc::new(Unpark(AtomicBool::new(false), std::thread::current()));
        let waker = Waker::from(unpark.clone());
        let mut future = std::pin::pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            if unpark.0.swap(false, Ordering::SeqCst) {
                continue;
            }
            if self.0.computing.get() > 0 {
                // One that was dropped does not wake anybody.
                let since = Instant::now();
                while !unpark.0.load(Ordering::SeqCst) && since.elapsed() < Duration::from_secs(1) {
                    std::thread::park_timeout(Duration::from_secs(1));
                }
                if unpark.0.load(Ordering::SeqCst) {
                    continue;
                }
            }
            let first = self.0.timers.borrow().values().min_by_key(|(due_ms, _)| *due_ms).cloned();
            match first {
                Some((due_ms, waker)) => {
                    self.0.now_ms.set(self.0.now_ms.get().max(due_ms));
                    waker.wake();
                }
                None => std::thread::park(),
            }
        }
    }

    pub fn states(&self) -> Vec<State> {
        let events = self.0.events.borrow();
        events.iter().filter_map(|e| if let Event::State { state, .. } = e { Some(*state) } else { None }).collect()
    }

    pub fn phases(&self) -> Vec<Phase> {
        self.0.events.borrow().iter().filter_map(|e| if let Event::Unit(u) = e { Some(u.phase) } else { None }).collect()
    }

    pub fn errors(&self) -> Vec<String> {
        let events = self.0.events.borrow();
        events.iter().filter_map(|e| if let Event::Error { code, .. } = e { Some(code.clone()) } else { None }).collect()
    }

    /// Accepted, rejected and pending results as they were told last.
    pub fn totals(&self) -> Option<(u64, u64, u64)> {
        let events = self.0.events.borrow();
        let last = events.iter().rev().find_map(|e| if let Event::Totals(t) = e { Some(*t) } else { None });
        last.map(|t| (t.accepted, t.rejected, t.pending))
    }

    /// How often a call was made.
    pub fn count(&self, call: &str) -> usize {
        self.0.log.borrow().iter().filter(|line| line.starts_with(call)).count()
    }

    /// The waits, in order.
    pub fn waits(&self) -> Vec<u64> {
        self.0.log.borrow().iter().filter_map(|line| line.strip_prefix("wait ")?.parse().ok()).collect()
    }

    fn fault(&self, call: &str) -> Option<Fault> {
        let mut faults = self.0.faults.borrow_mut();
        let position = faults.iter().position(|(name, _)| call.starts_with(name) || call.ends_with(name))?;
        faults.remove(position).map(|(_, fault)| fault)
    }

    fn current_token(&self) -> String {
        format!("token-{}", self.0.sessions_count.get())
    }

    /// What a well-behaved coordinator answers.
    fn answer(&self, call: &str, request: &Request<'_>) -> Response {
        let w = &*self.0;
        let open = ["GET /v1/info", "GET /v1/blobs/", "GET /v1/log/", "POST /v1/sessions"];
        if !open.iter().any(|o| call.starts_with(o)) && request.token != Some(&self.current_token()) {
            return problem(Code::NoSession, None);
        }
        match call {
            "GET /v1/info" => ok(Vec::new()),
            "POST /v1/sessions" => {
                let consent: Consent = payload(Kind::Consent, request.body);
                let expires_ms = consent.expires_ms;
                w.consents.borrow_mut().push(consent);
                w.sessions_count.set(w.sessions_count.get() + 1);
                if w.sessions_count.get() == w.sessions_max.get() {
                    w.switch.set(Wish::Stop);
                }
                ok(cbor::encode(&SessionOpened { token: self.current_token(), expires_ms }))
            }
            "DELETE /v1/sessions" => ok(Vec::new()),
            "POST /v1/leases" => self.lease(),
            "POST /v1/results" => {
                let sent: ResultRequest = cbor::decode_strict(request.body).unwrap();
                let statement: ResultStatement = payload(Kind::Result, &sent.statement.0);
                assert_eq!(statement.details, hash(&sent.details));
                w.results.borrow_mut().push(request.body.to_vec());
                let verdict = w.verdicts.borrow_mut().pop_front().unwrap_or(Verdict::Accepted);
                let (unit, lease) = (statement.unit, statement.lease);
                if let Some(history) = w.history.borrow_mut().as_mut().filter(|_| verdict == Verdict::Accepted) {
                    let other = ResultRequest { statement: SignedBytes(vec![1]), ..sent.clone() };
                    history.accept(unit, lease, &cbor::encode(if w.logs_others.get() { &other } else { &sent }));
                }
                ok(cbor::encode(&ResultResponse { unit, lease, verdict, reason: String::new(), credit_flop: 12 }))
            }
            _ if call.starts_with("GET /v1/log/") => {
                let answer = w.history.borrow().as_ref().and_then(|history| history.answer(&call["GET /v1/log/".len()..]));
                answer.map_or_else(|| problem(Code::NotLogged, None), ok)
            }
            _ if call.starts_with("GET /v1/blobs/") => {
                let name: BlobHash = call["GET /v1/blobs/".len()..].parse().unwrap();
                w.blobs.borrow().get(&name).map_or_else(|| problem(Code::UnknownBlob, None), |bytes| ok(bytes.clone()))
            }
            _ if call.starts_with("PUT /v1/blobs/") => {
                w.blobs.borrow_mut().insert(hash(request.body), request.body.to_vec());
                ok(Vec::new())
            }
            _ if call.ends_with("/heartbeat") => {
                let keep = w.keep.get().unwrap_or(true);
                ok(cbor::encode(&HeartbeatResponse { keep, deadline_ms: w.now_ms.get() + limits::LEASE_MS }))
            }
            _ if call.starts_with("DELETE /v1/leases/") => ok(Vec::new()),
            _ => problem(Code::NotFound, None),
        }
    }

    fn lease(&self) -> Response {
        let w = &*self.0;
        let mut manifests = Vec::new();
        if w.units_left.get() > 0 {
            w.units_left.set(w.units_left.get() - 1);
            manifests.push(SignedBytes(self.manifest(self.0.volunteer.key())));
        }
        let totals = match w.totals_are_true.get() {
            true => Totals { accepted: self.accepted(), ..Totals::default() },
            false => w.totals.get(),
        };
        ok(cbor::encode(&LeaseResponse { manifests, retry_after_ms: 1000, totals }))
    }

    /// Results that were taken, each once.
    pub fn accepted(&self) -> u64 {
        self.0.results.borrow().iter().collect::<HashSet<_>>().len() as u64
    }

    /// A lease of the next unit to a key, signed.
    pub fn manifest(&self, key: KeyId) -> Vec<u8> {
        let w = &*self.0;
        w.leased_count.set(w.leased_count.get() + 1);
        let manifest = UnitManifest {
            version: limits::PROTOCOL_VERSION,
            job: JobId(1),
            unit: UnitId(w.leased_count.get()),
            lease: LeaseId(100 + w.leased_count.get()),
            key,
            issued_ms: w.now_ms.get(),
            deadline_ms: w.now_ms.get() + limits::LEASE_MS,
            work: Work::Matmul(MatmulWork { a: hash(&a_bytes()), b: hash(&b_bytes()), m: 2, k: 3, n: 1, dtype: Dtype::F32 }),
            upload_bytes_max: 4096,
            states_every: None,
        };
        let coordinator = w.coordinator.borrow();
        let unsigned = cose::prepare(Kind::UnitManifest, coordinator.key(), cbor::encode(&manifest));
        let signature = coordinator.sign(&unsigned.to_be_signed());
        unsigned.finish(signature)
    }
}

fn ok(body: Vec<u8>) -> Response {
    Response { status: 200, retry_after_ms: None, body }
}

fn problem(code: Code, retry_after_ms: Option<u64>) -> Response {
    Response { status: code.status(), retry_after_ms, body: code.as_str().as_bytes().to_vec() }
}

/// Opens an envelope as the coordinator would, signature included.
fn payload<T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>>(kind: Kind, bytes: &[u8]) -> T {
    let envelope = cose::open(kind, bytes).unwrap();
    assert!(identity::verify(envelope.key, &envelope.to_be_signed, &envelope.signature));
    cbor::decode_strict(&envelope.payload).unwrap()
}
