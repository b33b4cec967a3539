//! `cargo xtask test`: every check there is, as named stages with their times and limits. A stage that fails does not
//! keep the others from running, unless they need what it makes. It runs other programs' tests and holds none itself.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::proc::{Ended, Interrupt, command, run_limited};
use crate::{build_dir, root, setup, web};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The same tests with larger counts.
    #[arg(long)]
    long: bool,
    /// Only these stages, and what they need (may be given several times).
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Print the stages and their limits.
    #[arg(long)]
    list: bool,
}

/// Set for the tests of a `--long` run, which choose larger counts by it.
const LONG_VARIABLE: &str = "MANYHANDS_TEST_LONG";
/// A `--long` run may take this many times longer.
const LONG_FACTOR: u32 = 6;

/// One step of the run.
struct Stage {
    name: &'static str,
    /// Past this it fails: about three times what it takes on two cores with nothing built.
    limit: Duration,
    /// Stages that must have passed before.
    needs: &'static [&'static str],
    /// The commands, or why there are none on this machine.
    commands: fn() -> Result<Vec<Command>, String>,
    /// Of a `--long` run alone.
    long: bool,
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const STAGES: &[Stage] = &[
    Stage { name: "set-up", limit: minutes(30), needs: &[], commands: || one(own(&["setup"])), long: false },
    Stage { name: "tidy", limit: minutes(2), needs: &[], commands: || one(own(&["tidy"])), long: false },
    Stage { name: "format", limit: minutes(2), needs: &[], commands: || one(cargo(&["fmt", "--all", "--check"])), long: false },
    Stage { name: "clippy", limit: minutes(20), needs: &["set-up"], commands: clippy, long: false },
    Stage { name: "page types", limit: minutes(2), needs: &["set-up"], commands: page_types, long: false },
    Stage { name: "build page", limit: minutes(15), needs: &["set-up"], commands: || one(own(&["build-web"])), long: false },
    // The coordinator's tests ask for the page that it serves.
    Stage { name: "native tests", limit: minutes(30), needs: &["build page"], commands: native_tests, long: false },
    Stage { name: "calls on postgres", limit: minutes(15), needs: &["native tests"], commands: calls_on_postgres, long: false },
    Stage { name: "others on postgres", limit: minutes(15), needs: &["native tests"], commands: others_on_postgres, long: true },
    Stage { name: "wasm tests", limit: minutes(15), needs: &["set-up"], commands: wasm_tests, long: false },
    Stage { name: "build command", limit: minutes(15), needs: &["build page"], commands: build_command, long: false },
    Stage { name: "end to end", limit: minutes(45), needs: &["build command"], commands: end_to_end, long: false },
    Stage { name: "lighthouse", limit: minutes(10), needs: &["build command"], commands: lighthouse, long: true },
    Stage { name: "firefox", limit: minutes(20), needs: &["build command"], commands: firefox, long: true },
];

fn one(command: Command) -> Result<Vec<Command>, String> {
    Ok(vec![command])
}

/// xtask itself, so that a stage of ours has a limit like any other.
fn own(args: &[&str]) -> Command {
    command(build_dir().join("xtask"), args)
}

fn cargo(args: &[&str]) -> Command {
    command("cargo", args)
}

/// What the end-to-end tests need to be built at all.
const END_TO_END: &str = "manyhands-tests/end-to-end";

const WASM: [&str; 2] = ["--target", "wasm32-unknown-unknown"];

/// Packages that are built for wasm, or by measuring commands alone.
const NOT_NATIVE: [&str; 4] = ["--exclude", "manyhands-worker", "--exclude", "manyhands-bench"];

