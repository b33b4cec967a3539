//! One leased unit: fetch its inputs, compute it under a heartbeat, upload the output, sign and submit the result. What
//! happens when that fails is the loop's business.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use manyhands_protocol::statement::{Output, ResultStatement, Timings};
use manyhands_protocol::wire::{HeartbeatResponse, ResultResponse};
use manyhands_protocol::{BlobHash, cbor, cose, limits};

use super::call::{ANSWER_BYTES_MAX, COSE, OCTETS};
#[cfg(feature = "every-layer")]
use super::challenge::Shown;
use super::error::VolunteerError;
use super::event::{Phase, State};
use super::host::{Host, Method, Request};
use super::lane::{Aside, Lane};
use super::lease::{self, Leased};
use super::run::Visit;
use super::switch::Wish;
use super::task::{Computed, Task};
use crate::beside::beside;
use crate::control::Control;
#[cfg(feature = "every-layer")]
use crate::engine::states::Committed;

/// How long fetching or uploading is tried again before the unit is given back.
const TRANSFER_MS: u64 = 60_000;
/// How long a finished result is offered before it is dropped: it costs one call, and is late at worst.
const SUBMIT_MS: u64 = 10 * 60_000;
/// Between two looks at how far a computation is.
pub(super) const PROGRESS_MS: u64 = 400;
/// A unit paused for longer goes back, for others wait for its round.
const PAUSE_HOLD_MS: u64 = 30_000;

/// A signed result ready to be submitted, as often as needed.
pub(super) struct Signed {
    pub bytes: Vec<u8>,
    pub loss: Option<f32>,
    /// Of a result that committed to its states.
    #[cfg(feature = "every-layer")]
    pub shown: Option<Shown>,
}

