//! Bodies of the CBOR calls between volunteer and coordinator.

use minicbor::{Decode, Encode};

use crate::ids::{JobId, LeaseId, UnitId};
use crate::statement::Backend;

/// `POST /v1/sessions` answers this; its request body is the signed consent itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionOpened {
    /// Bearer token for `Authorization`; the coordinator keeps only its hash.
    #[n(0)]
    pub token: String,
    #[n(1)]
    pub expires_ms: u64,
}

/// `POST /v1/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LeaseRequest {
    /// At most this many units, 1 to [`crate::limits::LEASES_PER_CALL_MAX`].
    #[n(0)]
    pub units_max: u32,
    #[n(1)]
    pub backend: Backend,
    /// Only units of this job; none means any the consent covers.
    #[n(2)]
    pub job: Option<JobId>,
    /// Largest input or output blob the device can hold, in bytes.
    #[n(3)]
    pub blob_bytes_max: u64,
}

/// Answer to `POST /v1/leases`. No lease means: ask again after `retry_after_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LeaseResponse {
    /// Signed unit manifests (COSE_Sign1 bytes), one per lease.
    #[n(0)]
    pub manifests: Vec<SignedBytes>,
    #[n(1)]
    pub retry_after_ms: u64,
    /// What became of this key's results so far.
    #[n(2)]
    pub totals: Totals,
}

/// COSE_Sign1 bytes inside another CBOR body.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct SignedBytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// `POST /v1/rotations`: one [`crate::statement::Rotation`], signed by either of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RotationRequest {
    #[n(0)]
    pub by_old: SignedBytes,
    #[n(1)]
    pub by_new: SignedBytes,
}

/// Results of one key by verdict, and its credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cbor(map)]
pub struct Totals {
    #[n(0)]
    pub accepted: u64,
    #[n(1)]
    pub rejected: u64,
    #[n(2)]
    pub pending: u64,
    /// Verified floating-point operations.
    #[n(3)]
    pub credit_flop: u64,
}

/// Answer to `POST /v1/leases/{id}/heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HeartbeatResponse {
    /// False: stop at once and give the lease up (job paused, unit settled, everything stopped).
    #[n(0)]
    pub keep: bool,
    #[n(1)]
    pub deadline_ms: u64,
}

/// Answer to `POST /v1/results`, whose request body is the signed result statement. Sending the same bytes again
/// gives the verdict as it stands by then.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ResultResponse {
    #[n(0)]
    pub unit: UnitId,
    #[n(1)]
    pub lease: LeaseId,
    #[n(2)]
    pub verdict: Verdict,
    /// Why a result was rejected; empty otherwise.
    #[n(3)]
    pub reason: String,
    /// Floating-point operations credited for it.
    #[n(4)]
    pub credit_flop: u64,
}

/// What the coordinator made of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[cbor(index_only)]
pub enum Verdict {
    /// Stored; waits for a second key or the referee.
    #[n(0)]
    Pending,
    #[n(1)]
    Accepted,
    #[n(2)]
    Rejected,
    /// Stored; waits for answers to a challenge.
    #[n(3)]
    Challenged,
}

impl Verdict {
    /// Whether another may follow.
    pub fn is_open(self) -> bool {
        matches!(self, Verdict::Pending | Verdict::Challenged)
    }
}
