//! Holds the coordinator to its public log (docs/ledger.md): that the log goes on from the checkpoint that was seen last, and
//! that it has every accepted result of this visit. A log that contradicts itself ends the visit; one that cannot be reached is
//! asked again, and one that the coordinator does not answer for less and less often, and told of.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use manyhands_protocol::log::entry::{Entry, LogResult};
use manyhands_protocol::log::note::{Checkpoint, Signed};
use manyhands_protocol::log::receipt::{self, Receipt, ReceiptResponse};
use manyhands_protocol::problem::Code;
use manyhands_protocol::wire::ResultRequest;
use manyhands_protocol::{JobId, KeyId, LeaseId, UnitId, cbor, cose};

use super::call::ANSWER_BYTES_MAX;
use super::error::VolunteerError;
use super::event::{Event, ReceiptEvent};
use super::host::{Host, Method, Request};
use super::lease::Leased;
use super::run::Visit;

/// The visitor is told, and work goes on.
const LOG_SILENT: &str = "log_silent";
/// Between two looks at the log while a result waits for its receipt.
pub(super) const LOOK_MS: u64 = 1_900;
/// Without one, only each so many looks are taken.
const IDLE_LOOKS: u32 = 16;
/// Looks in a row that the coordinator does not answer as it should, after which the visitor is told.
const SILENT_LOOKS: u32 = 5;
/// With each of them the next look is twice as far off, up to so many times: a minute.
const DOUBLINGS_MAX: u32 = 5;
/// Most results that wait for a receipt; older ones go without.
const AWAITED_COUNT_MAX: usize = 64;
/// Most receipts that one look asks for.
const RECEIPTS_PER_LOOK_MAX: usize = 8;
/// Looks in a row at which the coordinator may refuse to prove that its log goes on.
const REFUSALS_MAX: u32 = 3;

/// What a log can be guilty of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// Two signed checkpoints contradict each other.
    #[error(
        "the coordinator rewrote its public log: {kept} entries were signed before, and the {now} signed now are not those and more"
    )]
    Rewritten { kept: u64, now: u64 },
    #[error("the coordinator does not prove that its public log goes on: {0}")]
    Unproven(&'static str),
}

/// An accepted result whose receipt has not come.
struct Awaited {
    job: JobId,
    unit: UnitId,
    lease: LeaseId,
    /// As signed.
    statement: Vec<u8>,
}

/// What the visit waits for of the log.
#[derive(Default)]
pub(super) struct Ledger {
    awaited: RefCell<VecDeque<Awaited>>,
    /// What this visit verified last, whatever its host keeps.
    seen: RefCell<Option<Checkpoint>>,
    refusals: Cell<u32>,
}

