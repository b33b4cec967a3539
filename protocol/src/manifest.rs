//! The job owner's manifest (JSON): what to compute, for whom, by which recipe. Validation names the field at fault.

use serde::{Deserialize, Serialize};

pub use crate::category::Category;
use crate::ids::BlobHash;
use crate::limits;
use crate::model::Model;
use crate::work::{Dtype, InnerOptimizer};

/// A job as its owner describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobManifest {
    /// [`limits::PROTOCOL_VERSION`].
    pub version: u32,
    /// Short name, lower-case letters, digits and hyphens.
    pub name: String,
    /// Shown to visitors.
    pub title: String,
    pub description: String,
    /// For whom it is computed; shown to visitors before they consent.
    pub owner: String,
    pub category: Category,
    pub work: JobWork,
}

/// The two kinds of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum JobWork {
    Matmul(MatmulRecipe),
    Train(TrainRecipe),
}

/// `C = A · B`, cut into blocks of at most `block` rows and columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatmulRecipe {
    #[serde(default = "default_block")]
    pub block: u32,
    /// Element type of A and B; C is f32.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: Dtype,
}

fn default_block() -> u32 {
    256
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Rounds of local SGD with an outer optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    pub model: Model,
    /// Inner steps H of one unit.
    pub inner_steps: u32,
    /// Examples in one inner step.
    pub batch: u32,
    pub inner_optimizer: InnerOptimizer,
    pub outer_optimizer: OuterOptimizer,
    /// What a round's updates come to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub merge: MergeRule,
    pub units_per_round: u32,
    pub rounds_max: u32,
    /// The job finishes when held-out accuracy reaches this, 0 to 1. A manifest has this target or the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_accuracy: Option<f64>,
    /// The job, of a model of text, finishes when its held-out loss in bits for each byte is no more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_bits_per_byte: Option<f64>,
    /// Examples in one shard; a multiple of `batch`.
    pub rows_per_shard: u32,
    /// Seed of the initial parameters and of the shuffle before cutting shards.
    pub seed: u64,
    /// The data is a text to be cut; without this it is files of examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextRecipe>,
}

/// One text of bytes as data: its beginning is trained on, its end held out. Each is cut into windows of the model's
/// positions, one after another; the answer at each position is the byte after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecipe {
    /// Share of the text, at its end, that is held out, in percent.
    pub held_out_percent: u32,
    /// Most windows of the held-out part that a checkpoint is evaluated on, spread evenly over it; all without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_rows_max: Option<u32>,
}

/// When a job has learnt enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// Held-out accuracy of at least this.
    #[serde(rename = "target_accuracy")]
    Accuracy(f64),
    /// A held-out loss of at most so many bits for each byte.
    #[serde(rename = "target_bits_per_byte")]
    BitsPerByte(f64),
}

impl Target {
    /// Whether a checkpoint of this held-out loss and accuracy is good enough; one that is not a number is not.
    pub fn is_reached(self, loss: f64, accuracy: f64) -> bool {
        match self {
            Target::Accuracy(least) => accuracy >= least,
            Target::BitsPerByte(most) => bits(loss) <= most,
        }
    }
}

/// A loss, which is in nats, in bits.
pub fn bits(loss: f64) -> f64 {
    loss / std::f64::consts::LN_2
}

/// How a round's updates become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MergeRule {
    /// Clipped to twice the median distance from the median of each coordinate.
    #[default]
    CenteredClipping,
    /// Without the smallest and the largest `percent` of each coordinate.
    TrimmedMean { percent: u32 },
    /// All alike, whatever they are: nothing keeps one liar from moving it.
    Mean,
}

/// The outer optimiser, applied to what a round's updates come to, `g`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OuterOptimizer {
    /// `v ← momentum · v + g; p ← p − learning_rate · (g + momentum · v)`.
    Nesterov { learning_rate: f32, momentum: f32 },
}

