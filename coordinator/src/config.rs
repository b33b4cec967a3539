//! How a coordinator is set up. Defaults live here and nowhere else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use axum::http::HeaderName;
use manyhands_protocol::limits;
use manyhands_protocol::rules::challenge::{CHALLENGE_RATE, COMMIT_SHARE};

use crate::blobs::Bucket;
use crate::clock::{Clock, SystemClock};
use crate::keys::{self, KeyError};
use crate::log::witnesses::WitnessAddress;
use crate::store::postgres::PostgresAddress;

/// Port that `manyhands serve` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8787;

/// A note with so many cosignatures is one that every reader takes.
pub const WITNESSES_COUNT_MAX: usize = 16;

/// Settings of one coordinator.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder of blobs, keys and, unless `database` is another, the database; made if it is missing.
    pub data_dir: PathBuf,
    /// Where blobs are instead, if not in that folder.
    pub bucket: Option<Bucket>,
    /// A PostgreSQL database in place of the folder's SQLite file.
    pub database: Option<PostgresAddress>,
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
    /// How long the start waits for a database that another process has locked, or another coordinator is at work on.
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
    /// Which share of results that commit to their training states is challenged. At 0 no unit asks for commitments.
    pub challenge_rate: f64,
    /// Whether challenges ask for single steps wherever one can be shown, rather than for a segment's ends.
    pub step_challenges: bool,
    /// Units whose commitments would take more than this share of their time are not asked for them.
    pub commit_share_max: f64,
    /// Sessions that callers of one network may open within an hour: each is an entry of the public log, for ever.
    pub sessions_per_network_max: u32,
    /// Opening units that each running train job has in stock; with none, sessions begin with its other units.
    pub opening_units_count: u32,
    /// Whoever is asked to cosign the log; at most [`WITNESSES_COUNT_MAX`].
    pub witnesses: Vec<WitnessAddress>,
}

impl Config {
    /// Defaults, with data in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            data_dir: data_dir.into(),
            bucket: None,
            database: None,
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
            step_challenges: false,
            commit_share_max: COMMIT_SHARE,
            sessions_per_network_max: 1_000,
            opening_units_count: 8,
            witnesses: Vec::new(),
        }
    }
}
