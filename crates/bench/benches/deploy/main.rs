//! A deploy through the platform beside the same steps done by hand, and what the platform's programs need meanwhile.
//!
//! Both sides work in the worker's host of one lab, with one Podman store, in turns. Each begins with a commit that
//! changes a file which the Dockerfile copies before its RUN step: so on both sides the base image and the first
//! instruction come from the build cache and nothing else does. What runs before is not stopped within the measured
//! time by either.
//!
//! Needs root. `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench deploy -- [rounds]`.

mod by_hand;
mod repository;

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};
use wisehosting_bench::{
    process::{memory_bytes, own_program},
    report::Report,
    sample::Samples,
};
use wisehosting_lab::{Lab, LabOptions, Programs, ports::Port};

use crate::{by_hand::ByHand, repository::Repository};

const APP: &str = "bench";
/// What the three programs may need together, in MB.
const MEMORY_GOAL_MB: f64 = 60.0;
/// Without a request or a deploy; then the programs count as idle.
const IDLE_TIME: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What the rounds came to, in milliseconds.
#[derive(Default)]
struct Measured {
    platform: Samples,
    by_hand: Samples,
    /// The parts of both, by side and name.
    parts: BTreeMap<(&'static str, String), Samples>,
}

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(15);
    tokio::runtime::Runtime::new()?.block_on(run(rounds))
}

async fn run(rounds: usize) -> anyhow::Result<()> {
    let folder = TempDir::with_prefix("wisehosting-bench-")?;
    // Postgres, which is not root, passes through here.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let lab = start_lab(folder.path()).await?;
    let outcome = measure(&lab, folder.path(), rounds).await;
    lab.stop().await?;
    for report in outcome? {
        println!("{report}");
    }
    Ok(())
}

async fn start_lab(folder: &Path) -> anyhow::Result<Lab> {
    let init = own_program("wisehosting")?;
    let options = LabOptions {
        state_dir: folder.join("lab"),
        bin_dir: init.parent().context("the programs stand in no folder")?.to_owned(),
        init,
        control_plane_port: Port::Prefer(0),
        http_port: Port::Prefer(0),
        https_port: Port::Prefer(0),
        progress: Arc::new(|_| {}),
    };
    Ok(Lab::start(options).await?)
}

async fn measure(lab: &Lab, folder: &Path, rounds: usize) -> anyhow::Result<[Report; 2]> {
    let repository = Repository::create(&folder.join("repository"))?;
    let by_hand = ByHand::new(&lab.hosts.worker, repository.path(), folder)?;
    sleep(IDLE_TIME).await;
    let mut memory = Report::new("memory of the three programs, idle (PSS)");
    report_memory(&mut memory, "after the start", &lab.programs)?;

    let mut measured = Measured::default();
    for round in 0..=rounds {
        repository.change(&format!("{round} by the platform"))?;
        let (platform, steps) = deploy(lab, repository.path()).await?;
        by_hand.until_containers(1).await?;
        repository.change(&format!("{round} by hand"))?;
        let steps_by_hand = by_hand.deploy().await?;
        by_hand.clean_up().await?;
        // The first round makes the networks and the first layer.
        if round > 0 {
            eprintln!("round {round} of {rounds}");
            measured.platform.push(platform);
            measured.by_hand.push(steps_by_hand.iter().map(|(_, took)| took).sum());
            measured.add_parts("platform", steps);
            measured.add_parts("by hand", steps_by_hand.map(|(name, took)| (name.to_owned(), took)));
        }
    }
    sleep(IDLE_TIME).await;
    report_memory(&mut memory, &format!("after {} deploys", rounds + 1), &lab.programs)?;
    Ok([measured.report(), memory])
}

/// Deploys as a user does. Answers how long the whole command took and how long each state lasted.
async fn deploy(lab: &Lab, repository: &Path) -> anyhow::Result<(f64, Vec<(String, f64)>)> {
    let mut command = Command::new(own_program("wisehosting")?);
    command.args(["--json", "deploy"]).arg(repository).args(["--name", APP]);
    command.env("WISEHOSTING_LAB_DIR", lab.state_dir()).env("XDG_CONFIG_HOME", lab.state_dir());
    command.env_remove("WISEHOSTING_SERVER").env_remove("WISEHOSTING_TOKEN_FILE");
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    let took = milliseconds(begin.elapsed());
    ensure!(output.status.success(), "the deploy failed");
    let deployment: Value = serde_json::from_slice(&output.stdout).context("read the deployment")?;
    let steps = deployment["steps"].as_array().context("a deployment without steps")?;
    let steps = steps
        .iter()
        .filter_map(|step| Some((step["state"].as_str()?.to_owned(), step["duration_ms"].as_f64()?)));
    Ok((took, steps.collect()))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

impl Measured {
    fn add_parts(&mut self, side: &'static str, parts: impl IntoIterator<Item = (String, f64)>) {
        for (name, took) in parts {
            self.parts.entry((side, name)).or_default().push(took);
        }
    }

    fn report(&self) -> Report {
        let mut report = Report::new(&format!("deploy: examples/hello, {} rounds", self.platform.count()));
        let ratio = self.platform.median_ratio(&self.by_hand);
        report.goal("platform / by hand", format!("{ratio:.2}"), "<= 1.15", ratio <= 1.15);
        let milliseconds = |samples: &Samples| format!("{:.0} ms", samples.median());
        report.figure("platform: from the command to live", milliseconds(&self.platform));
        report.figure("by hand: from git to the first answer", milliseconds(&self.by_hand));
        for ((side, part), samples) in &self.parts {
            report.figure(format!("  {side}: {part}"), milliseconds(samples));
        }
        report
    }
}

fn report_memory(report: &mut Report, when: &str, programs: &Programs) -> anyhow::Result<()> {
    let mut sum = 0.0;
    for program in [&programs.control_plane, &programs.worker, &programs.edge] {
        let pid = program.pid().with_context(|| format!("{} has ended", program.name()))?;
        let megabytes = memory_bytes(pid.as_raw().unsigned_abs())? as f64 / 1e6;
        report.figure(format!("  {}", program.name()), format!("{megabytes:.1} MB"));
        sum += megabytes;
    }
    let goal = format!("<= {MEMORY_GOAL_MB} MB");
    report.goal(format!("together, {when}"), format!("{sum:.1} MB"), &goal, sum <= MEMORY_GOAL_MB);
    Ok(())
}
