//! The loop of one visit: engine, session, then lease, work and submit until the visitor stops, consent ends, or a
//! given number of units is settled. Each step's details are in its own module.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::lock::Mutex;
use manyhands_programs::EVERY_LAYER;
use manyhands_protocol::category::Category;
use manyhands_protocol::wire::{LeaseRequest, LeaseResponse, ResultResponse, Totals, Verdict};
use manyhands_protocol::{JobId, LeaseId, cbor, limits};

use super::backoff::Backoff;
use super::blobs::Blobs;
use super::call::{ANSWER_BYTES_MAX, CBOR, Client, Reporter};
#[cfg(feature = "every-layer")]
use super::challenge::Repeats;
use super::data::DataUse;
use super::device::{Choice, Device};
use super::error::VolunteerError;
use super::event::{Event, Phase, State};
use super::host::{Host, HostError, Method, Request};
use super::lane::Lane;
use super::lease::{self, Expected, Leased, ManifestFault};
#[cfg(feature = "every-layer")]
use super::ledger::Ledger;
use super::pending::Pending;
use super::switch::{Switch, Wish};
#[cfg(feature = "every-layer")]
use super::tune::Tuning;
use crate::engine::Engine;
#[cfg(feature = "every-layer")]
use crate::engine::EngineError;
use crate::tuner::Tune;

/// What Stop waits for while it gives leases back and asks for verdicts; a lease that it cannot give back lapses by itself.
const FAREWELL_MS: u64 = 800;
/// Units in a row that may fail before the visit ends.
const FAILURES_MAX: u32 = 8;
/// Bounds on the wait that a coordinator without work asks for.
const IDLE_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// What the visitor agreed to, and how to compute.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Origin of the page the visitor pressed Start on, or `native`.
    pub origin: String,
    /// Site that embeds the page; empty on the coordinator's own.
    pub site: String,
    /// The one job agreed to; none means any of `category`, and any at all without one.
    pub job: Option<JobId>,
    pub category: Option<Category>,
    pub choice: Choice,
    pub tune: Tune,
    /// Share of the device, 1 to 100.
    pub duty_percent: u32,
    /// Download plus upload in bytes; 0 means no bound.
    pub data_bytes_max: u64,
    /// End the visit once this many units have a verdict.
    pub units_max: Option<u64>,
    /// Consent anew when its time is over: for a terminal, where the command itself is the standing consent.
    pub renew_consent: bool,
    /// End the session with the visit: for a volunteer whose session nobody shares.
    pub withdraw_at_end: bool,
    /// Whether the session's first unit is done: another build began this visit.
    pub begun: bool,
    /// A lease to begin with, signed as it came: from the build that began the visit and could not compute it.
    pub lease: Option<Vec<u8>>,
    /// Units to compute at once where no GPU computes: at least 1, and 1 where `units_max` is set.
    pub lanes: usize,
}

/// A volunteer ready to begin a visit.
pub struct Volunteer<H: Host> {
    pub host: H,
    pub settings: Settings,
    pub switch: Switch,
    /// Bytes so far, those of the build that began the visit among them, and [`Settings::data_bytes_max`]. Others of the
    /// same visitor may count along.
    pub data: DataUse,
}

