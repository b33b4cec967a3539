//! The tree in tiles of 256 hashes, as C2SP tlog-tiles lays it out: tile `number` of level `level` holds the roots of
//! neighbouring subtrees of 256^level leaves each. Full tiles never change; a tree has at most one that is not, on each level.

use std::ops::Range;

use super::tree::{Hash, empty_root, fold, root_of};

/// Hashes in a full tile, and entries in a full bundle.
pub const WIDTH: u64 = 256;
/// Levels that a tree of 2^64 leaves may need.
pub const LEVELS_MAX: u8 = 8;
/// Longest entry: bundles give lengths as 16 bits.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;

/// What the log's paths name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Checkpoint,
    /// The first `width` hashes of a tile.
    Tile {
        level: u8,
        number: u64,
        width: u64,
    },
    /// The first `width` entries of a bundle of 256.
    Entries {
        number: u64,
        width: u64,
    },
}

impl Resource {
    /// The path below the log's address.
    pub fn path(self) -> String {
        match self {
            Resource::Checkpoint => "checkpoint".to_owned(),
            Resource::Tile { level, number, width } => format!("tile/{level}/{}", number_path(number, width)),
            Resource::Entries { number, width } => format!("tile/entries/{}", number_path(number, width)),
        }
    }

    /// What a path names; nothing for one that [`Resource::path`] does not give.
    pub fn parse(path: &str) -> Option<Resource> {
        if path == "checkpoint" {
            return Some(Resource::Checkpoint);
        }
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (rest, width) = match rest.split_once(".p/") {
            Some((rest, width)) => (rest, width.parse().ok().filter(|width| (1..WIDTH).contains(width))?),
            None => (rest, WIDTH),
        };
        let mut number = 0u64;
        for group in rest.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let resource = match kind {
            "entries" => Resource::Entries { number, width },
            level => Resource::Tile { level: level.parse().ok().filter(|level| *level < LEVELS_MAX)?, number, width },
        };
        (resource.path() == path).then_some(resource)
    }
}

/// Groups of three digits, all but the last marked with an x.
fn number_path(number: u64, width: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    if width < WIDTH { format!("{path}.p/{width}") } else { path }
}

/// How many of a tile's hashes the tree of `size` leaves has.
pub fn width(level: u8, number: u64, size: u64) -> u64 {
    let hashes = size >> (8 * u32::from(level));
    hashes.saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH)
}

/// Some of a tile's hashes, whose root is that of a perfect subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subtree {
    pub level: u8,
    pub number: u64,
    pub from: usize,
    pub count: usize,
}

impl Subtree {
    /// Its root, out of its tile.
    pub fn root(&self, tile: &[Hash]) -> Option<Hash> {
        root_of(tile.get(self.from..self.from + self.count)?)
    }
}

/// The perfect subtrees over these leaves, the largest first: [`fold`] of their roots is the range's hash. The range is one of
/// [`super::tree::inclusion_ranges`] or [`super::tree::consistency_ranges`], or a whole tree.
pub fn subtrees(range: Range<u64>) -> Vec<Subtree> {
    let (mut from, mut subtrees) = (range.start, Vec::new());
    while from < range.end {
        let height = (range.end - from).ilog2();
        let (level, rest) = ((height / 8) as u8, height % 8);
        let first = from >> (8 * u32::from(level));
        subtrees.push(Subtree { level, number: first / WIDTH, from: (first % WIDTH) as usize, count: 1 << rest });
        from += 1 << height;
    }
    subtrees
}

/// The right edge of a growing tree: on each level the hashes of the tile that is not full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    pub size: u64,
    /// By level; a missing one is empty.
    pub tiles: Vec<Vec<Hash>>,
}

/// A tile that was filled, or grew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub level: u8,
    pub number: u64,
    pub hashes: Vec<Hash>,
}

impl Edge {
    /// Appends a leaf; gives the tiles that it fills, lowest first.
    pub fn append(&mut self, leaf: Hash) -> Vec<Tile> {
        let (mut full, mut hash) = (Vec::new(), leaf);
        self.size += 1;
        for level in 0.. {
            if self.tiles.len() == level {
                self.tiles.push(Vec::new());
            }
            self.tiles[level].push(hash);
            if self.tiles[level].len() < WIDTH as usize {
                break;
            }
            let hashes = std::mem::take(&mut self.tiles[level]);
            hash = root_of(&hashes).expect("a full tile has hashes");
            let number = (self.size >> (8 * (level + 1))) - 1;
            full.push(Tile { level: level as u8, number, hashes });
        }
        full
    }

