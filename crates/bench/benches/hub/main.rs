//! The hub with ten thousand workers: what a connection costs, and whether a job still arrives at once.
//!
//! A real control plane and Postgres, release builds. Each of the crowd registers over HTTP and keeps a signed channel of
//! its own, from an address of its own on the loopback; it has no room for any instance, so that every job is for the
//! one worker that runs the agents' own code. First the crowd only answers pings, then each of it also sends a heartbeat
//! and figures at the hub's interval.
//!
//! Needs root, since Postgres runs as another user, and a limit of open files above the size of the crowd.
//! `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench hub -- [rounds]`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use wisehosting_bench::{
    agent, platform::Platform, process::memory_bytes, report::Report, sample::Samples, worker::Worker,
};

const CROWD: u16 = 10_000;
/// For which the crowd is watched, idle and at work: several times the hub's intervals.
const WATCHED: Duration = Duration::from_secs(45);
/// For a job to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(200);
    let crowd = agent::at_most(CROWD)?;
    tokio::runtime::Runtime::new()?.block_on(run(crowd, rounds))
}

async fn run(crowd: u16, rounds: usize) -> anyhow::Result<()> {
    let platform = Platform::start(crowd, "").await?;
    platform.create_app().await?;
    let mut worker = Worker::connect(&platform)?;
    let mut report = Report::new(&format!("hub: {crowd} workers, {rounds} jobs"));
    dispatch(&platform, &mut worker, rounds).await?;
    let alone = dispatch(&platform, &mut worker, rounds).await?;
    report.figure("alone: job at the worker", both(&alone));

    let memory_before = memory_bytes(platform.control_plane().id())?;
    let connecting = Instant::now();
    let (at_work, working) = watch::channel(false);
    // Each ends when the hub closes its connection, and with the set.
    let mut agents = JoinSet::new();
    for agent in agent::connect(platform.internal(), crowd).await? {
        agents.spawn(agent.run(working.clone()));
    }
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
