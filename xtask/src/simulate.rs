//! `cargo xtask simulate`: both parts of the simulation. Part one, scheduling, tax and standing, is the protocol's example `simulate`: the
//! decision rules over very many volunteers, training nothing. Part two, accuracy, is the coordinator's example `accuracy`: a
//! whole coordinator that trains a real model with cheaters among its volunteers. Every line says which part it is of.

use std::process::Command;

use anyhow::Result;

use crate::proc::{command, run};
use crate::root;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// One part alone.
    #[arg(long)]
    part: Option<Part>,
    /// The same seed gives the same lines.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Volunteers of part one.
    #[arg(long, default_value_t = 100_000)]
    volunteers: u32,
    /// Units of part one to settle for each kind and share of cheaters; counts are of their second half.
    #[arg(long, default_value_t = 30_000_000)]
    units: u64,
    /// Volunteers of part two.
    #[arg(long, default_value_t = 100)]
    trainers: u32,
    /// Rounds of part two.
    #[arg(long, default_value_t = 60)]
    rounds: u32,
    /// The one kind of cheaters of part two.
    #[arg(long)]
    kind: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Scheduling,
    Accuracy,
}

pub fn main(args: &Args) -> Result<()> {
    if args.part != Some(Part::Accuracy) {
        let mut scheduling = example("manyhands-protocol", "simulate");
        run(scheduling.args([args.seed, u64::from(args.volunteers), args.units].map(|number| number.to_string())))?;
    }
    if args.part != Some(Part::Scheduling) {
        let mut accuracy = example("manyhands-coordinator", "accuracy");
        accuracy.args([args.seed, u64::from(args.trainers), u64::from(args.rounds)].map(|number| number.to_string()));
        run(accuracy.arg(root().join("demo/fashion-mlp")).args(&args.kind))?;
    }
    Ok(())
}

fn example(package: &str, name: &str) -> Command {
    command("cargo", &["run", "--quiet", "--package", package, "--example", name, "--"])
}
