//! One run: a control plane, its database, two workers and an edge, and everything between them.
//!
//! All code of the platform that takes part is the real one. One thing happens at a time, in an order that follows from
//! the run's number alone; agents go on between two of them, each on a clock of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
};

use wisehosting_node::random;
use wisehosting_protocol::message::AgentMessage;

use crate::{
    clocks::Clocks,
    control_plane::{ControlPlane, EDGE, Ground, TASKS, Task, WORKERS, chain},
    database::Database,
    edge::Edge,
    history::{Event, History, LinkId, NodeId},
    network::Network,
    random::Random,
    statements,
    user::User,
    worker::Machine,
};

/// The longest time from a new route table to an edge that hears of it and serves it.
pub(crate) const EDGE_FOLLOWS_MS: u64 = 10_000;
const CHECK_MS: u64 = 5_000;
/// The edge's place in the network, after the workers.
pub(crate) const EDGE_PLACE: NodeId = WORKERS.len();

/// What all runs of a thread share.
pub(crate) struct Site {
    pub(crate) ground: Ground,
    pub(crate) database: Database,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        let ground = Ground::new();
        let database = ground.wait(Database::create(name));
        Self { ground, database }
    }

    pub(crate) fn remove(self) {
        let Self { ground, database } = self;
        ground.wait(database.remove());
    }
}

pub(crate) struct World<'a> {
    pub(crate) site: &'a mut Site,
    pub(crate) random: Random,
    pub(crate) history: History,
    pub(crate) control_plane: Option<ControlPlane>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) edge: Edge,
    pub(crate) network: Network,
    pub(crate) user: User,
    pub(crate) phase: Phase,
}

/// How far a run is.
pub(crate) struct Phase {
    /// When each task of the control plane looks again.
    due_ms: BTreeMap<Task, u64>,
    pub(crate) faults_end_ms: u64,
    pub(crate) is_calm: bool,
    /// Since when nothing is left to do.
    pub(crate) rest_since_ms: Option<u64>,
    pub(crate) all_good: Arc<AtomicBool>,
}

impl<'a> World<'a> {
    pub(crate) fn new(number: u64, site: &'a mut Site, show: bool) -> Self {
        let mut random = Random::new(number);
        let mut drawn = random.fork();
        random::simulated::draw_from(move |bytes| drawn.fill(bytes));
        let all_good = Arc::new(AtomicBool::new(false));
        let machine =
            |(name, address): &(&str, &str)| Machine::new(name, address, &mut random, all_good.clone());
        let machines: Vec<Machine> = WORKERS.iter().map(machine).collect();
        let edge = Edge::new(&machines, &mut random);
        // Some last long enough for a job to be given up again and again.
        let faults_end_ms = random.between(15_000, 60_000) * if random.once_in(4) { 5 } else { 1 };
        site.ground.clock.ms.store(0, Ordering::Relaxed);
        let of_nodes = machines.iter().map(|machine| &machine.clock).chain([&edge.clock]).cloned().collect();
        let clocks = Clocks::new(site.ground.clock.wall.clone(), of_nodes);
        site.ground.wait(site.database.empty());
        let (due_ms, rest_since_ms, is_calm) = (BTreeMap::new(), None, false);
        Self {
            site,
            random,
            history: History::new(clocks, show),
            control_plane: None,
            machines,
            edge,
            network: Network::new(WORKERS.len() + 1),
            user: User::default(),
            phase: Phase { due_ms, faults_end_ms, is_calm, rest_since_ms, all_good },
        }
    }

    /// Faults, then calm; what did not hold, if something did not.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.start_control_plane();
        for node in 0..=EDGE_PLACE {
            self.start_agent(node);
        }
        self.plan_in(500, 2_000, Event::User);
        self.plan_in(2_000, 8_000, Event::Fault);
        self.history.plan(self.phase.faults_end_ms, Event::Check);
        loop {
            self.let_agents_go_on();
            let Some(event) = self.history.next() else {
                return Err("nothing is planned any more".to_owned());
            };
            self.site.ground.set(self.history.now_ms);
            if matches!(event, Event::Check) {
                if self.check()? {
                    return Ok(());
                }
                self.history.plan_in(CHECK_MS, Event::Check);
                continue;
            }
            self.happen(event)?;
            self.take_from_hub();
            self.hear_calls();
            self.hear_engines();
            self.check_stops()?;
            if let Some(broken) = self.machines.iter().find_map(|machine| machine.engine.broken()) {
                return Err(broken);
            }
        }
    }

    /// Plans something in a while that is not quite certain.
    pub(crate) fn plan_in(&mut self, least_ms: u64, more_ms: u64, event: Event) {
        let wait_ms = least_ms + self.random.below(more_ms + 1);
        self.history.plan_in(wait_ms, event);
    }

    pub(crate) fn name(node: NodeId) -> &'static str {
        WORKERS.get(node).map_or(EDGE, |(name, _)| name)
    }

    fn let_agents_go_on(&mut self) {
        for node in 0..=EDGE_PLACE {
            loop {
                let until_ms = self.history.next_ms();
                let can_send = self.network.can_send(node);
                let Some(program) = self.program(node) else { break };
                let Some((ms, mut message)) = program.run_until(until_ms, can_send) else { break };
                if let AgentMessage::Heartbeat(heartbeat) = &mut message {
                    // How busy the machine of this test is must not matter.
                    heartbeat.memory_bytes_used = self.random.below(1 << 30);
                    heartbeat.cpu_millis_used = u32::try_from(self.random.below(4_000)).expect("few");
                }
                self.said(node, ms, &message);
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Dial(node) => self.dial(node),
            Event::ToHub(link, packet) => self.arrives_at_hub(link, packet)?,
            Event::ToAgent(link, packet) => self.arrives_at_agent(link, &packet)?,
            Event::AgentLooks(link) => self.agent_looks(link),
            Event::HubLooks(link) => self.hub_looks(link),
            Event::HubGoesOn(link) => {
                if let Some(hub) = self.hub_end(link) {
                    hub.is_blocked = false;
                }
                self.hub_goes_on(link)?;
            }
            Event::AgentNotices(link) => self.agent_notices(link)?,
            Event::HubNotices(link) => self.hub_notices(link)?,
            Event::StartControlPlane => self.start_control_plane(),
            Event::Prepare => self.prepare()?,
            Event::Tick(task) => self.tick(task)?,
            Event::StartAgent(node) => self.start_agent(node),
            Event::EngineBack(worker) => self.engine_is_back(worker),
            Event::EngineGoesOn(worker) => self.engine_goes_on(worker),
            Event::StoreBack => self.store_is_back(),
            Event::ClocksRight => self.set_clocks_right(),
            Event::Fault => self.fault(),
            Event::User => self.user_asks()?,
            Event::Check => {}
        }
        Ok(())
    }
}

