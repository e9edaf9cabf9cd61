//! How long a newcomer waits: the whole of `wisehosting up --once`, from built programs to nothing left.
//!
//! Needs root. `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench up -- [rounds]`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use wisehosting_bench::{process::own_program, report::Report, sample::Samples};

/// What a newcomer may wait for, in seconds.
const GOAL_S: f64 = 30.0;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let [mut total, mut ready, mut deployed, mut stopped] = [const { Samples::new() }; 4];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let begin = Instant::now();
        let receipt = up_once()?;
        total.push(begin.elapsed().as_secs_f64());
        let seconds = |name: &str| receipt[name].as_f64().map_or(f64::NAN, |ms| ms / 1_000.0);
        ready.push(seconds("ready_ms"));
        deployed.push(seconds("deployed_ms") - seconds("ready_ms"));
        stopped.push(seconds("stopped_ms"));
    }
    let mut report = Report::new(&format!("up --once: from built programs, {rounds} rounds"));
    let longest = total.quantile(1.0);
    report.goal(
        "all of it, longest",
        format!("{longest:.1} s"),
        &format!("<= {GOAL_S} s"),
        longest <= GOAL_S,
    );
    for (name, samples) in [
        ("all of it, median", &total),
        ("  three hosts, joined and connected", &ready),
        ("  the first app", &deployed),
        ("  everything taken down", &stopped),
    ] {
        report.figure(name, format!("{:.1} s", samples.median()));
    }
    print!("{report}");
    Ok(())
}

/// Runs it in a folder of its own; answers its receipt.
fn up_once() -> anyhow::Result<Value> {
    let folder = TempDir::with_prefix("wisehosting-bench-")?;
    // Postgres, which is not root, passes through here.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let output = Command::new(own_program("wisehosting")?)
        .args(["up", "--once", "--json", "--port", "0", "--http-port", "0", "--https-port", "0"])
        .env("WISEHOSTING_LAB_DIR", folder.path().join("lab"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start wisehosting")?;
    ensure!(output.status.success(), "up --once failed: {}", output.status);
    let last = output.stdout.rsplit(|byte| *byte == b'\n').find(|line| !line.is_empty());
    serde_json::from_slice(last.context("up printed nothing")?).context("read the receipt")
}
