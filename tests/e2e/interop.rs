//! docs/protocol.md is enough: a client written from it alone takes part, and its lies are refused. The golden vectors
//! are what their script makes.

use anyhow::Result;
use manyhands_tests::jobs::{self, SmallTrain};
use manyhands_tests::python;
use manyhands_tests::server::Server;
use serde_json::Value;

/// Units of the job: each lie about a product needs one.
const UNITS: usize = 20;
/// Fewest refusals that the client must have seen: cutting a request at each byte alone is more than ten.
const REFUSALS_MIN: usize = 50;

#[tokio::test]
async fn an_independent_client_is_credited_and_its_lies_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::matmul(folder.path(), [4 * 16, 100, (UNITS / 4) * 16], 16)?;
    let job = server.submit(&files.manifest, &files.data)?;
    assert_eq!(server.job(job).await?.units_total, UNITS as u64);

    let output = python::run("tests/interop/client.py", &[server.url.as_str(), "--job", &job.to_string(), "--lies"])?;
    let steps: Vec<Value> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let count = |step: &str| steps.iter().filter(|s| s["step"] == step).count();
    assert_eq!((count("honest"), count("done")), (1, 1));
    assert!(count("refused") >= REFUSALS_MIN, "only {} refusals", count("refused"));
    assert_eq!(count("rejected"), 8);

    let view = server.job(job).await?;
    assert_eq!((view.results_accepted, view.results_rejected), (2, 8));
    Ok(())
}

/// By the specification alone numpy reads operands in f16 as the coordinator does, whole lies about their product included.
#[tokio::test]
async fn an_independent_client_computes_products_of_f16() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::matmul_f16(folder.path(), [4 * 16, 101, (UNITS / 4) * 15], 16)?;
    let job = server.submit(&files.manifest, &files.data)?;
    python::run("tests/interop/client.py", &[server.url.as_str(), "--job", &job.to_string(), "--lies"])?;
    let view = server.job(job).await?;
    assert_eq!((view.results_accepted, view.results_rejected), (2, 8));
    Ok(())
}

/// Every kind of cheat in a training unit is rejected beside an honest native volunteer, and its key gets no more work; the
/// independent client's own honest update is accepted.
#[tokio::test]
async fn cheaters_are_caught_beside_honest_volunteers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::train(folder.path(), SmallTrain::endless())?;
    let job = server.submit(&files.manifest, &files.data)?;
    let _honest = server.volunteer(&["--cpu", "--threads", "1"])?;
    for kind in ["honest", "lazy", "noise", "stale", "sign-flip", "scaled"] {
        let output = python::run("tests/interop/cheater.py", &[server.url.as_str(), "--job", &job.to_string(), "--cheat", kind])?;
        print!("{output}");
    }
    let view = server.job(job).await?;
    println!("tax: {:?}", view.tax);
    assert_eq!(view.results_rejected, 5, "none of the honest ones");
    Ok(())
}

/// The independent client commits to its states: an honest one shows the segment that is drawn, and then the referee agrees; made-up
/// states are caught, and so is whoever never shows them.
#[tokio::test]
async fn segments_are_shown_and_made_up_ones_caught() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start_with(&folder.path().join("data"), &["--challenge-rate", "1"])?;
    let demo = jobs::demo();
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&demo.manifest)?)?;
    // Large batches, so that hashing a state takes a small share of a unit: five segments.
    manifest["work"]["batch"] = serde_json::json!(248);
    let path = folder.path().join("manifest.json");
    std::fs::write(&path, manifest.to_string())?;
    let job = server.submit(&path, &demo.data)?;
    for kind in ["honest", "made-up", "silent"] {
        let output =
            python::run("tests/interop/challenged.py", &[server.url.as_str(), "--job", &job.to_string(), "--kind", kind])?;
        print!("{output}");
    }
    let view = server.job(job).await?;
    assert_eq!((view.units_settled, view.units_refereed, view.results_rejected), (1, 1, 4), "{view:?}");
    Ok(())
}

/// A client that surprises is a failure, not a silent end.
#[tokio::test]
async fn a_job_that_does_not_exist_is_a_surprise() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let error = python::run("tests/interop/client.py", &[server.url.as_str(), "--job", "99"]).expect_err("no such job");
    assert!(error.to_string().contains("unknown_job"), "{error}");
    Ok(())
}

#[test]
fn vectors_are_what_their_scripts_make() -> Result<()> {
    python::run("tests/vectors/make.py", &["--check"])?;
    python::run("tests/vectors/models.py", &["--check"])?;
    Ok(())
}
