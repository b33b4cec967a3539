//! What only exists inside a Web Worker: fetch, IndexedDB, WebCrypto, Web Locks, and the host made of them. No compute
//! and no protocol rules.

#[cfg(feature = "gpu")]
mod adapter;
#[cfg(feature = "every-layer")]
pub mod aside;
mod database;
mod day;
mod fetch;
pub mod fields;
mod governor;
mod host;
mod identity;
#[cfg(feature = "every-layer")]
pub mod keyfile;
#[cfg(feature = "every-layer")]
pub mod keyring;
mod locks;
mod pace;
#[cfg(feature = "every-layer")]
mod sealed;
mod timer;

#[cfg(feature = "gpu")]
pub use adapter::{adapter_name, next_device_with_subgroups};
pub use database::{Database, NAME};
pub use day::DataDay;
pub use fetch::exchange;
#[cfg(feature = "every-layer")]
pub use fetch::program_bytes;
pub use governor::WebGovernor;
pub use host::{WebHost, origin};
pub use identity::{KeyOptions, WebIdentity, sha256, verify};
pub use locks::{Lock, lock};
pub use pace::{Bounds, Tempo, WebPace};
