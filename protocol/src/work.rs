//! Work units as the coordinator signs them.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::cbor::short_f32;
use crate::ids::{BlobHash, JobId, KeyId, LeaseId, UnitId};
use crate::limits;
use crate::model::Model;

/// What a lease permits and asks for. Signed by the coordinator as a COSE_Sign1 payload.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct UnitManifest {
    /// [`limits::PROTOCOL_VERSION`].
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    #[n(2)]
    pub unit: UnitId,
    #[n(3)]
    pub lease: LeaseId,
    /// The key this lease was given to.
    #[n(4)]
    pub key: KeyId,
    #[n(5)]
    pub issued_ms: u64,
    /// When the lease lapses unless a heartbeat moves it.
    #[n(6)]
    pub deadline_ms: u64,
    #[n(7)]
    pub work: Work,
    /// Most bytes of output blobs the lease may upload, all together.
    #[n(8)]
    pub upload_bytes_max: u64,
    /// Inner steps between two states that the result should commit to; none where no commitment is asked for.
    #[n(9)]
    pub states_every: Option<u32>,
}

/// The lease that an encoded manifest is of, read from it alone: a build that cannot read the work can still give it back.
pub fn lease_of(manifest: &[u8]) -> Option<LeaseId> {
    let mut decoder = Decoder::new(manifest);
    for _ in 0..decoder.map().ok()?? {
        if decoder.u32().ok()? == 3 {
            return decoder.decode().ok();
        }
        decoder.skip().ok()?;
    }
    None
}

/// What to compute.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(flat)]
pub enum Work {
    /// One block of a product; output `c`.
    #[n(0)]
    Matmul(#[n(0)] MatmulWork),
    /// H inner steps from a checkpoint; output `delta`.
    #[n(1)]
    Train(#[n(0)] TrainWork),
}

/// `C = A · B`, row-major. `a` is a safetensors blob with one tensor `a` of shape `[m, k]`, `b` one with tensor `b` of shape
/// `[k, n]`, both of type `dtype`; the output blob holds one tensor `c` of shape `[m, n]`, f32.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct MatmulWork {
    #[n(0)]
    pub a: BlobHash,
    #[n(1)]
    pub b: BlobHash,
    #[n(2)]
    pub m: u32,
    #[n(3)]
    pub k: u32,
    #[n(4)]
    pub n: u32,
    #[n(5)]
    pub dtype: Dtype,
}

/// Element type of a product's operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Dtype {
    /// Absent in CBOR, as in units that know no other.
    #[default]
    F32,
    /// IEEE 754 binary16. Every value of it is one of f32, and the product is computed and checked as that of those.
    F16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
        }
    }

    /// The name in a safetensors file.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
        }
    }
}

impl<C> Encode<C> for Dtype {
    fn encode<W: encode::Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder.u8(*self as u8)?.ok()
    }

    fn is_nil(&self) -> bool {
        *self == Dtype::F32
    }
}

impl<C> Decode<'_, C> for Dtype {
    fn decode(decoder: &mut Decoder<'_>, _: &mut C) -> Result<Self, decode::Error> {
        match decoder.u8()? {
            1 => Ok(Dtype::F16),
            _ => Err(decode::Error::message("an element type that is not known")),
        }
    }

    fn nil() -> Option<Self> {
        Some(Dtype::F32)
    }
}

/// `inner_steps` steps of the optimiser from `checkpoint` on consecutive batches of `shard`, starting at row `first_row` and
/// wrapping at the end (rows are a multiple of `batch`). The output blob holds, for each parameter and under its
/// name, the pseudo-gradient `checkpoint − parameters after the last step`, f32.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "every-layer", derive(Encode, Decode), cbor(map))]
pub struct TrainWork {
    #[cfg_attr(feature = "every-layer", n(0))]
    pub model: Model,
    /// Safetensors: every parameter of the model under its name, f32.
    #[cfg_attr(feature = "every-layer", n(1))]
    pub checkpoint: BlobHash,
    /// Safetensors: `x` `[rows, …input shape]` of the input's dtype and u8 labels `y`, `[rows]`, or `[rows, positions]` of
    /// a sequence.
    #[cfg_attr(feature = "every-layer", n(2))]
    pub shard: BlobHash,
    #[cfg_attr(feature = "every-layer", n(3))]
    pub round: u32,
    #[cfg_attr(feature = "every-layer", n(4))]
    pub first_row: u32,
    #[cfg_attr(feature = "every-layer", n(5))]
    pub batch: u32,
    #[cfg_attr(feature = "every-layer", n(6))]
    pub inner_steps: u32,
    #[cfg_attr(feature = "every-layer", n(7))]
    pub optimizer: InnerOptimizer,
}

