//! Whether a lease may be worked on: the coordinator's signature, and that it is for us, now, and of bounded size.
//! Pure; asking for leases is the loop's business.

use manyhands_protocol::cose::{self, Kind, Unverified};
use manyhands_protocol::work::{self, UnitManifest, Work};
use manyhands_protocol::{BlobHash, JobId, KeyId, LeaseId, cbor, limits};

use manyhands_programs::EVERY_LAYER;

use super::event::WorkKind;

/// A unit this key may work on.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    pub manifest: UnitManifest,
    /// SHA-256 of the signed manifest as received; the result names it.
    pub hash: BlobHash,
}

/// What a manifest must match.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub key: KeyId,
    /// The one job consented to, if it is one.
    pub job: Option<JobId>,
    /// The coordinator's clock.
    pub now_ms: u64,
}

/// A manifest that must not be worked on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    #[error("not an envelope: {0}")]
    Envelope(String),
    #[error("not signed by the coordinator")]
    Signature,
    #[error("not a unit manifest: {0}")]
    Payload(String),
    #[error("protocol version {0} is not known")]
    Version(u32),
    #[error("leased to another key")]
    Key,
    #[error("the consent does not cover job {0}")]
    Job(JobId),
    #[error("the lease lapsed before it arrived")]
    Lapsed,
    #[error("{0}")]
    Work(String),
    /// Nothing wrong with it: this build computes products alone.
    #[error("the unit needs more than this build can compute")]
    Beyond,
}

/// Takes a signed manifest apart. Whether its signature is the coordinator's is the host's to check, before [`check`].
pub fn open(bytes: &[u8], coordinator: KeyId) -> Result<Unverified, ManifestFault> {
    let envelope = cose::open(Kind::UnitManifest, bytes).map_err(|e| ManifestFault::Envelope(e.to_string()))?;
    if envelope.key == coordinator { Ok(envelope) } else { Err(ManifestFault::Signature) }
}

/// Checks the payload of a manifest whose signature is good; `hash` is the SHA-256 of all of it.
pub fn check(payload: &[u8], hash: BlobHash, expected: Expected) -> Result<Leased, ManifestFault> {
    let manifest: UnitManifest = cbor::decode_strict(payload).map_err(|e| match EVERY_LAYER {
        true => ManifestFault::Payload(e.to_string()),
        // Signed, and beyond what this build can read: the whole one reads it, or says what is wrong.
        false => ManifestFault::Beyond,
    })?;
    if manifest.version != limits::PROTOCOL_VERSION {
        return Err(ManifestFault::Version(manifest.version));
    }
    if manifest.key != expected.key {
        return Err(ManifestFault::Key);
    }
    if expected.job.is_some_and(|job| job != manifest.job) {
        return Err(ManifestFault::Job(manifest.job));
    }
    if manifest.deadline_ms.saturating_add(limits::CLOCK_SKEW_MS) < expected.now_ms {
        return Err(ManifestFault::Lapsed);
    }
    manifest.work.validate().map_err(|e| ManifestFault::Work(e.to_string()))?;
    Ok(Leased { manifest, hash })
}

/// The lease in a signed manifest of any unit, its signature unchecked.
pub fn id(bytes: &[u8]) -> Option<LeaseId> {
    work::lease_of(&cose::open(Kind::UnitManifest, bytes).ok()?.payload)
}

/// The kind of a unit's work.
pub fn kind(work: &Work) -> WorkKind {
    match work {
        Work::Matmul(_) => WorkKind::Matmul,
        Work::Train(_) => WorkKind::Train,
    }
}

/// Inner steps of a unit; a product counts as one.
pub fn steps(work: &Work) -> u32 {
    match work {
        Work::Matmul(_) => 1,
        Work::Train(w) => w.inner_steps,
    }
}

#[cfg(test)]
mod tests {
    use manyhands_protocol::UnitId;
    use manyhands_protocol::work::{Dtype, MatmulWork};

    use super::*;
    use crate::volunteer::identity::{Identity, verify};

    const NOW_MS: u64 = 1_000_000_000;

