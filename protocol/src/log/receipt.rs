//! COSE receipts (RFC 9942) with the structure RFC9162_SHA256: that an entry is in a tree, or that a tree begins with another,
//! signed by the log's key over the tree's root. The root travels in no receipt: whoever has the entry computes it.

use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode};

use super::tree::{self, Hash};
use crate::cose::{ALGORITHM, EDDSA, KEY_ID, SIGN1_TAG, signature_input, write};
use crate::ids::KeyId;

/// `vds` and `vdp` of RFC 9942, and what they say here.
const STRUCTURE: i64 = 395;
const PROOFS: i64 = 396;
const RFC9162_SHA256: i64 = 1;
const INCLUSION: i64 = -1;
const CONSISTENCY: i64 = -2;

/// What a receipt proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The entry at `index` is in the tree of `size`.
    Inclusion { size: u64, index: u64, path: Vec<Hash> },
    /// The tree of `size` begins with that of `first`.
    Consistency { first: u64, size: u64, path: Vec<Hash> },
}

impl Proof {
    fn parts(&self) -> (i64, u64, u64, &[Hash]) {
        match self {
            Proof::Inclusion { size, index, path } => (INCLUSION, *size, *index, path),
            Proof::Consistency { first, size, path } => (CONSISTENCY, *first, *size, path),
        }
    }
}

/// The bytes that the log signs for a receipt about the tree with this root.
pub fn to_be_signed(key: KeyId, root: &Hash) -> Vec<u8> {
    signature_input(&protected(key), root)
}

fn protected(key: KeyId) -> Vec<u8> {
    write(|e| {
        e.map(3)?.i64(ALGORITHM)?.i64(EDDSA)?.i64(KEY_ID)?.bytes(&key.0)?;
        e.i64(STRUCTURE)?.i64(RFC9162_SHA256)?.ok()
    })
}

/// A receipt: a tagged COSE_Sign1 without payload.
pub fn encode(key: KeyId, proof: &Proof, signature: [u8; 64]) -> Vec<u8> {
    let (kind, first, second, path) = proof.parts();
    let proof = write(|e| {
        e.array(3)?.u64(first)?.u64(second)?.array(path.len() as u64)?;
        path.iter().try_for_each(|hash| e.bytes(hash)?.ok())
    });
    write(|e| {
        e.tag(SIGN1_TAG)?.array(4)?.bytes(&protected(key))?;
        e.map(1)?.i64(PROOFS)?.map(1)?.i64(kind)?.array(1)?.bytes(&proof)?;
        e.null()?.bytes(&signature)?.ok()
    })
}

/// A receipt taken apart; nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The log that it claims to be of.
    pub key: KeyId,
    pub proof: Proof,
    pub signature: [u8; 64],
}

/// Takes a receipt of this log's form apart; nothing where the bytes are another encoding, or other headers.
pub fn decode(bytes: &[u8]) -> Option<Receipt> {
    let receipt = parts(bytes).ok()??;
    (encode(receipt.key, &receipt.proof, receipt.signature) == bytes).then_some(receipt)
}

fn parts(bytes: &[u8]) -> Result<Option<Receipt>, minicbor::decode::Error> {
    let mut d = Decoder::new(bytes);
    if d.tag()? != SIGN1_TAG || d.array()? != Some(4) {
        return Ok(None);
    }
    let mut header = Decoder::new(d.bytes()?);
    let mut key = None;
    for _ in 0..header.map()?.unwrap_or(0) {
        match header.i64()? {
            KEY_ID => key = header.bytes()?.try_into().ok().map(KeyId),
            _ => header.skip()?,
        }
    }
    if d.map()? != Some(1) || d.i64()? != PROOFS || d.map()? != Some(1) {
        return Ok(None);
    }
    let kind = d.i64()?;
    if d.array()? != Some(1) {
        return Ok(None);
    }
    let mut proof = Decoder::new(d.bytes()?);
    if proof.array()? != Some(3) {
        return Ok(None);
    }
    let (first, second) = (proof.u64()?, proof.u64()?);
    let mut path = Vec::new();
    // As many hashes as the bytes hold, whatever the array's head says.
    for _ in 0..proof.array()?.unwrap_or(0) {
        let Ok(hash) = proof.bytes()?.try_into() else { return Ok(None) };
        path.push(hash);
    }
    if d.datatype()? != Type::Null {
        return Ok(None);
    }
    d.skip()?;
    let (Some(key), Ok(signature)) = (key, d.bytes()?.try_into()) else { return Ok(None) };
    let proof = match kind {
        INCLUSION => Proof::Inclusion { size: first, index: second, path },
        CONSISTENCY => Proof::Consistency { first, size: second, path },
        _ => return Ok(None),
    };
    Ok(Some(Receipt { key, proof, signature }))
}

impl Receipt {
    /// The root that the receipt's signature must be over, where it proves that `entry` is in the log.
    pub fn root_with(&self, entry: &[u8]) -> Option<Hash> {
        match &self.proof {
            Proof::Inclusion { size, index, path } => tree::root_by_inclusion(*index, *size, tree::leaf_hash(entry), path),
            Proof::Consistency { .. } => None,
        }
    }

    /// Whether it proves that the tree with the second root begins with that with the first.
    pub fn connects(&self, first: (u64, Hash), second: (u64, Hash)) -> bool {
        match &self.proof {
            Proof::Consistency { first: from, size, path } => {
                (*from, *size) == (first.0, second.0) && tree::is_consistent(first.0, first.1, second.0, second.1, path)
            }
            Proof::Inclusion { .. } => false,
        }
    }
}

/// Answer to `GET /v1/log/receipts/…`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReceiptResponse {
    #[n(0)]
    pub index: u64,
    /// The signed statement, as it is in the log.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub entry: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub receipt: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_read_back_and_no_other_bytes() {
        for proof in [
            Proof::Inclusion { size: 3, index: 1, path: vec![[1; 32], [2; 32]] },
            Proof::Inclusion { size: 1, index: 0, path: Vec::new() },
            Proof::Consistency { first: 300, size: 70_000, path: vec![[3; 32]; 17] },
        ] {
            let bytes = encode(KeyId([9; 32]), &proof, [5; 64]);
            assert_eq!(decode(&bytes), Some(Receipt { key: KeyId([9; 32]), proof, signature: [5; 64] }));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None, "{cut}");
            }
            assert_eq!(decode(&[bytes.as_slice(), &[0]].concat()), None);
        }
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let proof = write(|e| e.array(3)?.u64(1)?.u64(0)?.array(u64::MAX)?.ok());
        let bytes = write(|e| {
            e.tag(SIGN1_TAG)?.array(4)?.bytes(&protected(KeyId([9; 32])))?;
            e.map(1)?.i64(PROOFS)?.map(1)?.i64(INCLUSION)?.array(1)?.bytes(&proof)?.null()?.bytes(&[0; 64])?.ok()
        });
        assert_eq!(decode(&bytes), None);
    }
}
