//! An edge's machine: its disk, its visitors, and its program, which is started and killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{
    id::InstanceId,
    routes::{Route, RouteTable, Upstream},
};
use wisehosting_edge::{
    acme::sharing::{Running, sharing},
    agent::Agent,
    outside::Outside,
    table::{
        Generations, ServingTable,
        file::{FileError, TableFile},
    },
};
use wisehosting_protocol::payload::Register;

use crate::{
    clocks::{WRONG_MAX_MS, WallClock},
    engine::SimulatedEngine,
    program::{Program, Start},
    random::Random,
    worker::{Machine, folder},
};

/// The longest time that a visitor's request takes.
const REQUEST_MAX_MS: u64 = 5_000;

/// What stays when the program is killed.
pub(crate) struct Edge {
    pub(crate) program: Option<Program>,
    /// Since when it hears the control plane without a break.
    pub(crate) hears_since_ms: Option<u64>,
    pub(crate) clock: WallClock,
    /// Its disk, for as long as there is the machine.
    _folder: TempDir,
    site: Site,
}

/// What the program reaches.
#[derive(Clone)]
struct Site {
    file: TableFile,
    /// What visitors are served by while the program holds it: those that come by the last, requests under way by others.
    tables: Arc<Mutex<Vec<Weak<ServingTable>>>>,
    /// Where all instances are.
    engines: Arc<[SimulatedEngine]>,
    random: Arc<Mutex<Random>>,
}

impl Edge {
    pub(crate) fn new(machines: &[Machine], random: &mut Random) -> Self {
        let folder = folder();
        let site = Site {
            file: TableFile::open(folder.path()).unwrap(),
            tables: Arc::default(),
            engines: machines.iter().map(|machine| machine.engine.clone()).collect(),
            random: Arc::new(Mutex::new(random.fork())),
        };
        let clock = WallClock::new(random.below(WRONG_MAX_MS));
        Self { program: None, hears_since_ms: None, clock, _folder: folder, site }
    }

    /// Starts the program on what its last run has left.
    pub(crate) fn start(&mut self, now_ms: u64) {
        let generations = Generations::new();
        let saved = self.site.file.load().unwrap().unwrap_or_default();
        let serving = Arc::new(ServingTable::new(saved, &generations));
        self.site.serve(&serving);
        let site = self.site.clone();
        self.program = Some(Program::start(now_ms, &self.clock, |start| async move {
            let Start { channel, events, registration, .. } = start;
            let running = Running::default();
            let (mailbox, _certificates) = sharing(Arc::default(), running.clone(), channel.clone());
            registration.is_ready(move || Register {
                version: "simulated".to_owned(),
                capacity: None,
                running_jobs: running.list(),
            });
            let agent = Agent::new(site, generations, serving, channel, mailbox);
            agent.run(events, &CancellationToken::new()).await;
        }));
    }

    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    /// Whether requests are taken to this instance, or are under way there.
    pub(crate) fn has(&self, instance: &str) -> bool {
        self.site
            .tables()
            .iter()
            .flat_map(|table| upstreams(table, |_| true))
            .any(|led_to| led_to == instance)
    }

    /// The instances that new requests for an app are taken to.
    pub(crate) fn leads_to(&self, app: &str) -> Vec<String> {
        self.site
            .tables()
            .last()
            .map_or_else(Vec::new, |table| upstreams(table, |route| route.app.as_str() == app))
    }
}

fn upstreams(table: &ServingTable, of: impl Fn(&Route) -> bool) -> Vec<String> {
    let upstreams =
        table.table().routes.values().filter(|route| of(route)).flat_map(|route| &route.upstreams);
    upstreams.map(|upstream| upstream.instance_id.to_string()).collect()
}

impl Site {
    fn serve(&self, table: &Arc<ServingTable>) {
        self.tables.lock().unwrap().push(Arc::downgrade(table));
    }

    /// Those that are not over, oldest first.
    fn tables(&self) -> Vec<Arc<ServingTable>> {
        let mut tables = self.tables.lock().unwrap();
        tables.retain(|table| table.strong_count() > 0);
        tables.iter().filter_map(Weak::upgrade).collect()
    }

    async fn pass(&self, longest_ms: u64) {
        let wait_ms = self.random.lock().unwrap().below(longest_ms);
        sleep(Duration::from_millis(wait_ms)).await;
    }

    fn accepts(&self, upstream: &Upstream) -> bool {
        self.engines.iter().any(|engine| engine.accepts(upstream.address))
    }
}

impl Outside for Site {
    async fn unreachable(&self, upstreams: BTreeSet<Upstream>) -> BTreeMap<InstanceId, String> {
        if upstreams.is_empty() {
            return BTreeMap::new();
        }
        self.pass(2_000).await;
        let silent = upstreams.iter().filter(|upstream| !self.accepts(upstream));
        silent.map(|upstream| (upstream.instance_id, "refused".to_owned())).collect()
    }

    async fn install(&self, table: &Arc<ServingTable>) -> io::Result<()> {
        self.pass(20).await;
        self.serve(table);
        self.pass(20).await;
        Ok(())
    }

    fn retire(&self, table: Arc<ServingTable>) {
        let site = self.clone();
        tokio::spawn(async move {
            site.pass(REQUEST_MAX_MS).await;
            drop(table);
        });
    }

    async fn save(&self, table: RouteTable) -> Result<(), FileError> {
        self.pass(100).await;
        self.file.save(&table)
    }
}
