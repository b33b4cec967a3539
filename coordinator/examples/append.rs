//! How fast the public log grows: `append` approves a job of many shards, which queues a statement for each, appends them as the
//! coordinator does, and measures beside how long writes of others take meanwhile. Prints one JSON object.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use manyhands_coordinator::clock::ManualClock;
use manyhands_coordinator::store::sqlite::SqliteStore;
use manyhands_coordinator::store::{NewJob, NewRound, Store};
use manyhands_coordinator::{App, Config};
use manyhands_protocol::BlobHash;
use manyhands_protocol::manifest::Submission;
use manyhands_protocol::view::JobState;
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

/// Statements of one run: the shards of a job, as many as one may have.
const SHARDS: usize = 60_000;
/// Between two writes of the others.
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: append FOLDER")?;
    let mut config = Config::new(&folder);
    config.listen.set_port(0);
    // No batch but those asked for.
    config.clock = Arc::new(ManualClock::new(1));
    let path = std::path::Path::new(&folder).join("manyhands.sqlite3");
    let store = Arc::new(SqliteStore::open(&path, Duration::from_secs(5)).await?);
    let app = App::start_with(config, store.clone()).await?;
    let blob = BlobHash([7; 32]);
    store.add_blob(blob, 1, 1).await?;
    let submission: Submission = serde_json::from_value(json!({
        "manifest": {
            "version": 1, "name": "log", "title": "log", "description": "log", "owner": "log", "category": "demo",
            "work": {
                "kind": "train",
                "model": { "input": { "shape": [1], "dtype": "u8", "scale": 1.0, "offset": 0.0 },
                    "layers": [{ "type": "dense", "outputs": 2 }], "loss": "softmax_cross_entropy" },
                "inner_steps": 1, "batch": 1, "inner_optimizer": { "type": "sgd", "learning_rate": 1.0, "momentum": 0.0 },
                "outer_optimizer": { "type": "nesterov", "learning_rate": 1.0, "momentum": 0.0 },
                "units_per_round": 1, "rounds_max": 1, "target_accuracy": 1.0, "rows_per_shard": 1, "seed": 1
            }
        },
        "inputs": { "kind": "train", "shards": vec![blob; SHARDS], "test": blob }
    }))?;
    let round = NewRound { checkpoint: blob, velocity: blob, loss: 1.0, loss_error: None, accuracy: 0.0, at_ms: 1 };
    let job = store.create_job(NewJob { submission, submitted_ms: 1, units: Vec::new(), round: Some(round) }).await?;
    let alone = waits(&*store, &AtomicBool::new(false), 200).await?;
    store.set_job_state(job, &[JobState::Submitted], JobState::Running).await?;

    let done = Arc::new(AtomicBool::new(false));
    let beside = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move { waits(&*store, &done, u64::MAX).await.map_err(|e| e.to_string()) }
    });
    let begun = Instant::now();
    app.append_log().await?;
    let seconds = begun.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let beside = beside.await??;
    let appended = store.log_head().await?.ok_or("no checkpoint")?.size;
    println!(
        "{}",
        json!({
            "statements": appended, "seconds": seconds, "statements_per_second": appended as f64 / seconds,
            "write_ms_alone": quantiles(alone), "write_ms_while_appending": quantiles(beside),
        })
    );
    app.shutdown().await;
    Ok(())
}

/// How long writes of others take, until it is done or so many were made.
async fn waits(store: &dyn Store, done: &AtomicBool, most: u64) -> Result<Vec<f64>, Failure> {
    let mut waits = Vec::new();
    while !done.load(Ordering::Relaxed) && (waits.len() as u64) < most {
        let begun = Instant::now();
        let mut hash = [1; 32];
        hash[..8].copy_from_slice(&(waits.len() as u64).to_le_bytes());
        hash[8..16].copy_from_slice(&most.to_le_bytes());
        store.add_blob(BlobHash(hash), 1, 1).await?;
        waits.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(waits)
}

fn quantiles(mut waits: Vec<f64>) -> serde_json::Value {
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits.get(((waits.len() as f64 - 1.0) * share) as usize).copied();
    json!({ "count": waits.len(), "median": at(0.5), "p99": at(0.99), "max": at(1.0) })
}
