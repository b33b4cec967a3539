//! COSE_Sign1 (RFC 9052) envelopes: tagged, EdDSA, empty unprotected header, content type and key id protected.
//!
//! Signing and verifying the 64 signature bytes is the caller's business (WebCrypto in a tab, ed25519-dalek
//! elsewhere): this module makes the bytes to be signed and takes envelopes apart.

use coset::iana;
use coset::{ContentType, CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabelWithPrivate, TaggedCborSerializable};

use crate::ids::KeyId;

/// What an envelope holds; the content type keeps one kind of statement from passing for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Consent,
    UnitManifest,
    Result,
}

impl Kind {
    /// The protected `content type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Kind::Consent => "application/vnd.manyhands.consent+cbor",
            Kind::UnitManifest => "application/vnd.manyhands.unit-manifest+cbor",
            Kind::Result => "application/vnd.manyhands.result+cbor",
        }
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

/// A statement ready to be signed: sign [`Unsigned::to_be_signed`], then [`Unsigned::finish`].
pub struct Unsigned(CoseSign1);

/// Prepares `payload` (deterministic CBOR of the kind's type) to be signed by `key`.
pub fn prepare(kind: Kind, key: KeyId, payload: Vec<u8>) -> Unsigned {
    let protected = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .content_type(kind.content_type().to_owned())
        .key_id(key.0.to_vec())
        .build();
    Unsigned(CoseSign1Builder::new().protected(protected).payload(payload).build())
}

impl Unsigned {
    /// The `Sig_structure` of RFC 9052 section 4.4, external data empty.
    pub fn to_be_signed(&self) -> Vec<u8> {
        self.0.tbs_data(&[])
    }

    /// The tagged envelope.
    pub fn finish(mut self, signature: [u8; 64]) -> Vec<u8> {
        self.0.signature = signature.to_vec();
        self.0.to_tagged_vec().expect("a Sign1 of plain values always encodes")
    }
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
pub fn open(kind: Kind, bytes: &[u8]) -> Result<Unverified, EnvelopeError> {
    let sign1 = CoseSign1::from_tagged_slice(bytes).map_err(|e| EnvelopeError::Structure(e.to_string()))?;
    let header = &sign1.protected.header;
    if header.alg != Some(RegisteredLabelWithPrivate::Assigned(iana::Algorithm::EdDSA)) {
        return Err(EnvelopeError::Algorithm);
    }
    if header.content_type != Some(ContentType::Text(kind.content_type().to_owned())) {
        return Err(EnvelopeError::ContentType(kind.content_type()));
    }
    let key = KeyId(header.key_id.as_slice().try_into().map_err(|_| EnvelopeError::KeyId)?);
    let signature: [u8; 64] = sign1.signature.as_slice().try_into().map_err(|_| EnvelopeError::Signature)?;
    let payload = sign1.payload.clone().ok_or(EnvelopeError::Payload)?;
    let unsigned = prepare(kind, key, payload.clone());
    let to_be_signed = unsigned.to_be_signed();
    if unsigned.finish(signature) != bytes {
        return Err(EnvelopeError::Header);
    }
    Ok(Unverified { key, payload, signature, to_be_signed })
}

#[cfg(test)]
mod tests {
    use coset::iana::EnumI64;
    use coset::{CborSerializable, Label};

    use super::*;

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

        let mut extra = prepare(Kind::Result, KeyId([7; 32]), vec![]).0;
        extra.signature = vec![0; 64];
        extra.unprotected.rest.push((Label::Int(iana::HeaderParameter::Iv.to_i64() + 1000), coset::cbor::Value::Null));
        assert_eq!(open(Kind::Result, &extra.clone().to_tagged_vec().expect("encodes")).err(), Some(EnvelopeError::Header));
        assert!(open(Kind::Result, &extra.to_vec().expect("encodes")).is_err(), "untagged");
    }
}