/// Stops the computation when the future that waits for it is dropped.
pub(super) struct StopOnDrop(pub Control);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl<H: Host> Visit<'_, H> {
    /// Everything up to the signed result, while heartbeats keep the lease.
    pub async fn work(&self, leased: &Leased, lane: &Lane<H::Aside>) -> Result<Signed, VolunteerError> {
        let control = self.client.host.control();
        let _stop = StopOnDrop(control.clone());
        let paused_since_ms = Cell::new(None);
        futures::select_biased! {
            result = self.produce(leased, lane, &control).fuse() => result,
            error = self.beat(leased, &paused_since_ms).fuse() => Err(error),
            never = self.steer(&control, &paused_since_ms).fuse() => match never {},
            never = self.show(leased, &control).fuse() => match never {},
        }
    }

    /// Sends a signed result and gives the coordinator's verdict. Sending it again is harmless.
    pub async fn submit(&self, signed: &[u8]) -> Result<ResultResponse, VolunteerError> {
        let until_ms = self.client.host.now_ms() + SUBMIT_MS;
        let client = &self.client;
        client.retry(Some(until_ms), async || client.call(Method::Post, "/v1/results", Some(COSE), signed).await).await
    }

    async fn produce(&self, leased: &Leased, lane: &Lane<H::Aside>, control: &Control) -> Result<Signed, VolunteerError> {
        let client = &self.client;
        let start_ms = client.host.now_ms();
        let [first, second] = leased.manifest.work.inputs();
        let inputs = [self.fetch(first).await?, self.fetch(second).await?];
        let fetched_ms = client.host.now_ms();
        // A build of products alone ends with its first unit, and there is nothing to tune before that.
        #[cfg(feature = "every-layer")]
        self.tune(&leased.manifest.work, control).await?;
        #[cfg(feature = "every-layer")]
        let states_every = self.states_every(leased, &inputs, lane).await?;
        #[cfg(not(feature = "every-layer"))]
        let states_every = None;
        let tuned_ms = client.host.now_ms();
        self.tell_unit(leased, Phase::Computing, 0, None, "");
        let task = Task { work: leased.manifest.work.clone(), inputs: inputs.clone(), states_every };
        let computed = self.compute(task, lane, control).await?;
        let (steps, loss) = (lease::steps(&leased.manifest.work), computed.losses.last().copied());
        self.tell_unit(leased, Phase::Computed, steps, loss, "");
        let timings =
            Timings { fetch_ms: elapsed_ms(start_ms, fetched_ms), compute_ms: elapsed_ms(tuned_ms, client.host.now_ms()) };
        let output = self.upload(leased, &computed.output).await?;
        let statement = ResultStatement {
            version: limits::PROTOCOL_VERSION,
            job: leased.manifest.job,
            unit: leased.manifest.unit,
            lease: leased.manifest.lease,
            manifest: leased.hash,
            outputs: vec![output],
            device: self.engine().device_class(),
            timings,
            losses_micro: computed.losses.iter().map(|&loss| (f64::from(loss) * 1e6) as u64).collect(),
            kernels: self.engine().kernels(&leased.manifest.work)?,
            #[cfg(feature = "every-layer")]
            states: computed.committed.as_ref().map(Committed::states),
            #[cfg(not(feature = "every-layer"))]
            states: None,
        };
        let unsigned = cose::prepare(cose::Kind::Result, client.host.key(), cbor::encode(&statement));
        let signature = client.host.sign(&unsigned.to_be_signed()).await?;
        Ok(Signed {
            bytes: unsigned.finish(signature),
            loss,
            #[cfg(feature = "every-layer")]
            shown: computed.committed.map(|committed| Shown { engine: self.engine(), inputs, committed }),
        })
    }

    /// Computes where the lane does.
    pub async fn compute(&self, task: Task, lane: &Lane<H::Aside>, control: &Control) -> Result<Computed, VolunteerError> {
        let _at_work = self.client.reporter.at_work();
        if let Some(mut aside) = lane.take() {
            let computed = aside.compute(task, control).await?;
            lane.put(aside);
            return Ok(computed);
        }
        let (engine, steered) = (self.engine(), control.clone());
        beside(move || async move { Ok(task.compute(&engine, &steered).await) }).await?
    }

    async fn fetch(&self, hash: BlobHash) -> Result<Arc<Vec<u8>>, VolunteerError> {
        let until_ms = self.client.host.now_ms() + TRANSFER_MS;
        self.client.retry(Some(until_ms), async || self.blobs.fetch(&self.client, hash).await).await
    }

    async fn upload(&self, leased: &Leased, output: &[u8]) -> Result<Output, VolunteerError> {
        let bytes = output.len() as u64;
        if bytes > leased.manifest.upload_bytes_max {
            let most = leased.manifest.upload_bytes_max;
            return Err(VolunteerError::Manifest(format!("its output has {bytes} bytes, but {most} may be uploaded")));
        }
        self.upload_file(leased, output).await
    }

    /// Uploads a file under the lease.
    pub async fn upload_file(&self, leased: &Leased, output: &[u8]) -> Result<Output, VolunteerError> {
        let bytes = output.len() as u64;
        let client = &self.client;
        let hash = client.host.sha256(output).await?;
        let path = format!("/v1/blobs/{hash}?lease={}", leased.manifest.lease);
        let request = Request {
            method: Method::Put,
            path: &path,
            token: None,
            content_type: Some(OCTETS),
            body: output,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let until_ms = client.host.now_ms() + TRANSFER_MS;
        client
            .retry(Some(until_ms), async || {
                let _one_at_a_time = client.transfers.lock().await;
                client.authorised(request).await
            })
            .await?;
        Ok(Output { name: leased.manifest.work.output_name().to_owned(), hash, bytes })
    }

    /// Heartbeats until the lease is lost; gives why.
    async fn beat(&self, leased: &Leased, paused_since_ms: &Cell<Option<u64>>) -> VolunteerError {
        let client = &self.client;
        let path = format!("/v1/leases/{}/heartbeat", leased.manifest.lease);
        loop {
            client.host.sleep(client.sessions.heartbeat_ms()).await;
            if paused_since_ms.get().is_some_and(|since_ms| client.host.now_ms() >= since_ms + PAUSE_HOLD_MS) {
                return VolunteerError::GiveBack("paused for longer than a unit may be held".to_owned());
            }
            match client.call::<HeartbeatResponse>(Method::Post, &path, None, &[]).await {
                Ok(answer) if answer.keep => client.reporter.reached(),
                Ok(_) => return VolunteerError::GiveBack("the coordinator took the unit back".to_owned()),
                Err(e) if e.is_unreachable() => client.reporter.unreachable(&e),
                // Too many requests, a full disk: the next heartbeat may do.
                Err(e) if e.retryable() => {}
                Err(e) => return e,
            }
        }
    }

    /// Passes pause and resume on to the computation. A stop ends the whole visit, and this with it.
    pub async fn steer(&self, control: &Control, paused_since_ms: &Cell<Option<u64>>) -> Infallible {
        let mut wish = Wish::Run;
        loop {
            wish = self.switch.until(|w| w != wish).await;
            match wish {
                Wish::Pause => {
                    control.pause();
                    paused_since_ms.set(Some(self.client.host.now_ms()));
                    self.client.reporter.state(State::Paused, "");
                }
                Wish::Run => {
                    control.resume();
                    paused_since_ms.set(None);
                    self.client.reporter.state(State::Working, "");
                }
                Wish::Stop => {}
            }
        }
    }

    /// Tells how far the computation is, now and then.
    async fn show(&self, leased: &Leased, control: &Control) -> Infallible {
        let mut told = 0;
        loop {
            self.client.host.sleep(PROGRESS_MS).await;
            let (step, _) = control.progress();
            if step != told && step < lease::steps(&leased.manifest.work) {
                told = step;
                self.tell_unit(leased, Phase::Computing, step, None, "");
            }
        }
    }

    /// Tells one step in the life of a unit.
    pub fn tell_unit(&self, leased: &Leased, phase: Phase, step: u32, loss: Option<f32>, reason: &str) {
        self.tell_credit(leased, phase, step, loss, reason, 0);
    }

    pub fn tell_credit(&self, leased: &Leased, phase: Phase, step: u32, loss: Option<f32>, reason: &str, credit_flop: u64) {
        let manifest = &leased.manifest;
        self.client.reporter.tell(super::Event::Unit(super::UnitEvent {
            job: manifest.job,
            unit: manifest.unit,
            kind: lease::kind(&manifest.work),
            phase,
            step,
            steps: lease::steps(&manifest.work),
            loss,
            reason: reason.to_owned(),
            credit_flop,
        }));
    }
}

fn elapsed_ms(from_ms: u64, to_ms: u64) -> u32 {
    u32::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(u32::MAX)
}
