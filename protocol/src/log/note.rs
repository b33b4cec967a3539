//! Checkpoints (C2SP tlog-checkpoint) as signed notes (C2SP signed-note), by Ed25519. This module makes the bytes to be signed
//! and takes notes apart; signatures are the caller's business.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::tree::Hash;
use crate::ids::KeyId;

/// Longest note that is read.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;
/// Most signatures of a note that are read.
pub const SIGNATURES_COUNT_MAX: usize = 32;
/// The signature type of Ed25519 over a note's text; others may stand beside it.
pub const ED25519: u8 = 0x01;
/// What begins a line with a signature.
const DASH: &str = "\u{2014} ";

/// The log of a coordinator, named after its key so that no other log can have the name.
pub fn origin(coordinator: KeyId) -> String {
    format!("manyhands/{coordinator}")
}

/// A tree that a log commits itself to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    /// The note's text, whose bytes are signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// A text that [`Checkpoint::text`] gives: no further lines, and numbers in one form alone.
    pub fn parse(text: &str) -> Option<Checkpoint> {
        let mut lines = text.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let checkpoint = Checkpoint {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: STANDARD.decode(root).ok()?.try_into().ok()?,
        };
        (!origin.is_empty() && checkpoint.text() == text).then_some(checkpoint)
    }
}

/// A checkpoint of a coordinator's log as it is sent, and the signature over its text, which is the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub checkpoint: Checkpoint,
    pub text: String,
    pub signature: [u8; 64],
}

impl Signed {
    /// None where the note is no checkpoint of this coordinator's log, or has no signature by its key.
    pub fn parse(note: &str, coordinator: KeyId) -> Option<Signed> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        let signature = note.by(&checkpoint.origin, ED25519, coordinator).next()?.try_into().ok()?;
        (checkpoint.origin == origin(coordinator)).then_some(Signed { checkpoint, text: note.text, signature })
    }
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    pub name: String,
    /// Which key of that name: [`key_hash`].
    pub key_hash: [u8; 4],
    pub signature: Vec<u8>,
}

/// A text and its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Ends with a newline.
    pub text: String,
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// The note as it is sent.
    pub fn encode(&self) -> String {
        let mut note = format!("{}\n", self.text);
        self.signatures.iter().for_each(|signature| note.push_str(&signature.line()));
        note
    }

    pub fn parse(note: &str) -> Option<Note> {
        if note.len() > NOTE_BYTES_MAX {
            return None;
        }
        let at = note.rfind("\n\n")?;
        let (text, lines) = (note[..=at].to_owned(), &note[at + 2..]);
        let signatures: Vec<NoteSignature> =
            lines.strip_suffix('\n')?.split('\n').map(NoteSignature::parse).collect::<Option<_>>()?;
        (signatures.len() <= SIGNATURES_COUNT_MAX).then_some(Note { text, signatures })
    }

    /// The signatures of this type by this key under this name.
    pub fn by<'a>(&'a self, name: &'a str, kind: u8, key: KeyId) -> impl Iterator<Item = &'a [u8]> {
        let hash = key_hash(name, kind, key);
        self.signatures.iter().filter(move |s| s.name == name && s.key_hash == hash).map(|s| s.signature.as_slice())
    }
}

impl NoteSignature {
    pub fn new(name: &str, kind: u8, key: KeyId, signature: Vec<u8>) -> NoteSignature {
        NoteSignature { name: name.to_owned(), key_hash: key_hash(name, kind, key), signature }
    }

    /// Its line, with the newline.
    pub fn line(&self) -> String {
        let bytes = [&self.key_hash[..], &self.signature].concat();
        format!("{DASH}{} {}\n", self.name, STANDARD.encode(bytes))
    }

    /// A line without its newline.
    pub fn parse(line: &str) -> Option<NoteSignature> {
        let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = STANDARD.decode(bytes).ok()?;
        let (key_hash, signature) = bytes.split_first_chunk()?;
        is_name(name).then(|| NoteSignature { name: name.to_owned(), key_hash: *key_hash, signature: signature.to_vec() })
    }
}

/// Whether a key may have this name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

/// Tells keys of one name apart.
pub fn key_hash(name: &str, kind: u8, key: KeyId) -> [u8; 4] {
    let digest = Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(key.0).finalize();
    digest[..4].try_into().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another type of signature.
    const OTHER: u8 = 0x04;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: origin(KeyId([0xab; 32])), size: 1_000_000, root: [3; 32] }
    }

    #[test]
    fn texts_have_one_form() {
        let text = checkpoint().text();
        assert_eq!(Checkpoint::parse(&text), Some(checkpoint()));
        for (from, to) in
            [("1000000", "01000000"), ("1000000", "+1000000"), ("=\n", "\n"), ("=\n", "=\nmore\n"), ("manyhands", "\n")]
        {
            assert_eq!(Checkpoint::parse(&text.replacen(from, to, 1)), None, "{to}");
        }
        for cut in 0..text.len() {
            assert_eq!(Checkpoint::parse(&text[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn notes_are_read_back_and_cut_ones_have_no_signature() {
        let key = KeyId([7; 32]);
        let signatures = vec![
            NoteSignature::new("log", ED25519, key, vec![1; 64]),
            NoteSignature::new("other.example", OTHER, key, vec![2; 72]),
        ];
        let note = Note { text: checkpoint().text(), signatures };
        let encoded = note.encode();
        assert_eq!(Note::parse(&encoded), Some(note.clone()));
        assert_eq!(note.by("log", ED25519, key).count(), 1);
        assert_eq!(note.by("log", OTHER, key).count() + note.by("other", ED25519, key).count(), 0);
        for cut in (0..encoded.len()).filter(|&cut| encoded.is_char_boundary(cut)) {
            assert!(Note::parse(&encoded[..cut]).is_none_or(|cut| cut.signatures.len() == 1), "{cut}");
        }
        let many = Note { signatures: vec![note.signatures[0].clone(); SIGNATURES_COUNT_MAX + 1], ..note };
        assert_eq!(Note::parse(&many.encode()), None);
    }
}
