//! A model's way back through the public log: every round, unit, key and shard that shaped it, and the merges done again, from
//! log and blobs alone (docs/ledger.md, section 9). It trusts the coordinator's key for who said what, and its words for nothing
//! that it can compute.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use manyhands::TensorError;
use manyhands_protocol::cose::{self, Kind};
use manyhands_protocol::log::entry::{
    Entry, KeyEvent, LogCheckpoint, LogInput, LogJob, LogKey, LogMerge, LogResult, LogRetraction, MergeInput, ModelState, Role,
};
use manyhands_protocol::log::note::Signed;
use manyhands_protocol::log::tile::Edge;
use manyhands_protocol::log::tree::leaf_hash;
use manyhands_protocol::manifest::{JobManifest, JobWork, ManifestError, TrainRecipe, parse_json};
use manyhands_protocol::statement::ResultStatement;
use manyhands_protocol::work::Work;
use manyhands_protocol::{BlobHash, JobId, KeyId, UnitId, cbor};

use crate::keys::{blob_hash, signed_by};
use crate::merge::{self, OuterState, Update};
use crate::scheduler;

/// Where a log and its blobs come from.
#[async_trait]
pub trait Source: Sync {
    /// The newest checkpoint, a signed note.
    async fn checkpoint(&self) -> Result<String, LedgerError>;
    /// The first `size` entries.
    async fn entries(&self, size: u64) -> Result<Vec<Vec<u8>>, LedgerError>;
    async fn blob(&self, hash: BlobHash) -> Result<Vec<u8>, LedgerError>;
}