/// A manifest with its cut inputs, as `POST /v1/admin/jobs` takes it. All blobs were uploaded before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    pub manifest: JobManifest,
    pub inputs: Inputs,
}

/// Content-addressed inputs of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Inputs {
    /// Row panels of A (`a` `[rows, k]`) and column panels of B (`b` `[k, columns]`); the last of each may be smaller.
    Matmul { m: u64, k: u64, n: u64, a_panels: Vec<BlobHash>, b_panels: Vec<BlobHash> },
    /// Shards and the held-out set: `x` `[rows, …]` and `y` `[rows]` u8.
    Train { shards: Vec<BlobHash>, test: BlobHash },
}

/// A manifest that cannot run; `field` is its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ManifestError {
    pub field: String,
    pub reason: String,
}

fn check(ok: bool, field: &str, reason: impl Into<String>) -> Result<(), ManifestError> {
    if ok { Ok(()) } else { Err(ManifestError { field: field.to_owned(), reason: reason.into() }) }
}

/// Parses JSON into a manifest or submission; the error carries the path of the field that is wrong.
pub fn parse_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ManifestError> {
    let mut de = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut de)
        .map_err(|e| ManifestError { field: e.path().to_string(), reason: e.inner().to_string() })?;
    de.end().map_err(|e| ManifestError { field: ".".to_owned(), reason: e.to_string() })?;
    Ok(value)
}

impl JobManifest {
    /// Checks every field against `limits`.
    pub fn validate(&self) -> Result<(), ManifestError> {
        check(self.version == limits::PROTOCOL_VERSION, "version", format!("must be {}", limits::PROTOCOL_VERSION))?;
        let name_ok = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        check(name_ok, "name", "must be 1 to 64 lower-case letters, digits and hyphens")?;
        for (text, field, max) in
            [(&self.title, "title", 120), (&self.owner, "owner", 120), (&self.description, "description", 2000)]
        {
            check(!text.trim().is_empty() && text.chars().count() <= max, field, format!("must be 1 to {max} characters"))?;
        }
        match &self.work {
            JobWork::Matmul(recipe) => check((1..=4096).contains(&recipe.block), "work.block", "must be 1 to 4096"),
            JobWork::Train(recipe) => recipe.validate(),
        }
    }
}

impl TrainRecipe {
    fn validate(&self) -> Result<(), ManifestError> {
        self.model.parameters().map_err(|e| ManifestError { field: format!("work.model.{}", e.field), reason: e.reason })?;
        check(self.model.classes() <= 256, "work.model.layers", "at most 256 classes: labels are u8")?;
        let range = |value: u32, max: u32, field: &str| check((1..=max).contains(&value), field, format!("must be 1 to {max}"));
        range(self.inner_steps, limits::INNER_STEPS_MAX, "work.inner_steps")?;
        range(self.batch, limits::BATCH_MAX, "work.batch")?;
        range(self.units_per_round, limits::UNITS_PER_ROUND_MAX, "work.units_per_round")?;
        range(self.rounds_max, limits::ROUNDS_MAX, "work.rounds_max")?;
        check(
            self.rows_per_shard >= self.batch && self.rows_per_shard.is_multiple_of(self.batch),
            "work.rows_per_shard",
            "must be a multiple of batch",
        )?;
        let values = u64::from(self.model.input_values().unwrap_or(u32::MAX)) + u64::from(self.model.labels_count());
        let example_bytes = values * 4;
        check(
            u64::from(self.rows_per_shard) * example_bytes < limits::BLOB_BYTES_MAX,
            "work.rows_per_shard",
            "a shard would be larger than a blob may be",
        )?;
        self.validate_target()?;
        self.validate_text()?;
        self.inner_optimizer.validate().map_err(|(field, reason)| ManifestError {
            field: format!("work.inner_optimizer.{field}"),
            reason: reason.to_owned(),
        })?;
        let OuterOptimizer::Nesterov { learning_rate, momentum } = self.outer_optimizer;
        check(
            learning_rate.is_finite() && learning_rate > 0.0,
            "work.outer_optimizer.learning_rate",
            "must be finite and positive",
        )?;
        check((0.0..1.0).contains(&momentum), "work.outer_optimizer.momentum", "must be 0 or more and below 1")?;
        match self.merge {
            MergeRule::TrimmedMean { percent } => check((1..=49).contains(&percent), "work.merge.percent", "must be 1 to 49"),
            MergeRule::CenteredClipping | MergeRule::Mean => Ok(()),
        }
    }

