//! Not written yet.

#[derive(clap::Args)]
pub struct Args {}

pub async fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
