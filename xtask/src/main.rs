//! `cargo xtask …`: set-up, run, test, bench, tidy and the demo's data. It starts other programs and reads what
//! they print; it is not part of what is installed, and nothing depends on it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bench;
mod data;
mod npm;
mod proc;
mod release;
mod run;
mod setup;
mod shaders;
mod simulate;
mod test;
mod tidy;
mod web;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use anyhow::Result;
use clap::Parser;

/// What a developer types: set-up, run, test, bench, tidy.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Build all, start a coordinator with the demo job, open the page.
    Run(run::Args),
    /// Pass every test, stage by stage.
    Test(test::Args),
    /// Install what the tests need.
    Setup {
        /// And what `test --long` needs beside.
        #[arg(long)]
        long: bool,
    },
    /// Build the page and the worker into dist/.
    BuildWeb,
    /// Pack the element for other sites as an npm package into target/npm/.
    PackageNpm,
    /// Keep the element of this version for all later coordinators to serve: a part of releasing it.
    ReleaseEmbed,
    /// Tell a page that Trunk is building which languages there are; Trunk runs this.
    #[command(hide = true)]
    Languages,
    /// Write the WGSL files that are generated from templates.
    Shaders,
    /// Check the repository's shape.
    Tidy,
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the decision rules over many volunteers, honest and not, and print what checking costs and catches.
    Simulate(simulate::Args),
    /// Get the full Fashion-MNIST as target/data/fashion-mnist/*.safetensors.
    FetchData,
    /// Make the bundled jobs' data again: a subset of Fashion-MNIST, and Jane Austen's novels.
    MakeDemoData,
}

/// The repository's root. xtask is always run by cargo from a checkout, so the compiled-in path holds.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies inside the repository").to_path_buf()
}

/// The folder that cargo builds into, which holds this program too. Asked for once: a later build may replace the file
/// that runs here, and Linux then gives no usable name for it.
fn build_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let own = std::env::current_exe().expect("a program that cargo started has a path");
        own.parent().expect("a program lies in a folder").to_path_buf()
    });
    &DIR
}

fn main() -> ExitCode {
    build_dir();
    // Messages are for whoever typed the command: no backtrace of ours would help them.
    dispatch(&Command::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => return run::main(args),
        Command::Test(args) => return test::main(args),
        Command::Setup { long } => setup::set_up(if *long { setup::Purpose::LongTests } else { setup::Purpose::Tests })?,
        Command::BuildWeb => {
            setup::set_up(setup::Purpose::Web)?;
            web::build()?;
        }
        Command::PackageNpm => {
            setup::set_up(setup::Purpose::Web)?;
            println!("packed: {}", npm::package()?.display());
        }
        Command::ReleaseEmbed => release::release()?,
        Command::Languages => web::languages::tell()?,
        Command::Shaders => shaders::main()?,
        Command::Tidy => tidy::main()?,
        Command::Bench(bench) => bench::main(bench)?,
        Command::Simulate(args) => simulate::main(args)?,
        Command::FetchData => {
            setup::data_package(data::PACKAGE)?;
            data::fetch_data()?;
        }
        Command::MakeDemoData => {
            setup::data_package(data::PACKAGE)?;
            data::make_demo_data()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