    fn validate_target(&self) -> Result<(), ManifestError> {
        let one = "a job has one target: target_accuracy or target_bits_per_byte";
        match (self.target_accuracy, self.target_bits_per_byte) {
            (Some(accuracy), None) => check((0.0..=1.0).contains(&accuracy), "work.target_accuracy", "must be 0 to 1"),
            (None, Some(bits)) => {
                check(
                    self.model.vocabulary().is_some(),
                    "work.target_bits_per_byte",
                    "takes a model that begins with an embedding",
                )?;
                check((0.0..=8.0).contains(&bits), "work.target_bits_per_byte", "must be 0 to 8")
            }
            (None, None) => check(false, "work.target_accuracy", one),
            (Some(_), Some(_)) => check(false, "work.target_bits_per_byte", one),
        }
    }

    fn validate_text(&self) -> Result<(), ManifestError> {
        let Some(text) = &self.text else { return Ok(()) };
        check(self.model.vocabulary().is_some(), "work.text", "takes a model that begins with an embedding")?;
        check((1..=50).contains(&text.held_out_percent), "work.text.held_out_percent", "must be 1 to 50")?;
        check(text.evaluation_rows_max != Some(0), "work.text.evaluation_rows_max", "must be at least 1")
    }

    /// When the job has learnt enough. A valid recipe has one target; one that has none is never done before its rounds.
    pub fn target(&self) -> Target {
        match (self.target_accuracy, self.target_bits_per_byte) {
            (Some(accuracy), _) => Target::Accuracy(accuracy),
            (None, bits) => Target::BitsPerByte(bits.unwrap_or(f64::NEG_INFINITY)),
        }
    }
}

impl Submission {
    /// Checks the manifest, that the inputs are of its kind, and their counts. The blobs themselves are the store's business.
    pub fn validate(&self) -> Result<(), ManifestError> {
        self.manifest.validate()?;
        match (&self.manifest.work, &self.inputs) {
            (JobWork::Matmul(recipe), Inputs::Matmul { m, k, n, a_panels, b_panels }) => {
                for (d, field) in [(*m, "inputs.m"), (*k, "inputs.k"), (*n, "inputs.n")] {
                    check((1..=limits::DIMENSION_MAX).contains(&d), field, format!("must be 1 to {}", limits::DIMENSION_MAX))?;
                }
                let block = panel_extent(recipe.block, *k);
                for (extent, panels, field) in [(*m, a_panels, "inputs.a_panels"), (*n, b_panels, "inputs.b_panels")] {
                    let expected = extent.div_ceil(u64::from(block));
                    check(panels.len() as u64 == expected, field, format!("must be {expected} panels of at most {block}"))?;
                }
                check(
                    a_panels.len().saturating_mul(b_panels.len()) <= limits::SHARDS_COUNT_MAX,
                    "inputs.a_panels",
                    format!("more than {} blocks", limits::SHARDS_COUNT_MAX),
                )
            }
            (JobWork::Train(_), Inputs::Train { shards, .. }) => check(
                (1..=limits::SHARDS_COUNT_MAX).contains(&shards.len()),
                "inputs.shards",
                format!("must be 1 to {} shards", limits::SHARDS_COUNT_MAX),
            ),
            _ => check(false, "inputs.kind", "must be the manifest's work.kind"),
        }
    }
}

