//! The statements in the log, each the payload of a COSE_Sign1 by the coordinator's key. None holds a site, an origin, an
//! address, a time or a device's name. The log itself knows none of them: it takes any signed bytes, so that a new kind of
//! statement is a new type here and nothing else.

use minicbor::{Decode, Encode};

use crate::cose::{self, Kind};
use crate::ids::{BlobHash, JobId, KeyId, UnitId};
use crate::wire::SignedBytes;
use crate::work::Work;
use crate::{cbor, limits};

/// A statement with its content type, ready to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    pub payload: Vec<u8>,
}

/// A payload that the coordinator signs for the log.
pub trait Entry: Encode<()> + for<'b> Decode<'b, ()> {
    const KIND: Kind;

    fn statement(&self) -> Statement {
        Statement { kind: Self::KIND, payload: cbor::encode(self) }
    }

    /// Reads an entry of this kind by this log's key, whose signature is the caller's to check.
    fn read(entry: &cose::Unverified) -> Option<Self> {
        cbor::decode_strict(&entry.payload).ok()
    }
}

macro_rules! entries {
    ($($name:ident)*) => {
        $(impl Entry for $name {
            const KIND: Kind = Kind::$name;
        })*
    };
}

entries!(LogResult LogJob LogInput LogCheckpoint LogMerge LogRollBack LogKey LogConsent LogRetraction);

/// A result that was accepted.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct LogResult {
    /// [`limits::PROTOCOL_VERSION`].
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    #[n(2)]
    pub unit: UnitId,
    /// The volunteer's own statement, signed by its key.
    #[n(3)]
    pub result: SignedBytes,
    /// What was to be computed.
    #[n(4)]
    pub work: Work,
    /// What settled the unit.
    #[n(5)]
    pub settled_by: String,
    #[n(6)]
    pub credit: Credit,
}

/// What an accepted result is credited: both follow from its work and its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub struct Credit {
    /// Floating-point operations of the unit.
    #[n(0)]
    pub flop: u64,
    /// Bytes of the outputs.
    #[n(1)]
    pub bytes: u64,
}

/// Operations, and bytes, that are worth one point.
const FLOP_PER_POINT: u64 = 1_000_000;
const BYTES_PER_POINT: u64 = 1_000;

impl Credit {
    /// One number for both, each rounded down by itself.
    pub fn points(self) -> u64 {
        (self.flop / FLOP_PER_POINT).saturating_add(self.bytes / BYTES_PER_POINT)
    }
}

/// A job that was approved.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogJob {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    /// The owner's manifest, JSON as the coordinator writes it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub manifest: Vec<u8>,
    /// How many [`LogInput`] follow.
    #[n(3)]
    pub inputs_count: u64,
}

/// One blob of an approved job's data.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogInput {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    #[n(2)]
    pub role: Role,
    /// Its place among the inputs of this role.
    #[n(3)]
    pub place: u64,
    #[n(4)]
    pub hash: BlobHash,
}

/// What an input is to its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    #[n(0)]
    Shard,
    /// What checkpoints are evaluated on.
    #[n(1)]
    HeldOut,
    #[n(2)]
    APanel,
    #[n(3)]
    BPanel,
}

/// A model's state between two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ModelState {
    /// The parameters' blob.
    #[n(0)]
    pub checkpoint: BlobHash,
    /// The outer optimiser's momentum, which is not served: whoever replays the merges computes it.
    #[n(1)]
    pub velocity: BlobHash,
}

/// A model's state that was evaluated and published.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogCheckpoint {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    /// How many rounds are merged in it.
    #[n(2)]
    pub round: u32,
    #[n(3)]
    pub state: ModelState,
    /// On the held-out data, in millionths.
    #[n(4)]
    pub loss_micro: u64,
    #[n(5)]
    pub accuracy_micro: u64,
}

/// The merge of a round's updates, or a part of a long one: all parts are the same but for `first` and `inputs`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogMerge {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    /// The round whose updates are merged.
    #[n(2)]
    pub round: u32,
    /// Names the rule, whose parameters are the job's manifest's.
    #[n(3)]
    pub rule: String,
    #[n(4)]
    pub before: ModelState,
    #[n(5)]
    pub after: ModelState,
    /// In all parts together.
    #[n(6)]
    pub inputs_count: u64,
    /// Place of this part's first input.
    #[n(7)]
    pub first: u64,
    /// In the order in which they are added.
    #[n(8)]
    pub inputs: Vec<MergeInput>,
}

/// Most inputs of one part: with each at its longest the entry is below what a bundle takes.
pub const MERGE_INPUTS_MAX: usize = 1_000;