    fn good() -> UnitManifest {
        let work = MatmulWork { a: BlobHash([1; 32]), b: BlobHash([2; 32]), m: 2, k: 3, n: 4, dtype: Dtype::F32 };
        UnitManifest {
            version: limits::PROTOCOL_VERSION,
            job: JobId(1),
            unit: UnitId(2),
            lease: LeaseId(3),
            key: KeyId([9; 32]),
            issued_ms: NOW_MS,
            deadline_ms: NOW_MS + 60_000,
            work: Work::Matmul(work),
            upload_bytes_max: 1000,
            states_every: None,
        }
    }

    fn sealed(manifest: &UnitManifest, signer: &Identity, kind: Kind) -> Vec<u8> {
        let unsigned = cose::prepare(kind, signer.key(), cbor::encode(manifest));
        let signature = signer.sign(&unsigned.to_be_signed());
        unsigned.finish(signature)
    }

    fn checked(bytes: &[u8], job: Option<JobId>, now_ms: u64) -> Result<Leased, ManifestFault> {
        let envelope = open(bytes, Identity::from_seed(&[5; 32]).key())?;
        if !verify(envelope.key, &envelope.to_be_signed, &envelope.signature) {
            return Err(ManifestFault::Signature);
        }
        check(&envelope.payload, BlobHash([0; 32]), Expected { key: KeyId([9; 32]), job, now_ms })
    }

    fn fault_of(change: impl FnOnce(&mut UnitManifest)) -> Option<ManifestFault> {
        let mut manifest = good();
        change(&mut manifest);
        let bytes = sealed(&manifest, &Identity::from_seed(&[5; 32]), Kind::UnitManifest);
        checked(&bytes, Some(JobId(1)), NOW_MS).err()
    }

    #[test]
    fn each_demand_decides() {
        assert_eq!(fault_of(|_| ()), None);
        assert_eq!(fault_of(|m| m.version = 2), Some(ManifestFault::Version(2)));
        assert_eq!(fault_of(|m| m.key = KeyId([8; 32])), Some(ManifestFault::Key));
        assert_eq!(fault_of(|m| m.job = JobId(7)), Some(ManifestFault::Job(JobId(7))));
        assert_eq!(fault_of(|m| m.deadline_ms = NOW_MS - limits::CLOCK_SKEW_MS - 1), Some(ManifestFault::Lapsed));
        let absurd = |m: &mut UnitManifest| {
            m.work = Work::Matmul(MatmulWork {
                a: BlobHash([1; 32]),
                b: BlobHash([2; 32]),
                m: u32::MAX,
                k: 3,
                n: 4,
                dtype: Dtype::F32,
            });
        };
        assert!(matches!(fault_of(absurd), Some(ManifestFault::Work(_))));
    }

    #[test]
    fn the_lease_of_any_manifest_can_be_told() {
        let signer = Identity::from_seed(&[5; 32]);
        let bytes = sealed(&good(), &signer, Kind::UnitManifest);
        assert_eq!(id(&bytes), Some(LeaseId(3)));
        assert_eq!(id(&bytes[1..]), None);
        assert_eq!(id(&sealed(&good(), &signer, Kind::Result)), None);
    }

    #[test]
    fn signature_kind_and_bytes() {
        let (coordinator, other) = (Identity::from_seed(&[5; 32]), Identity::from_seed(&[6; 32]));
        let bytes = sealed(&good(), &other, Kind::UnitManifest);
        assert_eq!(checked(&bytes, None, NOW_MS), Err(ManifestFault::Signature));

        // The coordinator's key id over another's signature.
        let unsigned = cose::prepare(Kind::UnitManifest, coordinator.key(), cbor::encode(&good()));
        let signature = other.sign(&unsigned.to_be_signed());
        assert_eq!(checked(&unsigned.finish(signature), None, NOW_MS), Err(ManifestFault::Signature));

        let bytes = sealed(&good(), &coordinator, Kind::Result);
        assert!(matches!(checked(&bytes, None, NOW_MS), Err(ManifestFault::Envelope(_))));

        let good = sealed(&good(), &coordinator, Kind::UnitManifest);
        for i in 0..good.len() {
            let mut bent = good.clone();
            bent[i] ^= 1;
            assert!(checked(&bent, None, NOW_MS).is_err(), "byte {i}");
            assert!(checked(&good[..i], None, NOW_MS).is_err(), "cut at {i}");
        }
    }
}
