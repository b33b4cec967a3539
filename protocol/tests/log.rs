//! The log's tree, tiles and notes against other implementations of the same specifications.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use manyhands_protocol::KeyId;
use manyhands_protocol::log::note::{self, Checkpoint, Note, NoteSignature};
use manyhands_protocol::log::tile::{Edge, Resource};
use manyhands_protocol::log::tree::{consistency_ranges, inclusion_ranges, is_consistent, leaf_hash, root_by_inclusion, root_of};
use signed_note::{StandardVerifier, VerifierList};
use tlog_tiles::{HashReader, check_record, check_tree, prove_record, prove_tree, record_hash, stored_hashes, tree_hash};

/// A key as verifiers of signed notes are told of it: name, hash and key.
fn verifier_key(name: &str, key: KeyId) -> String {
    let bytes = [&[note::ED25519][..], &key.0].concat();
    format!("{name}+{}+{}", hex::encode(note::key_hash(name, note::ED25519, key)), STANDARD.encode(bytes))
}

/// All hashes that the other implementation keeps of a tree.
struct Stored(Vec<tlog_tiles::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|&index| self.0[index as usize]).collect())
    }
}

#[test]
fn trees_and_proofs_are_those_of_another_implementation() {
    const SIZE: u64 = 70;
    let entry = |index: u64| index.to_be_bytes();
    let (mut theirs, mut edge, mut leaves) = (Stored(Vec::new()), Edge::default(), Vec::new());
    for index in 0..SIZE {
        let more = stored_hashes(index, &entry(index), &theirs).expect("hashes");
        theirs.0.extend(more);
        edge.append(leaf_hash(&entry(index)));
        leaves.push(leaf_hash(&entry(index)));
        assert_eq!(leaves[index as usize], record_hash(&entry(index)).0);
        let size = index + 1;
        let root = tree_hash(size, &theirs).expect("a root");
        assert_eq!(edge.root(), root.0, "{size}");
        let hash = |range: std::ops::Range<u64>| root_of(&leaves[range.start as usize..range.end as usize]).expect("leaves");
        for other in 0..size {
            let ours: Vec<_> = inclusion_ranges(other, size).expect("within").into_iter().map(hash).collect();
            let proof = prove_record(size, other, &theirs).expect("a proof");
            assert_eq!(ours, proof.iter().map(|hash| hash.0).collect::<Vec<_>>(), "{other} of {size}");
            assert!(check_record(&proof, size, root, other, record_hash(&entry(other))).is_ok());
            assert_eq!(root_by_inclusion(other, size, leaf_hash(&entry(other)), &ours), Some(root.0));

            let (first, first_root) = (other + 1, tree_hash(other + 1, &theirs).expect("a root"));
            let ours: Vec<_> = consistency_ranges(first, size).expect("within").into_iter().map(hash).collect();
            let proof = prove_tree(size, first, &theirs).expect("a proof");
            assert_eq!(ours, proof.iter().map(|hash| hash.0).collect::<Vec<_>>(), "{first} to {size}");
            assert!(check_tree(&proof, size, root, first, first_root).is_ok());
            assert!(is_consistent(first, first_root.0, size, root.0, &ours));
        }
    }
}

#[test]
fn paths_are_those_of_another_implementation() {
    for (level, number, width) in [(0, 0, 256), (0, 1_234_067, 256), (1, 7, 13), (5, 999_999, 1), (0, 1_000, 255)] {
        let theirs = tlog_tiles::Tile::new(8, level, number, width, false).path();
        let ours = Resource::Tile { level, number, width: u64::from(width) }.path();
        // Theirs also names the height, as the older layout does.
        assert_eq!(theirs.replacen("tile/8/", "tile/", 1), ours);
    }
}

#[test]
fn another_implementation_takes_the_checkpoint() {
    let signing = SigningKey::from_bytes(&[2; 32]);
    let key = KeyId(signing.verifying_key().to_bytes());
    let origin = note::origin(key);
    let text = Checkpoint { origin: origin.clone(), size: 5, root: [7; 32] }.text();
    let signature = signing.sign(text.as_bytes()).to_bytes().to_vec();
    let signed = |signature: Vec<u8>| {
        let signatures = vec![NoteSignature::new(&origin, note::ED25519, key, signature)];
        Note { text: text.clone(), signatures }.encode()
    };
    let verifier = StandardVerifier::new(&verifier_key(&origin, key)).expect("a verifier key");
    let known = VerifierList::new(vec![Box::new(verifier)]);
    let taken = |note: &str| signed_note::Note::from_bytes(note.as_bytes()).expect("a note").verify(&known).is_ok();
    assert!(taken(&signed(signature.clone())));
    let mut bent = signature;
    bent[0] ^= 1;
    assert!(!taken(&signed(bent)));
    let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).expect("a checkpoint");
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), (origin.as_str(), 5, [7; 32]));
}
