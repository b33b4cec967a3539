//! Makes an empty `dist/` where the page is not built, so that the coordinator compiles without it.

use std::path::Path;

fn main() {
    let dist = Path::new("../dist");
    if let Err(error) = std::fs::create_dir_all(dist) {
        panic!("cannot make {}: {error}", dist.display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
    // A release build embeds the files; a development build reads them when asked, and need not be built again.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rerun-if-changed=../dist");
    }
}