impl<H: Host> Volunteer<H> {
    /// One visit, to its end. `tell` hears everything that happens; the error, if any, was told as an event, too.
    pub async fn run(&self, tell: impl FnMut(Event) + 'static) -> Result<(), VolunteerError> {
        let reporter = Reporter::new(Box::new(tell));
        let visit = Visit {
            client: Client::new(self, &reporter),
            switch: &self.switch,
            blobs: Blobs::default(),
            pending: Pending::default(),
            device: RefCell::new(None),
            held: RefCell::new(Vec::new()),
            totals: Cell::new(Totals::default()),
            submitted_count: Cell::new(0),
            #[cfg(feature = "every-layer")]
            tuning: Tuning::default(),
            #[cfg(feature = "every-layer")]
            repeats: Repeats::default(),
            #[cfg(feature = "every-layer")]
            asked: RefCell::default(),
            #[cfg(feature = "every-layer")]
            ledger: Ledger::default(),
            lease: RefCell::new(self.settings.lease.clone()),
            leasing: Mutex::default(),
            leases_answered: Cell::new(0),
            off_gpu: Cell::new(None),
            asking: Cell::new(false),
        };
        reporter.state(State::Starting, "");
        reporter.tell(Event::Key { id: self.host.key(), stored: self.host.key_is_stored() });
        let mut go = std::pin::pin!(visit.go().fuse());
        let end = futures::select_biased! {
            _ = self.switch.until(|w| w == Wish::Stop).fuse() => Ok(()),
            end = go => end,
        };
        let farewell = async {
            // An answer that was on its way when Stop came may bring a lease, which goes back.
            if visit.asking.get() {
                futures::select_biased! {
                    _ = go => {}
                    () = visit.asks_for_nothing().fuse() => {}
                }
            }
            visit.farewell().await;
        };
        futures::select_biased! {
            () = farewell.fuse() => {}
            () = self.host.sleep(FAREWELL_MS).fuse() => {}
        }
        if let Err(error) = &end {
            reporter.error(error);
        }
        reporter.state(State::Stopped, &end.as_ref().err().map(ToString::to_string).unwrap_or_default());
        end
    }
}

/// The state of one visit.
pub(super) struct Visit<'a, H: Host> {
    pub client: Client<'a, H>,
    pub switch: &'a Switch,
    pub blobs: Blobs,
    pub pending: Pending,
    device: RefCell<Option<Device>>,
    /// Leases to give back when the visit ends.
    held: RefCell<Vec<LeaseId>>,
    totals: Cell<Totals>,
    pub submitted_count: Cell<u64>,
    #[cfg(feature = "every-layer")]
    pub tuning: Tuning,
    #[cfg(feature = "every-layer")]
    pub repeats: Repeats,
    /// Leases whose results are challenged, while they are answered for.
    #[cfg(feature = "every-layer")]
    pub asked: RefCell<Vec<LeaseId>>,
    #[cfg(feature = "every-layer")]
    pub ledger: Ledger,
    /// [`Settings::lease`], until it is taken up.
    lease: RefCell<Option<Vec<u8>>>,
    /// Held while a lease is asked for: all lanes together ask no more often than one would.
    leasing: Mutex<()>,
    /// Answers to leases so far, each with the key's totals.
    pub leases_answered: Cell<u64>,
    /// Dropped once the CPU computes, from when on there may be further lanes.
    off_gpu: Cell<Option<oneshot::Sender<()>>>,
    /// Whether a lease may be on its way that is not among `held` yet.
    asking: Cell<bool>,
}

