//! Embeds the dashboard again when it was built again.

use std::{fs, path::Path};

fn main() {
    let dist = Path::new("../../web/dist");
    // Cargo watches only what exists. Where the sources cannot be written, they do not change either.
    let _ = fs::create_dir_all(dist);
    println!("cargo::rerun-if-changed={}", dist.display());
}
