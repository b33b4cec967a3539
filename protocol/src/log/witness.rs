//! Witnesses of a log: their keys and cosignatures (C2SP tlog-cosignature, by Ed25519), what a log asks them (C2SP tlog-witness),
//! and when they may sign. This module makes the bytes to be signed; signatures, and what was seen last, are the caller's business.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::note::{self, Checkpoint, NOTE_BYTES_MAX, Note, NoteSignature};
use super::tree::{self, Hash};
use crate::ids::KeyId;

/// The signature type of a cosignature: Ed25519 over a time and a checkpoint's text.
pub const COSIGNATURE: u8 = 0x04;
/// Most hashes of a request.
pub const PATH_COUNT_MAX: usize = 63;
/// Longest request: the note, a line of 44 digits for each hash, and the old size.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 45 * PATH_COUNT_MAX + 32;

/// A witness as those are told of it who believe it: a verifier key of C2SP signed-note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    pub name: String,
    pub key: KeyId,
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = hex::encode(note::key_hash(&self.name, COSIGNATURE, self.key));
        let bytes = [&[COSIGNATURE][..], &self.key.0].concat();
        write!(f, "{}+{hash}+{}", self.name, STANDARD.encode(bytes))
    }
}

/// A text that is no [`WitnessKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no witness's key: NAME+HASH+KEY, as `manyhands witness` prints it")]
pub struct NoWitnessKey;

impl FromStr for WitnessKey {
    type Err = NoWitnessKey;

    fn from_str(text: &str) -> Result<WitnessKey, NoWitnessKey> {
        let read = || {
            let (name, rest) = text.split_once('+')?;
            let bytes = STANDARD.decode(rest.split_once('+')?.1).ok()?;
            let key = KeyId(bytes.get(1..)?.try_into().ok()?);
            let read = WitnessKey { name: name.to_owned(), key };
            (note::is_name(name) && read.to_string() == text).then_some(read)
        };
        read().ok_or(NoWitnessKey)
    }
}

/// A witness's signature on a checkpoint, the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// When the witness signed, in seconds since the Unix epoch.
    pub time_s: u64,
    pub signature: [u8; 64],
}

impl WitnessKey {
    /// This witness's cosignatures on a note.
    pub fn cosignatures(&self, note: &Note) -> Vec<Cosignature> {
        let of = |bytes: &[u8]| {
            let (time, signature) = bytes.split_first_chunk()?;
            Some(Cosignature { time_s: u64::from_be_bytes(*time), signature: signature.try_into().ok()? })
        };
        note.by(&self.name, COSIGNATURE, self.key).filter_map(of).collect()
    }

    /// The line that a cosignature is on a note, with its newline.
    pub fn line(&self, cosignature: &Cosignature) -> String {
        let bytes = [&cosignature.time_s.to_be_bytes()[..], &cosignature.signature].concat();
        NoteSignature::new(&self.name, COSIGNATURE, self.key, bytes).line()
    }
}

/// What a witness signs: that this is the largest checkpoint of its log that it knew at that time.
pub fn cosigned(text: &str, time_s: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time_s}\n{text}").into_bytes()
}

/// Body of `POST /add-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the tree that the witness signed last.
    pub old: u64,
    /// Proof that the checkpoint's tree begins with that one.
    pub path: Vec<Hash>,
    /// The checkpoint, with its log's signature.
    pub note: String,
}

impl AddCheckpoint {
    pub fn encode(&self) -> String {
        let path: String = self.path.iter().map(|hash| format!("{}\n", STANDARD.encode(hash))).collect();
        format!("old {}\n{path}\n{}", self.old, self.note)
    }

    /// A body that [`AddCheckpoint::encode`] gives.
    pub fn parse(body: &str) -> Option<AddCheckpoint> {
        let (head, note) = body.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old = lines.next()?.strip_prefix("old ")?.parse().ok()?;
        let path: Option<Vec<Hash>> = lines.map(|line| STANDARD.decode(line).ok()?.try_into().ok()).collect();
        let read = AddCheckpoint { old, path: path?, note: note.to_owned() };
        (read.path.len() <= PATH_COUNT_MAX && read.encode() == body).then_some(read)
    }
}

/// Why a witness does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The old size is larger than the new one.
    Backwards,
    /// The old size is not that of the tree that was signed last, or the tree of that size is another.
    Conflict,
    /// The proof does not prove it.
    Inconsistent,
}

