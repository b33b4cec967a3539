//! Results without a verdict yet: asked about again, by sending the same bytes, until there is one.

use std::cell::RefCell;
use std::collections::VecDeque;

use manyhands_protocol::limits;
use manyhands_protocol::wire::ResultResponse;

use super::call::COSE;
use super::error::VolunteerError;
use super::event::Phase;
use super::host::{Host, Method};
use super::lease::Leased;
use super::run::Visit;

/// Between two questions about one result: the wait for a second key, and a little for the referee.
const ASK_MS: u64 = limits::REPLICA_WAIT_MS + 500;
/// Most results asked about; of older ones only the totals tell.
const PENDING_COUNT_MAX: usize = 32;
/// Most questions in one turn of the loop, so that asking never holds up working.
const ASK_PER_TURN_MAX: usize = 4;

/// Most results asked about when the visit ends, the newest first: what the visitor still sees in the list.
const ASK_AT_END_MAX: usize = 12;

/// One result whose verdict is open.
pub(super) struct Open {
    pub leased: Leased,
    pub signed: Vec<u8>,
    pub loss: Option<f32>,
    pub due_ms: u64,
}

/// Results whose verdict is open, the one due first in front.
#[derive(Default)]
pub(super) struct Pending(RefCell<VecDeque<Open>>);

impl Pending {
    pub fn add(&self, leased: Leased, signed: Vec<u8>, loss: Option<f32>, now_ms: u64) {
        let mut open = self.0.borrow_mut();
        open.push_back(Open { leased, signed, loss, due_ms: now_ms + ASK_MS });
        while open.len() > PENDING_COUNT_MAX {
            open.pop_front();
        }
    }

    /// When the next question is due.
    pub fn due_ms(&self) -> Option<u64> {
        self.0.borrow().front().map(|open| open.due_ms)
    }

    fn take_newest(&self) -> Option<Open> {
        self.0.borrow_mut().pop_back()
    }

    fn take_due(&self, now_ms: u64) -> Option<Open> {
        let mut open = self.0.borrow_mut();
        if open.front()?.due_ms <= now_ms { open.pop_front() } else { None }
    }
}

impl<H: Host> Visit<'_, H> {
    /// Asks about results that are due and tells the verdicts. Trouble on the line is left for the next turn.
    pub async fn ask_pending(&self) -> Result<(), VolunteerError> {
        for _ in 0..ASK_PER_TURN_MAX {
            let now_ms = self.client.host.now_ms();
            let Some(open) = self.pending.take_due(now_ms) else { return Ok(()) };
            let asked = self.leases_answered.get();
            match self.client.call::<ResultResponse>(Method::Post, "/v1/results", Some(COSE), &open.signed).await {
                Ok(answer) if answer.verdict.is_open() => {
                    self.pending.add(open.leased, open.signed, open.loss, now_ms);
                }
                Ok(answer) => self.tell_verdict(&open.leased, open.loss, &answer, asked, true),
                Err(e) if e.ends_visit() => return Err(e),
                Err(e) if e.retryable() => {
                    if e.is_unreachable() {
                        self.client.reporter.unreachable(&e);
                    }
                    self.pending.add(open.leased, open.signed, open.loss, now_ms);
                    return Ok(());
                }
                // Settled without it, say.
                Err(e) => self.tell_unit(&open.leased, Phase::Rejected, 0, open.loss, &e.to_string()),
            }
        }
        Ok(())
    }

    /// Asks once more when the visit ends, and tells what has a verdict by now: a finished job has no open unit.
    pub async fn ask_at_end(&self) {
        let newest: Vec<Open> = std::iter::from_fn(|| self.pending.take_newest()).take(ASK_AT_END_MAX).collect();
        let asked = newest.into_iter().map(|open| async move {
            let asked = self.leases_answered.get();
            let answer = self.client.call::<ResultResponse>(Method::Post, "/v1/results", Some(COSE), &open.signed).await;
            match answer {
                Ok(answer) if answer.verdict.is_open() => {}
                Ok(answer) => self.tell_verdict(&open.leased, open.loss, &answer, asked, true),
                Err(e) if e.ends_visit() || e.retryable() => {}
                Err(e) => self.tell_unit(&open.leased, Phase::Rejected, 0, open.loss, &e.to_string()),
            }
        });
        futures::future::join_all(asked).await;
    }
}
