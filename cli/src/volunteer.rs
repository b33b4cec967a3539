//! `manyhands volunteer`: contributes from a terminal. Arguments, the key and what is printed; the loop itself is the
//! volunteer crate's.

mod host;
pub mod key;
mod tuning;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use manyhands::tuner::{Tune, variant_names};
use manyhands::volunteer::{
    Choice, DataUse, Event, Host, HostError, LANES_MAX, Method, Phase, Request, Settings, State, Switch, UnitEvent, Volunteer,
    Wish,
};
use manyhands_protocol::JobId;
use manyhands_protocol::wire::Totals;

use host::NativeHost;
use tuning::TuningFile;

/// How long the first answer may take: a mistyped address should not look like a coordinator that is away.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest first answer.
const INFO_BYTES_MAX: u64 = 64 * 1024;

/// Arguments of `manyhands volunteer`.
#[derive(clap::Args)]
pub struct Args {
    /// Address of the coordinator.
    #[arg(long, default_value = "http://127.0.0.1:8787", env = "MANYHANDS_COORDINATOR")]
    coordinator: String,
    /// Compute on the CPU only.
    #[arg(long)]
    cpu: bool,
    /// Compute on a GPU or not at all; software adapters count.
    #[arg(long, conflicts_with = "cpu")]
    gpu: bool,
    /// What a GPU's kernels are chosen by: `auto` measures, `off` takes the usual ones, a kernel's name that one.
    #[arg(long, default_value = "auto", value_name = "auto|off|VARIANT", value_parser = tune)]
    tune: Tune,
    /// End once this many units have a verdict; otherwise go on until stopped.
    #[arg(long)]
    units: Option<u64>,
    /// Work for this job only.
    #[arg(long)]
    job: Option<JobId>,
    /// Share of the device to use, in percent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    duty: u32,
    /// Units to compute at once where no GPU computes, on a thread each.
    #[arg(long, default_value_t = 1, conflicts_with = "units", value_parser = clap::value_parser!(u8).range(1..=LANES_MAX as i64))]
    threads: u8,
    /// File that keeps the key that credit goes to, made if there is none; without it each run has a fresh key.
    #[arg(long)]
    key_file: Option<PathBuf>,
}

/// Contributes until stopped (Ctrl-C gives leases back), the units asked for are settled, or nothing works.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let (identity, stored) = match &args.key_file {
        Some(path) => (key::open(path)?, true),
        None => (key::fresh()?, false),
    };
    let tuning = TuningFile::beside(args.key_file.as_deref());
    let host = NativeHost::new(&args.coordinator, identity, stored, tuning, args.duty)?;
    greet(&host, &args.coordinator).await?;
    let choice = match (args.cpu, args.gpu) {
        (true, _) => Choice::Cpu,
        (_, true) => Choice::Gpu,
        _ => Choice::Auto,
    };
    let settings = Settings {
        origin: "native".to_owned(),
        site: String::new(),
        job: args.job,
        category: None,
        choice,
        tune: args.tune,
        duty_percent: args.duty,
        data_bytes_max: 0,
        units_max: args.units,
        // The command is the consent, for as long as it runs; its session is its own.
        renew_consent: true,
        begun: false,
        lease: None,
        lanes: usize::from(args.threads),
        withdraw_at_end: true,
    };
    let switch = Switch::new();
    let stop = switch.clone();
    tokio::spawn(async move {
        if interrupted().await.is_ok() {
            stop.set(Wish::Stop);
        }
    });
    let mut printer = Printer::default();
    let data = DataUse::new(0, settings.data_bytes_max);
    let volunteer = Volunteer { host, settings, switch, data };
    volunteer.run(move |event| printer.print(event)).await?;
    Ok(())
}

fn tune(text: &str) -> Result<Tune, String> {
    Tune::parse(text).ok_or_else(|| format!("it is auto, off, or one of {}", variant_names().join(", ")))
}

/// Makes sure that a coordinator answers at all, before anything is signed.
async fn greet(host: &NativeHost, address: &str) -> anyhow::Result<()> {
    let request = Request {
        method: Method::Get,
        path: "/v1/info",
        token: None,
        content_type: None,
        body: &[],
        answer_bytes_max: INFO_BYTES_MAX,
    };
    let answer = tokio::time::timeout(FIRST_ANSWER_LIMIT, host.request(request)).await;
    let answer = answer.with_context(|| format!("{address} does not answer within {FIRST_ANSWER_LIMIT:?}"))?;
    let answer = answer.map_err(|error| match error {
        HostError::Network(reason) => anyhow!("{address} does not answer ({reason}); is a coordinator running there?"),
        error => error.into(),
    })?;
    if answer.status != 200 || host.read_info(&answer.body).is_none() {
        bail!("{address} answers (HTTP {}), but is no coordinator", answer.status);
    }
    Ok(())
}

/// Resolves on Ctrl-C, or on SIGTERM where there is such a thing.
async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminated.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Prints a line per settled unit to stdout, and trouble to stderr.
#[derive(Default)]
struct Printer {
    totals: Totals,
    /// The last error told: printed once something follows. The one that ends the visit is the command's own error.
    held: Option<String>,
}

impl Printer {
    fn print(&mut self, event: Event) {
        if let Some(line) = self.held.take().filter(|_| !matches!(event, Event::State { state: State::Stopped, .. })) {
            warn(&line);
        }
        match event {
            Event::Key { id, stored: true } => say(&format!("key {id}")),
            Event::Key { id, stored: false } => say(&format!("key {id} (for this run only)")),
            Event::Adapter { backend, adapter, reason, is_faster } => {
                let reason = if is_faster { format!("measured to be faster than {reason}") } else { reason };
                let adapter = if adapter.is_empty() { String::new() } else { format!(" on {adapter}") };
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                say(&format!("computing with {}{adapter}{reason}", backend.name()));
            }
            Event::Unit(unit) => {
                if let Some(line) = unit_line(&unit) {
                    say(&line);
                }
            }
            Event::Receipt(receipt) => {
                say(&format!("unit {} is in the public log as entry {} of {}", receipt.unit, receipt.index, receipt.size));
            }
            Event::Totals(totals) => self.totals = totals,
            Event::State { state: State::Unreachable, detail } => warn(&format!("{detail}; trying again")),
            Event::State { state: State::Waiting, detail } if !detail.is_empty() => warn(&detail),
            Event::State { state: State::Stopped, .. } => {
                let Totals { accepted, rejected, pending, credit_flop } = self.totals;
                say(&format!("{accepted} accepted, {rejected} rejected, {pending} pending, {credit_flop} flop of credit"));
            }
            Event::State { .. } => {}
            Event::Error { message, .. } => self.held = Some(message),
        }
    }
}

/// The line for a unit that came to an end; none for the steps before.
fn unit_line(unit: &UnitEvent) -> Option<String> {
    let verdict = match unit.phase {
        Phase::Accepted | Phase::Rejected | Phase::GivenBack => unit.phase.name().replace('_', " "),
        _ => return None,
    };
    let loss = unit.loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
    let reason = if unit.reason.is_empty() { String::new() } else { format!(": {}", unit.reason) };
    Some(format!("unit {} of job {} ({}) {verdict}{loss}{reason}", unit.unit, unit.job, unit.kind.name()))
}

/// A closed pipe ends the reading, not the work.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn warn(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
