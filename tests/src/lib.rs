//! What the end-to-end tests share: a real coordinator process, real browsers, a counting proxy and small jobs.
//!
//! It drives programs from outside and knows nothing of their insides; the tests are in `e2e/`. xtask's visitors use
//! the same browser driver.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod accessible;
pub mod browser;
pub mod frames;
pub mod jobs;
pub mod process;
pub mod proxy;
pub mod python;
pub mod server;
pub mod share;
pub mod site;

use std::path::PathBuf;

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Where screenshots and exported models of the tests are kept.
pub fn artefacts() -> anyhow::Result<PathBuf> {
    let folder = root().join("artefacts");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
