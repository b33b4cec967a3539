//! Models of images and of text, all the way: cut, leased, trained by two native volunteers on different backends whose
//! updates have to agree, merged, evaluated and exported.

use std::time::Duration;

use anyhow::{Context, Result};
use manyhands_protocol::view::JobState;
use manyhands_tests::jobs::{self, Kind};
use manyhands_tests::server::Server;

const LIMIT: Duration = Duration::from_secs(4 * 60);

async fn trains(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(&folder.path().join("data"))?;
    let files = jobs::model(folder.path(), kind)?;
    let job = server.submit(&files.manifest, &files.data)?;
    let _volunteers = [server.volunteer(&["--cpu"])?, server.volunteer(&["--gpu"])?];
    let view = server.follow(job, LIMIT, |view| view.state == JobState::Finished).await?;
    let train = view.train.as_ref().context("a train job")?;
    let last = train.history.last().context("a finished job has a history")?;
    println!("{kind:?}: {last:?}, {} units refereed", view.units_refereed);
    assert!(train.is_reached(), "{:?}", train.history);
    assert_eq!((view.contributors, view.results_rejected), (2, 0), "CPU and GPU agree on every unit");
    assert!(view.units_refereed < view.units_settled, "some units were settled by the two alone");
    if let Some(bits) = last.bits_per_byte {
        // The text's own entropy: nobody guesses better than it allows but by luck.
        assert!(bits > 0.7, "{bits}");
        let said = server.run(&["job", "status", &job.to_string()])?;
        assert!(said.contains(&format!("bits per byte  {bits:.4} (target 0.9500)")), "{said}");
    }
    let out = folder.path().join("model.safetensors");
    server.run(&["job", "export", &job.to_string(), "--out", &out.to_string_lossy()])?;
    let bytes = std::fs::read(&out)?;
    let exported = safetensors::SafeTensors::deserialize(&bytes)?;
    let expected = match kind {
        Kind::Images => ("layers.0.weight", vec![3, 3, 1, 4]),
        Kind::Text => ("layers.3.qkv_weight", vec![16, 48]),
    };
    assert_eq!(exported.tensor(expected.0)?.shape(), expected.1);
    Ok(())
}

#[tokio::test]
async fn a_convolutional_net() -> Result<()> {
    trains(Kind::Images).await
}

#[tokio::test]
async fn a_transformer() -> Result<()> {
    trains(Kind::Text).await
}
