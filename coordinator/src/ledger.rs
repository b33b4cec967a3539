//! Reads a whole public log and checks it (docs/ledger.md): signatures, tree, credit, that it goes on from what was seen before,
//! and who cosigned it. It trusts the coordinator's key for who said what, and its words for nothing that it can compute. What
//! shaped a model is in `walk`.

mod walk;

pub use walk::{Provenance, verify};

use std::collections::BTreeMap;

use async_trait::async_trait;
use manyhands::TensorError;
use manyhands_protocol::cose::{self, Kind};
use manyhands_protocol::log::entry::{
    Entry, KeyEvent, LogCheckpoint, LogInput, LogJob, LogKey, LogMerge, LogResult, LogRetraction, ModelState,
};
use manyhands_protocol::log::note::{Checkpoint, ED25519, Note, origin};
use manyhands_protocol::log::tile::Edge;
use manyhands_protocol::log::tree::leaf_hash;
use manyhands_protocol::log::witness::{Cosignature, WitnessKey, cosigned};
use manyhands_protocol::manifest::ManifestError;
use manyhands_protocol::statement::ResultStatement;
use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId, cbor};

use crate::keys::{blob_hash, signed_by};
use crate::scheduler;

/// Where a log and its blobs come from.
#[async_trait]
pub trait Source: Sync {
    /// The newest checkpoint that so many witnesses cosigned, a signed note.
    async fn checkpoint(&self, cosignatures_count: usize) -> Result<String, LedgerError>;
    /// The first `size` entries.
    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError>;
    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError>;
}

