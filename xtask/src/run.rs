//! `cargo xtask run`: everything from a fresh checkout to a page that trains a model, and back to an exported file.
//! It uses the same commands and calls as anybody else; the coordinator knows nothing of it.

mod api;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::proc::{Group, Interrupt, command, on_path, run};
use crate::{build_dir, root, setup, web};
use api::{Api, Job, Target};

/// A job that the repository brings along, in the folder of its name below demo/.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Bundled {
    FashionMlp,
    FashionCnn,
    AustenGpt,
}

impl Bundled {
    /// The manifest's name, and its folder's.
    fn name(self) -> &'static str {
        match self {
            Bundled::FashionMlp => "fashion-mlp",
            Bundled::FashionCnn => "fashion-cnn",
            Bundled::AustenGpt => "austen-gpt",
        }
    }

    /// The folder of its data: both nets learn from the same pictures.
    fn data(self) -> &'static str {
        match self {
            Bundled::FashionMlp | Bundled::FashionCnn => "demo/fashion-mlp",
            Bundled::AustenGpt => "demo/austen-gpt",
        }
    }
}

/// The coordinator opens its store and listens within this.
const START_LIMIT: Duration = Duration::from_secs(60);
/// With visitors of our own, a round that takes longer means that nothing moves any more.
const ROUND_LIMIT: Duration = Duration::from_secs(15 * 60);
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Start this many headless browsers that press Start, and leave when the job is finished.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16))]
    volunteers: u32,
    /// The bundled job to hand in.
    #[arg(long, value_enum, default_value_t = Bundled::FashionMlp)]
    job: Bundled,
    /// Where the coordinator keeps its database, blobs and keys.
    #[arg(long, value_name = "DIR", default_value = "manyhands-data")]
    data_dir: PathBuf,
    /// Address the coordinator listens on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Open no browser.
    #[arg(long)]
    no_open: bool,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    // Before minutes of building, and again by the coordinator itself.
    check_free(args.listen)?;
    setup::set_up(if args.volunteers > 0 { setup::Purpose::Visitors } else { setup::Purpose::Web })?;
    web::build()?;
    run(&mut command("cargo", &["build", "--package", "manyhands-cli"]))?;
    if args.volunteers > 0 {
        run(&mut command("cargo", &["build", "--package", "manyhands-tests", "--bin", "visitors"]))?;
    }

    let coordinator = Coordinator::start(args, &interrupt)?;
    let job = coordinator.demo_job(args.job)?;
    let url = &coordinator.url;
    println!("\nMany Hands is at {url}\n");
    if args.volunteers == 0 {
        if !args.no_open && has_display() {
            open_page(url);
        }
        println!("Open it and press Start. Ctrl-C ends the coordinator; the next run goes on where this one stopped.");
    }
    let visitors = (args.volunteers > 0).then(|| start_visitors(url, args.volunteers)).transpose()?;
    watch(coordinator, visitors, job, &interrupt)
}

/// A plain word before the coordinator's own error.
fn check_free(listen: SocketAddr) -> Result<()> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "{listen} is in use: end what listens there (another `cargo xtask run`?), or take a free port with --listen {}:0",
            listen.ip()
        ),
        Err(e) => Err(e).with_context(|| format!("cannot listen on {listen}")),
    }
}

fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn open_page(url: &str) {
    if on_path("xdg-open") {
        // Whether a browser comes up is between the visitor and their desktop; the address is printed anyway.
        let _ = command("xdg-open", &[url]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

/// A program that cargo just built beside this one.
fn built(name: &str) -> Result<PathBuf> {
    let path = build_dir().join(name);
    ensure!(path.is_file(), "cargo did not build {}", path.display());
    Ok(path)
}

fn start_visitors(url: &str, count: u32) -> Result<Group> {
    let log = root().join("artefacts/visitors.log");
    fs::create_dir_all(log.parent().expect("artefacts/ is its parent"))?;
    println!("starting {count} headless visitors; what their pages show goes to {}", log.display());
    let mut visitors = command(built("visitors")?, &["--url", url, "--count", &count.to_string()]);
    Group::start(visitors.stdout(fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?))
}

/// The coordinator's process and how to talk with it.
struct Coordinator {
    process: Group,
    url: String,
    api: Api,
    token_file: PathBuf,
}

impl Coordinator {
    fn start(args: &Args, interrupt: &Interrupt) -> Result<Coordinator> {
        let data_dir = root().join(&args.data_dir);
        let listen = args.listen.to_string();
        let mut serve = command(built("manyhands")?, &["serve", "--listen", &listen, "--data-dir"]);
        if std::env::var_os("RUST_LOG").is_none() {
            // The rounds are printed here; the coordinator speaks up when something is wrong.
            serve.env("RUST_LOG", "warn");
        }
        let mut process = Group::start(serve.arg(&data_dir).stdout(Stdio::piped()))?;
        let stdout = process.take_stdout().expect("stdout was piped");
        let url = address(stdout, &mut process, interrupt)?;
        let token_file = data_dir.join("admin.token");
        let token =
            fs::read_to_string(&token_file).with_context(|| format!("the coordinator left no {}", token_file.display()))?;
        Ok(Coordinator { process, api: Api::new(&url, token.trim()), url, token_file })
    }

    /// The unfinished demo job, approved; handed in where there is none.
    fn demo_job(&self, bundled: Bundled) -> Result<Job> {
        let name = bundled.name();
        let unfinished = || -> Result<Option<Job>> {
            let jobs = self.api.jobs()?;
            Ok(jobs.into_iter().rfind(|job| job.name == name && !job.is_over()))
        };
        if let Some(job) = unfinished()? {
            println!("job {} ({name}) is here already: {}", job.id, job.state);
            match job.state.as_str() {
                "submitted" => self.job(&["approve", &job.id.to_string()])?,
                "paused" => self.job(&["resume", &job.id.to_string()])?,
                _ => {}
            }
            return Ok(job);
        }
        self.job(&["submit", &format!("demo/{name}/manifest.json"), "--data", bundled.data(), "--approve"])?;
        unfinished()?.context("the demo job was handed in, but the coordinator does not list it")
    }

    /// `manyhands job …` on this coordinator.
    fn job(&self, args: &[&str]) -> Result<()> {
        let mut job = command(built("manyhands")?, &["job"]);
        run(job.args(args).args(["--coordinator", &self.url, "--token-file"]).arg(&self.token_file))
    }
}

/// Reads the coordinator's first lines until it says where it listens, then keeps passing its lines on.
fn address(stdout: std::process::ChildStdout, process: &mut Group, interrupt: &Interrupt) -> Result<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            println!("{line}");
            if let Some(url) = line.strip_prefix("listening on ") {
                // Nobody listens after the first address; there is only one.
                let _ = sender.send(url.to_owned());
            }
        }
    });
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Ok(url) = receiver.try_recv() {
            return Ok(url);
        }
        if let Some(status) = process.ended()? {
            bail!("the coordinator ended at once ({status}); its message is above");
        }
        ensure!(Instant::now() < deadline, "the coordinator did not listen within {} s", START_LIMIT.as_secs());
        ensure!(!interrupt.wait(Duration::from_millis(50)), "interrupted");
    }
}

