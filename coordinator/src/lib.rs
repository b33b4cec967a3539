//! The coordinator of Many Hands: HTTP routes, scheduling, verification, aggregation and the stores.
//!
//! It computes nothing in a GPU and never decides alone what a rule in `manyhands_protocol::rules` decides.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cut;
pub mod merge;
pub mod referee;
pub mod verify;
