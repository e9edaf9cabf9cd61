//! A worker's machine: its engine and its disk, and its program, which is started and killed.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::watch;
use wisehosting_containers::BuildBounds;
use wisehosting_domain::name::Label;
use wisehosting_protocol::message::AgentMessage;
use wisehosting_worker::{
    Worker,
    host::{BuildLimits, GitSettings, Host, HostSettings},
    outbox::Outbox,
    restart::RestartPolicy,
    space::SpaceSettings,
    written::Written,
};

use crate::{
    clocks::{WRONG_MAX_MS, WallClock},
    engine::SimulatedEngine,
    outside::SimulatedOutside,
    program::{Program, Start},
    random::Random,
};

/// The disk needs no disk: what a crash of the machine would lose is not of interest here.
pub(crate) fn folder() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("wisehosting-simulation-").to_owned();
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap()
}

/// What stays when the program is killed.
pub(crate) struct Machine {
    pub(crate) name: Label,
    pub(crate) engine: SimulatedEngine,
    pub(crate) program: Option<Program>,
    address: IpAddr,
    pub(crate) clock: WallClock,
    folder: TempDir,
    random: Arc<Mutex<Random>>,
    all_good: Arc<AtomicBool>,
}

impl Machine {
    pub(crate) fn new(name: &str, address: &str, random: &mut Random, all_good: Arc<AtomicBool>) -> Self {
        Self {
            name: name.parse().unwrap(),
            engine: SimulatedEngine::new(random.fork()),
            program: None,
            address: address.parse().unwrap(),
            clock: WallClock::new(random.below(WRONG_MAX_MS)),
            folder: folder(),
            random: Arc::new(Mutex::new(random.fork())),
            all_good,
        }
    }

    /// Starts the program on what its last run has left.
    pub(crate) fn start(&mut self, now_ms: u64) {
        let outside = SimulatedOutside {
            engine: self.engine.clone(),
            random: self.random.clone(),
            all_good: self.all_good.clone(),
        };
        let (engine, settings) = (self.engine.clone(), self.settings());
        let state_dir = self.folder.path().join("state");
        self.program = Some(Program::start(now_ms, &self.clock, |start| async move {
            let Start { channel, events, clock, registration } = start;
            // What builds print is much, and of no interest here.
            let outbox = Outbox::new(move |message| {
                matches!(message, AgentMessage::BuildLog(_)) || channel.try_send(message).is_ok()
            });
            let host = Host::new(engine, outbox, Arc::new(clock), settings).with_outside(outside);
            let worker = Worker::recover(Arc::new(host), &state_dir).await.unwrap();
            registration.is_ready(worker.register());
            // Programs write nothing here.
            let (_count, written) = watch::channel(Written::new());
            worker.serve(events, written).await;
        }));
    }

    pub(crate) fn kill(&mut self) {
        self.program = None;
        self.engine.forget_builds();
    }

    /// What the program must still do or tell when it is started again.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let entries = ["state/taken", "state/results", "work"]
            .iter()
            .flat_map(|folder| std::fs::read_dir(self.folder.path().join(folder)).into_iter().flatten());
        entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
    }

    fn settings(&self) -> HostSettings {
        HostSettings {
            address: self.address,
            ports: 20_000..=20_009,
            work_dir: self.folder.path().join("work"),
            git: GitSettings::default(),
            builds: BuildLimits {
                bounds: BuildBounds {
                    memory_bytes: 1 << 30,
                    cpu_millis: 1_000,
                    processes_max: 100,
                    at_a_time: 2,
                },
                timeout: Duration::from_secs(600),
            },
            starts: 2,
            // How full the disk of this machine is must not matter.
            space: SpaceSettings { free_min_bytes: 0, reserve_bytes: 0, dir: self.folder.path().to_owned() },
            images_kept: 2,
            restart: RestartPolicy { trust_kernel: false, ..RestartPolicy::default() },
        }
    }
}

/// Lets whatever is fetched from now on be good, or not.
pub(crate) fn set_all_good(all_good: &AtomicBool, to: bool) {
    all_good.store(to, Ordering::Relaxed);
}
