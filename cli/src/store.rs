//! Which database a command is to use. What the stores are is in the coordinator's crate.

use anyhow::anyhow;
use manyhands_coordinator::store::postgres::PostgresAddress;

/// Beside the data folder's argument.
#[derive(clap::Args)]
pub struct StoreArgs {
    /// A PostgreSQL database in place of the data folder's SQLite file: postgres://USER@HOST/DATABASE; else the variable
    /// MANYHANDS_STORE. Everyone on the machine can read a command line: a password belongs into that variable, into PGPASSWORD,
    /// or into ~/.pgpass.
    #[arg(long = "store", global = true, value_name = "ADDRESS")]
    address: Option<String>,
}

impl StoreArgs {
    /// None for the folder's SQLite file. What was given is never repeated, for it may hold a password.
    pub fn address(&self) -> anyhow::Result<Option<PostgresAddress>> {
        let given = self.address.clone().or_else(|| std::env::var("MANYHANDS_STORE").ok()).filter(|text| !text.is_empty());
        given.map(|text| text.parse().map_err(|wrong: String| anyhow!("--store or MANYHANDS_STORE: {wrong}"))).transpose()
    }
}
