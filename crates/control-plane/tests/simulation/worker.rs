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
use time::OffsetDateTime;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use wisehosting_containers::BuildBounds;
use wisehosting_domain::name::Label;
use wisehosting_node::{
    channel::{self, Event, Waiting},
    clock::Clock,
};
use wisehosting_protocol::{message::AgentMessage, payload::Register};
use wisehosting_worker::{
    Worker,
    host::{BuildLimits, GitSettings, Host, HostSettings},
    outbox::Outbox,
    restart::RestartPolicy,
    space::SpaceSettings,
    written::Written,
};

use crate::{engine::SimulatedEngine, outside::SimulatedOutside, random::Random};

/// When all runs begin.
pub(crate) fn at(ms: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000) + Duration::from_millis(ms)
}

/// The same on its wall.
pub(crate) fn unix_ms(ms: u64) -> u64 {
    u64::try_from(at(ms).unix_timestamp_nanos() / 1_000_000).expect("after 1970")
}

/// Events that wait for the program.
const EVENTS_MAX: usize = 256;

/// The disk needs no disk: what a crash of the machine would lose is not of interest here.
fn folder() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("wisehosting-simulation-").to_owned();
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap()
}

/// What stays when the program is killed.
pub(crate) struct Machine {
    pub(crate) name: Label,
    pub(crate) engine: SimulatedEngine,
    pub(crate) program: Option<Program>,
    /// Whether the program is to be started again by whoever kills it.
    address: IpAddr,
    /// How wrong its clock is.
    ahead_ms: u64,
    folder: TempDir,
    random: Arc<Mutex<Random>>,
    all_good: Arc<AtomicBool>,
}

/// A program that runs, on a runtime and a clock of its own.
pub(crate) struct Program {
    runtime: Runtime,
    began: Instant,
    began_ms: u64,
    pub(crate) events: mpsc::Sender<Event>,
    /// What it has said and nobody has sent yet.
    pub(crate) waiting: Waiting,
    register: Arc<Mutex<Option<MakeRegister>>>,
}

type MakeRegister = Box<dyn Fn() -> Register + Send>;

impl Machine {
    pub(crate) fn new(name: &str, address: &str, random: &mut Random, all_good: Arc<AtomicBool>) -> Self {
        Self {
            name: name.parse().unwrap(),
            engine: SimulatedEngine::new(random.fork()),
            program: None,
            address: address.parse().unwrap(),
            ahead_ms: random.below(5_000),
            folder: folder(),
            random: Arc::new(Mutex::new(random.fork())),
            all_good,
        }
    }

    /// Starts the program on what its last run has left.
    pub(crate) fn start(&mut self, now_ms: u64) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (handle, waiting) = channel::queue();
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let began = {
            let _entered = runtime.enter();
            Instant::now()
        };
        let clock = LocalClock { began, began_at: at(now_ms + self.ahead_ms) };
        // What builds print is much, and of no interest here.
        let outbox = Outbox::new(move |message| {
            matches!(message, AgentMessage::BuildLog(_)) || handle.try_send(message).is_ok()
        });
        let outside = SimulatedOutside {
            engine: self.engine.clone(),
            random: self.random.clone(),
            all_good: self.all_good.clone(),
        };
        let host =
            Host::new(self.engine.clone(), outbox, Arc::new(clock), self.settings()).with_outside(outside);
        let register = Arc::new(Mutex::new(None));
        let (state_dir, ready) = (self.folder.path().join("state"), register.clone());
        runtime.spawn(async move {
            let worker = Worker::recover(Arc::new(host), &state_dir).await.unwrap();
            let register: MakeRegister = Box::new(worker.register());
            *ready.lock().unwrap() = Some(register);
            // Programs write nothing here.
            let (_count, written) = watch::channel(Written::new());
            worker.serve(events, written).await;
        });
        let began_ms = now_ms;
        self.program = Some(Program { runtime, began, began_ms, events: events_in, waiting, register });
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
            // How full the disk of this machine is must not matter.
            space: SpaceSettings { free_min_bytes: 0, reserve_bytes: 0, dir: self.folder.path().to_owned() },
            images_kept: 2,
            restart: RestartPolicy { trust_kernel: false, ..RestartPolicy::default() },
        }
    }
}

impl Program {
    /// The first message of a connection, once the program is ready for one.
    pub(crate) fn register(&self) -> Option<Register> {
        self.register.lock().unwrap().as_ref().map(|register| register())
    }

    /// Goes on until this time, or until it says something that can be sent, and when it did.
    pub(crate) fn run_until(&mut self, ms: u64, can_send: bool) -> Option<(u64, AgentMessage)> {
        let (began, began_ms, waiting) = (self.began, self.began_ms, &mut self.waiting);
        let end = began + Duration::from_millis(ms.saturating_sub(began_ms));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                Some(message) = waiting.next(), if can_send => {
                    let passed = u64::try_from(began.elapsed().as_millis()).unwrap();
                    Some((began_ms + passed, message))
                }
                () = sleep_until(end) => None,
            }
        })
    }
}

/// The clock of one machine.
struct LocalClock {
    began: Instant,
    began_at: OffsetDateTime,
}

impl Clock for LocalClock {
    fn now(&self) -> OffsetDateTime {
        self.began_at + self.began.elapsed()
    }
}

/// Lets whatever is fetched from now on be good, or not.
pub(crate) fn set_all_good(all_good: &AtomicBool, to: bool) {
    all_good.store(to, Ordering::Relaxed);
}
