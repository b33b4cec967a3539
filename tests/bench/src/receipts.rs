//! What a tab checks of the public log, on a log of a benchmark's own.

use std::ops::Range;

use manyhands::volunteer::identity::{Identity, verify};
use manyhands_protocol::log::receipt::{self, Proof};
use manyhands_protocol::log::tree::{self, Hash};
use wasm_bindgen::prelude::*;

/// The receipt of the middle entry of a log, and that the log begins with its first half.
#[wasm_bindgen]
pub struct Receipts {
    log: Identity,
    entry: Vec<u8>,
    first: (u64, Hash),
    whole: (u64, Hash),
    inclusion: Vec<u8>,
    consistency: Vec<u8>,
    signature: [u8; 64],
}

#[wasm_bindgen]
impl Receipts {
    /// Of a log of so many entries, each of so many bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(entries: u32, entry_bytes: u32) -> Result<Receipts, JsError> {
        let entry = |index: u32| {
            let mut bytes = vec![0; entry_bytes.max(4) as usize];
            bytes[..4].copy_from_slice(&index.to_le_bytes());
            bytes
        };
        let leaves: Vec<Hash> = (0..entries).map(|index| tree::leaf_hash(&entry(index))).collect();
        let too_few = || JsError::new("a log has at least two entries here");
        let root = |range: Range<u64>| tree::root_of(&leaves[range.start as usize..range.end as usize]).ok_or_else(too_few);
        let path =
            |ranges: Option<Vec<Range<u64>>>| ranges.ok_or_else(too_few)?.into_iter().map(root).collect::<Result<Vec<_>, _>>();
        let (size, half) = (u64::from(entries), u64::from(entries / 2));
        let (first, whole) = ((half, root(0..half)?), (size, root(0..size)?));
        let inclusion = Proof::Inclusion { size, index: half, path: path(tree::inclusion_ranges(half, size))? };
        let consistency = Proof::Consistency { first: half, size, path: path(tree::consistency_ranges(half, size))? };
        let log = Identity::from_seed(&[2; 32]);
        let signature = log.sign(&receipt::to_be_signed(log.key(), &whole.1));
        let [inclusion, consistency] = [inclusion, consistency].map(|proof| receipt::encode(log.key(), &proof, signature));
        Ok(Receipts { entry: entry(entries / 2), first, whole, inclusion, consistency, signature, log })
    }

    /// Whether the receipt proves that the entry is in the log, but for signatures.
    pub fn includes(&self) -> bool {
        receipt::decode(&self.inclusion).is_some_and(|receipt| receipt.root_with(&self.entry) == Some(self.whole.1))
    }

    /// Whether the receipt proves that the log begins with its first half, but for signatures.
    pub fn grew(&self) -> bool {
        receipt::decode(&self.consistency).is_some_and(|receipt| receipt.connects(self.first, self.whole))
    }

    /// Whether a signature holds.
    pub fn signed(&self) -> bool {
        verify(self.log.key(), &receipt::to_be_signed(self.log.key(), &self.whole.1), &self.signature)
    }
}
