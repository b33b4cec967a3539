//! `manyhands serve`: runs a coordinator until it is told to stop. What a coordinator does is in the coordinator's crate.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use manyhands_coordinator::blobs::Bucket;
use manyhands_coordinator::config::HeaderName;
use manyhands_coordinator::{App, Config, WitnessAddress, config};
use manyhands_protocol::rules::challenge::{CHALLENGE_RATE, COMMIT_SHARE};

use crate::store::StoreArgs;

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, config::DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Folder of database, blobs and keys.
    #[arg(long, default_value = "manyhands-data")]
    data_dir: PathBuf,
    /// Keep blobs in a bucket of an S3-compatible service instead: s3://BUCKET/PREFIX. Credentials, region and endpoint are read from
    /// the environment, as AWS's own tools do: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.
    #[arg(long, value_name = "URL")]
    blobs: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// Name shown to visitors.
    #[arg(long)]
    name: Option<String>,
    /// Let any page embed this coordinator's, without a registered site: for trying things on one computer.
    #[arg(long)]
    embed_anywhere: bool,
    /// Behind a proxy: the header to whose end it adds the address of who called it, such as X-Forwarded-For. Two keys of one
    /// network do not confirm each other's results.
    #[arg(long, value_name = "NAME")]
    forwarded_header: Option<HeaderName>,
    /// Share of the results that commit to their training states which is challenged, 0 to 1. At 0 none commits; below the default
    /// keys are repeated as often as without challenges.
    #[arg(long, default_value_t = CHALLENGE_RATE, value_parser = share)]
    challenge_rate: f64,
    /// Challenges ask for single steps wherever one can be shown, rather than for the two ends of a segment.
    #[arg(long)]
    step_challenges: bool,
    /// Units whose commitments would take more than this share of their time, by an estimate, are not asked for them.
    #[arg(long, default_value_t = COMMIT_SHARE, value_parser = share)]
    commit_share: f64,
    /// A witness that cosigns the public log, and where it is asked: KEY=https://ADDRESS, with the key that `manyhands witness`
    /// prints (may be given several times).
    #[arg(long = "witness", value_name = "KEY=URL")]
    witnesses: Vec<WitnessAddress>,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "a number from 0 to 1".to_owned())
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = Config::new(args.data_dir);
    config.database = args.store.address()?;
    config.listen = args.listen;
    config.bucket =
        args.blobs.map(|url| Bucket { url, options: std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect() });
    config.embed_anywhere = args.embed_anywhere;
    config.forwarded_header = args.forwarded_header;
    config.challenge_rate = args.challenge_rate;
    config.step_challenges = args.step_challenges;
    config.commit_share_max = args.commit_share;
    config.witnesses = args.witnesses;
    let keys: BTreeSet<_> = config.witnesses.iter().map(|witness| witness.key.key).collect();
    if keys.len() < config.witnesses.len() {
        bail!("--witness: one key is given twice");
    }
    if config.witnesses.len() > config::WITNESSES_COUNT_MAX {
        bail!("--witness: at most {}", config::WITNESSES_COUNT_MAX);
    }
    if let Some(name) = args.name {
        config.name = name;
    }
    // Listened for before the start is announced, so that a signal is never missed.
    let stop = stop_signal()?;
    let app = App::start(config).await.context("cannot start the coordinator")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {}", app.url())?;
    writeln!(out, "coordinator key {}", app.key)?;
    out.flush()?;
    drop(out);
    tracing::info!(token = %app.admin_token_path.display(), "the operator's token is in this file");
    stop.await;
    tracing::info!("stopping");
    app.shutdown().await;
    Ok(())
}

/// Resolves at the first request to stop.
#[cfg(unix)]
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}
