//! Error codes and RFC 9457 problem documents.

/// Every error a call can answer with. The code string is the stable part; docs/protocol.md lists them all.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $retryable:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All of them, in the order of the specification.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// Stable code, the last part of the problem document's `type`.
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $code),* } }

            /// HTTP status it travels with.
            pub fn status(self) -> u16 { match self { $(Code::$name => $status),* } }

            /// Whether the same call may succeed later without a change.
            pub fn retryable(self) -> bool { match self { $(Code::$name => $retryable),* } }
        }
    };
}

codes! {
    /// Body is not the deterministic CBOR that the call takes, or has trailing bytes.
    BadCbor = "bad_cbor", 400, false;
    /// Body is not the JSON that the call takes.
    BadJson = "bad_json", 400, false;
    /// A path or query part is not what it should be.
    BadRequest = "bad_request", 400, false;
    WrongContentType = "wrong_content_type", 415, false;
    BodyTooLarge = "body_too_large", 413, false;
    LengthRequired = "length_required", 411, false;
    NotFound = "not_found", 404, false;
    MethodNotAllowed = "method_not_allowed", 405, false;
    UnknownJob = "unknown_job", 404, false;
    UnknownUnit = "unknown_unit", 404, false;
    UnknownLease = "unknown_lease", 404, false;
    UnknownBlob = "unknown_blob", 404, false;
    UnknownKey = "unknown_key", 404, false;
    UnknownSite = "unknown_site", 404, false;
    /// No result of this lease was challenged.
    UnknownChallenge = "unknown_challenge", 404, false;
    /// The call came from a page of another origin.
    ForeignOrigin = "foreign_origin", 403, false;
    /// No session token, or one that is not known.
    NoSession = "no_session", 401, false;
    SessionExpired = "session_expired", 401, false;
    /// No operator's token, or a wrong one.
    NoAdmin = "no_admin", 401, false;
    /// No token of this site, or a wrong one.
    NoSiteToken = "no_site_token", 401, false;
    BadSignature = "bad_signature", 403, false;
    WrongAlgorithm = "wrong_algorithm", 400, false;
    WrongKey = "wrong_key", 403, false;
    /// The consent is for another coordinator, of another terms version, expired, or outside its bounds.
    BadConsent = "bad_consent", 403, false;
    /// The nonce is unknown, too old, or was used.
    BadNonce = "bad_nonce", 403, false;
    /// The rotation is for another coordinator, names other keys than signed it, or gives a key a second predecessor.
    BadRotation = "bad_rotation", 403, false;
    /// Another key took this one's place.
    KeyReplaced = "key_replaced", 403, false;
    /// A result of this key was proved wrong lately: it gets no work for a while.
    Quarantined = "quarantined", 403, false;
    /// The lease belongs to another key.
    NotYourLease = "not_your_lease", 403, false;
    /// The lease lapsed or was given back.
    LeaseEnded = "lease_ended", 409, false;
    TooManyLeases = "too_many_leases", 429, true;
    /// The result names another unit, job or manifest than its lease.
    LeaseMismatch = "lease_mismatch", 409, false;
    /// The lease has another result already.
    ResultReplayed = "result_replayed", 409, false;
    /// The unit was settled without this result.
    UnitSettled = "unit_settled", 409, false;
    /// The answer is not to what the challenge asks now, or comes too late.
    WrongStage = "wrong_stage", 409, false;
    /// An output named by the result was not uploaded, or is larger than stated.
    OutputMissing = "output_missing", 409, false;
    /// The upload is more than the lease allows.
    UploadNotAllowed = "upload_not_allowed", 403, false;
    /// Uploaded bytes do not hash to their name.
    HashMismatch = "hash_mismatch", 422, false;
    /// A tensor file whose header is not one, or lies.
    BadTensorFile = "bad_tensor_file", 422, false;
    /// A tensor is missing, or has another shape or element type.
    WrongTensor = "wrong_tensor", 422, false;
    /// A tensor holds NaN or infinity.
    NotFinite = "not_finite", 422, false;
    /// A manifest's field is outside its bounds; `field` names it.
    BadManifest = "bad_manifest", 422, false;
    /// A site's field is outside its bounds; `field` names it.
    BadSite = "bad_site", 422, false;
    /// The job is not in a state that allows this.
    WrongJobState = "wrong_job_state", 409, false;
    /// Nothing to export yet.
    NothingToExport = "nothing_to_export", 409, true;
    TooManyRequests = "too_many_requests", 429, true;
    /// The operator stopped all work.
    Stopped = "stopped", 503, true;
    StorageFailed = "storage_failed", 503, true;
    Internal = "internal", 500, true;
}

impl Code {
    /// The code with this string, if there is one.
    pub fn parse(code: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|c| c.as_str() == code)
    }
}

/// Prefix of a problem document's `type`.
pub const TYPE_PREFIX: &str = "urn:manyhands:problem:";

/// An RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct Problem {
    /// [`TYPE_PREFIX`] followed by the code.
    #[cfg_attr(feature = "json", serde(rename = "type"))]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What happened, with the ids concerned.
    pub detail: String,
    pub code: String,
    pub retryable: bool,
    /// Path of the offending manifest field.
    #[cfg_attr(feature = "json", serde(skip_serializing_if = "Option::is_none", default))]
    pub field: Option<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("{TYPE_PREFIX}{}", code.as_str()),
            title: code.as_str().replace('_', " "),
            status: code.status(),
            detail: detail.into(),
            code: code.as_str().to_owned(),
            retryable: code.retryable(),
            field: None,
        }
    }

    pub fn with_field(mut self, field: impl Into<String>) -> Problem {
        self.field = Some(field.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_parse() {
        for (i, &code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::parse(code.as_str()), Some(code));
            assert!(Code::ALL[..i].iter().all(|c| c.as_str() != code.as_str()), "{code:?}");
            assert!((400..600).contains(&code.status()));
        }
    }
}