/// Rows of an A panel and columns of a B panel: `block`, or fewer where a panel of depth `k` would not fit a blob.
pub fn panel_extent(block: u32, k: u64) -> u32 {
    let fits = (limits::TENSOR_VALUES_MAX - 1) / k.max(1);
    u64::from(block).min(fits).max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{
        "version": 1, "name": "fashion-mlp", "title": "Clothes", "description": "A small classifier.", "owner": "Many Hands",
        "category": "demo",
        "work": {
            "kind": "train",
            "model": {
                "input": { "shape": [784], "dtype": "u8", "scale": 0.003921569, "offset": 0.0 },
                "layers": [{ "type": "dense", "outputs": 128 }, { "type": "relu" }, { "type": "dense", "outputs": 10 }],
                "loss": "softmax_cross_entropy"
            },
            "inner_steps": 30, "batch": 32,
            "inner_optimizer": { "type": "sgd", "learning_rate": 0.05, "momentum": 0.9 },
            "outer_optimizer": { "type": "nesterov", "learning_rate": 0.7, "momentum": 0.9 },
            "units_per_round": 4, "rounds_max": 60, "target_accuracy": 0.82, "rows_per_shard": 992, "seed": 1
        }
    }"#;

    /// Parses and validates `GOOD` with one piece of text replaced; gives the path of the field at fault.
    fn fault(from: &str, to: &str) -> Option<String> {
        let json = GOOD.replacen(from, to, 1);
        assert!(from.is_empty() || json != GOOD, "{from} is not in the manifest");
        let manifest = match parse_json::<JobManifest>(json.as_bytes()) {
            Ok(manifest) => manifest,
            Err(e) => return Some(e.field),
        };
        manifest.validate().err().map(|e| e.field)
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(fault("", ""), None);
        let check = |from: &str, to: &str, field: &str| assert_eq!(fault(from, to).as_deref(), Some(field), "{to}");
        let dropout = |rate: &str| format!("\"type\": \"dropout\", \"rate\": {rate}");
        assert_eq!(fault("\"type\": \"relu\"", &dropout("0.25")), None);
        check("\"type\": \"relu\"", &dropout("1.0"), "work.model.layers[1].rate");
        check("\"version\": 1", "\"version\": 2", "version");
        check("fashion-mlp", "Fashion MLP", "name");
        check("\"outputs\": 128", "\"outputs\": 0", "work.model.layers[0].outputs");
        check("\"outputs\": 128", "\"outputs\": 4000000000", "work.model.layers[0].outputs");
        check("[784]", "[0]", "work.model.input.shape[0]");
        check("\"batch\": 32", "\"batch\": 0", "work.batch");
        check("\"batch\": 32", "\"batch\": 33", "work.rows_per_shard");
        check("\"inner_steps\": 30", "\"inner_steps\": 0", "work.inner_steps");
        check("0.05", "-0.05", "work.inner_optimizer.learning_rate");
        check("0.82", "82", "work.target_accuracy");
        check("\"target_accuracy\": 0.82,", "", "work.target_accuracy");
        check("0.82", "0.82, \"target_bits_per_byte\": 2.4", "work.target_bits_per_byte");
        check("\"target_accuracy\": 0.82", "\"target_bits_per_byte\": 2.4", "work.target_bits_per_byte");
        check("\"seed\": 1", "\"seed\": 1, \"text\": { \"held_out_percent\": 10 }", "work.text");
        check("\"rows_per_shard\": 992", "\"rows_per_shard\": 4000000000", "work.rows_per_shard");
        let merge = |rule: &str| format!("\"seed\": 1, \"merge\": {rule}");
        for rule in
            [r#"{ "type": "centered_clipping" }"#, r#"{ "type": "trimmed_mean", "percent": 20 }"#, r#"{ "type": "mean" }"#]
        {
            assert_eq!(fault("\"seed\": 1", &merge(rule)), None);
        }
        check("\"seed\": 1", &merge(r#"{ "type": "trimmed_mean", "percent": 50 }"#), "work.merge.percent");
    }

    /// `GOOD` as a job on a text, with one piece of text replaced.
    fn text_fault(from: &str, to: &str) -> Option<String> {
        let json = GOOD
            .replace("[784]", "[16]")
            .replace("0.003921569", "1.0")
            .replace(
                "{ \"type\": \"dense\", \"outputs\": 128 }",
                "{ \"type\": \"embedding\", \"vocabulary\": 256, \"width\": 8 }",
            )
            .replace("\"target_accuracy\": 0.82", "\"target_bits_per_byte\": 2.4")
            .replace("\"seed\": 1", "\"seed\": 1, \"text\": { \"held_out_percent\": 10, \"evaluation_rows_max\": 5 }");
        let changed = json.replacen(from, to, 1);
        assert!(from.is_empty() || changed != json, "{from} is not in the manifest");
        let manifest: JobManifest = parse_json(changed.as_bytes()).expect("the replaced text is of the same form");
        manifest.validate().err().map(|e| e.field)
    }

    #[test]
    fn texts_have_a_held_out_end_and_a_target_in_bits() {
        assert_eq!(text_fault("", ""), None);
        let check = |from, to, field: &str| assert_eq!(text_fault(from, to).as_deref(), Some(field), "{to}");
        check("2.4", "8.5", "work.target_bits_per_byte");
        check("2.4", "-1", "work.target_bits_per_byte");
        check("\"held_out_percent\": 10", "\"held_out_percent\": 0", "work.text.held_out_percent");
        check("\"held_out_percent\": 10", "\"held_out_percent\": 51", "work.text.held_out_percent");
        check("\"evaluation_rows_max\": 5", "\"evaluation_rows_max\": 0", "work.text.evaluation_rows_max");
        assert_eq!(text_fault(", \"evaluation_rows_max\": 5", ""), None, "all of what is held out");
    }

    #[test]
    fn targets_are_reached_from_their_own_side() {
        assert!(Target::Accuracy(0.8).is_reached(9.0, 0.8) && !Target::Accuracy(0.8).is_reached(0.0, 0.79));
        let two = 2.0 * std::f64::consts::LN_2;
        assert!(Target::BitsPerByte(2.0).is_reached(two, 0.0) && !Target::BitsPerByte(2.0).is_reached(two + 1e-9, 1.0));
        assert!(!Target::BitsPerByte(2.0).is_reached(f64::NAN, 1.0) && !Target::Accuracy(0.1).is_reached(0.0, f64::NAN));
    }

    #[test]
    fn operands_are_f32_unless_the_recipe_says_otherwise() {
        let read = |json: &str| parse_json::<JobWork>(json.as_bytes());
        let of = |dtype| Ok(JobWork::Matmul(MatmulRecipe { block: 8, dtype }));
        let plain = r#"{"kind":"matmul","block":8}"#;
        assert_eq!(read(plain), of(Dtype::F32));
        assert_eq!(read(r#"{"kind":"matmul","block":8,"dtype":"f32"}"#), of(Dtype::F32));
        let f16 = r#"{"kind":"matmul","block":8,"dtype":"f16"}"#;
        assert_eq!(read(f16), of(Dtype::F16));
        for json in [plain, f16] {
            assert_eq!(serde_json::to_string(&read(json).expect("a recipe")).expect("plain values"), json);
        }
        for other in ["bf16", "F16", "f64", ""] {
            assert!(read(&f16.replace("f16", other)).is_err(), "{other}");
        }
    }

    #[test]
    fn unknown_fields_and_layers_are_refused() {
        assert!(fault("\"seed\": 1", "\"seed\": 1, \"sede\": 2").is_some());
        assert!(fault("\"type\": \"relu\"", "\"type\": \"gelu2\"").is_some());
        assert!(fault("\"owner\"", "\"ownr\"").is_some());
    }

    #[test]
    fn panels_shrink_for_deep_products() {
        assert_eq!(panel_extent(256, 1024), 256);
        assert_eq!(panel_extent(256, limits::DIMENSION_MAX / 4), 3);
        assert_eq!(panel_extent(256, limits::DIMENSION_MAX), 1);
    }
}
