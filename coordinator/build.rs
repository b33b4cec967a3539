//! Makes an empty `dist/` where the page is not built, so that the coordinator compiles without it.

use std::path::Path;

fn main() {
    let dist = Path::new("../dist");
    if let Err(error) = std::fs::create_dir_all(dist) {
        panic!("cannot make {}: {error}", dist.display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=elements");
    println!("cargo:rerun-if-changed=../dist");
}
