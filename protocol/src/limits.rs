//! Every bound on what comes over the network, once. `docs/protocol.md` lists them and a test compares the two.
//!
//! Sizes are bytes, times milliseconds.

/// Protocol version spoken here.
pub const PROTOCOL_VERSION: u32 = 1;
/// Version of the terms a consent statement agrees to.
pub const TERMS_VERSION: u32 = 2;

/// Largest CBOR body of a session, lease or result call.
pub const CBOR_BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest signed result: with what the coordinator adds it has to fit an entry of the log.
pub const RESULT_BYTES_MAX: usize = 56 * 1024;
/// Largest JSON body of an administrator's call: a manifest that names as many shards or blocks as there may be.
pub const JSON_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest blob: an input panel, a shard, a checkpoint or an output.
pub const BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most blobs that may be uploaded under one lease.
pub const OUTPUTS_COUNT_MAX: usize = 4;
/// Most bytes that one key may have uploaded and that no accepted result, nor anything else public, names yet.
pub const UNACCEPTED_BYTES_PER_KEY_MAX: u64 = 512 * 1024 * 1024;
/// Most such bytes of all keys together.
pub const UNACCEPTED_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most uploads of one key at once.
pub const UPLOADS_PER_KEY_MAX: usize = 2;
/// Longest silence between two pieces of an upload.
pub const UPLOAD_SILENCE_MS: u64 = 10_000;
/// Longest string in any statement (device description, site, origin).
pub const TEXT_BYTES_MAX: usize = 256;
/// Longest name of a site.
pub const SITE_NAME_BYTES_MAX: usize = 63;
/// Most origins of one site.
pub const SITE_ORIGINS_MAX: usize = 16;
/// Most products whose kernels a result names: a device's own choice never comes near.
pub const KERNELS_COUNT_MAX: usize = 256;

/// Most units one lease call hands out.
pub const LEASES_PER_CALL_MAX: u32 = 16;
/// Most live leases of one key.
pub const LIVE_LEASES_PER_KEY_MAX: u32 = 32;
/// Leases of one unit that may end without a result: of one key before it gets the unit no more, of all keys before the
/// coordinator computes it, once no key holds it.
pub const LEASES_ENDED_MAX: u32 = 3;
/// How long a lease lives without a heartbeat.
pub const LEASE_MS: u64 = 60_000;
/// How long a lease lives with heartbeats: past it none is answered with `keep`.
pub const LEASE_TOTAL_MS_MAX: u64 = 30 * 60_000;
/// How often a volunteer sends a heartbeat while it works.
pub const HEARTBEAT_MS: u64 = 5_000;
/// Longest life of a consent statement and its session.
pub const SESSION_MS_MAX: u64 = 24 * 3_600_000;
/// Most keys that one after another took each other's place.
pub const KEY_ROTATIONS_MAX: u32 = 256;
/// How long a session nonce may be used after `GET /v1/info` gave it out.
pub const NONCE_MS: u64 = 10 * 60_000;
/// How far a volunteer's clock may be ahead of the coordinator's.
pub const CLOCK_SKEW_MS: u64 = 5 * 60_000;
/// How long a gradient unit waits for a second key to take it before the referee computes it.
pub const REPLICA_WAIT_MS: u64 = 3_000;
/// How long it waits, from its first result, for the result of a second key that has taken it.
pub const REPLICA_LEASED_WAIT_MS: u64 = 30_000;
/// Largest file that shows a training step, or the ends of a segment.
pub const REVEAL_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How long an answer to a stage of a challenge may take, beside three times what the unit took.
pub const CHALLENGE_WAIT_MS: u64 = 30_000;

/// Largest extent of any matrix or tensor dimension.
pub const DIMENSION_MAX: u64 = 1 << 24;
/// Most values in one tensor.
pub const TENSOR_VALUES_MAX: u64 = BLOB_BYTES_MAX / 4;
/// Most layers in a model.
pub const LAYERS_COUNT_MAX: usize = 256;
/// Most parameters in a model.
pub const PARAMETERS_COUNT_MAX: u64 = 16 * 1024 * 1024 - 65_536;
/// Most values that one example has in all layers together.
pub const ACTIVATIONS_COUNT_MAX: u64 = 1 << 26;
/// Largest kernel, window or stride of a convolution or pooling.
pub const KERNEL_MAX: u64 = 64;
/// Most positions of a sequence.
pub const POSITIONS_MAX: u32 = 1_024;
/// Most ids of an embedding: tokens are bytes.
pub const VOCABULARY_MAX: u64 = 256;
/// Widest head of an attention layer.
pub const HEAD_WIDTH_MAX: u32 = 128;
/// Most inner steps of one unit.
pub const INNER_STEPS_MAX: u32 = 10_000;
/// Most examples in one batch.
pub const BATCH_MAX: u32 = 4_096;
/// Most units in one round.
pub const UNITS_PER_ROUND_MAX: u32 = 4_096;
/// Most rounds of one job.
pub const ROUNDS_MAX: u32 = 1_000_000;
/// Most shards of one job.
pub const SHARDS_COUNT_MAX: usize = 65_536;
// A hash in JSON has 64 digits, two quotes and a comma; 64 KiB are ample for the rest of a submission.
const _: () = assert!(SHARDS_COUNT_MAX * 67 + 64 * 1024 <= JSON_BODY_BYTES_MAX);
/// Most tensors in one safetensors file.
pub const TENSORS_PER_FILE_MAX: usize = 1_024;
/// Longest header of a safetensors file.
pub const SAFETENSORS_HEADER_BYTES_MAX: usize = 256 * 1024;

/// Agreement of two executions of a gradient unit: ‖Δ₁ − Δ₂‖ ≤ this × ‖Δ₁‖.
pub const GRADIENT_TOLERANCE: f64 = 0.02;
/// The same for a model that begins with an embedding.
pub const GRADIENT_TOLERANCE_SEQUENCE: f64 = 0.05;
/// Largest ‖Δ‖ relative to the checkpoint's norm (plus one) that a unit may return.
pub const UPDATE_NORM_RATIO_MAX: f64 = 10.0;
/// Rounds of Freivalds' check: a wrong entry passes each with probability at most 1/2, so 41 give less than 2^-40.
pub const FREIVALDS_ROUNDS: u32 = 41;
/// Additions that an f32 product's partial sums go through before they are added up (see docs/verification.md).
pub const MATMUL_K_CHUNK: u32 = 64;