/// Whether a checkpoint goes on from what was signed last: size and root, which are 0 and the empty tree's of a log that is new.
pub fn check_growth(last: (u64, Hash), ask: &AddCheckpoint, newest: &Checkpoint) -> Result<(), Refusal> {
    if ask.old > newest.size {
        return Err(Refusal::Backwards);
    }
    if ask.old != last.0 || (last.0 == newest.size && last.1 != newest.root) {
        return Err(Refusal::Conflict);
    }
    let grown = tree::is_consistent(last.0, last.1, newest.size, newest.root, &ask.path);
    if grown { Ok(()) } else { Err(Refusal::Inconsistent) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tree::{consistency_ranges, empty_root, leaf_hash, root_of};

    #[test]
    fn keys_are_read_back() {
        let key = WitnessKey { name: "witness.example/1".to_owned(), key: KeyId([9; 32]) };
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key));
        for wrong in [text.replace("witness", "another"), text.replace("+B", "+A"), "witness".to_owned(), String::new()] {
            assert_eq!(wrong.parse::<WitnessKey>(), Err(NoWitnessKey), "{wrong}");
        }
    }

    #[test]
    fn cosignatures_are_found_on_a_note() {
        let key = WitnessKey { name: "witness.example/1".to_owned(), key: KeyId([9; 32]) };
        let other = WitnessKey { name: "witness.example/2".to_owned(), ..key.clone() };
        let cosignature = Cosignature { time_s: 5, signature: [2; 64] };
        let note = |line: &str| Note::parse(&format!("log\n1\n\n{line}")).expect("a note");
        assert_eq!(key.cosignatures(&note(&key.line(&cosignature))), std::slice::from_ref(&cosignature));
        assert_eq!(other.cosignatures(&note(&key.line(&cosignature))), []);
        let short = NoteSignature::new(&key.name, COSIGNATURE, key.key, vec![0; 71]);
        assert_eq!(key.cosignatures(&note(&short.line())), []);
    }

    #[test]
    fn requests_have_one_form() {
        for path in [vec![], vec![[1; 32], [2; 32]], vec![[3; 32]; PATH_COUNT_MAX]] {
            let request = AddCheckpoint { old: 10, path, note: "log\n1\n\nsigned\n".to_owned() };
            assert_eq!(AddCheckpoint::parse(&request.encode()), Some(request.clone()));
            assert_eq!(AddCheckpoint::parse(&request.encode().replacen("old 10", "old 010", 1)), None);
            assert_eq!(AddCheckpoint::parse(&request.encode().replacen("old", "new", 1)), None);
        }
        let request = AddCheckpoint { old: 1, path: vec![[3; 32]; PATH_COUNT_MAX + 1], note: String::new() };
        assert_eq!(AddCheckpoint::parse(&request.encode()), None);
    }

    #[test]
    fn only_growth_is_signed() {
        let leaves: Vec<Hash> = (0u64..9).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        let root = |size: u64| root_of(&leaves[..size as usize]).unwrap_or_else(empty_root);
        let ask = |old: u64, size: u64| {
            let ranges = consistency_ranges(old.min(size), size).expect("no more than there are");
            let hash = |range: std::ops::Range<u64>| root_of(&leaves[range.start as usize..range.end as usize]).expect("leaves");
            AddCheckpoint { old, path: ranges.into_iter().map(hash).collect(), note: String::new() }
        };
        let newest = |size| Checkpoint { origin: "log".to_owned(), size, root: root(size) };
        for size in 0..9 {
            for old in 0..=size {
                assert_eq!(check_growth((old, root(old)), &ask(old, size), &newest(size)), Ok(()), "{old} to {size}");
            }
        }
        let forked = Checkpoint { root: [7; 32], ..newest(8) };
        let check = |last: u64, ask: AddCheckpoint, newest: &Checkpoint| check_growth((last, root(last)), &ask, newest);
        assert_eq!(check(3, ask(5, 8), &newest(8)), Err(Refusal::Conflict), "of another size");
        assert_eq!(check(8, ask(3, 8), &newest(8)), Err(Refusal::Conflict), "signed already");
        assert_eq!(check(8, ask(8, 8), &forked), Err(Refusal::Conflict), "another tree of the size");
        assert_eq!(check(3, ask(3, 8), &forked), Err(Refusal::Inconsistent));
        assert_eq!(check(3, AddCheckpoint { path: vec![], ..ask(3, 8) }, &newest(8)), Err(Refusal::Inconsistent));
        assert_eq!(check(8, ask(8, 3), &newest(3)), Err(Refusal::Backwards), "a log that shrank");
    }
}
