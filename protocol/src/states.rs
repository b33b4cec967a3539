//! Commitments to training states: what is hashed, the trees over it, and how an entry of one is shown. Trees and paths
//! are those of RFC 6962 section 2.1, over SHA-256. What a state is made of is the engine's business.

use sha2::{Digest, Sha256};

use crate::ids::TreeHash;

/// What a tree is over: an entry of one kind never passes for one of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The tensors of one state.
    State,
    /// The tensors of one step on its way.
    Trace,
    /// States in the order of their steps.
    States,
}

impl Tree {
    fn domain(self) -> &'static str {
        match self {
            Tree::State => "manyhands state",
            Tree::Trace => "manyhands trace",
            Tree::States => "manyhands states",
        }
    }

    /// What stands before the values of a tensor where its leaf is hashed: RFC 6962's byte for leaves, what the tree is
    /// over, the tensor's name.
    pub fn prefix(self, name: &str) -> Vec<u8> {
        [&[LEAF], self.domain().as_bytes(), &[0], name.as_bytes(), &[0]].concat()
    }

    /// The leaf of a tensor whose values are these bytes, f32 little-endian.
    pub fn leaf(self, name: &str, bytes: &[u8]) -> TreeHash {
        TreeHash(Sha256::new().chain_update(self.prefix(name)).chain_update(bytes).finalize().into())
    }
}

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// The root over states, each given by its own root.
pub fn root_of_states(states: &[TreeHash]) -> TreeHash {
    root(&leaves(states))
}

/// Shows the state `index` of these.
pub fn path_of_state(states: &[TreeHash], index: usize) -> Vec<TreeHash> {
    path(&leaves(states), index)
}

/// Whether `path` shows that `state` is number `index` of `count` under `root`.
pub fn is_state(root: TreeHash, state: TreeHash, index: usize, count: usize, path: &[TreeHash]) -> bool {
    root_by_path(Tree::States.leaf("", &state.0), index, count, path) == Some(root)
}

fn leaves(states: &[TreeHash]) -> Vec<TreeHash> {
    states.iter().map(|state| Tree::States.leaf("", &state.0)).collect()
}

fn node(left: TreeHash, right: TreeHash) -> TreeHash {
    TreeHash(Sha256::new().chain_update([NODE]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The largest power of two below `count`, where RFC 6962 divides a tree of more than one leaf.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The root over hashed leaves; of none, the hash of nothing.
pub fn root(leaves: &[TreeHash]) -> TreeHash {
    match leaves {
        [] => TreeHash(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(root(left), root(right))
        }
    }
}

/// What shows leaf `index`: the siblings on its way up. Panics where there is no such leaf.
pub fn path(leaves: &[TreeHash], index: usize) -> Vec<TreeHash> {
    assert!(index < leaves.len(), "leaf {index} of {}", leaves.len());
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (self::path(left, index), root(right)),
        Some(index) => (self::path(right, index), root(left)),
    };
    path.push(sibling);
    path
}

/// The root that a path leads to from leaf `index` of `count`; none where it is of another length than such a path has.
pub fn root_by_path(leaf: TreeHash, index: usize, count: usize, path: &[TreeHash]) -> Option<TreeHash> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let left = split(count);
    match index.checked_sub(left) {
        None => Some(node(root_by_path(leaf, index, left, below)?, *sibling)),
        Some(index) => Some(node(*sibling, root_by_path(leaf, index, count - left, below)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(count: u8) -> Vec<TreeHash> {
        (0..count).map(|n| TreeHash([n; 32])).collect()
    }

    /// RFC 6962's own division of seven leaves.
    #[test]
    fn a_tree_divides_at_the_largest_power_of_two() {
        let l = leaves(&states(7));
        let left = node(node(l[0], l[1]), node(l[2], l[3]));
        assert_eq!(root(&l), node(left, node(node(l[4], l[5]), l[6])));
        assert_eq!(hex::encode(root(&[]).0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_path_shows_its_state_and_no_other() {
        for count in 1..=17 {
            let all = states(count);
            let root = root_of_states(&all);
            for index in 0..all.len() {
                let path = path_of_state(&all, index);
                assert!(is_state(root, all[index], index, all.len(), &path), "{index} of {count}");
                assert!(!is_state(root, TreeHash([99; 32]), index, all.len(), &path));
                for other in (0..=all.len()).filter(|other| *other != index) {
                    assert!(!is_state(root, all[index], other, all.len(), &path), "{index} as {other} of {count}");
                }
                assert!(!is_state(root, all[index], index, all.len(), &[&path[..], &[root]].concat()), "a longer path");
                if let Some((_, shorter)) = path.split_first() {
                    assert!(!is_state(root, all[index], index, all.len(), shorter));
                }
                for at in 0..path.len() {
                    let mut bent = path.clone();
                    bent[at].0[7] ^= 1;
                    assert!(!is_state(root, all[index], index, all.len(), &bent));
                }
            }
        }
    }

    #[test]
    fn leaves_of_another_tree_or_name_differ() {
        let of = |tree: Tree, name| tree.leaf(name, &[1, 2, 3, 4]);
        let all = [of(Tree::State, "a"), of(Tree::Trace, "a"), of(Tree::States, "a"), of(Tree::State, "b"), of(Tree::State, "")];
        for (i, leaf) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != leaf), "{i}");
        }
        assert_eq!(Tree::State.leaf("a", b"xy").0, <[u8; 32]>::from(Sha256::digest(b"\0manyhands state\0a\0xy")));
    }
}
