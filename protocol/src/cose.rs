//! COSE_Sign1 (RFC 9052) envelopes: tagged, EdDSA, empty unprotected header, content type and key id protected.
//!
//! Written with minicbor, because a whole COSE library in the tab costs more than these few lines; tests compare every
//! byte with `coset`. Signing and verifying the 64 signature bytes is the caller's business (WebCrypto in a tab, ed25519-dalek
//! elsewhere): this module makes the bytes to be signed and takes envelopes apart.

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};

use crate::ids::KeyId;

/// What an envelope holds; the content type keeps one kind of statement from passing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Consent,
    UnitManifest,
    Result,
    Rotation,
    ChallengeAnswer,
    /// What the coordinator signs for its log; see `log::entry`.
    LogResult,
    LogJob,
    LogInput,
    LogCheckpoint,
    LogMerge,
    LogRollBack,
    LogKey,
    LogConsent,
    LogRetraction,
}

impl Kind {
    /// The kinds of statements in the log.
    pub const LOGGED: [Kind; 9] = [
        Kind::LogResult,
        Kind::LogJob,
        Kind::LogInput,
        Kind::LogCheckpoint,
        Kind::LogMerge,
        Kind::LogRollBack,
        Kind::LogKey,
        Kind::LogConsent,
        Kind::LogRetraction,
    ];

    /// The protected `content type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Kind::Consent => "application/vnd.manyhands.consent+cbor",
            Kind::UnitManifest => "application/vnd.manyhands.unit-manifest+cbor",
            Kind::Result => "application/vnd.manyhands.result+cbor",
            Kind::Rotation => "application/vnd.manyhands.rotation+cbor",
            Kind::ChallengeAnswer => "application/vnd.manyhands.challenge-answer+cbor",
            Kind::LogResult => "application/vnd.manyhands.log-result+cbor",
            Kind::LogJob => "application/vnd.manyhands.log-job+cbor",
            Kind::LogInput => "application/vnd.manyhands.log-input+cbor",
            Kind::LogCheckpoint => "application/vnd.manyhands.log-checkpoint+cbor",
            Kind::LogMerge => "application/vnd.manyhands.log-merge+cbor",
            Kind::LogRollBack => "application/vnd.manyhands.log-roll-back+cbor",
            Kind::LogKey => "application/vnd.manyhands.log-key+cbor",
            Kind::LogConsent => "application/vnd.manyhands.log-consent+cbor",
            Kind::LogRetraction => "application/vnd.manyhands.log-retraction+cbor",
        }
    }

    /// The kind in the log with this content type.
    pub fn logged(content_type: &str) -> Option<Kind> {
        Kind::LOGGED.into_iter().find(|kind| kind.content_type() == content_type)
    }
}

/// An envelope that is not one this protocol makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not a tagged COSE_Sign1: {0}")]
    Structure(String),
    #[error("algorithm is not EdDSA (-8)")]
    Algorithm,
    #[error("content type is not {0}")]
    ContentType(&'static str),
    #[error("key id is not a 32-byte Ed25519 public key")]
    KeyId,
    #[error("header fields that this version does not know, or an encoding that is not deterministic")]
    Header,
    #[error("signature is not 64 bytes")]
    Signature,
    #[error("payload is missing")]
    Payload,
}

/// The tag of a COSE_Sign1, RFC 9052 section 2.
pub(crate) const SIGN1_TAG: Tag = Tag::new(18);
/// Labels of the protected header, RFC 9052 section 3.1.
pub(crate) const ALGORITHM: i64 = 1;
const CONTENT_TYPE: i64 = 3;
pub(crate) const KEY_ID: i64 = 4;
/// EdDSA, RFC 9053 section 2.2.
pub(crate) const EDDSA: i64 = -8;

/// A statement ready to be signed: sign [`Unsigned::to_be_signed`], then [`Unsigned::finish`].
pub struct Unsigned {
    protected: Vec<u8>,
    payload: Vec<u8>,
}

