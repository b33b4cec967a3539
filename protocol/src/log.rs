//! The coordinator's public log: statements, Merkle tree, tiles, checkpoints, receipts and witnesses, as docs/ledger.md specifies them.
//! Pure: whoever signs, stores or fetches is elsewhere.

pub mod entry;
pub mod note;
pub mod receipt;
pub mod tile;
pub mod tree;
pub mod witness;

pub use tree::Hash;
