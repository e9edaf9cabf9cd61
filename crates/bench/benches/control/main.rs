//! The way of a job to a worker, and of a route to a visitor: a real control plane, Postgres and edge, release builds.
//!
//! Only the worker is simulated, on the real signed channel. In each round a deployment is asked for over the REST API;
//! the worker takes its job and reports at once that the new instance runs, at an address of its own where an HTTP
//! server of ours listens; a visitor asks the edge over and over until that server answers. A round begins when the one
//! before has come to rest: deployment live, old instance stopped.
//!
//! Needs root, since Postgres runs as another user. `cargo xtask bench`, or
//! `cargo bench -p wisehosting-bench --bench control -- [rounds]`.

mod instance;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::{sleep, timeout};
use wisehosting_bench::{platform::Platform, report::Report, sample::Samples, worker::Worker};

use crate::instance::Instance;

/// Rounds before the first one that counts: caches fill, connections open.
const WARM_UP: usize = 10;
/// Between two requests of the visitor; what is measured is this much too long at most.
const VISIT_PAUSE: Duration = Duration::from_millis(1);
/// For anything that a round waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the rounds came to, in milliseconds.
#[derive(Default)]
struct Measured {
    /// One request to the control plane that changes nothing: how noisy the machine is.
    pinged: Samples,
    /// From before the request for a deployment to its answer.
    answered: Samples,
    /// From before the request for a deployment to its job at the worker.
    received: Samples,
    /// From before the worker's result to the first answer of the new instance.
    served: Samples,
}

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(300);
    tokio::runtime::Runtime::new()?.block_on(run(rounds))
}

async fn run(rounds: usize) -> anyhow::Result<()> {
    let platform = Platform::start(0, "").await?;
    let mut worker = Worker::connect(&platform)?;
    platform.create_app().await?;
    let mut measured = Measured::default();
    let mut serving = None;
    for round in 0..WARM_UP + rounds {
        let next = Instance::start(round).await?;
        let pinging = Instant::now();
        platform.ping().await?;
        let pinged = milliseconds(pinging.elapsed());
        let took = timeout(PATIENCE, deploy(&platform, &mut worker, &next)).await;
        let [answered, received, served] = took.with_context(|| format!("round {round} hangs"))??;
        if serving.replace(next).is_some() {
            timeout(PATIENCE, worker.stopped()).await.context("the old instance is not stopped")??;
        }
        if round >= WARM_UP {
            measured.pinged.push(pinged);
            measured.answered.push(answered);
            measured.received.push(received);
            measured.served.push(served);
        }
    }
    print!("{}", table(&measured));
    Ok(())
}

/// One round, until the deployment is live: see [`Measured`].
async fn deploy(platform: &Platform, worker: &mut Worker, next: &Instance) -> anyhow::Result<[f64; 3]> {
    let begin = Instant::now();
    let ask = async {
        let deployment = platform.deploy().await?;
        anyhow::Ok((deployment, begin.elapsed()))
    };
    let (asked, job) = tokio::join!(ask, worker.deploy_job());
    let ((deployment, answered), (job, received_at)) = (asked?, job?);

    let switch = Instant::now();
    worker.report_deployed(&job, next.address).await?;
    while platform.visit().await? != next.name {
        sleep(VISIT_PAUSE).await;
    }
    let served = switch.elapsed();
    platform.until_live(&deployment).await?;
    Ok([answered, received_at - begin, served].map(milliseconds))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn table(measured: &Measured) -> Report {
    let Measured { pinged, answered, received, served } = measured;
    let mut report =
        Report::new(&format!("control: a deploy without its build, {} rounds", received.count()));
    let figure = |samples: &Samples, part| format!("{:.2} ms", samples.quantile(part));
    let both = |samples| format!("p50 {}  p99 {}", figure(samples, 0.5), figure(samples, 0.99));
    report.figure("a request that does nothing", both(pinged));
    report.figure("deployment asked for -> answered", both(answered));
    report.figure("deployment asked for -> job at the worker", both(received));
    report.figure("result of the worker -> new instance served", both(served));
    for (name, samples, part, goal_ms) in [
        ("job at the worker, p50", received, 0.5, 5.0),
        ("job at the worker, p99", received, 0.99, 20.0),
        ("new instance served, p99", served, 0.99, 50.0),
    ] {
        let reached = samples.quantile(part) <= goal_ms;
        report.goal(name, figure(samples, part), &format!("<= {goal_ms} ms"), reached);
    }
    report
}