fn clippy() -> Result<Vec<Command>, String> {
    let mut native = cargo(&["clippy", "--workspace", "--features", END_TO_END]);
    native.args(NOT_NATIVE).args(["--all-targets", "--", "-D", "warnings"]);
    let mut wasm = cargo(&["clippy", "--package", "manyhands-worker", "--package", "manyhands-bench", "--package", "manyhands"]);
    wasm.args(WASM).args([
        "--features",
        "manyhands/gpu,manyhands/web,manyhands/reference",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let mut opening = cargo(&["clippy", "--package", "manyhands-worker", "--no-default-features"]);
    opening.args(WASM).args(["--", "-D", "warnings"]);
    let bench = cargo(&["clippy", "--package", "manyhands-bench", "--features", "native", "--bins", "--", "-D", "warnings"]);
    // As it is built for users, whom no test's dependencies help.
    let command = cargo(&["clippy", "--package", "manyhands-cli", "--", "-D", "warnings"]);
    Ok(vec![native, wasm, opening, bench, command])
}

fn native_tests() -> Result<Vec<Command>, String> {
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.args(NOT_NATIVE);
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Vulkan looks for a desktop there and complains at length where the variable is missing.
        tests.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    one(tests)
}

/// The modules of the coordinator's tests that hang most on its store.
const STORE_BOUND: [&str; 10] = [
    "challenges::",
    "ladder::",
    "leases::",
    "log::",
    "openings::",
    "restart::",
    "rotations::",
    "sessions::",
    "sites::",
    "training::",
];

/// They run on SQLite with the native tests; those of the store itself run on both there.
fn calls_on_postgres() -> Result<Vec<Command>, String> {
    one(on_postgres(&STORE_BOUND))
}

fn others_on_postgres() -> Result<Vec<Command>, String> {
    one(on_postgres(&STORE_BOUND.map(|module| ["--skip", module]).concat()))
}

fn on_postgres(chosen: &[&str]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.args(NOT_NATIVE).args(["--test", "calls", "--"]).args(chosen).env("MANYHANDS_TEST_STORE", "postgres");
    tests
}

fn wasm_tests() -> Result<Vec<Command>, String> {
    let mut all =
        cargo(&["test", "--package", "manyhands", "--features", "gpu,web,reference", "--test", "web", "--test", "web_host"]);
    in_browser(&mut all);
    // The CPU path alone.
    let mut relaxed = cargo(&["test", "--package", "manyhands", "--features", "reference", "--test", "web"]);
    in_browser(&mut relaxed).env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", web::RELAXED_SIMD);
    Ok(vec![all, relaxed])
}

fn in_browser(tests: &mut Command) -> &mut Command {
    tests
        .args(WASM)
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", "wasm-bindgen-test-runner")
        .env("CHROMEDRIVER", "chromedriver")
        .env("WASM_BINDGEN_TEST_TIMEOUT", "300")
}

fn page_types() -> Result<Vec<Command>, String> {
    if !setup::has_node() {
        return Err("Node is not installed".to_owned());
    }
    one(command(root().join("node_modules/.bin/tsc"), &["--project", "www"]))
}

/// The packages of the native tests, which differ in nothing else, so that little is left to build.
fn end_to_end_tests() -> Command {
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--features", END_TO_END]);
    tests.args(NOT_NATIVE);
    tests
}

/// The command, and what end-to-end tests start beside it, are built with the tests.
fn build_command() -> Result<Vec<Command>, String> {
    let mut tests = end_to_end_tests();
    tests.arg("--no-run");
    one(tests)
}

/// The tests find the command beside themselves and Python by the variable; one at a time, for each starts browsers.
fn end_to_end() -> Result<Vec<Command>, String> {
    let folder = std::fs::read_dir(root().join("tests/e2e")).map_err(|e| format!("tests/e2e: {e}"))?;
    let mut names: Vec<_> = folder.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned)).collect();
    names.sort();
    let mut tests = end_to_end_tests();
    tests.args(names.iter().flat_map(|name| ["--test", name])).args(["--", "--test-threads=1"]);
    tests.env("MANYHANDS_PYTHON", setup::venv_python());
    one(tests)
}

