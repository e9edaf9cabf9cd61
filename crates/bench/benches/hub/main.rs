//! The hub with ten thousand workers: what a connection costs, and whether a job still arrives at once.
//!
//! A real control plane and Postgres, release builds. Each of the crowd registers over HTTP and keeps a signed channel of
//! its own, from an address of its own on the loopback; it has no room for any instance, so that every job is for the
//! one worker that runs the agents' own code. First the crowd only answers pings, then each of it also sends a heartbeat
//! and figures at the hub's interval.
//!
//! Needs root, since Postgres runs as another user, and a limit of open files above the size of the crowd.
//! `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench hub -- [rounds]`.

mod agent;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use wisehosting_bench::{
    platform::Platform, process::memory_bytes, report::Report, sample::Samples, worker::Worker,
};

use crate::agent::Agent;

const CROWD: u16 = 10_000;
/// Open files of this program beside the crowd's connections.
const OTHER_FILES: u64 = 500;
/// How many of the crowd connect at the same time.
const CONNECTING: usize = 64;
/// For which the crowd is watched, idle and at work: several times the hub's intervals.
const WATCHED: Duration = Duration::from_secs(45);
/// For a job to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(200);
    wisehosting_node::descriptors::raise_limit();
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let crowd = CROWD.min(u16::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(u16::MAX));
    tokio::runtime::Runtime::new()?.block_on(run(crowd, rounds))
}

async fn run(crowd: u16, rounds: usize) -> anyhow::Result<()> {
    let platform = Platform::start(crowd).await?;
    platform.create_app().await?;
    let mut worker = Worker::connect(&platform)?;
    let mut report = Report::new(&format!("hub: {crowd} workers, {rounds} jobs"));
    dispatch(&platform, &mut worker, rounds).await?;
    let alone = dispatch(&platform, &mut worker, rounds).await?;
    report.figure("alone: job at the worker", both(&alone));

    let memory_before = memory_bytes(platform.control_plane().id())?;
    let connecting = Instant::now();
    let (at_work, working) = watch::channel(false);
    let agents = connect(&platform, crowd, &working).await?;
    report.figure("all connected after", format!("{:.1} s", connecting.elapsed().as_secs_f64()));

    let idle = Usage::over(&platform, sleep(WATCHED)).await?;
    let memory = memory_bytes(platform.control_plane().id())?.saturating_sub(memory_before);
    report.figure("a connection", format!("{:.1} KiB", memory as f64 / 1024.0 / f64::from(crowd)));
    report.figure("idle: control plane, Postgres", idle.to_string());
    report.figure("idle: job at the worker", both(&dispatch(&platform, &mut worker, rounds).await?));

    at_work.send_replace(true);
    report.figure(
        "at work: control plane, Postgres",
        Usage::over(&platform, sleep(WATCHED)).await?.to_string(),
    );
    report.figure("at work: job at the worker", both(&dispatch(&platform, &mut worker, rounds).await?));
    report.figure("of the crowd still connected", agents.len().to_string());
    print!("{report}");
    Ok(())
}

/// Connects the crowd. Each ends when the hub closes its connection, and with the set.
async fn connect(
    platform: &Platform,
    crowd: u16,
    working: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut agents = JoinSet::new();
    let mut connecting = JoinSet::new();
    for number in 0..crowd {
        if connecting.len() == CONNECTING {
            let agent: Agent = connecting.join_next().await.context("somebody connects")???;
            agents.spawn(agent.run(working.clone()));
        }
        connecting.spawn(Agent::connect(platform.internal(), number));
    }
    while let Some(agent) = connecting.join_next().await {
        agents.spawn(agent??.run(working.clone()));
    }
    Ok(agents)
}

/// Times in milliseconds from before the request for a deployment to its job at the worker.
async fn dispatch(platform: &Platform, worker: &mut Worker, rounds: usize) -> anyhow::Result<Samples> {
    let mut received = Samples::new();
    for round in 0..rounds {
        let begin = Instant::now();
        let one = async {
            let (asked, job) = tokio::join!(platform.deploy(), worker.deploy_job());
            let (job, received_at) = job?;
            received.push((received_at - begin).as_secs_f64() * 1_000.0);
            worker.report_failed(&job).await?;
            platform.until_failed(&asked?).await
        };
        timeout(PATIENCE, one).await.with_context(|| format!("job {round} does not arrive or end"))??;
    }
    Ok(received)
}

fn both(samples: &Samples) -> String {
    format!("p50 {:.2} ms  p99 {:.2} ms", samples.quantile(0.5), samples.quantile(0.99))
}

/// Processor time, in thousandths of a core.
struct Usage {
    control_plane: f64,
    postgres: f64,
}

impl Usage {
    /// While `work` goes on.
    async fn over(platform: &Platform, work: impl Future<Output = ()>) -> anyhow::Result<Self> {
        let processes = [platform.control_plane(), platform.postgres()];
        let begin = Instant::now();
        let [control_plane, postgres] = processes.map(|process| process.processor_time());
        work.await;
        let took = begin.elapsed().as_secs_f64();
        let millis = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1_000.0 / took;
        Ok(Self {
            control_plane: millis(control_plane?, processes[0].processor_time()?),
            postgres: millis(postgres?, processes[1].processor_time()?),
        })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} and {:.0} thousandths of a core", self.control_plane, self.postgres)
    }
}