/// Prepares `payload` (deterministic CBOR of the kind's type) to be signed by `key`.
pub fn prepare(kind: Kind, key: KeyId, payload: Vec<u8>) -> Unsigned {
    let protected = write(|e| {
        e.map(3)?.i64(ALGORITHM)?.i64(EDDSA)?.i64(CONTENT_TYPE)?.str(kind.content_type())?.i64(KEY_ID)?.bytes(&key.0)?.ok()
    });
    Unsigned { protected, payload }
}

impl Unsigned {
    /// The `Sig_structure` of RFC 9052 section 4.4, external data empty.
    pub fn to_be_signed(&self) -> Vec<u8> {
        signature_input(&self.protected, &self.payload)
    }

    /// The tagged envelope.
    pub fn finish(&self, signature: [u8; 64]) -> Vec<u8> {
        write(|e| e.tag(SIGN1_TAG)?.array(4)?.bytes(&self.protected)?.map(0)?.bytes(&self.payload)?.bytes(&signature)?.ok())
    }
}

pub(crate) fn signature_input(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    write(|e| e.array(4)?.str("Signature1")?.bytes(protected)?.bytes(&[])?.bytes(payload)?.ok())
}

pub(crate) fn write(
    item: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    item(&mut encoder).expect("encoding into a Vec cannot fail");
    encoder.into_writer()
}

/// An envelope taken apart; its signature is not checked yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    /// The key the envelope claims; the signature must be checked against it, and it against what is expected.
    pub key: KeyId,
    pub payload: Vec<u8>,
    pub signature: [u8; 64],
    pub to_be_signed: Vec<u8>,
}

/// Takes a tagged COSE_Sign1 of the given kind apart, refusing anything but the headers [`prepare`] writes.
///
/// The named errors are for people; what keeps every other encoding out is that the envelope is written again from its
/// parts and must come out the same.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<Unverified, EnvelopeError> {
    let (protected, payload, signature) = parts(bytes).map_err(|e| EnvelopeError::Structure(e.to_string()))?;
    let header = header(protected).map_err(|_| EnvelopeError::Header)?;
    if header.algorithm != Some(EDDSA) {
        return Err(EnvelopeError::Algorithm);
    }
    if header.content_type != Some(kind.content_type()) {
        return Err(EnvelopeError::ContentType(kind.content_type()));
    }
    let key = KeyId(header.key_id.and_then(|id| id.try_into().ok()).ok_or(EnvelopeError::KeyId)?);
    let signature: [u8; 64] = signature.try_into().map_err(|_| EnvelopeError::Signature)?;
    let payload = payload.ok_or(EnvelopeError::Payload)?.to_vec();
    let unsigned = prepare(kind, key, payload.clone());
    if unsigned.finish(signature) != bytes {
        return Err(EnvelopeError::Header);
    }
    Ok(Unverified { key, payload, signature, to_be_signed: unsigned.to_be_signed() })
}

/// Takes an envelope of any content type apart: for readers of logs, which take kinds that they do not know.
pub fn open_any(bytes: &[u8]) -> Option<(String, Unverified)> {
    let (protected, payload, signature) = parts(bytes).ok()?;
    let header = header(protected).ok().filter(|header| header.algorithm == Some(EDDSA))?;
    let key = KeyId(header.key_id?.try_into().ok()?);
    let payload = payload?.to_vec();
    let to_be_signed = signature_input(protected, &payload);
    let opened = Unverified { key, signature: signature.try_into().ok()?, to_be_signed, payload };
    Some((header.content_type?.to_owned(), opened))
}

/// Protected header, payload (none for a detached one) and signature of a tagged Sign1.
type Parts<'b> = (&'b [u8], Option<&'b [u8]>, &'b [u8]);

fn parts(bytes: &[u8]) -> Result<Parts<'_>, minicbor::decode::Error> {
    let mut d = Decoder::new(bytes);
    if d.tag()? != SIGN1_TAG || d.array()? != Some(4) {
        return Err(minicbor::decode::Error::message("expected tag 18 and an array of four"));
    }
    let protected = d.bytes()?;
    d.skip()?;
    let payload = if d.datatype()? == Type::Null { d.skip().map(|()| None)? } else { Some(d.bytes()?) };
    Ok((protected, payload, d.bytes()?))
}

