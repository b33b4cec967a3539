//! How a coordinator is set up. Defaults live here and nowhere else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use axum::http::HeaderName;
use manyhands_protocol::limits;
use manyhands_protocol::rules::challenge::COMMIT_SHARE;

use crate::clock::{Clock, SystemClock};
use crate::keys::{self, KeyError};

/// Port that `manyhands serve` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8787;

/// Share of the results that commit to their training states which is challenged, unless the operator says otherwise: none, for
/// challenges come on top of what the ladder repeats and cost more than they find (docs/verification.md). At 0.091 fabricated
/// steps are found as it says there.
pub const CHALLENGE_RATE: f64 = 0.0;

/// Settings of one coordinator.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder of database, blobs and keys; made if it is missing.
    pub data_dir: PathBuf,
    /// Shown to visitors.
    pub name: String,
    /// Any page may embed this one, without a registered site: for trying things on one computer.
    pub embed_anywhere: bool,
    /// Behind a proxy, the header to whose end it adds the address of who called it.
    pub forwarded_header: Option<HeaderName>,
    pub clock: Arc<dyn Clock>,
    /// Draws what decides a unit's course; tests replace it.
    pub draw: fn() -> Result<f64, KeyError>,
    /// How long a gradient unit waits for a second key to take it.
    pub replica_wait_ms: u64,
    /// How long it waits for the result of a second key that has.
    pub replica_leased_wait_ms: u64,
    /// How long the start waits for a database that another process has locked.
    pub database_lock_wait: Duration,
    /// Most connections at once; more wait to be accepted.
    pub connections_count_max: usize,
    /// Most event streams at once.
    pub streams_count_max: usize,
    /// Most uploads of volunteers at once.
    pub uploads_count_max: usize,
    /// Most uploads of the operator at once, whatever volunteers do.
    pub operator_uploads_count_max: usize,
    /// Longest silence between two pieces of an upload.
    pub upload_silence: Duration,
    /// Results checked by algebra at once.
    pub checks_count_max: usize,
    /// Results that may wait for that; more are asked to come back.
    pub checks_waiting_max: usize,
    /// Which share of results that commit to their training states is asked to show a step. At 0 no unit asks for commitments.
    pub challenge_rate: f64,
    /// Units whose commitments would take more than this share of their time are not asked for them.
    pub commit_share_max: f64,
    /// Opening units that each running train job has in stock; with none, sessions begin with its other units.
    pub opening_units_count: u32,
}

impl Config {
    /// Defaults, with data in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            data_dir: data_dir.into(),
            name: "Many Hands".to_owned(),
            embed_anywhere: false,
            forwarded_header: None,
            clock: Arc::new(SystemClock),
            draw: keys::draw,
            replica_wait_ms: limits::REPLICA_WAIT_MS,
            replica_leased_wait_ms: limits::REPLICA_LEASED_WAIT_MS,
            database_lock_wait: Duration::from_secs(5),
            connections_count_max: 16_384,
            streams_count_max: 4096,
            uploads_count_max: 32,
            operator_uploads_count_max: 4,
            upload_silence: Duration::from_millis(limits::UPLOAD_SILENCE_MS),
            checks_count_max: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            checks_waiting_max: 256,
            challenge_rate: CHALLENGE_RATE,
            commit_share_max: COMMIT_SHARE,
            opening_units_count: 8,
        }
    }
}
