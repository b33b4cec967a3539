//! No honest result is rejected: each of many units of training, of all three families and on each of the four backends, is
//! computed again by the coordinator's referee and compared as the ladder compares. A long run takes enough of them for a bound.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use manyhands_coordinator::{App, Config};
use manyhands_protocol::JobId;
use manyhands_protocol::view::{JobState, JobView};
use manyhands_tests::browser::{Visitor, text};
use manyhands_tests::jobs::{self, JobFiles, Kind};
use manyhands_tests::process::Process;
use manyhands_tests::server;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(3 * 3600);
const UNITS_PER_ROUND: u64 = 10;
/// A long run takes so many times as many rounds.
const LONG_FACTOR: u64 = 50;

/// The jobs, and rounds of each on each backend.
fn families(folder: &Path) -> Result<[(JobFiles, u64); 3]> {
    let cnn = JobFiles { manifest: manyhands_tests::root().join("demo/fashion-cnn/manifest.json"), ..jobs::demo() };
    Ok([(cnn, 1), (jobs::demo(), 3), (jobs::model(folder, Kind::Text)?, 1)])
}

/// A coordinator that audits every unit: the referee computes it as soon as it has a result.
struct Auditor {
    app: App,
    folder: PathBuf,
}

impl Auditor {
    async fn start(folder: &Path) -> Result<Auditor> {
        let mut config = Config::new(folder.join("data"));
        config.listen.set_port(0);
        config.draw = || Ok(0.0);
        config.challenge_rate = 0.0;
        config.opening_units_count = 0;
        Ok(Auditor { app: App::start(config).await?, folder: folder.to_owned() })
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(server::binary()?);
        command.args(args).args(["--coordinator", &self.app.url()]);
        Ok(command)
    }

    /// Submits and approves the job with so many rounds, and a target that it cannot reach.
    async fn submit(&self, files: &JobFiles, rounds: u64) -> Result<JobId> {
        let mut manifest: Value = serde_json::from_slice(&std::fs::read(&files.manifest)?)?;
        let work = manifest["work"].as_object_mut().context("work")?;
        work.insert("rounds_max".to_owned(), json!(rounds));
        work.insert("units_per_round".to_owned(), json!(UNITS_PER_ROUND));
        for (name, never) in [("target_accuracy", 1.0), ("target_bits_per_byte", 0.0)] {
            work.entry(name).and_modify(|target| *target = json!(never));
        }
        let path = self.folder.join("manifest.json");
        std::fs::write(&path, manifest.to_string())?;
        let mut command = self.command(&["job", "submit", "--approve", "--json"])?;
        command.arg(&path).arg("--data").arg(&files.data).arg("--token-file").arg(&self.app.admin_token_path);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        ensure!(output.status.success(), "{}", server::error_text(&output));
        Ok(serde_json::from_slice::<JobView>(&output.stdout)?.id)
    }

    async fn view(&self, job: JobId) -> Result<JobView> {
        Ok(reqwest::get(format!("{}/v1/jobs/{job}", self.app.url())).await?.error_for_status()?.json().await?)
    }

    /// A native volunteer that computes `units` units of the job.
    async fn native(&self, device: &str, job: JobId, units: u64) -> Result<()> {
        let mut command = self.command(&["volunteer", device, "--job", &job.to_string(), "--units", &units.to_string()])?;
        let log = self.folder.join("volunteer.log");
        let mut volunteer = Process::start(&mut command, &log)?;
        let well = tokio::task::spawn_blocking(move || volunteer.wait(LIMIT)).await??;
        ensure!(well, "the volunteer failed: {}", std::fs::read_to_string(&log)?);
        Ok(())
    }

    /// A tab that goes on until the job is done.
    async fn tab(&self, choice: &str, backend: &str, job: JobId) -> Result<()> {
        let visitor = Visitor::open(&format!("{}/?{choice}&job={job}", self.app.url())).await?;
        visitor.press_start().await?;
        server::follow(&self.app.url(), job, LIMIT, |view| view.state == JobState::Finished || view.results_rejected > 0).await?;
        let state = visitor.state().await?;
        ensure!(text(&state["backend"]) == backend, "{state}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_updates_are_accepted_on_every_backend() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let auditor = Auditor::start(folder.path()).await?;
    let factor = if std::env::var_os("MANYHANDS_TEST_LONG").is_some() { LONG_FACTOR } else { 1 };
    let mut units_all = 0;
    for (files, rounds) in families(folder.path())? {
        for backend in ["native", "vulkan", "wasm", "webgpu"] {
            let (rounds, units) = (rounds * factor, rounds * factor * UNITS_PER_ROUND);
            let job = auditor.submit(&files, rounds).await?;
            match backend {
                "native" => auditor.native("--cpu", job, units).await?,
                "vulkan" => auditor.native("--gpu", job, units).await?,
                "wasm" => auditor.tab("backend=cpu", backend, job).await?,
                _ => auditor.tab("backend=gpu", backend, job).await?,
            }
            auditor.app.idle().await;
            let view = auditor.view(job).await?;
            println!("{} on {backend}: {} accepted, {} rejected", view.name, view.results_accepted, view.results_rejected);
            assert_eq!((view.results_rejected, view.results_accepted), (0, units), "{view:?}");
            assert_eq!(view.units_refereed, units, "each was compared with the referee's");
            units_all += units;
        }
    }
    // With none of n rejected, a rate above this would have shown with probability 0.95.
    println!("none of {units_all}; 95 % upper bound {:.2e}", 1.0 - 0.05f64.powf(1.0 / units_all as f64));
    Ok(())
}