/// One update of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MergeInput {
    #[n(0)]
    pub unit: UnitId,
    #[n(1)]
    pub output: BlobHash,
    /// In millionths.
    #[n(2)]
    pub weight_micro: u64,
    #[n(3)]
    pub settled_by: MergedBy,
}

/// Who settled a unit that is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum MergedBy {
    /// Volunteers' keys: one of its results gave the update.
    #[n(0)]
    Quorum,
    /// The coordinator computed it; the update is its own, or one of a result that agrees.
    #[n(1)]
    Referee,
}

impl MergedBy {
    /// What the unit's results in the log say in [`LogResult::settled_by`].
    pub fn name(self) -> &'static str {
        match self {
            MergedBy::Quorum => "quorum",
            MergedBy::Referee => "referee",
        }
    }
}

/// The merge of a round that was not kept: the round's units are open again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogRollBack {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    /// The round, and how many are merged in what the job goes on from.
    #[n(2)]
    pub round: u32,
    /// What the merge gave; never published.
    #[n(3)]
    pub from: ModelState,
    #[n(4)]
    pub to: ModelState,
    #[n(5)]
    pub reason: String,
}

/// Something that became of a volunteer's key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogKey {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub key: KeyId,
    #[n(2)]
    pub event: KeyEvent,
    /// Of a rotation: the key that took its place.
    #[n(3)]
    pub successor: Option<KeyId>,
}

/// See [`LogKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyEvent {
    #[n(0)]
    Rotated,
    /// Its results are taken out of open rounds and count for nothing from here on.
    #[n(1)]
    Quarantined,
}

/// A consent, which only who has the statement and its salt can find here.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogConsent {
    #[n(0)]
    pub version: u32,
    /// SHA-256 over the salt of 32 bytes and the signed statement.
    #[n(1)]
    pub commitment: BlobHash,
}

/// A result is accepted no more, and its credit taken away, because its unit is open again. It may be accepted anew.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogRetraction {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    #[n(2)]
    pub unit: UnitId,
    /// SHA-256 of the volunteer's signed statement, as in [`LogResult::result`].
    #[n(3)]
    pub result: BlobHash,
}

/// The entries of a merge, in parts that each fit.
pub fn merge_parts(merge: &LogMerge) -> Vec<LogMerge> {
    let parts = merge.inputs.chunks(MERGE_INPUTS_MAX).enumerate();
    parts
        .map(|(at, inputs)| LogMerge { first: (at * MERGE_INPUTS_MAX) as u64, inputs: inputs.to_vec(), ..merge.clone() })
        .collect()
}

/// A number in millionths, rounded down; 0 below it.
pub fn micro(value: f64) -> u64 {
    (value * 1e6) as u64
}

/// The version of all entries.
pub const VERSION: u32 = limits::PROTOCOL_VERSION;

#[cfg(test)]
mod tests {
    use super::super::tile::ENTRY_BYTES_MAX;
    use super::*;

    #[test]
    fn the_longest_merge_fits_in_parts_that_add_up() {
        let state = ModelState { checkpoint: BlobHash([1; 32]), velocity: BlobHash([2; 32]) };
        let input = |unit| MergeInput {
            unit: UnitId(u64::MAX - unit),
            output: BlobHash([3; 32]),
            weight_micro: u64::MAX,
            settled_by: MergedBy::Referee,
        };
        let merge = LogMerge {
            version: VERSION,
            job: JobId(u64::MAX),
            round: u32::MAX,
            rule: "a".repeat(limits::TEXT_BYTES_MAX),
            before: state,
            after: state,
            inputs_count: u64::from(limits::UNITS_PER_ROUND_MAX),
            first: 0,
            inputs: (0..u64::from(limits::UNITS_PER_ROUND_MAX)).map(input).collect(),
        };
        let parts = merge_parts(&merge);
        let mut joined = Vec::new();
        for part in &parts {
            assert_eq!(part.first, joined.len() as u64);
            joined.extend(part.inputs.clone());
            let entry = cose::prepare(LogMerge::KIND, KeyId([0; 32]), part.statement().payload).finish([0; 64]);
            assert!(entry.len() <= ENTRY_BYTES_MAX, "{}", entry.len());
        }
        assert_eq!(joined, merge.inputs);
    }

    #[test]
    fn credit_counts_operations_and_bytes() {
        assert_eq!(Credit { flop: 3_999_999, bytes: 1_999 }.points(), 4);
        assert_eq!(Credit { flop: u64::MAX, bytes: u64::MAX }.points(), u64::MAX / 1_000_000 + u64::MAX / 1_000);
    }
}
