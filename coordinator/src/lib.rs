//! The coordinator of Many Hands: HTTP routes, scheduling, verification, aggregation and the stores.
//!
//! It computes nothing on a GPU, and decides nothing alone that a rule in `manyhands_protocol::rules` decides.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address;
mod app;
mod assets;
pub mod blobs;
pub mod clock;
pub mod config;
pub mod cut;
pub mod driver;
pub mod events;
mod http;
mod jobs;
pub mod keys;
pub mod ledger;
mod log;
pub mod merge;
mod metrics;
pub mod prefix;
pub mod referee;
pub mod scheduler;
mod server;
mod service;
pub mod store;
pub mod verify;
pub mod witness;

pub use address::base_address;
pub use app::{App, StartError};
pub use config::Config;
pub use log::witnesses::WitnessAddress;
