//! Deterministic CBOR (RFC 8949 section 4.2.1) through minicbor, and the one strict decoder for bytes from outside.

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};

/// Bytes that are not the deterministic encoding of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    #[error("not the expected CBOR structure: {0}")]
    Structure(String),
    #[error("{0} trailing bytes after the CBOR item")]
    Trailing(usize),
    #[error("not in deterministic encoding (RFC 8949 section 4.2.1), or with fields this version does not know")]
    NotDeterministic,
}

/// Encodes a value. Map keys are ascending integers and lengths are definite, so the result is deterministic.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into a Vec cannot fail")
}

/// Decodes exactly one item that fills `bytes` and is encoded as [`encode`] would encode it.
///
/// Re-encoding is the whole check: it refuses longer integer forms, indefinite lengths, unordered or duplicate keys,
/// and keys this version does not know.
pub fn decode_strict<'b, T: Decode<'b, ()> + Encode<()>>(bytes: &'b [u8]) -> Result<T, CborError> {
    let mut decoder = Decoder::new(bytes);
    let value: T = decoder.decode().map_err(|e| CborError::Structure(e.to_string()))?;
    let used = decoder.position();
    if used != bytes.len() {
        return Err(CborError::Trailing(bytes.len() - used));
    }
    if encode(&value) != bytes {
        return Err(CborError::NotDeterministic);
    }
    Ok(value)
}

/// `f32` in the shortest float form that keeps its value, for `#[cbor(with = "crate::cbor::short_f32")]`.
pub mod short_f32 {
    use super::*;

    pub fn encode<C, W: Write>(value: &f32, e: &mut Encoder<W>, _: &mut C) -> Result<(), minicbor::encode::Error<W::Error>> {
        if half::f16::from_f32(*value).to_f32().to_bits() == value.to_bits() {
            e.f16(*value)?;
        } else {
            e.f32(*value)?;
        }
        Ok(())
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<f32, minicbor::decode::Error> {
        // Accepts f16 and f32; `decode_strict` re-encodes and so refuses the longer form.
        d.f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Pair {
        #[n(0)]
        count: u32,
        #[cbor(n(1), with = "short_f32")]
        rate: f32,
    }

    fn check(hex_bytes: &str, expected: Result<Pair, CborError>) {
        assert_eq!(decode_strict::<Pair>(&hex::decode(hex_bytes).expect("hex")), expected, "{hex_bytes}");
    }

    #[test]
    fn deterministic_bytes_only() {
        check("a2000501f93800", Ok(Pair { count: 5, rate: 0.5 }));
        check("a2000501fa3dcccccd", Ok(Pair { count: 5, rate: 0.1 }));
        check("a2000501fa3f000000", Err(CborError::NotDeterministic)); // 0.5 in four bytes
        check("a200180501f93800", Err(CborError::NotDeterministic)); // 5 in two bytes
        check("a201f938000005", Err(CborError::NotDeterministic)); // keys out of order
        check("bf000501f93800ff", Err(CborError::NotDeterministic)); // indefinite length
        check("a3000501f938000201", Err(CborError::NotDeterministic)); // unknown key
        check("a2000501f9380000", Err(CborError::Trailing(1)));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode(&Pair { count: 70_000, rate: 0.1 });
        for n in 0..bytes.len() {
            assert!(matches!(decode_strict::<Pair>(&bytes[..n]), Err(CborError::Structure(_))), "{n}");
        }
    }
}
