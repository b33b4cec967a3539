//! A model's way back through the log: every round, unit, key and shard that shaped it, and the merges done again, from log and
//! blobs alone (docs/ledger.md, section 9).

use std::collections::BTreeSet;

use manyhands_protocol::log::entry::{LogInput, LogMerge, LogResult, MergeInput, MergedBy, ModelState, Role};
use manyhands_protocol::manifest::{JobManifest, JobWork, TrainRecipe, parse_json};
use manyhands_protocol::work::{TrainWork, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId};

use super::{LedgerError, Log, Source, open_result};
use crate::keys::blob_hash;
use crate::merge::{self, OuterState, Update};
use crate::scheduler;

/// What shaped a model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    pub job: u64,
    pub name: String,
    pub rounds: u32,
    pub units: u64,
    /// Units whose update is the coordinator's own.
    pub refereed: u64,
    pub keys: BTreeSet<KeyId>,
    pub shards: BTreeSet<BlobHash>,
}

/// Walks from a model's file back to its job, does all merges again, and compares every state with the log's, and the last with
/// the file.
pub async fn verify(source: &dyn Source, log: &Log, model: &[u8]) -> Result<Provenance, LedgerError> {
    let file = blob_hash(model);
    let found = log.checkpoints.iter().find(|checkpoint| checkpoint.state.checkpoint == file);
    let found = found.ok_or(LedgerError::UnknownModel(file))?;
    let job = found.job;
    let wrong = |reason: &str| LedgerError::Job { job, reason: reason.to_owned() };
    let logged = log.jobs.iter().find(|logged| logged.job == job).ok_or_else(|| wrong("its manifest is not in the log"))?;
    let manifest: JobManifest = parse_json(&logged.manifest)?;
    manifest.validate()?;
    let JobWork::Train(recipe) = manifest.work else { return Err(wrong("it trains nothing")) };
    let shards = shards(log, job, logged.inputs_count).map_err(wrong)?;

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

/// The job's shards in order. All of its data must be in the log: as many inputs as it says, each place of a role once.
fn shards(log: &Log, job: JobId, inputs_count: u64) -> Result<Vec<BlobHash>, &'static str> {
    let inputs: Vec<&LogInput> = log.inputs.iter().filter(|input| input.job == job).collect();
    if inputs.len() as u64 != inputs_count {
        return Err("its data is not all in the log, or more than there was");
    }
    let of = |role: Role| {
        let mut of: Vec<&LogInput> = inputs.iter().copied().filter(|input| input.role == role).collect();
        of.sort_by_key(|input| input.place);
        of
    };
    let (shards, held_out) = (of(Role::Shard), of(Role::HeldOut));
    let in_order = |inputs: &[&LogInput]| inputs.iter().zip(0..).all(|(input, place)| input.place == place);
    if !in_order(&shards) || !in_order(&held_out) || shards.is_empty() || held_out.len() != 1 {
        return Err("its data is not shards in order and one set that is held out");
    }
    Ok(shards.into_iter().map(|input| input.hash).collect())
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
    shards: &[BlobHash],
    provenance: &mut Provenance,
) -> Result<OuterState, LedgerError> {
    let wrong = |reason: String| LedgerError::Round { job: logged.job, round: logged.round, reason };
    if logged.rule != merge::rule_name(recipe.merge) {
        return Err(wrong(format!("its rule is {}, not that of its manifest", logged.rule)));
    }
    let in_order = logged.inputs.windows(2).all(|pair| pair[0].unit < pair[1].unit);
    if !in_order
        || !logged.inputs.iter().all(|input| matches!(input.weight_micro, 1..=1_000_000) && input.weight_micro % 1_000 == 0)
    {
        return Err(wrong("units are merged in ascending order, each once, by thousandths of 1".to_owned()));
    }
    // A round's units have ids in the order in which the recipe makes them.
    let units = scheduler::round_units(recipe, shards, logged.before.checkpoint, logged.round);
    if units.len() != logged.inputs.len() {
        return Err(wrong(format!("{} updates are merged, its manifest has {} units a round", logged.inputs.len(), units.len())));
    }
    let mut updates = Vec::with_capacity(logged.inputs.len());
    for (input, unit) in logged.inputs.iter().zip(units) {
        let Work::Train(work) = unit.work else { return Err(wrong("its units train nothing".to_owned())) };
        trace(log, logged.job, input, &work, provenance)?;
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

/// Who gave an update: every result of its unit is of the work that the job's manifest makes it.
fn trace(log: &Log, job: JobId, input: &MergeInput, work: &TrainWork, provenance: &mut Provenance) -> Result<(), LedgerError> {
    let wrong = |reason| LedgerError::Unit { unit: input.unit, reason };
    let mut given = false;
    for result in log.results.iter().filter(|result| result.unit == input.unit) {
        check_work(result, job, work).map_err(wrong)?;
        if result.settled_by != input.settled_by.name() {
            return Err(wrong("its merge and its results do not agree on who settled it"));
        }
        let (key, statement) = open_result(result).map_err(wrong)?;
        given |= statement.outputs.iter().any(|output| output.hash == input.output);
        provenance.keys.insert(key);
    }
    if !given && input.settled_by != MergedBy::Referee {
        return Err(wrong("no result gave its update, and the log does not say that the coordinator computed it"));
    }
    provenance.shards.insert(work.shard);
    provenance.units += 1;
    provenance.refereed += u64::from(!given);
    Ok(())
}

/// Whether a result's work is what the recipe makes of its unit.
fn check_work(result: &LogResult, job: JobId, expected: &TrainWork) -> Result<(), &'static str> {
    let Work::Train(work) = &result.work else { return Err("it trains nothing") };
    if result.job != job {
        return Err("it is of another job");
    }
    if (work.checkpoint, work.round) != (expected.checkpoint, expected.round) {
        return Err("it begins from another checkpoint than its round's");
    }
    if (work.shard, work.first_row) != (expected.shard, expected.first_row) {
        return Err("its shard or its rows are not those that its job's data gives it");
    }
    if work.model != expected.model {
        return Err("its model is not its manifest's");
    }
    if (work.batch, work.inner_steps, &work.optimizer) != (expected.batch, expected.inner_steps, &expected.optimizer) {
        return Err("its batch, its steps or its optimizer are not its manifest's");
    }
    Ok(())
}
