//! JSON views: what the page, the command line and anyone else may read. Derived from the store, never read back.

use serde::{Deserialize, Serialize};

use crate::ids::{BlobHash, JobId, KeyId};
use crate::manifest::{Category, Target};
use crate::model::Model;
use crate::wire::Totals;

/// `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InfoView {
    pub name: String,
    pub software_version: String,
    pub protocol_version: u32,
    pub terms_version: u32,
    /// The coordinator's key: the audience of consent statements and the signer of unit manifests.
    pub key: KeyId,
    /// Fresh session nonce, hexadecimal; good once, for `nonce_ms`.
    pub nonce: String,
    pub nonce_ms: u64,
    /// The coordinator's clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    pub lease_ms: u64,
    pub heartbeat_ms: u64,
    pub blob_bytes_max: u64,
    pub session_ms_max: u64,
    /// The operator stopped all work.
    pub stopped: bool,
}

/// `GET /v1/jobs` and `GET /v1/admin/jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobsView {
    pub jobs: Vec<JobView>,
}

/// `GET /v1/jobs/{id}`, and the data of each of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub id: JobId,
    pub name: String,
    pub title: String,
    pub description: String,
    pub owner: String,
    pub category: Category,
    /// `matmul` or `train`.
    pub kind: String,
    pub state: JobState,
    /// Why the coordinator itself cancelled the job; empty otherwise.
    #[serde(default)]
    pub reason: String,
    pub units_total: u64,
    pub units_settled: u64,
    /// Keys that returned an accepted result for this job.
    pub contributors: u64,
    /// Keys with a live lease on one of its units now.
    pub contributors_now: u64,
    pub results_accepted: u64,
    pub results_rejected: u64,
    /// Units the coordinator's own referee computed.
    pub units_refereed: u64,
    /// What checking costs; none before a unit is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<TaxView>,
    /// Set on `train` jobs.
    pub train: Option<TrainView>,
}

/// All floating-point operations of volunteers and coordinator beyond one execution of each settled unit, divided by those of
/// that execution. Of results that have a verdict; evaluations of checkpoints are no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaxView {
    /// Executions by volunteers beyond the first.
    pub replicas: f64,
    /// Executions by the referee of what a volunteer computed too.
    pub audits: f64,
    /// Checks of results.
    pub checks: f64,
    pub total: f64,
}

impl TaxView {
    /// The parts of the total, by name.
    pub fn components(&self) -> [(&'static str, f64); 3] {
        [("replicas", self.replicas), ("audits", self.audits), ("checks", self.checks)]
    }

    /// From what settled units are worth, and what judged results, the referee and checks took.
    pub fn of(settled_flop: u64, judged_flop: u64, referee_flop: u64, check_flop: u64) -> Option<TaxView> {
        if settled_flop == 0 {
            return None;
        }
        // What volunteers did not compute once, the referee did for them.
        let by_referee = settled_flop.saturating_sub(judged_flop);
        let share = |flop: u64| flop as f64 / settled_flop as f64;
        let replicas = share(judged_flop.saturating_sub(settled_flop));
        let (audits, checks) = (share(referee_flop.saturating_sub(by_referee)), share(check_flop));
        Some(TaxView { replicas, audits, checks, total: replicas + audits + checks })
    }
}

/// Progress of a `train` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainView {
    pub model: Model,
    /// Rounds merged so far.
    pub rounds_merged: u32,
    /// Merges that made the model worse, so that the referee looked again.
    #[serde(default)]
    pub merges_undone: u32,
    pub rounds_max: u32,
    pub units_per_round: u32,
    /// `target_accuracy` or `target_bits_per_byte`.
    #[serde(flatten)]
    pub target: Target,
    /// Newest checkpoint, and the held-out set it is evaluated on.
    pub checkpoint: BlobHash,
    pub test: BlobHash,
    /// Held-out evaluation of the initial checkpoint (round 0) and after each merged round, oldest first.
    pub history: Vec<RoundView>,
}

/// One evaluated checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundView {
    pub round: u32,
    /// Held-out mean loss and accuracy, 0 to 1.
    pub loss: f64,
    pub accuracy: f64,
    /// The loss in bits; set for models of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    pub checkpoint: BlobHash,
    pub at_ms: u64,
}

impl TrainView {
    /// Whether the newest checkpoint is as good as the job's owner wants it.
    pub fn is_reached(&self) -> bool {
        self.history.last().is_some_and(|last| self.target.is_reached(last.loss, last.accuracy))
    }
}

/// States of a job. Units are leased in `running` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Submitted; the operator has not approved it.
    Submitted,
    Running,
    Paused,
    Cancelled,
    /// All units settled, or target accuracy reached, or out of rounds.
    Finished,
}

impl JobState {
    /// The name in the store and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Submitted => "submitted",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Cancelled => "cancelled",
            JobState::Finished => "finished",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<JobState> {
        [JobState::Submitted, JobState::Running, JobState::Paused, JobState::Cancelled, JobState::Finished]
            .into_iter()
            .find(|s| s.name() == name)
    }
}

/// `GET /v1/keys/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyView {
    pub key: KeyId,
    pub first_seen_ms: u64,
    /// Its own, and those of the keys whose place it took.
    pub totals: Totals,
    /// Of each device class on which it has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standings: Vec<StandingView>,
    /// A result of it was proved wrong: until then it gets no work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_until_ms: Option<u64>,
    /// The key that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<KeyId>,
}

/// What a key has proved on one device class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingView {
    pub backend: String,
    /// Gradient results in a row that another execution confirmed.
    pub run: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tax_is_what_goes_beyond_one_execution() {
        let of = |settled, judged, referee, check| {
            let tax = TaxView::of(settled, judged, referee, check).expect("a settled unit");
            (tax.replicas, tax.audits, tax.checks, tax.total)
        };
        assert_eq!(TaxView::of(0, 5, 0, 1), None);
        assert_eq!(of(100, 100, 0, 0), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(of(100, 200, 0, 8), (1.0, 0.0, 0.08, 1.08), "two-fold replication");
        assert_eq!(of(100, 100, 25, 0), (0.0, 0.25, 0.0, 0.25), "one in four is audited");
        assert_eq!(of(100, 75, 25, 0), (0.0, 0.0, 0.0, 0.0), "what nobody computed the referee did");
        assert_eq!(of(100, 75, 50, 0), (0.0, 0.25, 0.0, 0.25));
    }
}
