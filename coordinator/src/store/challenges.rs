//! What the store keeps of a challenge. What its stages mean is the driver's business.

use manyhands_protocol::rules::challenge::Form;
use manyhands_protocol::{BlobHash, KeyId, LeaseId, UnitId};

/// What a challenge waits for, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeStage {
    /// Of a segment that is shown, its ends.
    Ends,
    /// Of a step that is shown, first a commitment to its segment.
    Segment,
    Trace,
    Reveal,
    /// All was shown; the driver checks it.
    Check,
    Passed,
    Caught,
    Unanswered,
    /// The result got its verdict in another way meanwhile.
    Moot,
}

impl ChallengeStage {
    const ALL: [ChallengeStage; 9] = [
        Self::Ends,
        Self::Segment,
        Self::Trace,
        Self::Reveal,
        Self::Check,
        Self::Passed,
        Self::Caught,
        Self::Unanswered,
        Self::Moot,
    ];

    /// The name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ends => "ends",
            Self::Segment => "segment",
            Self::Trace => "trace",
            Self::Reveal => "reveal",
            Self::Check => "check",
            Self::Passed => "passed",
            Self::Caught => "caught",
            Self::Unanswered => "unanswered",
            Self::Moot => "moot",
        }
    }

    pub fn named(name: &str) -> Option<ChallengeStage> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// What a challenge of this form waits for first.
    pub fn first(form: Form) -> ChallengeStage {
        match form {
            Form::Segment => Self::Ends,
            Form::Step => Self::Segment,
        }
    }

    /// Whether an answer names a file that is uploaded before it.
    pub fn takes_file(self) -> bool {
        matches!(self, Self::Ends | Self::Reveal)
    }

    pub fn is_open(self) -> bool {
        matches!(self, Self::Ends | Self::Segment | Self::Trace | Self::Reveal | Self::Check)
    }
}

/// A challenge as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub result: i64,
    pub unit: UnitId,
    pub lease: LeaseId,
    pub key: KeyId,
    pub form: Form,
    pub stage: ChallengeStage,
    pub first_step: u32,
    pub steps: u32,
    /// Drawn once the segment was committed to.
    pub step: Option<u32>,
    /// Signed answers as received.
    pub segment: Option<Vec<u8>>,
    pub trace: Option<Vec<u8>>,
    pub reveal: Option<Vec<u8>>,
    pub asked_ms: u64,
    pub stage_ms: u64,
    pub deadline_ms: u64,
}

/// A challenge about to be drawn for a pending result.
#[derive(Debug, Clone, Copy)]
pub struct NewChallenge {
    pub result: i64,
    pub form: Form,
    pub first_step: u32,
    pub steps: u32,
    pub now_ms: u64,
    pub deadline_ms: u64,
}

/// An answer that was checked as far as it can be without the store.
#[derive(Debug, Clone)]
pub struct ChallengeAnswered {
    pub lease: LeaseId,
    pub key: KeyId,
    /// What it answers.
    pub to_stage: ChallengeStage,
    /// The signed statement as received.
    pub statement: Vec<u8>,
    /// The step to draw, if this is the answer that one is drawn after.
    pub step: Option<u32>,
    /// The file that the answer names, which must have been uploaded under the lease.
    pub file: Option<(BlobHash, u64)>,
    pub now_ms: u64,
    /// Of the next stage.
    pub deadline_ms: u64,
}

impl ChallengeAnswered {
    pub fn next_stage(&self) -> ChallengeStage {
        match self.to_stage {
            ChallengeStage::Segment => ChallengeStage::Trace,
            ChallengeStage::Trace => ChallengeStage::Reveal,
            _ => ChallengeStage::Check,
        }
    }
}

/// How a challenge ended.
#[derive(Debug, Clone)]
pub struct ChallengeClosed {
    pub result: i64,
    /// At which it ends; one that went on meanwhile is left alone.
    pub stage: ChallengeStage,
    pub outcome: ChallengeStage,
    /// What a rejected result is told; empty otherwise.
    pub reason: String,
    /// Operations that checking what was shown took.
    pub check_flop: u64,
    pub now_ms: u64,
}

/// Challenges of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChallengeCounts {
    pub asked: u64,
    pub unanswered: u64,
    pub caught: u64,
}