/// Why a log, or a model's way back through it, does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot be read: {0}")]
    Source(String),
    #[error("the checkpoint {reason}; the log that is asked for is that of key {key}")]
    Checkpoint { key: KeyId, reason: String },
    #[error("the log shrank: {seen} entries were signed before, {now} are signed now")]
    Shrank { seen: u64, now: u64 },
    #[error("the log was rewritten: its first {seen} entries are not those that were signed before")]
    Rewritten { seen: u64 },
    #[error("{got} of the {expected} witnesses that are asked for cosigned the checkpoint of {size} entries")]
    Cosignatures { got: usize, expected: usize, size: u64 },
    #[error("the log has {got} entries, its checkpoint says {expected}")]
    Entries { got: u64, expected: u64 },
    #[error("the entries are not those that the checkpoint was signed for")]
    Root,
    #[error("entry {index}: {reason}")]
    Entry { index: u64, reason: &'static str },
    #[error("no checkpoint in the log is this file, whose SHA-256 is {0}")]
    UnknownModel(BlobHash),
    #[error("job {job}: {reason}")]
    Job { job: JobId, reason: String },
    #[error("job {job}, round {round}: {reason}")]
    Round { job: JobId, round: u32, reason: String },
    #[error("unit {unit}: {reason}")]
    Unit { unit: UnitId, reason: &'static str },
    #[error("blob {0} has other bytes")]
    Blob(BlobHash),
    #[error("tensors: {0}")]
    Tensors(#[from] TensorError),
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
}

/// What a log must be to be believed.
#[derive(Debug)]
pub struct Trust {
    /// The coordinator's key.
    pub key: KeyId,
    /// A checkpoint of it that was verified before, from which it must go on.
    pub seen: Option<Checkpoint>,
    pub witnesses: Vec<WitnessKey>,
    /// How many of them must have cosigned it.
    pub cosignatures_count: usize,
}

impl Trust {
    /// Of whoever has seen nothing of the log yet and knows no witness.
    pub fn of(key: KeyId) -> Trust {
        Trust { key, seen: None, witnesses: Vec::new(), cosignatures_count: 0 }
    }

    fn check_cosignatures(&self, note: &str, size: u64) -> Result<(), LedgerError> {
        let got =
            Note::parse(note).map_or(0, |note| self.witnesses.iter().filter(|witness| has_cosigned(witness, &note)).count());
        let expected = self.cosignatures_count;
        if got < expected { Err(LedgerError::Cosignatures { got, expected, size }) } else { Ok(()) }
    }
}

/// Whether this witness signed a checkpoint.
pub fn has_cosigned(witness: &WitnessKey, note: &Note) -> bool {
    let holds = |c: &Cosignature| signed_by(witness.key, &cosigned(&note.text, c.time_s), &c.signature);
    witness.cosignatures(note).iter().any(holds)
}

/// A checkpoint of the log with this key, its signature checked.
pub fn read_checkpoint(note: &str, key: KeyId) -> Result<Checkpoint, LedgerError> {
    let wrong = |reason: &str| LedgerError::Checkpoint { key, reason: reason.to_owned() };
    let note = Note::parse(note).ok_or_else(|| wrong("is no signed note"))?;
    let checkpoint = Checkpoint::parse(&note.text).ok_or_else(|| wrong("is a note about something else"))?;
    if checkpoint.origin != origin(key) {
        return Err(wrong(&format!("is of the log {}", checkpoint.origin)));
    }
    let signature = note.by(&checkpoint.origin, ED25519, key).next().and_then(|signature| signature.try_into().ok());
    let signature = signature.ok_or_else(|| wrong("has no signature by its log's key"))?;
    if !signed_by(key, note.text.as_bytes(), signature) {
        return Err(wrong("has a false signature"));
    }
    Ok(checkpoint)
}

/// A log whose signatures and tree hold.
pub struct Log {
    pub size: u64,
    /// The checkpoint that it was read by.
    pub note: String,
    results: Vec<LogResult>,
    jobs: Vec<LogJob>,
    inputs: Vec<LogInput>,
    checkpoints: Vec<LogCheckpoint>,
    merges: Vec<LogMerge>,
    /// Points by key, those of replaced keys at their successors.
    pub credit: BTreeMap<KeyId, u64>,
    successors: BTreeMap<KeyId, KeyId>,
}

impl Log {
    /// Reads and checks a whole log.
    pub async fn read(source: &dyn Source, trust: &Trust) -> Result<Log, LedgerError> {
        let key = trust.key;
        let note = source.checkpoint(trust.cosignatures_count).await?;
        let checkpoint = read_checkpoint(&note, key)?;
        trust.check_cosignatures(&note, checkpoint.size)?;
        if let Some(seen) = trust.seen.as_ref().filter(|seen| seen.size > checkpoint.size) {
            return Err(LedgerError::Shrank { seen: seen.size, now: checkpoint.size });
        }
        let entries = source.entries(checkpoint.size).await?;
        if entries.len() as u64 != checkpoint.size {
            return Err(LedgerError::Entries { got: entries.len() as u64, expected: checkpoint.size });
        }
        let mut edge = Edge::default();
        let mut log = Log {
            size: checkpoint.size,
            note,
            results: Vec::new(),
            jobs: Vec::new(),
            inputs: Vec::new(),
            checkpoints: Vec::new(),
            merges: Vec::new(),
            credit: BTreeMap::new(),
            successors: BTreeMap::new(),
        };
        let mut seen_root = trust.seen.as_ref().filter(|seen| seen.size == 0).map(|_| edge.root());
        for (index, bytes) in entries.iter().enumerate() {
            edge.append(leaf_hash(bytes));
            if trust.seen.as_ref().is_some_and(|seen| seen.size == edge.size) {
                seen_root = Some(edge.root());
            }
            log.add(bytes, key).map_err(|reason| LedgerError::Entry { index: index as u64, reason })?;
        }
        if edge.root() != checkpoint.root {
            return Err(LedgerError::Root);
        }
        match &trust.seen {
            Some(seen) if seen_root != Some(seen.root) => Err(LedgerError::Rewritten { seen: seen.size }),
            _ => Ok(log),
        }
    }

    fn add(&mut self, bytes: &[u8], key: KeyId) -> Result<(), &'static str> {
        let (content_type, entry) = cose::open_any(bytes).ok_or("no signed statement")?;
        if entry.key != key || !signed_by(key, &entry.to_be_signed, &entry.signature) {
            return Err("not signed by the coordinator");
        }
        const MALFORMED: &str = "not of its kind's form";
        match Kind::logged(&content_type) {
            Some(Kind::LogResult) => {
                let result = LogResult::read(&entry).ok_or(MALFORMED)?;
                let (volunteer, statement) = open_result(&result)?;
                let bytes = statement.outputs.iter().fold(0u64, |sum, output| sum.saturating_add(output.bytes));
                if (result.credit.flop, result.credit.bytes) != (scheduler::flop(&result.work), bytes) {
                    return Err("credited with more or less than it is worth");
                }
                let points = self.credit.entry(self.holder(volunteer)).or_default();
                *points = points.saturating_add(result.credit.points());
                self.results.push(result);
            }
            Some(Kind::LogRetraction) => {
                let retraction = LogRetraction::read(&entry).ok_or(MALFORMED)?;
                let retracted = |result: &LogResult| {
                    (result.job, result.unit) == (retraction.job, retraction.unit)
                        && blob_hash(&result.result.0) == retraction.result
                };
                let at = self.results.iter().rposition(retracted).ok_or("takes back a result that is not accepted")?;
                let result = self.results.remove(at);
                let (volunteer, _) = open_result(&result)?;
                let points = self.credit.entry(self.holder(volunteer)).or_default();
                *points = points.saturating_sub(result.credit.points());
            }
            Some(Kind::LogKey) => {
                let event = LogKey::read(&entry).ok_or(MALFORMED)?;
                if let (KeyEvent::Rotated, Some(successor)) = (event.event, event.successor) {
                    let passed = self.credit.remove(&event.key).unwrap_or_default();
                    let points = self.credit.entry(successor).or_default();
                    *points = points.saturating_add(passed);
                    self.successors.insert(event.key, successor);
                }
            }
            Some(Kind::LogJob) => self.jobs.push(LogJob::read(&entry).ok_or(MALFORMED)?),
            Some(Kind::LogInput) => self.inputs.push(LogInput::read(&entry).ok_or(MALFORMED)?),
            Some(Kind::LogCheckpoint) => self.checkpoints.push(LogCheckpoint::read(&entry).ok_or(MALFORMED)?),
            Some(Kind::LogMerge) => self.merges.push(LogMerge::read(&entry).ok_or(MALFORMED)?),
            // Statements that nothing here follows from, and those of kinds that are not known yet.
            _ => {}
        }
        Ok(())
    }

    /// Who has the credit of this key by now. Replacements form no circle in an honest log, and end here in a dishonest one.
    fn holder(&self, key: KeyId) -> KeyId {
        let mut holder = key;
        for _ in 0..self.successors.len() {
            match self.successors.get(&holder) {
                Some(successor) => holder = *successor,
                None => break,
            }
        }
        holder
    }

    /// The merge of a round that gave this state, all its parts joined; none where it is not of that merge.
    fn merge_into(&self, job: JobId, round: u32, state: ModelState) -> Option<LogMerge> {
        let is_part = |merge: &&LogMerge| (merge.job, merge.round, merge.after) == (job, round, state);
        let mut parts: Vec<_> = self.merges.iter().filter(is_part).collect();
        parts.sort_by_key(|part| part.first);
        let mut joined = LogMerge { inputs: Vec::new(), ..(*parts.first()?).clone() };
        for part in parts {
            if part.first == joined.inputs.len() as u64 {
                joined.inputs.extend(&part.inputs);
            }
        }
        (joined.inputs.len() as u64 == joined.inputs_count).then_some(joined)
    }
}

/// The volunteer that gave a result, and its own statement.
fn open_result(result: &LogResult) -> Result<(KeyId, ResultStatement), &'static str> {
    let opened = cose::open(Kind::Result, &result.result.0).map_err(|_| "no signed result in it")?;
    if !signed_by(opened.key, &opened.to_be_signed, &opened.signature) {
        return Err("the result in it is not signed by its volunteer");
    }
    let statement: ResultStatement = cbor::decode_strict(&opened.payload).map_err(|_| "no result in it")?;
    if (statement.job, statement.unit) != (result.job, result.unit) {
        return Err("the result in it is of another unit");
    }
    Ok((opened.key, statement))
}
