//! `cargo xtask simulate`: runs the protocol's example `simulate`, which is part one of the simulation: scheduling, tax and
//! standing. It trains nothing; what cheaters do to a model's accuracy is no part of it.

use std::process::Command;

use anyhow::Result;

use crate::proc::{command, run};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The same seed gives the same lines.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 100_000)]
    volunteers: u32,
    /// Units to settle for each kind and share of cheaters; counts are of their second half.
    #[arg(long, default_value_t = 30_000_000)]
    units: u64,
}

pub fn main(args: &Args) -> Result<()> {
    run(&mut example(args))
}

fn example(args: &Args) -> Command {
    let mut example = command("cargo", &["run", "--quiet", "--package", "manyhands-protocol", "--example", "simulate", "--"]);
    example.args([args.seed, u64::from(args.volunteers), args.units].map(|number| number.to_string()));
    example
}
