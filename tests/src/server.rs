//! A real coordinator: the `manyhands` binary, its own data folder, a free port; killed and restarted at will.
//!
//! Jobs go in through the real command line. It never opens the coordinator's store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::StreamExt;
use manyhands_protocol::view::{InfoView, JobView, JobsView, KeyView};
use manyhands_protocol::{JobId, KeyId};

use crate::process::Process;

/// The coordinator opens its store and listens within this.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Lines of the coordinator's log that a failed test shows.
const LOG_LINES: usize = 60;

/// The `manyhands` binary: `MANYHANDS_BIN`, or what cargo built beside the tests.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("MANYHANDS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().context("the test is in a folder")?;
            let folder = if folder.ends_with("deps") { folder.parent().context("deps is in a folder")? } else { folder };
            folder.join("manyhands")
        }
    };
    ensure!(path.is_file(), "{} is not there; build it with: cargo build -p manyhands-cli", path.display());
    Ok(path)
}

/// A running coordinator. It is killed when dropped; a failed test shows the end of its log.
pub struct Server {
    process: Process,
    pub url: String,
    pub key: KeyId,
    data_dir: PathBuf,
}

impl Server {
    /// Starts a coordinator on a free port of loopback.
    pub fn start(data_dir: &Path) -> Result<Server> {
        Server::start_with(data_dir, &[])
    }

    /// The same with further arguments, which a restart leaves out.
    pub fn start_with(data_dir: &Path, further: &[&str]) -> Result<Server> {
        Server::listen(data_dir, "127.0.0.1:0", further)
    }

    fn listen(data_dir: &Path, listen: &str, further: &[&str]) -> Result<Server> {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--listen", listen, "--data-dir"]).arg(data_dir).args(further);
        let mut process = Process::start(&mut command, &log_path(data_dir))?;
        let first_lines = |process: &mut Process| -> Result<(String, KeyId)> {
            let url = process.line_after("listening on ", START_LIMIT)?;
            Ok((url, process.line_after("coordinator key ", START_LIMIT)?.parse()?))
        };
        match first_lines(&mut process) {
            Ok((url, key)) => Ok(Server { process, url, key, data_dir: data_dir.to_owned() }),
            Err(e) => bail!("{e}\n{}", log_end(data_dir)),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.url.strip_prefix("http://").context("an http address")?.parse()?)
    }

    /// SIGKILL; nothing is flushed or closed.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Starts it again on the same folder and port, after [`Server::kill_9`].
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(&[])
    }

    /// The same with further arguments.
    pub fn restart_with(&mut self, further: &[&str]) -> Result<()> {
        self.process.kill_9();
        let again = Server::listen(&self.data_dir, &self.address()?.to_string(), further)?;
        ensure!(again.key == self.key, "another key after the restart");
        *self = again;
        Ok(())
    }

    /// Starts one with the same key on another folder, in its place, after [`Server::kill_9`].
    pub fn replace(&mut self, data_dir: &Path, further: &[&str]) -> Result<()> {
        self.data_dir = data_dir.to_owned();
        self.restart_with(further)
    }

    /// What it wrote to its own log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.data_dir)).unwrap_or_default()
    }

    /// `manyhands ARGS` with this coordinator's address and token.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(args).arg("--coordinator").arg(&self.url);
        if matches!(args.first(), Some(&"job" | &"site")) {
            command.arg("--token-file").arg(self.data_dir.join("admin.token"));
        }
        Ok(command)
    }

    /// Runs `manyhands ARGS` to its end; an error if it fails.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        finished(&mut self.command(args)?).map_err(|error| anyhow!("manyhands {args:?}: {error}"))
    }

    /// Submits and approves a job through the command line.
    pub fn submit(&self, manifest: &Path, data: &Path) -> Result<JobId> {
        let (manifest, data) = (manifest.to_string_lossy(), data.to_string_lossy());
        let answer = self.run(&["job", "submit", &manifest, "--data", &data, "--approve", "--json"])?;
        let view: JobView = serde_json::from_str(&answer).with_context(|| format!("{answer} is no job"))?;
        Ok(view.id)
    }

    /// A native volunteer; it ends with `units` units, or when dropped.
    pub fn volunteer(&self, args: &[&str]) -> Result<Process> {
        let mut command = self.command(&["volunteer"])?;
        Process::start(command.args(args), &log_path(&self.data_dir).with_extension("volunteer.log"))
    }

    pub async fn info(&self) -> Result<InfoView> {
        self.get("/v1/info").await
    }

    pub async fn jobs(&self) -> Result<Vec<JobView>> {
        Ok(self.get::<JobsView>("/v1/jobs").await?.jobs)
    }

    pub async fn job(&self, job: JobId) -> Result<JobView> {
        self.get(&format!("/v1/jobs/{job}")).await
    }

    pub async fn key(&self, key: KeyId) -> Result<KeyView> {
        self.get(&format!("/v1/keys/{key}")).await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = reqwest::get(format!("{}{path}", self.url)).await?;
        let (status, body) = (response.status(), response.bytes().await?);
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).with_context(|| path.to_owned())
    }

    /// [`follow`] on this coordinator.
    pub async fn follow(&self, job: JobId, limit: Duration, reached: impl Fn(&JobView) -> bool) -> Result<JobView> {
        follow(&self.url, job, limit, reached).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", log_end(&self.data_dir));
        }
    }
}

/// Follows a job's event stream until `reached`; gives the view then.
pub async fn follow(url: &str, job: JobId, limit: Duration, reached: impl Fn(&JobView) -> bool) -> Result<JobView> {
    let mut last = None;
    let follow = async {
        let response = reqwest::get(format!("{url}/v1/jobs/{job}/events")).await?;
        ensure!(response.status().is_success(), "events of job {job}: {}", response.status());
        let (mut stream, mut text) = (response.bytes_stream(), String::new());
        while let Some(bytes) = stream.next().await {
            text.push_str(std::str::from_utf8(&bytes?).context("events are UTF-8")?);
            while let Some(end) = text.find('\n') {
                let line: String = text.drain(..=end).collect();
                if let Some(data) = line.trim_end().strip_prefix("data:") {
                    let view: JobView = serde_json::from_str(data).context("an event is a job view")?;
                    if reached(&view) {
                        return Ok(view);
                    }
                    last = Some(view);
                }
            }
        }
        bail!("the event stream ended")
    };
    let ended = tokio::time::timeout(limit, follow).await;
    match ended {
        Ok(result) => result.with_context(|| format!("job {job}, last seen: {last:?}")),
        Err(_) => bail!("job {job} did not get there within {limit:?}; last seen: {last:?}"),
    }
}

/// What a command wrote that ran to its end; an error of what it wrote for its user if it failed.
pub fn finished(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), error_text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// What a failed command wrote for its user.
pub fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Beside the data folder, which is the coordinator's own.
fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn log_end(data_dir: &Path) -> String {
    let text = std::fs::read_to_string(log_path(data_dir)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    format!("--- end of the coordinator's log\n{shown}\n---")
}
