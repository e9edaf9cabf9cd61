//! One run: a control plane, its database, two workers and an edge, and everything between them.
//!
//! All code of the platform that takes part is the real one. One thing happens at a time, in an order that follows from
//! the run's number alone; workers go on between two of them, each on a clock of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
};

use futures_util::FutureExt as _;
use wisehosting_control_plane::{
    hub::{Conversation, Node, Unhandled, welcome},
    nodes::Role,
};
use wisehosting_node::{channel::Event as ChannelEvent, random};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage, Message as _, Queueing},
    payload::{Register, RoutesDrained},
};

use crate::{
    control_plane::{ControlPlane, EDGE, Ground, TASKS, Task, WORKERS, chain},
    database::Database,
    edge::EdgeModel,
    history::{Event, History, LinkId, NodeId},
    network::Network,
    random::Random,
    statements,
    user::User,
    worker::{Machine, at},
};

/// The longest time from a new route table to an edge that hears of it and serves it.
pub(crate) const EDGE_FOLLOWS_MS: u64 = 10_000;
/// What a message that finds the database away waits.
const STORE_RETRY_MS: u64 = 500;
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
    pub(crate) edge: EdgeModel,
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
        let machines = WORKERS.iter().map(machine).collect();
        // Some last long enough for a job to be given up again and again.
        let faults_end_ms = random.between(15_000, 60_000) * if random.once_in(4) { 5 } else { 1 };
        site.ground.clock.0.store(0, Ordering::Relaxed);
        site.ground.wait(site.database.empty());
        let (due_ms, rest_since_ms, is_calm) = (BTreeMap::new(), None, false);
        Self {
            site,
            random,
            history: History::new(show),
            control_plane: None,
            machines,
            edge: EdgeModel::default(),
            network: Network::new(WORKERS.len() + 1),
            user: User::default(),
            phase: Phase { due_ms, faults_end_ms, is_calm, rest_since_ms, all_good },
        }
    }

    /// Faults, then calm; what did not hold, if something did not.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.start_control_plane();
        for worker in 0..self.machines.len() {
            self.start_worker(worker);
        }
        self.plan_in(1_000, 0, Event::Dial(EDGE_PLACE));
        self.plan_in(500, 2_000, Event::User);
        self.plan_in(2_000, 8_000, Event::Fault);
        self.history.plan(self.phase.faults_end_ms, Event::Check);
        loop {
            self.let_workers_go_on();
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

    fn let_workers_go_on(&mut self) {
        for worker in 0..self.machines.len() {
            loop {
                let until_ms = self.history.next_ms();
                let Some(program) = &mut self.machines[worker].program else { break };
                let Some((ms, mut message)) = program.run_until(until_ms) else { break };
                if let AgentMessage::Heartbeat(heartbeat) = &mut message {
                    // How busy the machine of this test is must not matter.
                    heartbeat.memory_bytes_used = self.random.below(1 << 30);
                    heartbeat.cpu_millis_used = u32::try_from(self.random.below(4_000)).expect("few");
                }
                self.said(worker, ms, message);
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Dial(node) => self.dial(node),
            Event::ToHub(link, text) => self.arrives_at_hub(link, text)?,
            Event::ToHubAgain(link, text) => self.arrives_again(link, &text)?,
            Event::ToAgent(link, text) => self.arrives_at_agent(link, &text)?,
            Event::HubGoesOn(link) => {
                if let Some(hub) = self.hub_end(link) {
                    hub.is_blocked = false;
                }
                self.hub_goes_on(link)?;
            }
            Event::AgentNotices(link) => self.agent_notices(link),
            Event::HubNotices(link) => self.drop_hub_end(link),
            Event::StartControlPlane => self.start_control_plane(),
            Event::Prepare => self.prepare()?,
            Event::Tick(task) => self.tick(task)?,
            Event::StartWorker(worker) => self.start_worker(worker),
            Event::EngineBack(worker) => self.engine_is_back(worker),
            Event::StoreBack => self.store_is_back(),
            Event::EdgeTakes => {
                if let Some(ack) = self.edge.take(&self.machines) {
                    self.plan_in(0, 5_000, Event::EdgeDrained(ack.generation));
                    self.said(EDGE_PLACE, self.history.now_ms, ack.into());
                }
            }
            Event::EdgeDrained(generation) => {
                self.said(EDGE_PLACE, self.history.now_ms, RoutesDrained { generation }.into());
            }
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
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        for id in links {
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

    /// Sends what the hub has for its nodes.
    fn take_from_hub(&mut self) {
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        for id in links {
            while let Some((_, inbox)) = self.hub_end(id).and_then(|hub| hub.talk.as_mut()) {
                match inbox.next().now_or_never() {
                    None => break,
                    Some(Ok(message)) => self.hub_sends(id, &message),
                    Some(Err(dismissal)) => {
                        self.history.note(format!("link {id}: {dismissal}"));
                        self.drop_hub_end(id);
                    }
                }
            }
        }
    }
}

/// The hub's ends of connections.
impl World<'_> {
    pub(crate) fn hub_end(&mut self, id: LinkId) -> Option<&mut crate::network::HubEnd> {
        self.network.links.get_mut(&id)?.hub.as_mut()
    }

    fn now_of_hub(&self) -> u64 {
        unix_ms(self.history.now_ms)
    }

    fn hub_sends(&mut self, id: LinkId, message: &HubMessage) {
        let now_ms = self.now_of_hub();
        let Some(hub) = self.hub_end(id) else { return };
        let text = hub.connection.seal(message, random::bytes(), now_ms);
        let node = self.network.links[&id].node;
        self.history.note(format!("hub to {}: {}", Self::name(node), describe_hub(message)));
        self.network.send_to_agent(id, text, &mut self.history, &mut self.random);
    }

    fn arrives_at_hub(&mut self, id: LinkId, text: String) -> Result<(), String> {
        let now_ms = self.now_of_hub();
        let Some(hub) = self.hub_end(id) else { return Ok(()) };
        let message =
            hub.connection.open(&text, now_ms).map_err(|error| format!("link {id}: {}", chain(&error)))?;
        hub.waiting.push_back(message);
        if let Some(link) = self.network.links.get_mut(&id) {
            link.recorded = Some(text);
        }
        self.hub_goes_on(id)
    }

    /// Somebody repeats what he has recorded.
    fn arrives_again(&mut self, id: LinkId, text: &str) -> Result<(), String> {
        let now_ms = self.now_of_hub();
        let Some(hub) = self.hub_end(id) else { return Ok(()) };
        if hub.connection.open(text, now_ms).is_ok() {
            return Err(format!("link {id}: a repeated message is taken"));
        }
        self.history.note(format!("link {id}: a repeated message is refused"));
        self.drop_hub_end(id);
        Ok(())
    }

    /// Carries out what has arrived on a connection, as far as the database is there.
    fn hub_goes_on(&mut self, id: LinkId) -> Result<(), String> {
        loop {
            let Some(hub) = self.hub_end(id).filter(|hub| !hub.is_blocked) else { return Ok(()) };
            let Some(message) = hub.waiting.front().cloned() else { return Ok(()) };
            if hub.talk.is_none() {
                self.begin_talk(id, &message)?;
            }
            let is_ready = self.control_plane.as_ref().is_some_and(|control_plane| control_plane.is_ready);
            let Some(link) = self.network.links.get_mut(&id) else { return Ok(()) };
            let Some(hub) = &mut link.hub else { return Ok(()) };
            let Some((talk, _)) = &mut hub.talk else { return Ok(()) };
            let handled = match is_ready {
                true => self.site.ground.step(talk.handle(&message)),
                false => Some(Err(Unhandled::Store(not_reached_yet()))),
            };
            let name = Self::name(link.node);
            match handled {
                None => {
                    self.control_plane_was_killed();
                    return Ok(());
                }
                Some(Ok(())) => {
                    hub.waiting.pop_front();
                    self.history.note(format!("{name} to hub: {}", describe_agent(&message)));
                }
                Some(Err(Unhandled::Store(error))) if error.is_unavailable() => {
                    hub.is_blocked = true;
                    self.history.plan_in(STORE_RETRY_MS, Event::HubGoesOn(id));
                }
                Some(Err(Unhandled::Store(error))) => {
                    return Err(format!("{name} to hub: {}: {}", describe_agent(&message), chain(&error)));
                }
                Some(Err(Unhandled::WrongRole)) => return Err(format!("{name}: wrong role")),
            }
        }
    }

    fn begin_talk(&mut self, id: LinkId, first: &AgentMessage) -> Result<(), String> {
        if !matches!(first, AgentMessage::Register(_)) {
            return Err(format!("link {id} begins with {}", first.kind()));
        }
        self.hub_sends(id, &welcome().into());
        let node = self.network.links[&id].node;
        let role = if node == EDGE_PLACE { Role::Edge } else { Role::Worker };
        let name = Self::name(node).parse().expect("a label");
        if let (Some(control_plane), Some(link)) = (&self.control_plane, self.network.links.get_mut(&id))
            && let Some(hub) = &mut link.hub
        {
            hub.talk = Some(Conversation::begin(&control_plane.state, Node { role, name }));
        }
        Ok(())
    }

    /// The hub's side of a connection is over; the agent will see that.
    pub(crate) fn drop_hub_end(&mut self, id: LinkId) {
        let Some(link) = self.network.links.get_mut(&id) else { return };
        if link.hub.take().is_none() {
            return;
        }
        link.is_cut = true;
        if let Some(control_plane) = &self.control_plane {
            control_plane.state.signals.rollout.notify_one();
        }
        self.plan_in(1, 3_000, Event::AgentNotices(id));
        self.network.forget_ended(id);
    }
}

/// The agents' ends of connections.
impl World<'_> {
    fn dial(&mut self, node: NodeId) {
        if self.network.places[node].link.is_some() {
            return;
        }
        let register = match self.machines.get(node) {
            None => {
                Some(Register { version: "simulated".to_owned(), capacity: None, running_jobs: Vec::new() })
            }
            Some(machine) => match &machine.program {
                None => return,
                Some(program) => program.register(),
            },
        };
        let is_open =
            self.network.places[node].cut_until_ms <= self.history.now_ms && self.control_plane.is_some();
        let Some(register) = register.filter(|_| is_open) else {
            self.plan_in(500, 4_000, Event::Dial(node));
            return;
        };
        let id = self.network.connect(node, Self::name(node), &mut self.random);
        self.history.note(format!("{} connects: link {id}", Self::name(node)));
        self.agent_sends(id, self.history.now_ms, &register.into());
    }

    /// Something that an agent says to the control plane.
    fn said(&mut self, node: NodeId, ms: u64, message: AgentMessage) {
        match self.network.open_link(node).map(|(id, _)| id) {
            Some(id) => self.agent_sends(id, ms, &message),
            None if message.queueing() == Queueing::Latest => {}
            None => self.network.keep(node, message),
        }
    }

    fn agent_sends(&mut self, id: LinkId, ms: u64, message: &AgentMessage) {
        let link = self.network.links.get_mut(&id).expect("it has an end");
        let agent = link.agent.as_mut().expect("it has this end");
        let text = agent.connection.seal(message, random::bytes(), unix_ms(ms));
        self.network.send_to_hub(id, text, ms, &mut self.history, &mut self.random);
    }

    fn arrives_at_agent(&mut self, id: LinkId, text: &str) -> Result<(), String> {
        let now_ms = self.now_of_hub();
        let Some(link) = self.network.links.get_mut(&id) else { return Ok(()) };
        let Some(agent) = &mut link.agent else { return Ok(()) };
        let message =
            agent.connection.open(text, now_ms).map_err(|error| format!("link {id}: {}", chain(&error)))?;
        let (node, was_welcome) = (link.node, agent.is_welcome);
        agent.is_welcome = true;
        let event = match message {
            HubMessage::Registered(registered) if !was_welcome => ChannelEvent::Connected(registered),
            HubMessage::Routes(routes) if node == EDGE_PLACE => {
                self.edge.received = Some(routes.table);
                self.plan_in(1, 2_000, Event::EdgeTakes);
                return Ok(());
            }
            message => ChannelEvent::Message(message),
        };
        self.tell_agent(node, event);
        if !was_welcome {
            for message in std::mem::take(&mut self.network.places[node].backlog) {
                self.agent_sends(id, self.history.now_ms, &message);
            }
        }
        Ok(())
    }

    fn tell_agent(&mut self, node: NodeId, event: ChannelEvent) {
        if let Some(program) = self.machines.get(node).and_then(|machine| machine.program.as_ref()) {
            program.channel.events.try_send(event).expect("it takes what it is told");
        }
    }

    fn agent_notices(&mut self, id: LinkId) {
        let Some(link) = self.network.links.get_mut(&id) else { return };
        link.is_cut = true;
        let node = link.node;
        if link.agent.take().is_some() {
            self.history.note(format!("{} sees that link {id} is over", Self::name(node)));
            if self.network.places[node].link == Some(id) {
                self.network.places[node].link = None;
            }
            self.tell_agent(node, ChannelEvent::Disconnected);
            let slow = self.random.once_in(4);
            self.plan_in(500, if slow { 30_000 } else { 1_000 }, Event::Dial(node));
        }
        self.network.forget_ended(id);
    }

    pub(crate) fn start_worker(&mut self, worker: NodeId) {
        if self.machines[worker].program.is_none() {
            self.history.note(format!("{} starts", Self::name(worker)));
            self.machines[worker].start(self.history.now_ms);
            self.plan_in(100, 1_000, Event::Dial(worker));
        }
    }

    /// Its connection is seen to be over by the hub some time later.
    pub(crate) fn kill_worker(&mut self, worker: NodeId) {
        self.history.note(format!("{} is killed", Self::name(worker)));
        self.machines[worker].kill();
        let place = &mut self.network.places[worker];
        place.backlog.clear();
        if let Some(id) = place.link.take()
            && let Some(link) = self.network.links.get_mut(&id)
        {
            link.agent = None;
            let slow = self.random.once_in(4);
            self.plan_in(1, if slow { 60_000 } else { 1_000 }, Event::HubNotices(id));
            self.network.forget_ended(id);
        }
    }
}

/// The control plane's time on its wall.
fn unix_ms(ms: u64) -> u64 {
    u64::try_from(at(ms).unix_timestamp_nanos() / 1_000_000).expect("after 1970")
}

/// A database that was not reached yet.
fn not_reached_yet() -> wisehosting_store::StoreError {
    wisehosting_store::StoreError::Unavailable { operation: "wait", source: sqlx::Error::PoolTimedOut }
}

fn describe_hub(message: &HubMessage) -> String {
    match message {
        HubMessage::Job(job) => format!("job {} {} of {}", short(job.job_id), job.work.kind(), job.app),
        HubMessage::JobCancel(cancel) => format!("cancel {}", short(cancel.0.job_id)),
        HubMessage::ResultAck(ack) => format!("result of {} is stored", short(ack.0.job_id)),
        HubMessage::Routes(routes) => format!("routes of generation {}", routes.table.generation),
        message => message.kind().to_owned(),
    }
}

fn describe_agent(message: &AgentMessage) -> String {
    match message {
        AgentMessage::Register(register) => format!("register, {} jobs", register.running_jobs.len()),
        AgentMessage::Heartbeat(heartbeat) => format!("heartbeat, {} jobs", heartbeat.running_jobs.len()),
        AgentMessage::JobAck(job) => format!("has job {}", short(job.job_id)),
        AgentMessage::JobStatus(status) => format!("job {} is {}", short(status.job_id), status.state),
        AgentMessage::JobResult(result) => format!("job {}: {:?}", short(result.job_id), result.outcome),
        AgentMessage::AppStatus(status) => {
            let (running, stopped) = (status.running, status.stopped);
            format!("instance {} running: {running}, stopped: {stopped}", short(status.instance_id))
        }
        AgentMessage::Violation(violation) => {
            format!("{} broke {}", short(violation.instance_id), violation.kind)
        }
        AgentMessage::RoutesAck(ack) => format!("serves {}, {} problems", ack.generation, ack.problems.len()),
        message => message.kind().to_owned(),
    }
}

/// Enough of an identifier to tell it from others.
pub(crate) fn short(id: impl std::fmt::Display) -> String {
    id.to_string().chars().take(8).collect()
}
