//! The coordinator as its callers meet it: a real server on a free port, a real SQLite file or
//! PostgreSQL server, a client that signs. Only
//! time is made: it stands still until a test moves it.
#![allow(clippy::unwrap_used)]

mod admin;
mod beside;
mod blobs;
mod bucket;
mod challenges;
mod client;
mod cluster;
mod database;
mod divergence;
mod faulty;
mod ladder;
mod leases;
mod log;
mod metrics;
mod openings;
mod postgres;
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