impl<H: Host> Visit<'_, H> {
    /// The engine in use.
    pub fn engine(&self) -> Arc<Engine> {
        self.device.borrow().as_ref().expect("a visit opens its device before it leases").engine.clone()
    }

    async fn go(&self) -> Result<(), VolunteerError> {
        let client = &self.client;
        let (send, off_gpu) = oneshot::channel();
        self.off_gpu.set(Some(send));
        let found = || client.reporter.state(State::SelfTest, "");
        let device = async {
            let device = Device::open(client.settings.choice, client.settings.tune, &found).await?;
            self.use_device(device);
            Ok(())
        };
        // The network and the device have nothing to do with each other.
        let session = async { client.retry(None, async || client.token().await).await.map(drop) };
        futures::future::try_join(device, session).await?;
        client.reporter.state(State::Waiting, "");
        let first = Lane::first();
        if !EVERY_LAYER {
            return self.lane(&first).await;
        }
        let further = async {
            let _ = off_gpu.await;
            let lanes = (1..client.settings.lanes).map(|_| self.further_lane());
            futures::future::try_join_all(lanes).await?;
            std::future::pending().await
        };
        #[cfg(feature = "every-layer")]
        let log = self.watch_log();
        #[cfg(not(feature = "every-layer"))]
        let log = std::future::pending();
        futures::select_biased! {
            end = self.lane(&first).fuse() => end,
            end = further.fuse() => end,
            error = log.fuse() => Err(error),
        }
    }

    /// A lane beside the first. Where nothing works in it, the others go on.
    async fn further_lane(&self) -> Result<(), VolunteerError> {
        match self.lane(&Lane::further()).await {
            Err(e) if !e.ends_visit() => Ok(()),
            end => end,
        }
    }

    async fn lane(&self, lane: &Lane<H::Aside>) -> Result<(), VolunteerError> {
        let client = &self.client;
        let (mut failures, mut backoff) = (0, Backoff::default());
        loop {
            self.wait_while_paused().await;
            self.ask_pending().await?;
            if let Some(max) = self.client.settings.units_max
                && self.submitted_count.get() >= max
            {
                let Some(due_ms) = self.pending.due_ms() else { return Ok(()) };
                client.host.sleep(due_ms.saturating_sub(client.host.now_ms())).await;
                continue;
            }
            match self.turn(lane).await {
                Ok(()) => (failures, backoff) = (0, Backoff::default()),
                Err(e) if e.ends_visit() => return Err(e),
                Err(e) => {
                    failures += 1;
                    self.recover(lane, &e, failures).await?;
                    client.host.sleep(backoff.next_ms(client.host.random(), None)).await;
                }
            }
        }
    }

    /// Leases and works once, or waits as long as the coordinator asks.
    async fn turn(&self, lane: &Lane<H::Aside>) -> Result<(), VolunteerError> {
        let client = &self.client;
        lane.open(client.host).await?;
        let begun = self.lease.borrow_mut().take();
        if let Some(signed) = begun {
            // One that is not ours any more is left to lapse.
            return match self.admit(&signed).await {
                Ok(leased) => {
                    self.held.borrow_mut().push(leased.manifest.lease);
                    self.unit(leased, lane).await
                }
                Err(_) => Ok(()),
            };
        }
        let leasing = self.leasing.lock().await;
        match self.switch.wish() {
            Wish::Run => {}
            Wish::Pause => return Ok(()),
            // Another lane's answer is waited for; nothing more is asked.
            Wish::Stop => return std::future::pending().await,
        }
        let answer = client.retry(None, async || self.lease().await).await?;
        self.leases_answered.set(self.leases_answered.get() + 1);
        self.tell_totals(answer.totals);
        let admitted = self.hold(&answer).await;
        self.asking.set(false);
        if self.switch.wish() == Wish::Stop {
            // Nothing is begun any more; what is held goes back.
            return std::future::pending().await;
        }
        let admitted = admitted?;
        if admitted.is_empty() {
            if !EVERY_LAYER {
                // Whoever can compute more than products does the waiting.
                return Err(VolunteerError::Beyond(None));
            }
            client.reporter.state(State::Waiting, "");
            let asked_ms = answer.retry_after_ms.clamp(*IDLE_MS.start(), *IDLE_MS.end());
            let due_ms = self.pending.due_ms().map_or(u64::MAX, |due_ms| due_ms.saturating_sub(client.host.now_ms()));
            client.host.sleep(asked_ms.min(due_ms.max(*IDLE_MS.start()))).await;
            return Ok(());
        }
        drop(leasing);
        for leased in admitted {
            self.unit(leased, lane).await?;
        }
        Ok(())
    }

    /// Admits the leases of an answer, and holds them from then on. One that is for another build is held here only where
    /// Stop came, for then nobody else gives it back.
    async fn hold(&self, answer: &LeaseResponse) -> Result<Vec<Leased>, VolunteerError> {
        let mut admitted = Vec::new();
        for signed in &answer.manifests {
            let leased = self.admit(&signed.0).await;
            let id = match &leased {
                Ok(leased) => Some(leased.manifest.lease),
                Err(VolunteerError::Beyond(_)) if self.switch.wish() == Wish::Stop => lease::id(&signed.0),
                Err(_) => None,
            };
            self.held.borrow_mut().extend(id);
            admitted.push(leased?);
        }
        Ok(admitted)
    }

    /// Resolves once no lease can be on its way. Polled after whatever asks for one.
    async fn asks_for_nothing(&self) {
        let asks = |_: &mut std::task::Context<'_>| if self.asking.get() { Poll::Pending } else { Poll::Ready(()) };
        std::future::poll_fn(asks).await;
    }

    async fn lease(&self) -> Result<LeaseResponse, VolunteerError> {
        let request = LeaseRequest {
            units_max: 1,
            backend: self.engine().device_class().backend,
            job: self.client.settings.job,
            blob_bytes_max: limits::BLOB_BYTES_MAX,
        };
        self.asking.set(true);
        let answer = self.client.call(Method::Post, "/v1/leases", Some(CBOR), &cbor::encode(&request)).await;
        self.asking.set(answer.is_ok());
        answer
    }

    async fn admit(&self, signed: &[u8]) -> Result<Leased, VolunteerError> {
        let client = &self.client;
        let refused = |fault| match fault {
            ManifestFault::Beyond => VolunteerError::Beyond(Some(signed.to_vec())),
            fault => VolunteerError::Manifest(fault.to_string()),
        };
        let hash = client.host.sha256(signed).await?;
        let coordinator = client.sessions.coordinator().expect("a lease comes after a session");
        let envelope = lease::open(signed, coordinator).map_err(refused)?;
        match client.host.verify(coordinator, &envelope.to_be_signed, &envelope.signature).await {
            Ok(true) => {}
            Ok(false) => return Err(refused(ManifestFault::Signature)),
            Err(HostError::Beyond) => return Err(refused(ManifestFault::Beyond)),
            Err(fault) => return Err(fault.into()),
        }
        let expected = Expected {
            key: client.host.key(),
            job: client.settings.job,
            now_ms: client.sessions.coordinator_now_ms(client.host.now_ms()),
        };
        lease::check(&envelope.payload, hash, expected).map_err(refused)
    }

    /// One held unit from lease to verdict; on failure the lease goes back.
    async fn unit(&self, leased: Leased, lane: &Lane<H::Aside>) -> Result<(), VolunteerError> {
        let lease = leased.manifest.lease;
        self.client.reporter.state(State::Working, "");
        self.tell_unit(&leased, Phase::Leased, 0, None, "");
        let mut asked = 0;
        let outcome = match self.work(&leased, lane).await {
            Ok(signed) => {
                let steps = lease::steps(&leased.manifest.work);
                self.tell_unit(&leased, Phase::Submitted, steps, signed.loss, "");
                asked = self.leases_answered.get();
                self.submit(&signed.bytes).await.map(|answer| (signed, answer))
            }
            Err(e) => Err(e),
        };
        match outcome {
            Ok((signed, answer)) => {
                self.held.borrow_mut().retain(|held| *held != lease);
                self.submitted_count.set(self.submitted_count.get() + 1);
                self.tell_verdict(&leased, signed.loss, &answer, asked, false);
                #[cfg(feature = "every-layer")]
                if answer.verdict == Verdict::Accepted {
                    self.await_receipt(&leased, &signed.bytes);
                }
                #[cfg(feature = "every-layer")]
                let shown = match (answer.verdict, &signed.shown) {
                    (Verdict::Challenged, Some(shown)) => self.answer(&leased, shown).await,
                    _ => Ok(()),
                };
                #[cfg(not(feature = "every-layer"))]
                let shown: Result<(), VolunteerError> = Ok(());
                if answer.verdict.is_open() {
                    self.pending.add(leased, signed.bytes, signed.loss, self.client.host.now_ms());
                }
                // Of another session, say, or settled meanwhile: the verdict tells.
                match shown {
                    Err(e) if e.ends_visit() || matches!(e, VolunteerError::Engine(_)) => Err(e),
                    _ => Ok(()),
                }
            }
            Err(e) => {
                if !e.is_lease_gone() {
                    // One attempt: a lease that stays lapses by itself.
                    let _ = self.give_back(lease).await;
                }
                self.held.borrow_mut().retain(|held| *held != lease);
                self.tell_unit(&leased, Phase::GivenBack, 0, None, &e.to_string());
                // Neither a lease that ended nor one taken back is a fault to recover from.
                if e.is_lease_gone() || matches!(e, VolunteerError::GiveBack(_)) { Ok(()) } else { Err(e) }
            }
        }
    }

    /// After a failed unit: a new device where the device failed, an end where nothing works.
    async fn recover(&self, lane: &Lane<H::Aside>, error: &VolunteerError, failures: u32) -> Result<(), VolunteerError> {
        self.client.reporter.error(error);
        if failures >= FAILURES_MAX {
            return Err(error.clone());
        }
        let VolunteerError::Engine(fault) = error else { return Ok(()) };
        if !lane.is_first() {
            return Ok(());
        }
        let old = self.device.borrow_mut().take().expect("a visit opens its device before it leases");
        let next = old.after(fault).await?;
        self.use_device(next);
        Ok(())
    }

    /// Has the CPU path compute from here on, which was measured to be faster than the GPU in use.
    #[cfg(feature = "every-layer")]
    pub(super) async fn leave_gpu(&self) -> Result<(), EngineError> {
        let next = self.device.borrow().as_ref().expect("a visit opens its device before it leases").left();
        self.use_device(next.await?);
        Ok(())
    }

    /// Whether the visitor's choice allows that.
    #[cfg(feature = "every-layer")]
    pub(super) fn may_leave_gpu(&self) -> bool {
        self.device.borrow().as_ref().is_some_and(Device::may_be_left)
    }

    fn use_device(&self, device: Device) {
        if device.is_new {
            let class = device.engine.device_class();
            self.client.reporter.tell(Event::Adapter {
                backend: class.backend,
                adapter: class.adapter,
                reason: device.reason.clone(),
                #[cfg(feature = "every-layer")]
                is_faster: device.is_faster,
            });
        }
        if matches!(*device.engine, Engine::Cpu(_)) {
            self.off_gpu.take();
        }
        *self.device.borrow_mut() = Some(device);
    }

    async fn wait_while_paused(&self) {
        if self.switch.wish() == Wish::Pause {
            self.client.reporter.state(State::Paused, "");
            self.switch.until(|w| w != Wish::Pause).await;
            self.client.reporter.state(State::Waiting, "");
        }
    }

    async fn give_back(&self, lease: LeaseId) -> Result<(), VolunteerError> {
        let path = format!("/v1/leases/{lease}");
        let request = Request {
            method: Method::Delete,
            path: &path,
            token: None,
            content_type: None,
            body: &[],
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        self.client.authorised(request).await.map(drop)
    }

    /// Gives back what is held and hears the last verdicts; best effort, for the visit is over.
    async fn farewell(&self) {
        let begun = self.lease.take();
        if let Some(signed) = begun
            && self.client.token().await.is_ok()
            && let Ok(leased) = self.admit(&signed).await
        {
            self.held.borrow_mut().push(leased.manifest.lease);
        }
        let held = self.held.take();
        let give_back = futures::future::join_all(held.into_iter().map(|lease| self.give_back(lease)));
        let rest = futures::future::join(give_back, self.ask_at_end());
        #[cfg(feature = "every-layer")]
        let rest = futures::future::join3(self.unable_to_answer(), rest, self.forget_try());
        rest.await;
        if self.client.settings.withdraw_at_end {
            let _ = self.client.withdraw().await;
        }
    }

    /// Tells a verdict; `again` where an earlier answer said pending. `asked` is what [`Visit::leases_answered`] was when
    /// the question went out.
    pub fn tell_verdict(&self, leased: &Leased, loss: Option<f32>, answer: &ResultResponse, asked: u64, again: bool) {
        let steps = lease::steps(&leased.manifest.work);
        let mut totals = self.totals.get();
        // What is no longer pending was counted by the answer to a lease since. One to another lane that came meanwhile may
        // have counted this; the next one says.
        let counted = again && totals.pending == 0 || asked != self.leases_answered.get();
        let phase = match answer.verdict {
            Verdict::Pending | Verdict::Challenged => {
                totals.pending += 1;
                if answer.verdict == Verdict::Challenged { Phase::Challenged } else { Phase::Pending }
            }
            Verdict::Accepted => {
                totals.accepted += 1;
                totals.credit_flop = totals.credit_flop.saturating_add(answer.credit_flop);
                Phase::Accepted
            }
            Verdict::Rejected => {
                totals.rejected += 1;
                Phase::Rejected
            }
        };
        if again {
            totals.pending = totals.pending.saturating_sub(1);
        }
        self.tell_credit(leased, phase, steps, loss, &answer.reason, answer.credit_flop);
        if !counted {
            self.tell_totals(totals);
        }
    }

    fn tell_totals(&self, totals: Totals) {
        if self.totals.replace(totals) != totals {
            self.client.reporter.tell(Event::Totals(totals));
        }
    }
}
