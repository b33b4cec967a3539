//! What the loop tells whoever started it. Plain values: the worker turns them into messages, the terminal into lines.

use manyhands_protocol::statement::Backend;
use manyhands_protocol::wire::Totals;
use manyhands_protocol::{JobId, KeyId, UnitId};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    State {
        state: State,
        /// One line for a person; may be empty.
        detail: String,
    },
    /// The backend that computes from here on.
    Adapter {
        backend: Backend,
        adapter: String,
        /// Why this one; empty where it is what was asked for.
        reason: String,
        /// Whether it was measured to be faster than a GPU; `reason` is then the GPU's name, where it has one.
        #[cfg(feature = "every-layer")]
        is_faster: bool,
    },
    /// The key this volunteer signs with, and whether it outlives the visit.
    Key {
        id: KeyId,
        stored: bool,
    },
    Unit(UnitEvent),
    /// A result is in the public log, as this program checked.
    #[cfg(feature = "every-layer")]
    Receipt(ReceiptEvent),
    Totals(Totals),
    Error {
        code: String,
        message: String,
        retryable: bool,
    },
}

/// Where the loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    SelfTest,
    /// Measuring what is fastest here.
    Tuning,
    Waiting,
    Working,
    Paused,
    Stopped,
    Unreachable,
}

impl State {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::SelfTest => "self_test",
            State::Tuning => "tuning",
            State::Waiting => "waiting",
            State::Working => "working",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Unreachable => "unreachable",
        }
    }
}

/// A step in the life of one leased unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitEvent {
    pub job: JobId,
    pub unit: UnitId,
    pub kind: WorkKind,
    pub phase: Phase,
    /// Inner steps done, of `steps`; a matmul unit has one.
    pub step: u32,
    pub steps: u32,
    /// Mean loss of the unit's last batch, once computed.
    pub loss: Option<f32>,
    /// Why it was rejected or given back; empty otherwise.
    pub reason: String,
    /// Floating-point operations credited for it.
    pub credit_flop: u64,
}

/// Where an accepted result is in the coordinator's public log.
#[cfg(feature = "every-layer")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptEvent {
    pub job: JobId,
    pub unit: UnitId,
    /// Place of its entry, in a log of `size`.
    pub index: u64,
    pub size: u64,
    /// Entry and receipt, as the coordinator gave them.
    pub bytes: Vec<u8>,
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    Matmul,
    Train,
}

impl WorkKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            WorkKind::Matmul => "matmul",
            WorkKind::Train => "train",
        }
    }
}

/// Phases of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Leased,
    Computing,
    /// On its way up.
    Computed,
    Submitted,
    Accepted,
    Rejected,
    Pending,
    /// Pending, and a step of it is to be shown.
    Challenged,
    GivenBack,
}

impl Phase {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Leased => "leased",
            Phase::Computing => "computing",
            Phase::Computed => "computed",
            Phase::Submitted => "submitted",
            Phase::Accepted => "accepted",
            Phase::Rejected => "rejected",
            Phase::Pending => "pending",
            Phase::Challenged => "challenged",
            Phase::GivenBack => "given_back",
        }
    }
}