    /// The tiles that are not full.
    pub fn partial(&self) -> impl Iterator<Item = Tile> {
        self.tiles.iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()).map(|(level, hashes)| Tile {
            level: level as u8,
            number: self.size >> (8 * (level + 1)),
            hashes: hashes.clone(),
        })
    }

    /// The tree's root.
    pub fn root(&self) -> Hash {
        // Subtrees of a higher tile are larger and further left.
        let mut roots = Vec::new();
        for hashes in self.tiles.iter().rev() {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let (subtree, after) = rest.split_at(1 << rest.len().ilog2());
                roots.extend(root_of(subtree));
                rest = after;
            }
        }
        fold(roots.into_iter()).unwrap_or_else(empty_root)
    }
}

/// Entries one after the other, each after its length as 16 bits, big-endian. Panics where one is longer than
/// [`ENTRY_BYTES_MAX`]: the log takes none.
pub fn bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(u16::try_from(entry.len()).expect("the log takes no longer entry").to_be_bytes());
        bytes.extend(entry);
    }
    bytes
}

/// The entries of a bundle; nothing where the bytes are none.
pub fn unbundle(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut rest, mut entries) = (bytes, Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        entries.push(after.get(..length)?);
        rest = &after[length..];
    }
    rest.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tree::{consistency_ranges, inclusion_ranges, leaf_hash};
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let check = |path: &str, resource| {
            assert_eq!(Resource::parse(path), Some(resource), "{path}");
            assert_eq!(resource.path(), path);
        };
        check("checkpoint", Resource::Checkpoint);
        check("tile/0/x001/x234/067", Resource::Tile { level: 0, number: 1_234_067, width: 256 });
        check("tile/1/000.p/17", Resource::Tile { level: 1, number: 0, width: 17 });
        check("tile/entries/x001/000.p/255", Resource::Entries { number: 1000, width: 255 });
        for other in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/1",
            "tile/0/0001",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/8/000",
            "tile/-1/000",
            "tile/00/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/+01",
            "tile/entries/000/",
            "/checkpoint",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Resource::parse(other), None, "{other}");
        }
    }

    #[test]
    fn bundles_are_read_back_and_cut_ones_are_none() {
        let entries = [&b""[..], b"a", &[7; 300]];
        let bytes = bundle(entries);
        assert_eq!(unbundle(&bytes).as_deref(), Some(&entries[..]));
        let whole = [2, 5].into_iter().chain([0, bytes.len()]);
        let whole: Vec<usize> = whole.collect();
        for cut in 0..=bytes.len() {
            assert_eq!(unbundle(&bytes[..cut]).is_some(), whole.contains(&cut), "{cut}");
        }
    }

    /// All proofs of some sizes around the tiles' borders, out of tiles alone.
    #[test]
    fn tiles_hold_every_hash_that_proofs_need() {
        let (mut edge, mut tiles, mut leaves) = (Edge::default(), HashMap::new(), Vec::new());
        assert_eq!(edge.root(), empty_root());
        for index in 0..66_000u64 {
            leaves.push(leaf_hash(&index.to_be_bytes()));
            for tile in edge.append(leaves[index as usize]) {
                assert_eq!(tile.hashes.len() as u64, width(tile.level, tile.number, index + 1));
                tiles.insert((tile.level, tile.number), tile.hashes);
            }
            let size = index + 1;
            if ![1, 2, 255, 256, 257, 511, 513, 65_535, 65_536, 65_537, 66_000].contains(&size) {
                continue;
            }
            assert_eq!(edge.size, size);
            assert_eq!(Some(edge.root()), root_of(&leaves), "{size}");
            let mut now = tiles.clone();
            for tile in edge.partial() {
                assert_eq!(tile.hashes.len() as u64, width(tile.level, tile.number, size), "{size}");
                now.insert((tile.level, tile.number), tile.hashes);
            }
            let hash = |range: Range<u64>| {
                let roots = subtrees(range).into_iter().map(|s| s.root(&now[&(s.level, s.number)]).expect("a tile is whole"));
                fold(roots.collect::<Vec<_>>().into_iter()).expect("no range is empty")
            };
            assert_eq!(hash(0..size), edge.root());
            for other in [0, 1, 254, 255, 256, 300, 65_000, 65_535, 65_536].into_iter().filter(|&other| other < size) {
                for range in inclusion_ranges(other, size).into_iter().chain(consistency_ranges(other, size)).flatten() {
                    let expected = root_of(&leaves[range.start as usize..range.end as usize]);
                    assert_eq!(Some(hash(range.clone())), expected, "{range:?} of {size}");
                }
            }
        }
    }
}
