//! `manyhands witness`: cosigns the public logs of other coordinators until it is told to stop. What a witness does is in the
//! coordinator's crate.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use manyhands_coordinator::clock::SystemClock;
use manyhands_coordinator::witness::{Config, DEFAULT_PORT, Running};
use manyhands_protocol::KeyId;

use crate::serve::stop_signal;

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Folder of its key and of what it signed last.
    #[arg(long, default_value = "manyhands-witness")]
    data_dir: PathBuf,
    /// Name beside its signatures: one word, such as witness.example/1.
    #[arg(long)]
    name: String,
    /// Key of a coordinator whose log it cosigns (may be given several times).
    #[arg(long = "log", value_name = "KEY", required = true)]
    logs: Vec<KeyId>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    // Listened for before the start is announced, so that a signal is never missed.
    let stop = stop_signal()?;
    let config = Config {
        listen: args.listen,
        data_dir: args.data_dir,
        name: args.name,
        logs: args.logs.into_iter().collect(),
        clock: Arc::new(SystemClock),
    };
    let witness = Running::start(config).await.context("cannot start the witness")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on http://{}", witness.addr)?;
    writeln!(out, "witness key {}", witness.key)?;
    out.flush()?;
    drop(out);
    stop.await;
    tracing::info!("stopping");
    witness.shutdown().await;
    Ok(())
}