#[derive(Default)]
struct Header<'b> {
    algorithm: Option<i64>,
    content_type: Option<&'b str>,
    key_id: Option<&'b [u8]>,
}

fn header(bytes: &[u8]) -> Result<Header<'_>, minicbor::decode::Error> {
    let mut d = Decoder::new(bytes);
    let mut header = Header::default();
    // A map of unknown length cannot be deterministic; reading none of its entries refuses it.
    for _ in 0..d.map()?.unwrap_or(0) {
        match d.i64()? {
            ALGORITHM => header.algorithm = Some(d.i64()?),
            CONTENT_TYPE => header.content_type = Some(d.str()?),
            KEY_ID => header.key_id = Some(d.bytes()?),
            _ => d.skip()?,
        }
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use coset::iana::{self, EnumI64};
    use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, Label, TaggedCborSerializable};

    use super::*;

    /// The same envelope as an implementation of RFC 9052 that is not ours makes it.
    fn by_coset(kind: Kind, key: KeyId, payload: &[u8], signature: [u8; 64]) -> CoseSign1 {
        let header = HeaderBuilder::new()
            .algorithm(iana::Algorithm::EdDSA)
            .content_type(kind.content_type().to_owned())
            .key_id(key.0.to_vec())
            .build();
        CoseSign1Builder::new().protected(header).payload(payload.to_vec()).signature(signature.to_vec()).build()
    }

    #[test]
    fn same_bytes_as_coset() {
        for payload in [vec![], vec![0xa0], vec![7; 300], vec![7; 70_000]] {
            let ours = prepare(Kind::Result, KeyId([3; 32]), payload.clone());
            let theirs = by_coset(Kind::Result, KeyId([3; 32]), &payload, [9; 64]);
            assert_eq!(ours.to_be_signed(), theirs.tbs_data(&[]));
            assert_eq!(ours.finish([9; 64]), theirs.to_tagged_vec().expect("encodes"));
        }
    }

    #[test]
    fn round_trip_and_kinds_do_not_mix() {
        let bytes = prepare(Kind::Consent, KeyId([7; 32]), vec![0xa0]).finish([9; 64]);
        let opened = open(Kind::Consent, &bytes).expect("own envelope");
        assert_eq!((opened.key, opened.payload.as_slice(), opened.signature), (KeyId([7; 32]), &[0xa0][..], [9; 64]));
        assert_eq!(open(Kind::Result, &bytes).err(), Some(EnvelopeError::ContentType(Kind::Result.content_type())));
    }

    #[test]
    fn every_truncation_and_trailing_byte_is_an_error() {
        let bytes = prepare(Kind::Result, KeyId([7; 32]), vec![0xa0]).finish([9; 64]);
        for n in 0..bytes.len() {
            assert!(open(Kind::Result, &bytes[..n]).is_err(), "{n}");
        }
        assert!(open(Kind::Result, &[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn other_algorithms_and_unprotected_headers_are_refused() {
        let header = HeaderBuilder::new()
            .algorithm(iana::Algorithm::ES256)
            .content_type(Kind::Result.content_type().to_owned())
            .key_id(vec![7; 32])
            .build();
        let es256 = CoseSign1Builder::new().protected(header).payload(vec![]).signature(vec![0; 64]).build();
        assert_eq!(open(Kind::Result, &es256.to_tagged_vec().expect("encodes")).err(), Some(EnvelopeError::Algorithm));

        let mut extra = by_coset(Kind::Result, KeyId([7; 32]), &[], [0; 64]);
        extra.unprotected.rest.push((Label::Int(iana::HeaderParameter::Iv.to_i64() + 1000), coset::cbor::Value::Null));
        assert_eq!(open(Kind::Result, &extra.clone().to_tagged_vec().expect("encodes")).err(), Some(EnvelopeError::Header));
        assert!(open(Kind::Result, &extra.to_vec().expect("encodes")).is_err(), "untagged");
    }
}