/// Lighthouse is many packages: only who asks for its scores installs them.
fn lighthouse() -> Result<Vec<Command>, String> {
    if !setup::has_node() {
        return Err("Node is not installed".to_owned());
    }
    let folder = root().join("tests/lighthouse");
    let mut install = command("npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]);
    install.arg(folder);
    Ok(vec![install, command(build_dir().join("visit_scores"), &[])])
}

fn firefox() -> Result<Vec<Command>, String> {
    let mut tests = end_to_end_tests();
    tests.args(["--test", "firefox", "--", "--ignored", "--test-threads=1"]);
    Ok(vec![own(&["setup", "--long"]), tests])
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

struct Report {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
    for name in &args.only {
        ensure!(names.contains(&name.as_str()), "no stage {name:?}; there are: {}", names.join(", "));
    }
    if args.list {
        for stage in STAGES {
            println!("{:<14} at most {:>3} min", stage.name, stage.limit.as_secs() / 60);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::install()?;
    let mut reports: Vec<Report> = Vec::new();
    for stage in selected(STAGES, &args.only, args.long) {
        println!("\n=== {} (at most {} min)", stage.name, limit(stage, args.long).as_secs() / 60);
        let begun = Instant::now();
        let outcome = match unmet(stage, &reports) {
            Some(need) => Outcome::Failed(format!("not run: it needs {need}")),
            None => run_stage(stage, args.long, &interrupt),
        };
        let report = Report { name: stage.name, outcome, took: begun.elapsed() };
        println!("=== {}", row(&report));
        reports.push(report);
        if interrupt.fired() {
            break;
        }
    }
    println!("\n{}", summary(&reports));
    let passed = reports.iter().all(|report| !matches!(report.outcome, Outcome::Failed(_)));
    Ok(if passed && !interrupt.fired() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn limit(stage: &Stage, long: bool) -> Duration {
    if long { stage.limit * LONG_FACTOR } else { stage.limit }
}

/// The named stages and, through all levels, what they need; where none is named, all that the run is long enough for.
fn selected<'a>(stages: &'a [Stage], only: &[String], long: bool) -> Vec<&'a Stage> {
    let mut wanted: Vec<&str> = only.iter().map(String::as_str).collect();
    let mut index = 0;
    while let Some(&name) = wanted.get(index) {
        wanted.extend(stages.iter().filter(|stage| stage.name == name).flat_map(|stage| stage.needs));
        index += 1;
    }
    let fits = |stage: &&Stage| if only.is_empty() { long || !stage.long } else { wanted.contains(&stage.name) };
    stages.iter().filter(fits).collect()
}

/// A need that has not passed.
fn unmet<'a>(stage: &Stage, reports: &'a [Report]) -> Option<&'a str> {
    reports.iter().find(|r| stage.needs.contains(&r.name) && r.outcome != Outcome::Passed).map(|r| r.name)
}

fn run_stage(stage: &Stage, long: bool, interrupt: &Interrupt) -> Outcome {
    let commands = match (stage.commands)() {
        Ok(commands) => commands,
        Err(reason) => return Outcome::Skipped(reason),
    };
    let deadline = Instant::now() + limit(stage, long);
    for mut command in commands {
        match setup::path() {
            Ok(path) => command.env("PATH", path),
            Err(e) => return Outcome::Failed(e.to_string()),
        };
        if long {
            command.env(LONG_VARIABLE, "1");
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match run_limited(&mut command, left, interrupt) {
            Ok(Ended::Well) => {}
            Ok(Ended::Badly(status)) => return Outcome::Failed(status.to_string()),
            Ok(Ended::PastLimit) => return Outcome::Failed("past its limit".to_owned()),
            Ok(Ended::Interrupted) => return Outcome::Failed("interrupted".to_owned()),
            Err(e) => return Outcome::Failed(format!("{e:#}")),
        }
    }
    Outcome::Passed
}

fn row(report: &Report) -> String {
    let word = match &report.outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed(why) => format!("FAILED ({why})"),
        Outcome::Skipped(why) => format!("skipped ({why})"),
    };
    format!("{:<14} {:>7.1} s  {word}", report.name, report.took.as_secs_f64())
}

/// A line per stage and the count of stages; what was skipped is counted as neither.
fn summary(reports: &[Report]) -> String {
    let count = |wanted: fn(&Outcome) -> bool| reports.iter().filter(|report| wanted(&report.outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let took: Duration = reports.iter().map(|report| report.took).sum();
    let rows: Vec<String> = reports.iter().map(row).collect();
    let skipped = match reports.len() - passed - failed {
        0 => String::new(),
        count => format!(", {count} skipped"),
    };
    format!("{}\nall stages     {:>7.1} s\n{passed} passed, {failed} failed{skipped}", rows.join("\n"), took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, needs: &'static [&'static str], commands: fn() -> Result<Vec<Command>, String>) -> Stage {
        Stage { name, limit: Duration::from_secs(30), needs, commands, long: false }
    }

    fn shell(script: &str) -> Command {
        command("sh", &["-c", script])
    }

    #[test]
    fn outcomes_are_told_apart() {
        let run = |commands| run_stage(&stage("x", &[], commands), false, &Interrupt::never());
        assert_eq!(run(|| one(shell("exit 0"))), Outcome::Passed);
        assert!(matches!(run(|| one(shell("exit 1"))), Outcome::Failed(_)));
        assert!(matches!(run(|| Ok(vec![shell("exit 1"), shell("exit 0")])), Outcome::Failed(_)), "the first one counts");
        assert!(matches!(run(|| Ok(vec![shell("exit 0"), shell("exit 1")])), Outcome::Failed(_)), "the last one counts");
        assert!(matches!(run(|| Err("no Node".to_owned())), Outcome::Skipped(_)));
        let slow = Stage { limit: Duration::from_millis(100), ..stage("x", &[], || one(shell("exec sleep 60"))) };
        assert_eq!(run_stage(&slow, false, &Interrupt::never()), Outcome::Failed("past its limit".to_owned()));
    }

    #[test]
    fn a_skipped_stage_is_not_a_passed_one() {
        let report = |name, outcome| Report { name, outcome, took: Duration::from_secs(1) };
        let reports = [
            report("a", Outcome::Passed),
            report("b", Outcome::Failed("x".to_owned())),
            report("c", Outcome::Skipped("y".to_owned())),
        ];
        assert!(summary(&reports).ends_with("\n1 passed, 1 failed, 1 skipped"));
        assert!(summary(&reports[..1]).ends_with("\n1 passed, 0 failed"));
        let needy = |needs| stage("z", needs, || Ok(Vec::new()));
        assert_eq!(unmet(&needy(&["a"]), &reports), None);
        assert_eq!(unmet(&needy(&["a", "b"]), &reports), Some("b"));
        assert_eq!(unmet(&needy(&["c"]), &reports), Some("c"));
    }

    #[test]
    fn naming_a_stage_brings_what_it_needs() {
        let names = |only: &[&str], long| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            selected(STAGES, &only, long).iter().map(|stage| stage.name).collect()
        };
        assert_eq!(names(&["end to end"], true), ["set-up", "build page", "build command", "end to end"]);
        assert_eq!(names(&["firefox"], false).last(), Some(&"firefox"), "whoever names it wants it");
        assert_eq!(names(&[], true).len(), STAGES.len());
        let usual = names(&[], false);
        assert_eq!(usual.last(), Some(&"end to end"), "{usual:?}");
        for (index, stage) in STAGES.iter().enumerate() {
            for need in stage.needs {
                assert!(STAGES[..index].iter().any(|s| s.name == *need), "{} needs {need}, which comes later", stage.name);
            }
        }
    }
}
