//! From a route's change to the first visitor who is served by it: by our ingress, by a Traefik that an edge gives files, and by
//! one that polls. One control plane, one worker that is simulated, and in each round one new instance, for which visitors
//! ask at all three doors at once, over and over.
//!
//! Needs root, since Postgres runs as another user, and `WISEHOSTING_TRAEFIK`. `./dev bench`, or
//! `cargo bench -p wisehosting-bench --bench route_change -- [rounds]`.

#[path = "../control/instance.rs"]
mod instance;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::time::{sleep, timeout};
use wisehosting_bench::{
    platform::{Platform, TRAEFIK_TOKEN, key_hash, start_program},
    process::{Process, free_address},
    report::Report,
    rivals::{start_traefik, traefik_program},
    sample::Samples,
    worker::Worker,
};

use crate::instance::Instance;

/// Name and API key of the edge that has a Traefik beside it.
const EDGE: &str = "proxy-2";
const WARM_UP: usize = 2;
/// Between two requests of a visitor; what is measured is this much too long at most.
const VISIT_PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20);
    if traefik_program().is_none() {
        println!("route_change: not measured, WISEHOSTING_TRAEFIK names no Traefik");
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(run(rounds))
}

async fn run(rounds: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let declared = format!(
        "[[edges]]\nname = \"{EDGE}\"\naddress = \"127.0.0.3\"\napi_key_sha256 = \"{}\"\n",
        key_hash(EDGE)
    );
    let platform = Platform::start(0, &declared).await?;
    let (by_file, _edge) = with_files(folder.path(), platform.internal())?;
    let by_polling = with_polling(folder.path(), platform.internal())?;
    let mut worker = Worker::connect(&platform)?;
    platform.create_app().await?;
    let mut measured = [(); 3].map(|()| Samples::new());
    let mut instances = Vec::new();
    for round in 0..WARM_UP + rounds {
        let next = Instance::start(round).await?;
        let change = change(&platform, &mut worker, &next, [by_file.address, by_polling.address]);
        let took = timeout(PATIENCE, change).await.with_context(|| format!("round {round} hangs"))??;
        // Traefik's edge gives the one before half a minute to drain: it is served meanwhile.
        instances.push(next);
        if round >= WARM_UP {
            measured.iter_mut().zip(took).for_each(|(samples, took)| samples.push(took.as_secs_f64() * 1e3));
        }
    }
    let mut report = Report::new(&format!("a route's change until it is served, {rounds} rounds"));
    for (name, samples) in
        ["our ingress", "Traefik by file", "Traefik by polling every 5 s"].iter().zip(&measured)
    {
        let figure = |part| format!("{:.1} ms", samples.quantile(part));
        report.figure(*name, format!("p50 {}  p99 {}", figure(0.5), figure(0.99)));
    }
    print!("{report}");
    Ok(())
}

/// One round: how long it took at each door, from before the worker says that the new instance runs.
async fn change(
    platform: &Platform,
    worker: &mut Worker,
    next: &Instance,
    [by_file, by_polling]: [SocketAddr; 2],
) -> anyhow::Result<[Duration; 3]> {
    let deployment = platform.deploy().await?;
    let (job, _) = worker.deploy_job().await?;
    let begin = Instant::now();
    worker.report_deployed(&job, next.address).await?;
    let ours = async {
        while platform.visit().await? != next.name {
            sleep(VISIT_PAUSE).await;
        }
        anyhow::Ok(begin.elapsed())
    };
    let theirs = async |address| {
        while platform.visit_at(address).await? != next.name {
            sleep(VISIT_PAUSE).await;
        }
        anyhow::Ok(begin.elapsed())
    };
    let (ours, by_file, by_polling) = tokio::try_join!(ours, theirs(by_file), theirs(by_polling))?;
    platform.until_live(&deployment).await?;
    Ok([ours, by_file, by_polling])
}

/// A Traefik that serves there.
struct Traefik {
    address: SocketAddr,
    _process: Process,
}

impl Traefik {
    fn start(folder: &Path, provider: &str) -> anyhow::Result<Self> {
        fs::create_dir(folder)?;
        let address = free_address()?;
        let doors = format!("entryPoints: {{ web: {{ address: \"{address}\" }} }}\n");
        Ok(Self { address, _process: start_traefik(folder, &doors, provider, address)? })
    }
}

/// An edge that writes files, and the Traefik that reads them.
fn with_files(folder: &Path, control_plane: SocketAddr) -> anyhow::Result<(Traefik, Process)> {
    let (dynamic, key, config) = (folder.join("dynamic"), folder.join("key"), folder.join("edge.toml"));
    fs::create_dir(&dynamic)?;
    fs::write(&key, EDGE)?;
    let gateway = free_address()?;
    fs::write(folder.join("token"), "a token of the benchmark's gateway")?;
    let text = format!(
        "[log]\nfilter = \"error\"\n[control_plane]\nurl = \"http://{control_plane}\"\nname = \"{EDGE}\"\napi_key_file = \"{}\"\n\
         [ingress.traefik]\ndynamic_dir = \"{}\"\n[gateway]\nlisten = \"{gateway}\"\ntoken_file = \"{}\"\ninterface = \"lo\"\nallowed_targets = [\"127.0.0.0/8\"]\n[state]\ndir = \"{}\"\n",
        key.display(),
        dynamic.display(),
        folder.join("token").display(),
        folder.join("state").display(),
    );
    fs::write(&config, text)?;
    let edge = start_program("wisehosting-edge", &config, gateway)?;
    let provider = format!("file: {{ directory: \"{}\" }}", dynamic.display());
    Ok((Traefik::start(&folder.join("by-file"), &provider)?, edge))
}

fn with_polling(folder: &Path, control_plane: SocketAddr) -> anyhow::Result<Traefik> {
    let provider = format!(
        "http: {{ endpoint: \"http://{control_plane}/v1/traefik/proxy-config\", headers: {{ Authorization: \"Bearer {TRAEFIK_TOKEN}\" }} }}"
    );
    Traefik::start(&folder.join("by-polling"), &provider)
}