/// Stands for what a build without training cannot read or write: every such unit is an error.
#[cfg(not(feature = "every-layer"))]
mod without_training {
    use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

    use super::TrainWork;

    const NOT_BUILT: &str = "a unit that trains";

    impl<C> Decode<'_, C> for TrainWork {
        fn decode(_: &mut Decoder<'_>, _: &mut C) -> Result<Self, decode::Error> {
            Err(decode::Error::message(NOT_BUILT))
        }
    }

    impl<C> Encode<C> for TrainWork {
        fn encode<W: encode::Write>(&self, _: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
            Err(encode::Error::message(NOT_BUILT))
        }
    }
}

impl TrainWork {
    /// Key of the generator that dropout draws from, so that every party draws alike and no two units do: the first eight
    /// bytes of the checkpoint's hash exclusive-or those of the shard's, as two little-endian numbers. The counter holds
    /// what else tells values apart: the block of four values in the batch's activation, the layer, the inner step, and
    /// `first_row`.
    pub fn dropout_key(&self) -> [u32; 2] {
        let word = |hash: &BlobHash, at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| hash.0[at + i]));
        [0, 4].map(|at| word(&self.checkpoint, at) ^ word(&self.shard, at))
    }
}

/// The inner optimiser; its state starts at zero in every unit. All gradients of a step together are first scaled down to the
/// norm `clip_norm` if theirs is larger; 0 leaves them alone.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)
)]
#[cbor(flat)]
pub enum InnerOptimizer {
    /// `v ← momentum · v + g; p ← p − learning_rate · v`.
    #[n(0)]
    Sgd {
        #[cbor(n(0), with = "short_f32")]
        learning_rate: f32,
        #[cbor(n(1), with = "short_f32")]
        momentum: f32,
        /// Absent where it is 0, as in units that know no clipping here.
        #[cbor(n(2), with = "short_f32", skip_if = "is_zero")]
        #[cfg_attr(feature = "json", serde(default, skip_serializing_if = "is_zero"))]
        clip_norm: f32,
    },
    /// With `t` the step, from 1: `m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²;
    /// p ← p − learning_rate · (m/(1 − β₁ᵗ) / (sqrt(v/(1 − β₂ᵗ)) + epsilon) + weight_decay · p)` (Loshchilov, Hutter, 2019).
    #[n(1)]
    #[cfg_attr(feature = "json", serde(rename = "adamw"))]
    AdamW {
        #[cbor(n(0), with = "short_f32")]
        learning_rate: f32,
        #[cbor(n(1), with = "short_f32")]
        beta1: f32,
        #[cbor(n(2), with = "short_f32")]
        beta2: f32,
        #[cbor(n(3), with = "short_f32")]
        epsilon: f32,
        #[cbor(n(4), with = "short_f32")]
        weight_decay: f32,
        #[cbor(n(5), with = "short_f32")]
        clip_norm: f32,
    },
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

impl InnerOptimizer {
    /// Checks the figures; the error has the field at fault and why.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        let check = |ok: bool, field, reason| if ok { Ok(()) } else { Err((field, reason)) };
        let positive = |value: f32, field| check(value.is_finite() && value > 0.0, field, "must be finite and positive");
        let share = |value: f32, field| check((0.0..1.0).contains(&value), field, "must be 0 or more and below 1");
        let not_negative = |value: f32, field| check(value.is_finite() && value >= 0.0, field, "must be finite and not negative");
        match *self {
            InnerOptimizer::Sgd { learning_rate, momentum, clip_norm } => {
                positive(learning_rate, "learning_rate")?;
                share(momentum, "momentum")?;
                not_negative(clip_norm, "clip_norm")
            }
            InnerOptimizer::AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip_norm } => {
                positive(learning_rate, "learning_rate")?;
                share(beta1, "beta1")?;
                share(beta2, "beta2")?;
                check((1e-12..1.0).contains(&epsilon), "epsilon", "must be 1e-12 or more and below 1")?;
                not_negative(weight_decay, "weight_decay")?;
                not_negative(clip_norm, "clip_norm")
            }
        }
    }
}

/// A work description outside its bounds; `field` is the path of what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct WorkError {
    pub field: &'static str,
    pub reason: String,
}

