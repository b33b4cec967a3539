//! The coordinator as its callers meet it: a real server on a free port, a real SQLite file, a client that signs. Only
//! time is made: it stands still until a test moves it.
#![allow(clippy::unwrap_used)]

mod admin;
mod blobs;
mod bucket;
mod challenges;
mod client;
mod divergence;
mod faulty;
mod ladder;
mod leases;
mod log;
mod metrics;
mod openings;
mod products;
mod restart;
mod rotations;
mod rounding;
mod segments;
mod sessions;
mod sites;
mod start;
mod store;
mod surface;
mod training;
mod witnesses;
mod world;