impl<H: Host> Visit<'_, H> {
    /// Has an accepted result looked for in the log; `sent` is what was submitted.
    pub fn await_receipt(&self, leased: &Leased, sent: &[u8]) {
        let Ok(ResultRequest { statement, .. }) = cbor::decode_strict(sent) else { return };
        let manifest = &leased.manifest;
        let mut awaited = self.ledger.awaited.borrow_mut();
        awaited.push_back(Awaited { job: manifest.job, unit: manifest.unit, lease: manifest.lease, statement: statement.0 });
        if awaited.len() > AWAITED_COUNT_MAX {
            awaited.pop_front();
        }
    }

    /// Looks at the log now and then, until it contradicts itself.
    pub async fn watch_log(&self) -> VolunteerError {
        let (mut looks, mut silent) = (0, 0);
        loop {
            self.client.host.sleep(LOOK_MS << silent.min(DOUBLINGS_MAX)).await;
            looks += 1;
            if silent == 0 && self.ledger.awaited.borrow().is_empty() && looks % IDLE_LOOKS != 1 {
                continue;
            }
            match self.look().await {
                Ok(()) => silent = 0,
                Err(error @ VolunteerError::Log(_)) => return error,
                Err(error @ (VolunteerError::Refused { .. } | VolunteerError::Answer(_))) => {
                    silent += 1;
                    if silent == SILENT_LOOKS {
                        let message = format!("the coordinator does not answer for its public log: {error}");
                        self.client.reporter.tell(Event::Error { code: LOG_SILENT.to_owned(), message, retryable: true });
                    }
                }
                // Passes, or shows in the calls that work depends on.
                Err(_) => {}
            }
        }
    }

    async fn look(&self) -> Result<(), VolunteerError> {
        let client = &self.client;
        let Some(coordinator) = client.sessions.coordinator() else { return Ok(()) };
        // Before the newest is asked for: that is no older, however many tabs look.
        let loaded = client.host.load_checkpoint(coordinator).await;
        let kept = loaded.as_deref().and_then(|note| Signed::parse(note, coordinator)).map(|signed| signed.checkpoint);
        let seen = self.ledger.seen.borrow().clone();
        let note = self.get("/v1/log/checkpoint").await?;
        let unread = || VolunteerError::Answer("no checkpoint".to_owned());
        let note = String::from_utf8(note).map_err(|_| unread())?;
        let newest = Signed::parse(&note, coordinator).ok_or_else(unread)?;
        if !client.host.verify(coordinator, newest.text.as_bytes(), &newest.signature).await? {
            return Err(LogFault::Unproven("its checkpoint is not signed").into());
        }
        // Another tab may have been shown another log: what either saw must go on in this one.
        for known in seen.iter().chain(kept.iter().filter(|kept| seen.as_ref() != Some(kept))) {
            self.check_growth(coordinator, known, &newest.checkpoint).await?;
        }
        self.ledger.seen.replace(Some(newest.checkpoint.clone()));
        client.host.store_checkpoint(coordinator, loaded.as_deref(), &note).await;
        // What goes back to the queue waits for the next look.
        let waiting = self.ledger.awaited.borrow().len();
        for _ in 0..waiting.min(RECEIPTS_PER_LOOK_MAX) {
            let Some(awaited) = self.ledger.awaited.borrow_mut().pop_front() else { break };
            match self.receipt(coordinator, &newest.checkpoint, &awaited).await {
                Ok(event) => client.reporter.tell(Event::Receipt(event)),
                Err(error @ VolunteerError::Log(_)) => return Err(error),
                Err(error) => {
                    // Not there yet, or not reached.
                    self.ledger.awaited.borrow_mut().push_back(awaited);
                    if !error.is(Code::NotLogged) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, VolunteerError> {
        let request =
            Request { method: Method::Get, path, token: None, content_type: None, body: &[], answer_bytes_max: ANSWER_BYTES_MAX };
        self.client.plain(request).await
    }

    /// Refuses a checkpoint that does not go on from the one that was kept.
    async fn check_growth(&self, coordinator: KeyId, kept: &Checkpoint, newest: &Checkpoint) -> Result<(), VolunteerError> {
        let rewritten = LogFault::Rewritten { kept: kept.size, now: newest.size };
        if newest.size < kept.size || (newest.size == kept.size && newest.root != kept.root) {
            return Err(rewritten.into());
        }
        if newest.size == kept.size {
            return Ok(());
        }
        let path = format!("/v1/log/consistency/{}?size={}", kept.size, newest.size);
        let answer = match self.get(&path).await {
            Err(VolunteerError::Refused { status, .. }) if (400..500).contains(&status) && status != 429 => {
                self.ledger.refusals.set(self.ledger.refusals.get() + 1);
                if self.ledger.refusals.get() > REFUSALS_MAX {
                    return Err(LogFault::Unproven("it gives no proof").into());
                }
                return Err(VolunteerError::Answer("no proof".to_owned()));
            }
            answer => answer?,
        };
        self.ledger.refusals.set(0);
        let receipt = receipt::decode(&answer).ok_or_else(|| VolunteerError::Answer("no receipt".to_owned()))?;
        if receipt.key != coordinator || !receipt.connects((kept.size, kept.root), (newest.size, newest.root)) {
            return Err(rewritten.into());
        }
        Ok(())
    }

    /// The receipt of a result in the tree of `newest`, checked.
    async fn receipt(&self, key: KeyId, newest: &Checkpoint, awaited: &Awaited) -> Result<ReceiptEvent, VolunteerError> {
        let path = format!("/v1/log/receipts/lease/{}?size={}", awaited.lease, newest.size);
        let bytes = self.get(&path).await?;
        let answer: ReceiptResponse = cbor::decode_strict(&bytes).map_err(|e| VolunteerError::Answer(e.to_string()))?;
        let false_one = || LogFault::Unproven("a receipt of it is false");
        let receipt = receipt::decode(&answer.receipt).ok_or_else(false_one)?;
        if receipt.key != key || receipt.root_with(&answer.entry) != Some(newest.root) || !is_of(&receipt, answer.index) {
            return Err(false_one().into());
        }
        if !self.client.host.verify(key, &receipt::to_be_signed(key, &newest.root), &receipt.signature).await? {
            return Err(false_one().into());
        }
        let entry = cose::open(LogResult::KIND, &answer.entry).map_err(|_| false_one())?;
        let is_ours = LogResult::read(&entry).is_some_and(|result| result.result.0 == awaited.statement);
        if entry.key != key || !is_ours || !self.client.host.verify(key, &entry.to_be_signed, &entry.signature).await? {
            return Err(false_one().into());
        }
        Ok(ReceiptEvent { job: awaited.job, unit: awaited.unit, index: answer.index, size: newest.size, bytes })
    }
}

fn is_of(receipt: &Receipt, place: u64) -> bool {
    matches!(receipt.proof, receipt::Proof::Inclusion { index, .. } if index == place)
}
