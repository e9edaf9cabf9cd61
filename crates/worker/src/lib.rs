//! The worker: takes jobs, builds and runs apps in Podman, reports.
//!
//! It connects out to the control plane and listens on nothing. Containers do not depend on it: they run on while it is
//! restarted, and it finds them again by their labels. Invariant: only a stop job of the control plane, or a limit
//! that it broke, stops an instance; silence stops nothing.

pub mod agent;
mod bandwidth;
mod build_log;
mod collect;
pub mod config;
mod deploy;
pub mod git;
pub mod health;
pub mod host;
pub mod instances;
pub mod jobs;
pub mod journal;
mod lines;
mod memory_kills;
pub mod outbox;
pub mod outside;
mod preset;
pub mod restart;
mod runtime_log;
pub mod space;
pub mod stats;
mod stop;
pub mod usage;
pub mod violations;
pub mod workspace;
pub mod written;

use agent::Agent;
use anyhow::Context;
use config::Config;
use host::{BuildLimits, GitSettings, Host, HostSettings};
use instances::Instances;
use jobs::{Jobs, RecoverError};
use journal::{Journal, JournalError};
use outbox::Outbox;
use restart::RestartPolicy;
use space::SpaceSettings;
use stats::Stats;
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use violations::Violations;
use wisehosting_containers::{BuildBounds, Engine, Podman};
use wisehosting_node::{
    channel::{self, ChannelHandle, Event},
    clock::{Clock, SystemClock},
    mesh::{Member, Mesh, PathTiming, PeerSets, Sight, report},
    service_manager, shutdown,
};
use wisehosting_protocol::payload::Register;
use written::Written;

/// How often to try whether the engine answers, while it is away.
const RECOVER_PAUSE: Duration = Duration::from_secs(2);
/// More than any compiler starts, less than would be felt by the host.
const BUILD_PROCESSES_MAX: u32 = 4_096;
/// The work of this process is waiting. Where the disk is slow, some of them wait for it: what is written down has to be
/// there before the next step.
const THREADS: usize = 4;

/// Runs the worker until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot listen for signals")?;
        tokio::spawn(service_manager::keep_alive(async || {}));
        let sets = PeerSets::default();
        let member = Member::Node {
            state_dir: config.worker.state_dir.clone(),
            sets: sets.clone(),
            timing: PathTiming::default(),
        };
        let mesh = match &config.mesh {
            Some(mesh) => Some(Mesh::start(mesh, member).await?),
            None => None,
        };
        let sight = mesh.as_ref().map(Mesh::sight);
        let served = serve(config, sight, sets, shutdown.clone());
        let result = shutdown.run_until_cancelled(served).await;
        if let Some(mesh) = mesh {
            mesh.stop().await;
        }
        result.unwrap_or(Ok(()))
    })
}

async fn serve(
    config: &Config,
    sight: Option<watch::Receiver<Sight>>,
    sets: PeerSets,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let identity = config.identity()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let channel: Arc<OnceLock<ChannelHandle>> = Arc::default();
    let outbox = {
        let channel = channel.clone();
        Outbox::by_connection(move |connection, message| {
            let Some(channel) = channel.get() else { return false };
            let sent = match connection {
                Some(connection) => channel.try_send_on(connection, message),
                None => channel.try_send(message),
            };
            sent.is_ok()
        })
    };
    let engine = Podman::new(&config.podman.socket);
    let host = Arc::new(Host::new(engine, outbox, clock.clone(), settings(config)));
    let worker = Worker::recover(host.clone(), &config.worker.state_dir).await?;

    let mesh = config.mesh.as_ref().map(|mesh| mesh.interface.to_string());
    let stats = Stats::new(host.clone(), worker.instances.running(), mesh);
    let (handle, events) = channel::spawn(identity, clock, worker.register(), sets, shutdown)?;
    if let Some(sight) = sight {
        tokio::spawn(report(sight, handle.clone()));
    }
    // It is set once: this is the only place.
    let _ = channel.set(handle);
    let written = stats.written();
    // Each on its own: none waits for another one's disk.
    let mut parts = JoinSet::new();
    parts.spawn(worker.serve(events, written));
    parts.spawn(stats.tell(stats::TELL_EVERY));
    parts.spawn(space::keep(host));
    while let Some(ended) = parts.join_next().await {
        ended.context("a part of the worker has failed")?;
    }
    Ok(())
}

