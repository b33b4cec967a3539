//! Challenges of a training result: what the coordinator asks, and the signed answers. Hashing is in [`crate::states`],
//! which steps are drawn in [`crate::rules::challenge`].

use minicbor::{Decode, Encode};

use crate::ids::{BlobHash, LeaseId, TreeHash};

/// Answer to `GET` and `POST /v1/challenges/{lease}`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChallengeResponse {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub ask: Ask,
    /// An answer after this is too late; 0 where none is waited for.
    #[n(2)]
    pub deadline_ms: u64,
}

/// What is waited for. States are numbered by the inner steps before them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Ask {
    /// A commitment to every state from `first_step` to `first_step + steps`.
    #[n(0)]
    Segment {
        #[n(0)]
        first_step: u32,
        #[n(1)]
        steps: u32,
    },
    /// A commitment to every tensor of the step from state `step` to the next.
    #[n(1)]
    Trace {
        #[n(0)]
        step: u32,
    },
    /// That step.
    #[n(2)]
    Reveal {
        #[n(0)]
        step: u32,
        /// The layers to show; all where it is empty.
        #[n(1)]
        layers: Vec<u32>,
    },
    /// Nothing: what was shown is being checked, or was. `POST /v1/results` tells the verdict.
    #[n(3)]
    Nothing,
    /// The states that the segment begins and ends with, so far as the coordinator lacks them.
    #[n(4)]
    Ends {
        #[n(0)]
        first_step: u32,
        #[n(1)]
        steps: u32,
    },
}

/// One stage's answer, signed by the key that the lease was given to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChallengeAnswer {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub lease: LeaseId,
    #[n(2)]
    pub answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Answer {
    #[n(0)]
    Segment(#[n(0)] Segment),
    /// The root over the step's tensors.
    #[n(1)]
    Trace(#[n(0)] TreeHash),
    #[n(2)]
    Reveal(#[n(0)] Reveal),
    /// The device that computed the unit is gone, and no other gives the same bits.
    #[n(3)]
    Unable,
    #[n(4)]
    Ends(#[n(0)] Ends),
}

/// The states of a segment, tied to those that the result committed to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Segment {
    /// Over all states of the segment.
    #[n(0)]
    pub root: TreeHash,
    /// The state that the segment begins with, and the one that it ends with.
    #[n(1)]
    pub first: TreeHash,
    #[n(2)]
    pub last: TreeHash,
    /// Shows `first` under the result's root.
    #[n(3)]
    pub first_committed: Vec<TreeHash>,
    #[n(4)]
    pub last_committed: Vec<TreeHash>,
    /// Shows `first` under `root`.
    #[n(5)]
    pub first_path: Vec<TreeHash>,
    #[n(6)]
    pub last_path: Vec<TreeHash>,
    /// Shows state 0, which everyone knows, under the result's root.
    #[n(7)]
    pub initial_path: Vec<TreeHash>,
    /// The leaves of the unit's last state; those of its parameters follow from the output.
    #[n(8)]
    pub end_leaves: Vec<TreeHash>,
    #[n(9)]
    pub end_path: Vec<TreeHash>,
}

/// A whole step: its tensors in an uploaded file, and where its states are.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reveal {
    /// The file.
    #[n(0)]
    pub hash: BlobHash,
    #[n(1)]
    pub bytes: u64,
    /// Shows the state before the step under the segment's root.
    #[n(2)]
    pub before_path: Vec<TreeHash>,
    #[n(3)]
    pub after_path: Vec<TreeHash>,
}

/// The ends of a segment: their tensors in an uploaded file, and where they are among the committed states. State 0 is not in
/// it, nor is the unit's last: the coordinator has the checkpoint and the output.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ends {
    /// The file.
    #[n(0)]
    pub hash: BlobHash,
    #[n(1)]
    pub bytes: u64,
    /// Shows the segment's first state under the result's root; empty where it is state 0.
    #[n(2)]
    pub first_path: Vec<TreeHash>,
    /// Shows its last; empty where it is the unit's last.
    #[n(3)]
    pub last_path: Vec<TreeHash>,
}
