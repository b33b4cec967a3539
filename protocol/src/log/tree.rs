//! The Merkle tree of RFC 9162 section 2.1: hashes, and the proofs that an entry is in a tree and that one tree begins with
//! another. Proofs are verified here from their hashes; what hashes a proof consists of is told here as ranges of leaves, whose
//! hashes `tile` finds.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// SHA-256, of a leaf or of a node.
pub type Hash = [u8; 32];

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of a node with these children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The root over hashes of perfect subtrees that stand side by side, the largest first; none without any.
pub fn fold(hashes: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    hashes.rev().reduce(|right, left| node_hash(&left, &right))
}

/// The root over the hashes of `count` neighbouring leaves or of equally high subtrees.
pub fn root_of(hashes: &[Hash]) -> Option<Hash> {
    let mut perfect = Vec::new();
    let mut rest = hashes;
    while !rest.is_empty() {
        let (subtree, after) = rest.split_at(1 << rest.len().ilog2());
        let mut level = subtree.to_vec();
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
        }
        perfect.push(level[0]);
        rest = after;
    }
    fold(perfect.into_iter())
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The leaves under each hash of the proof that leaf `index` is in the tree of `size` leaves (RFC 9162 section 2.1.3.1).
/// Nothing where it is not.
pub fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let (mut from, mut to, mut ranges) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            ranges.push(middle..to);
            to = middle;
        } else {
            ranges.push(from..middle);
            from = middle;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// The leaves under each hash of the proof that the tree of `size` leaves begins with the one of `first` (RFC 9162 section
/// 2.1.4.1). Nothing where it does not; no hash where the first is empty or they are the same.
pub fn consistency_ranges(first: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if first > size {
        return None;
    }
    let (mut from, mut to, mut whole, mut ranges) = (0, size, true, Vec::new());
    while first > 0 && first < to {
        let middle = from + split(to - from);
        if first <= middle {
            ranges.push(middle..to);
            to = middle;
        } else {
            ranges.push(from..middle);
            from = middle;
            whole = false;
        }
    }
    if !whole {
        ranges.push(from..to);
    }
    ranges.reverse();
    Some(ranges)
}

/// The root of the tree of `size` leaves that has `leaf` at `index`, by its proof (RFC 9162 section 2.1.3.2). Nothing where
/// the proof is not as long as it must be.
pub fn root_by_inclusion(index: u64, size: u64, leaf: Hash, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut index, mut last, mut root) = (index, size - 1, leaf);
    for hash in proof {
        if last == 0 {
            return None;
        }
        if index & 1 == 1 || index == last {
            root = node_hash(hash, &root);
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            root = node_hash(&root, hash);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Whether the tree of `size` leaves and root `root` begins with that of `first` and `first_root` (RFC 9162 section 2.1.4.2).
pub fn is_consistent(first: u64, first_root: Hash, size: u64, root: Hash, proof: &[Hash]) -> bool {
    if first == 0 {
        return proof.is_empty() && first_root == empty_root();
    }
    if first == size {
        return proof.is_empty() && first_root == root;
    }
    if first > size {
        return false;
    }
    let mut hashes = proof.iter();
    let seed = if first.is_power_of_two() { Some(&first_root) } else { hashes.next() };
    let Some(&seed) = seed else { return false };
    let (mut index, mut last) = (first - 1, size - 1);
    while index & 1 == 1 {
        (index, last) = (index >> 1, last >> 1);
    }
    let (mut old, mut new) = (seed, seed);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if index & 1 == 1 || index == last {
            (old, new) = (node_hash(hash, &old), node_hash(hash, &new));
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, hash);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    last == 0 && old == first_root && new == root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MTH of RFC 9162 section 2.1.1, word for word.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&mth(left), &mth(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn hashes(leaves: &[Hash], ranges: Vec<Range<u64>>) -> Vec<Hash> {
        ranges.into_iter().map(|range| mth(&leaves[range.start as usize..range.end as usize])).collect()
    }

    #[test]
    fn roots_are_those_of_the_definition() {
        for count in 1..70 {
            assert_eq!(root_of(&leaves(count)), Some(mth(&leaves(count))), "{count}");
        }
        assert_eq!(root_of(&[]), None);
        assert_eq!(hex::encode(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn every_entry_is_proven_and_nothing_else() {
        for size in 1..40 {
            let leaves = leaves(size);
            let root = mth(&leaves);
            for index in 0..size {
                let proof = hashes(&leaves, inclusion_ranges(index, size).expect("an index within"));
                let check = |index, size, leaf, proof: &[Hash]| root_by_inclusion(index, size, leaf, proof) == Some(root);
                let leaf = leaves[index as usize];
                assert!(check(index, size, leaf, &proof), "{index} of {size}");
                assert!(!check(index, size, leaf_hash(b"other"), &proof));
                for other in (0..size).filter(|&other| other != index) {
                    assert!(!check(other, size, leaf, &proof), "{index} of {size} as {other}");
                }
                assert!(!check(index, size, leaf, &[proof.as_slice(), &[root]].concat()));
                for at in 0..proof.len() {
                    assert!(!check(index, size, leaf, &proof[..at]));
                    let mut bent = proof.clone();
                    bent[at][0] ^= 1;
                    assert!(!check(index, size, leaf, &bent));
                }
            }
            assert_eq!(inclusion_ranges(size, size), None);
            assert_eq!(root_by_inclusion(size, size, leaves[0], &[]), None);
        }
    }

    #[test]
    fn growth_is_proven_and_nothing_else() {
        for size in 1..40u64 {
            let all = leaves(size);
            for first in 0..=size {
                let (old, new) = (mth(&all[..first as usize]), mth(&all));
                let proof = hashes(&all, consistency_ranges(first, size).expect("no more than there are"));
                assert!(is_consistent(first, old, size, new, &proof), "{first} to {size}");
                let other = leaf_hash(b"another history");
                assert!(!is_consistent(first, other, size, new, &proof), "{first} to {size}");
                assert!(!is_consistent(first, old, size, other, &proof) || first == 0, "{first} to {size}");
                assert!(!is_consistent(first, old, size, new, &[proof.as_slice(), &[other]].concat()));
                for at in 0..proof.len() {
                    assert!(!is_consistent(first, old, size, new, &proof[..at]), "{first} to {size}, cut to {at}");
                    let mut bent = proof.clone();
                    bent[at][31] ^= 1;
                    assert!(!is_consistent(first, old, size, new, &bent), "{first} to {size}, hash {at} bent");
                }
            }
            assert_eq!(consistency_ranges(size + 1, size), None);
            assert!(!is_consistent(size + 1, mth(&all), size, mth(&all), &[]));
        }
    }
}