/// A worker that has begun to end what an earlier run of it had begun, and may take jobs.
pub struct Worker<E> {
    jobs: Jobs<E>,
    instances: Instances<E>,
    agent: Agent<E>,
}

impl<E: Engine> Worker<E> {
    /// The worker of this host; what it must not forget is in `state_dir`. Until the engine answers, it takes no jobs: others
    /// can do them.
    ///
    /// # Errors
    /// Its folders cannot be used.
    pub async fn recover(host: Arc<Host<E>>, state_dir: &Path) -> anyhow::Result<Self> {
        let journal = Journal::open(state_dir)?;
        let violations = Violations::open(state_dir)?;
        let (changed, report_all) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let jobs = Jobs::new(host.clone(), journal, changed.clone())?;
        // What still runs of them may write there.
        jobs.end_builds()?;
        let work_dir = &host.settings.work_dir;
        workspace::remove_leftovers(work_dir)
            .with_context(|| format!("cannot empty the work folder {}", work_dir.display()))?;
        recover(&jobs).await?;
        let instances = Instances::new(host.clone(), jobs.clone(), violations, changed, report_all.clone());
        let agent = Agent { host, jobs: jobs.clone(), running: instances.running(), report_all };
        Ok(Self { jobs, instances, agent })
    }

    /// What it says first on each connection.
    pub fn register(&self) -> impl Fn() -> Register + Send + Sync + use<E> + 'static {
        let jobs = self.jobs.clone();
        move || Register {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(wisehosting_node::usage::capacity()),
            running_jobs: jobs.unsettled(),
        }
    }

    /// Does jobs and watches instances, for as long as there is a channel. `written`: what containers have written.
    pub async fn serve(self, events: mpsc::Receiver<Event>, written: watch::Receiver<Written>) {
        tokio::join!(self.agent.listen(events), self.instances.watch(written));
    }
}

fn settings(config: &Config) -> HostSettings {
    HostSettings {
        address: config.worker.address,
        ports: config.worker.ports.clone(),
        work_dir: config.worker.work_dir.clone(),
        git: GitSettings {
            allow_local: config.worker.allow_local_repositories,
            ca_file: config.worker.git_ca_file.clone(),
            // systemd makes it in memory for the unit alone, and empties it with each start.
            login_dir: std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from),
        },
        builds: BuildLimits {
            bounds: BuildBounds {
                memory_bytes: config.worker.build_memory_bytes,
                cpu_millis: config.worker.build_cpu_millis,
                processes_max: BUILD_PROCESSES_MAX,
                at_a_time: config.worker.builds,
            },
            timeout: Duration::from_secs(config.worker.build_timeout_s),
        },
        starts: config.worker.starts,
        images_kept: config.worker.images_kept,
        space: SpaceSettings {
            free_min_bytes: config.worker.disk_free_min_bytes,
            reserve_bytes: config.worker.disk_reserve_bytes,
            dir: config.worker.state_dir.clone(),
        },
        restart: RestartPolicy::default(),
    }
}

/// Begins to end what an earlier run has begun, as soon as the engine answers.
async fn recover<E: Engine>(jobs: &Jobs<E>) -> Result<(), JournalError> {
    let mut told = false;
    loop {
        match jobs.recover().await {
            Ok(()) => return Ok(()),
            Err(RecoverError::Journal(error)) => return Err(error),
            Err(RecoverError::Engine(error)) => {
                if !told {
                    tracing::error!(
                        error = &error as &dyn Error,
                        "cannot take jobs yet; trying again until it works"
                    );
                }
                told = true;
                tokio::time::sleep(RECOVER_PAUSE).await;
            }
        }
    }
}
