//! The volunteer: consent, session, leases, units, results, in one loop that a tab and a terminal share. It names no
//! platform (that is a [`Host`]) and computes nothing itself (that is the engine).

pub mod backoff;
mod blobs;
mod call;
#[cfg(feature = "every-layer")]
mod challenge;
mod data;
pub mod device;
mod error;
pub mod event;
pub mod host;
#[cfg(feature = "every-layer")]
pub mod identity;
pub mod lane;
pub mod lease;
mod pending;
mod run;
mod session;
mod switch;
mod task;
// They compute on threads.
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
#[cfg(feature = "every-layer")]
mod training;
// Measuring waits for a visit's second unit, which a build of products alone never comes to.
#[cfg(feature = "every-layer")]
mod tune;
mod unit;

pub use data::DataUse;
pub use device::Choice;
pub use error::VolunteerError;
pub use event::{Event, Phase, State, UnitEvent, WorkKind};
pub use host::{Host, HostError, Info, Method, Request, Response, StoredSession};
pub use lane::{Aside, LANES_MAX};
pub use run::{Settings, Volunteer};
pub use switch::{Switch, Wish};
pub use task::{Computed, Task};