/// Why a log, or a model's way back through it, does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot be read: {0}")]
    Source(String),
    #[error("the checkpoint is not one of {0}'s log")]
    Checkpoint(KeyId),
    #[error("the log has {got} entries, its checkpoint says {expected}")]
    Entries { got: u64, expected: u64 },
    #[error("the entries are not those that the checkpoint was signed for")]
    Root,
    #[error("entry {index}: {reason}")]
    Entry { index: u64, reason: &'static str },
    #[error("no checkpoint in the log is this file")]
    UnknownModel,
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

/// A log whose signatures and tree hold.
pub struct Log {
    pub size: u64,
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
    /// Reads and checks a whole log of the coordinator with this key.
    pub async fn read(source: &dyn Source, key: KeyId) -> Result<Log, LedgerError> {
        let signed = Signed::parse(&source.checkpoint().await?, key);
        let signed = signed.filter(|signed| signed_by(key, signed.text.as_bytes(), &signed.signature));
        let checkpoint = signed.ok_or(LedgerError::Checkpoint(key))?.checkpoint;
        let entries = source.entries(checkpoint.size).await?;
        if entries.len() as u64 != checkpoint.size {
            return Err(LedgerError::Entries { got: entries.len() as u64, expected: checkpoint.size });
        }
        let mut edge = Edge::default();
        let mut log = Log {
            size: checkpoint.size,
            results: Vec::new(),
            jobs: Vec::new(),
            inputs: Vec::new(),
            checkpoints: Vec::new(),
            merges: Vec::new(),
            credit: BTreeMap::new(),
            successors: BTreeMap::new(),
        };
        for (index, bytes) in entries.iter().enumerate() {
            edge.append(leaf_hash(bytes));
            log.add(bytes, key).map_err(|reason| LedgerError::Entry { index: index as u64, reason })?;
        }
        if edge.root() != checkpoint.root { Err(LedgerError::Root) } else { Ok(log) }
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

/// What shaped a model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    pub job: u64,
    pub name: String,
    pub rounds: u32,
    pub units: u64,
    /// Units that the coordinator computed itself.
    pub refereed: u64,
    pub keys: BTreeSet<KeyId>,
    pub shards: BTreeSet<BlobHash>,
}

/// Walks from a model's file back to its job, does all merges again, and compares every state with the log's, and the last with
/// the file.
pub async fn verify(source: &dyn Source, log: &Log, model: &[u8]) -> Result<Provenance, LedgerError> {
    let file = blob_hash(model);
    let found = log.checkpoints.iter().find(|checkpoint| checkpoint.state.checkpoint == file);
    let found = found.ok_or(LedgerError::UnknownModel)?;
    let job = found.job;
    let wrong = |reason: &str| LedgerError::Job { job, reason: reason.to_owned() };
    let logged = log.jobs.iter().find(|logged| logged.job == job).ok_or_else(|| wrong("its manifest is not in the log"))?;
    let manifest: JobManifest = parse_json(&logged.manifest)?;
    manifest.validate()?;
    let JobWork::Train(recipe) = manifest.work else { return Err(wrong("it trains nothing")) };
    let shards =
        log.inputs.iter().filter(|input| (input.job, input.role) == (job, Role::Shard)).map(|input| input.hash).collect();

    let mut merges = Vec::new();
    let (mut state, mut round) = (found.state, found.round);
    while round > 0 {
        let merge = log.merge_into(job, round - 1, state);
        let merge = merge.ok_or_else(|| LedgerError::Round { job, round, reason: "no merge in the log gave it".to_owned() })?;
        (state, round) = (merge.before, round - 1);
        merges.push(merge);
    }
    merges.reverse();

    let mut provenance = Provenance { job: job.0, name: manifest.name, rounds: found.round, ..Provenance::default() };
    let mut outer = OuterState::new(merge::initial_parameters(&recipe.model, recipe.seed));
    if state_of(&recipe, &outer) != state {
        return Err(wrong("its first checkpoint is not that of its manifest"));
    }
    for logged in &merges {
        outer = merge_again(source, log, &recipe, logged, outer, &shards, &mut provenance).await?;
    }
    if merge::write_tensors(&recipe.model, &outer.parameters) != model {
        return Err(wrong("the merges give other bytes than the file's"));
    }
    Ok(provenance)
}

fn state_of(recipe: &TrainRecipe, outer: &OuterState) -> ModelState {
    let hash = |tensors| blob_hash(&merge::write_tensors(&recipe.model, tensors));
    ModelState { checkpoint: hash(&outer.parameters), velocity: hash(&outer.velocity) }
}

async fn merge_again(
    source: &dyn Source,
    log: &Log,
    recipe: &TrainRecipe,
    logged: &LogMerge,
    before: OuterState,
    shards: &BTreeSet<BlobHash>,
    provenance: &mut Provenance,
) -> Result<OuterState, LedgerError> {
    let wrong = |reason: String| LedgerError::Round { job: logged.job, round: logged.round, reason };
    if logged.rule != merge::rule_name(recipe.merge) {
        return Err(wrong(format!("this program does not know the rule {}", logged.rule)));
    }
    let in_order = logged.inputs.windows(2).all(|pair| pair[0].unit < pair[1].unit);
    if !in_order
        || !logged.inputs.iter().all(|input| matches!(input.weight_micro, 1..=1_000_000) && input.weight_micro % 1_000 == 0)
    {
        return Err(wrong("units are merged in ascending order, each once, by thousandths of 1".to_owned()));
    }
    let mut updates = Vec::with_capacity(logged.inputs.len());
    for input in &logged.inputs {
        trace(log, logged, input, shards, provenance)?;
        let bytes = source.blob(input.output).await?;
        if blob_hash(&bytes) != input.output {
            return Err(LedgerError::Blob(input.output));
        }
        let weight = (input.weight_micro / 1_000) as f64 / 1000.0;
        updates.push(Update { unit: input.unit, weight, tensors: merge::read_tensors(&recipe.model, &bytes)? });
    }
    let after = merge::step(recipe.merge, &recipe.outer_optimizer, &before, &updates);
    if state_of(recipe, &after) != logged.after {
        return Err(wrong("merging its updates again gives another state than the log says".to_owned()));
    }
    Ok(after)
}

/// Who gave an update, out of what: every result of its unit is of the round's own checkpoint and of the job's data.
fn trace(
    log: &Log,
    logged: &LogMerge,
    input: &MergeInput,
    shards: &BTreeSet<BlobHash>,
    provenance: &mut Provenance,
) -> Result<(), LedgerError> {
    let wrong = |reason| LedgerError::Unit { unit: input.unit, reason };
    let mut given = false;
    for result in log.results.iter().filter(|result| result.unit == input.unit) {
        let Work::Train(work) = &result.work else { return Err(wrong("it trains nothing")) };
        if (result.job, work.checkpoint, work.round) != (logged.job, logged.before.checkpoint, logged.round) {
            return Err(wrong("it begins from another checkpoint than its round's"));
        }
        if !shards.contains(&work.shard) {
            return Err(wrong("its shard is none of its job's"));
        }
        let (key, statement) = open_result(result).map_err(wrong)?;
        given |= statement.outputs.iter().any(|output| output.hash == input.output);
        provenance.keys.insert(key);
        provenance.shards.insert(work.shard);
    }
    provenance.units += 1;
    provenance.refereed += u64::from(!given);
    Ok(())
}