impl Work {
    /// Checks every extent against `limits`, so that what is allocated for a unit is bounded before it is.
    pub fn validate(&self) -> Result<(), WorkError> {
        let check = |ok: bool, field, reason: &str| if ok { Ok(()) } else { Err(WorkError { field, reason: reason.to_owned() }) };
        match self {
            Work::Matmul(w) => {
                let (m, k, n) = (u64::from(w.m), u64::from(w.k), u64::from(w.n));
                for (d, field) in [(m, "m"), (k, "k"), (n, "n")] {
                    check((1..=limits::DIMENSION_MAX).contains(&d), field, "must be 1 to 2^24")?;
                }
                for (values, field) in [(m * k, "a"), (k * n, "b"), (m * n, "c")] {
                    check(values < limits::TENSOR_VALUES_MAX, field, "more values than one blob holds")?;
                }
                Ok(())
            }
            // None was read.
            Work::Train(_) if !cfg!(feature = "every-layer") => Ok(()),
            Work::Train(w) => {
                w.model.parameters().map_err(|e| WorkError { field: "model", reason: e.to_string() })?;
                check(w.batch >= 1 && w.batch <= limits::BATCH_MAX, "batch", "must be 1 to 4096")?;
                check(w.inner_steps >= 1 && w.inner_steps <= limits::INNER_STEPS_MAX, "inner_steps", "must be 1 to 10000")?;
                check(w.first_row.is_multiple_of(w.batch), "first_row", "must be a multiple of batch")?;
                w.optimizer
                    .validate()
                    .map_err(|(field, reason)| WorkError { field: "optimizer", reason: format!("{field} {reason}") })
            }
        }
    }

    /// Blobs the unit reads.
    pub fn inputs(&self) -> [BlobHash; 2] {
        match self {
            Work::Matmul(w) => [w.a, w.b],
            Work::Train(w) => [w.checkpoint, w.shard],
        }
    }

    /// Name the result gives its one output.
    pub fn output_name(&self) -> &'static str {
        match self {
            Work::Matmul(_) => "c",
            Work::Train(_) => "delta",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Input, InputType, Layer, Loss};

    #[test]
    fn dropout_draws_by_what_the_unit_reads() {
        let input = Input { shape: vec![2], dtype: InputType::F32, scale: 1.0, offset: 0.0 };
        let model = Model { input, layers: vec![Layer::Dense { outputs: 2 }], loss: Loss::SoftmaxCrossEntropy };
        let hash = |first: u8| BlobHash(std::array::from_fn(|i| first + i as u8));
        let optimizer = InnerOptimizer::Sgd { learning_rate: 1.0, momentum: 0.0, clip_norm: 0.0 };
        let (checkpoint, shard) = (hash(0), hash(100));
        let work = TrainWork { model, checkpoint, shard, round: 0, first_row: 0, batch: 1, inner_steps: 1, optimizer };
        // 0^100, 1^101, 2^102, 3^103 and so on, the lowest byte first.
        assert_eq!(work.dropout_key(), [0x6464_6464, 0x6C6C_6C6C]);
        assert_ne!(TrainWork { shard: hash(101), ..work.clone() }.dropout_key(), work.dropout_key());
    }

    /// A figure that is absent is 0, and 0 is written in no other way.
    #[cfg(feature = "every-layer")]
    #[test]
    fn sgd_without_clipping_is_as_it_was() {
        use crate::cbor::{CborError, decode_strict, encode};
        let sgd = |clip_norm| InnerOptimizer::Sgd { learning_rate: 0.5, momentum: 0.25, clip_norm };
        for (optimizer, bytes) in [(sgd(0.0), "8300f93800f93400"), (sgd(1.0), "8400f93800f93400f93c00")] {
            assert_eq!(hex::encode(encode(&optimizer)), bytes);
            assert_eq!(decode_strict(&hex::decode(bytes).expect("hex")), Ok(optimizer));
        }
        for zero in ["8400f93800f93400f90000", "8400f93800f93400f98000"] {
            let refused = decode_strict::<InnerOptimizer>(&hex::decode(zero).expect("hex"));
            assert_eq!(refused, Err(CborError::NotDeterministic), "{zero}");
        }
        for wrong in [f32::NAN, f32::INFINITY, -1.0] {
            assert_eq!(sgd(wrong).validate(), Err(("clip_norm", "must be finite and not negative")));
        }
        assert_eq!((sgd(0.0).validate(), sgd(1.0).validate()), (Ok(()), Ok(())));
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_manifest_may_leave_clipping_of_sgd_out() {
        let sgd = |clip_norm| InnerOptimizer::Sgd { learning_rate: 0.5, momentum: 0.25, clip_norm };
        let plain = r#"{"type":"sgd","learning_rate":0.5,"momentum":0.25}"#;
        let clipped = r#"{"type":"sgd","learning_rate":0.5,"momentum":0.25,"clip_norm":1.0}"#;
        for (optimizer, json) in [(sgd(0.0), plain), (sgd(1.0), clipped)] {
            assert_eq!(serde_json::from_str::<InnerOptimizer>(json).expect("an optimiser"), optimizer);
            assert_eq!(serde_json::to_string(&optimizer).expect("an optimiser"), json);
        }
    }
}