/// Prints a line per round until the job is over (with visitors of our own) or somebody ends it.
fn watch(mut coordinator: Coordinator, visitors: Option<Group>, job: Job, interrupt: &Interrupt) -> Result<ExitCode> {
    let with_visitors = visitors.is_some();
    let mut visitors = visitors;
    let (mut printed, mut last_round, mut told) = (0, Instant::now(), false);
    loop {
        let now = coordinator.api.job(job.id)?;
        for round in now.history.iter().skip(printed) {
            println!("{}", now.line(round));
            last_round = Instant::now();
        }
        printed = now.history.len();
        if now.is_over() && !told {
            told = true;
            let reached = finish(&coordinator, &now)?;
            if with_visitors {
                return Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
        if interrupt.wait(POLL) {
            println!("stopping");
            return Ok(if with_visitors { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        if let Some(status) = coordinator.process.ended()? {
            bail!("the coordinator ended ({status})");
        }
        if let Some(group) = &mut visitors {
            if let Some(status) = group.ended()? {
                bail!("the visitors ended ({status}) before the job did");
            }
            ensure!(last_round.elapsed() < ROUND_LIMIT, "no round in {} minutes", ROUND_LIMIT.as_secs() / 60);
        }
    }
}

/// Says how the job ended and exports its model; true when the target was reached.
fn finish(coordinator: &Coordinator, job: &Job) -> Result<bool> {
    let Some(last) = job.history.last() else { bail!("job {} is {} without any evaluation", job.id, job.state) };
    let reached = job.is_reached(last);
    let verdict = if reached { "reached" } else { "NOT reached" };
    let target = match job.target {
        Target::Accuracy(target) | Target::BitsPerByte(target) => target.to_string(),
        Target::None => "none".to_owned(),
    };
    println!("\njob {} is {}: {} after round {}, target {target} {verdict}", job.id, job.state, last.standing(), last.round);
    let out = root().join("artefacts").join(format!("{}-{}.safetensors", job.name, job.id));
    export(coordinator, job.id, &out)?;
    println!("exported model: {}", out.display());
    Ok(reached)
}

fn export(coordinator: &Coordinator, job: u64, out: &Path) -> Result<()> {
    fs::create_dir_all(out.parent().expect("artefacts/ is its parent"))?;
    coordinator.job(&["export", &job.to_string(), "--out", &out.to_string_lossy()])?;
    ensure!(out.is_file(), "the export wrote no {}", out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_jobs_are_there_under_their_names() {
        for bundled in <Bundled as clap::ValueEnum>::value_variants() {
            let manifest = fs::read_to_string(root().join(format!("demo/{}/manifest.json", bundled.name()))).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
            assert_eq!(manifest["name"], bundled.name());
            let file = if manifest["work"]["text"].is_null() { "train.safetensors" } else { "text.txt" };
            assert!(root().join(bundled.data()).join(file).is_file());
        }
    }

    #[test]
    fn a_port_in_use_is_said_plainly() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let message = check_free(address).unwrap_err().to_string();
        assert!(message.contains("is in use") && message.contains("--listen 127.0.0.1:0"), "{message}");
        drop(taken);
        check_free(address).unwrap();
    }

    #[test]
    fn a_coordinator_that_ends_at_once_is_an_error() {
        let mut process = Group::start(command("sh", &["-c", "echo no such folder"]).stdout(Stdio::piped())).unwrap();
        let stdout = process.take_stdout().unwrap();
        assert!(address(stdout, &mut process, &Interrupt::never()).is_err());
        let serve = "echo listening on http://127.0.0.1:1; exec sleep 600";
        let mut process = Group::start(command("sh", &["-c", serve]).stdout(Stdio::piped())).unwrap();
        let stdout = process.take_stdout().unwrap();
        assert_eq!(address(stdout, &mut process, &Interrupt::never()).unwrap(), "http://127.0.0.1:1");
    }
}
