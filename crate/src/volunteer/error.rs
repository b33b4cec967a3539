//! What can end a call, a unit or the visit, and which of the three.

use manyhands_protocol::JobId;
use manyhands_protocol::problem::Code;

use super::host::HostError;
use crate::engine::EngineError;
use crate::tensors::TensorError;

/// A failure in the loop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VolunteerError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("no answer from the coordinator within {0} ms")]
    TimedOut(u64),
    /// A problem document, or a bare HTTP error where `code` is empty.
    #[error("the coordinator refused ({status} {code}): {detail}")]
    Refused { status: u16, code: String, detail: String, retryable: bool, retry_after_ms: Option<u64> },
    /// An answer that is not what the protocol says.
    #[error("the coordinator's answer is not understood: {0}")]
    Answer(String),
    #[error("the coordinator speaks protocol {protocol}, terms {terms}; this program knows {ours}")]
    Version { protocol: u32, terms: u32, ours: String },
    /// Consent was given to another key.
    #[error("the coordinator's key is no longer the one consent was given to")]
    CoordinatorChanged,
    #[error("the time consented to is over")]
    ConsentExpired,
    #[error("the amount of data consented to is used up")]
    DataLimit,
    #[error("the consent does not cover job {0}")]
    JobNotCovered(JobId),
    /// A lease that must not be worked on.
    #[error("a unit manifest was refused: {0}")]
    Manifest(String),
    #[error("an input's bytes do not match their hash")]
    InputHash,
    #[error("an input file was refused: {0}")]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A lease, signed as it came, whose unit needs more than this build can compute: for a build that can.
    #[error("the unit needs more than this build can compute")]
    Beyond(Option<Vec<u8>>),
    /// The lease ended or was taken back.
    #[error("{0}")]
    GiveBack(String),
}

impl VolunteerError {
    /// Stable code for messages.
    pub fn code(&self) -> &str {
        match self {
            VolunteerError::Host(HostError::Network(_)) | VolunteerError::TimedOut(_) => "unreachable",
            VolunteerError::Host(HostError::TooLarge(_)) => "answer_too_large",
            VolunteerError::Host(HostError::DayLimit) => "day_limit",
            VolunteerError::Host(HostError::Crypto(_) | HostError::Beyond) => "crypto",
            VolunteerError::Host(HostError::Worker(_)) => "worker_failed",
            VolunteerError::Refused { code, .. } if !code.is_empty() => code,
            VolunteerError::Refused { .. } => "http_error",
            VolunteerError::Answer(_) => "bad_answer",
            VolunteerError::Version { .. } => "version",
            VolunteerError::CoordinatorChanged => "coordinator_changed",
            VolunteerError::ConsentExpired => "consent_expired",
            VolunteerError::DataLimit => "data_limit",
            VolunteerError::JobNotCovered(_) => "job_not_covered",
            VolunteerError::Manifest(_) => "bad_manifest",
            VolunteerError::InputHash => "hash_mismatch",
            VolunteerError::Tensor(_) => "bad_tensor_file",
            VolunteerError::Engine(e) => e.code(),
            VolunteerError::Beyond(_) => "beyond",
            VolunteerError::GiveBack(_) => "given_back",
        }
    }

    /// The same call may succeed a little later.
    pub fn retryable(&self) -> bool {
        match self {
            VolunteerError::Host(HostError::Network(_)) | VolunteerError::TimedOut(_) | VolunteerError::Answer(_) => true,
            // A nonce is fetched afresh for each attempt.
            VolunteerError::Refused { code, retryable, .. } => *retryable || code == Code::BadNonce.as_str(),
            _ => false,
        }
    }

    /// Nobody answers, as opposed to a coordinator that says no.
    pub fn is_unreachable(&self) -> bool {
        match self {
            VolunteerError::Host(HostError::Network(_)) | VolunteerError::TimedOut(_) | VolunteerError::Answer(_) => true,
            VolunteerError::Refused { status, code, .. } => *status >= 500 && code.is_empty(),
            _ => false,
        }
    }

    /// How long the coordinator asked to wait.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            VolunteerError::Refused { retry_after_ms, .. } => *retry_after_ms,
            _ => None,
        }
    }

    /// Whether it is a problem document with this code.
    pub fn is(&self, expected: Code) -> bool {
        matches!(self, VolunteerError::Refused { code, .. } if code == expected.as_str())
    }

    /// The session token is not good any more.
    pub fn is_session(&self) -> bool {
        self.is(Code::NoSession) || self.is(Code::SessionExpired)
    }

    /// The lease is gone: nothing to give back.
    pub fn is_lease_gone(&self) -> bool {
        [Code::UnknownLease, Code::LeaseEnded, Code::NotYourLease, Code::UnitSettled, Code::ResultReplayed]
            .iter()
            .any(|&code| self.is(code))
    }

    /// The visit cannot go on; only the visitor can change that.
    pub fn ends_visit(&self) -> bool {
        match self {
            VolunteerError::Version { .. }
            | VolunteerError::CoordinatorChanged
            | VolunteerError::ConsentExpired
            | VolunteerError::DataLimit
            | VolunteerError::Beyond(_)
            | VolunteerError::Engine(EngineError::Unsupported(_))
            | VolunteerError::Host(HostError::DayLimit | HostError::Crypto(_) | HostError::Beyond) => true,
            VolunteerError::Refused { .. } => [
                Code::BadConsent,
                Code::KeyReplaced,
                Code::Quarantined,
                Code::BadSignature,
                Code::WrongKey,
                Code::WrongAlgorithm,
                Code::ForeignOrigin,
            ]
            .iter()
            .any(|&code| self.is(code)),
            _ => false,
        }
    }
}
