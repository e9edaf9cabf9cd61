//! Runs the workspace's benchmarks: every `[[bench]]` target, one after the other, against release builds.
//!
//! They measure on a machine that does other things, too; each prints ratios from one interleaved run. One that fails stops
//! none of the others.

use std::{ffi::OsString, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::command;

/// Builds the programs with optimisation and runs each benchmark with `arguments`; an error names those that failed.
pub(crate) fn run(root: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
    let benches = benches(root)?;
    if benches.is_empty() {
        bail!("the workspace has no benchmark");
    }
    command::run(command::cargo().args(["build", "--release", "--workspace", "--bins"]).current_dir(root))?;
    let mut failed = Vec::new();
    for bench in benches {
        println!("\n{bench}");
        let mut cargo = command::cargo();
        // One package alone would have other features, and so other builds of the libraries.
        cargo.args(["bench", "--quiet", "--workspace", "--bench", &bench, "--"]).args(arguments);
        if let Err(error) = command::run(cargo.current_dir(root)) {
            eprintln!("{error:#}");
            failed.push(bench);
        }
    }
    if !failed.is_empty() {
        bail!("{} failed", failed.join(", "));
    }
    Ok(())
}

/// The name of each benchmark.
fn benches(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut cargo = command::cargo();
    cargo.args(["metadata", "--format-version=1", "--no-deps"]).current_dir(root);
    let metadata: Metadata =
        serde_json::from_slice(&command::output(&mut cargo)?).context("read cargo's metadata")?;
    let targets = metadata.packages.into_iter().flat_map(|package| package.targets);
    let benches = targets.filter(|target| target.kind.iter().any(|kind| kind == "bench"));
    Ok(benches.map(|target| target.name).collect())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}