/// The control plane.
impl World<'_> {
    pub(crate) fn start_control_plane(&mut self) {
        if self.control_plane.is_none() {
            self.history.note("the control plane starts");
            let site = &self.site;
            self.control_plane = Some(ControlPlane::start(site.database.pool.clone(), &site.ground.clock));
            self.history.plan_in(0, Event::Prepare);
        }
    }

    fn prepare(&mut self) -> Result<(), String> {
        let Some(control_plane) = &mut self.control_plane else { return Ok(()) };
        match self.site.ground.step(control_plane.prepare()) {
            None => self.control_plane_was_killed(),
            Some(Ok(())) => {
                for task in TASKS {
                    self.call(task, 500);
                }
            }
            Some(Err(error)) if error.is_unavailable() => self.history.plan_in(1_000, Event::Prepare),
            Some(Err(error)) => return Err(chain(&error)),
        }
        Ok(())
    }

    /// It was killed in the middle of something; what it had not committed is gone.
    pub(crate) fn control_plane_was_killed(&mut self) {
        self.history.note(format!("the control plane is killed after statement {}", statements::ended()));
        self.control_plane = None;
        self.phase.due_ms.clear();
        statements::disarm();
        let machine_dies = self.random.once_in(4);
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        for id in links {
            if machine_dies && let Some(link) = self.network.links.get_mut(&id) {
                link.cut(self.random.below(20));
            }
            self.drop_hub_end(id);
        }
        let slow = self.random.once_in(3);
        self.plan_in(0, if slow { 70_000 } else { 5_000 }, Event::StartControlPlane);
    }

    /// Lets a task of the control plane look soon.
    pub(crate) fn call(&mut self, task: Task, within_ms: u64) {
        let at_ms = self.history.now_ms + 1 + self.random.below(within_ms);
        let due_ms = self.phase.due_ms.entry(task).or_insert(u64::MAX);
        if at_ms < *due_ms {
            *due_ms = at_ms;
            self.history.plan(at_ms, Event::Tick(task));
        }
    }

    fn tick(&mut self, task: Task) -> Result<(), String> {
        if self.phase.due_ms.get(&task) != Some(&self.history.now_ms) {
            return Ok(());
        }
        self.phase.due_ms.remove(&task);
        let Some(control_plane) = self.control_plane.as_mut().filter(|control_plane| control_plane.is_ready)
        else {
            return Ok(());
        };
        let Some(round) = self.site.ground.step(control_plane.reconcile(task)) else {
            self.control_plane_was_killed();
            return Ok(());
        };
        let pause_ms = round.map_err(|error| format!("{task:?}: {error}"))?;
        if matches!(task, Task::Leases | Task::Rollout) {
            self.check_given_up()?;
        }
        // A machine may be slow; leases are renewed if they were not looked at for ten seconds.
        let late_ms = match (task, pause_ms) {
            (_, 0) => 20,
            (Task::Leases, _) => 7_500,
            _ => 2_500,
        };
        let at_ms = self.history.now_ms + pause_ms + self.random.between(1, late_ms);
        self.phase.due_ms.insert(task, at_ms);
        self.history.plan(at_ms, Event::Tick(task));
        if task == Task::Rollout && pause_ms == 0 {
            // As Postgres tells of a job that it has queued, mostly.
            self.call(Task::Scheduler, 2_000);
        }
        Ok(())
    }

    fn hear_calls(&mut self) {
        for task in TASKS {
            if self.control_plane.as_ref().is_some_and(|control_plane| control_plane.is_called(task)) {
                self.call(task, 40);
            }
        }
    }
}
