//! Wire types, codecs, limits, error codes and pure decision rules of Many Hands.
//!
//! Everything here is a plain value or a pure function: no IO, no clock, no randomness, no `async`. Times come in
//! as milliseconds since the Unix epoch, random bytes as arguments. `docs/protocol.md` specifies the bytes; the golden
//! vectors in `tests/vectors` hold the two together.

pub mod category;
pub mod cbor;
pub mod challenge;
pub mod cose;
pub mod ids;
pub mod limits;
#[cfg(feature = "json")]
pub mod manifest;
pub mod model;
pub mod problem;
pub mod rules;
#[cfg(feature = "json")]
pub mod site;
pub mod statement;
#[cfg(feature = "every-layer")]
pub mod states;
#[cfg(feature = "json")]
pub mod view;
pub mod wire;
pub mod work;

pub use ids::{BlobHash, JobId, KeyId, LeaseId, TreeHash, UnitId};
