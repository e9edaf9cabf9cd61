//! What goes wrong, and how it ends.

use futures_util::FutureExt as _;
use wisehosting_containers::{Container, ContainerState, Engine as _};
use wisehosting_node::clock::Clock as _;
use wisehosting_store::workers;

use crate::{
    history::{Event, LinkId, NodeId},
    network::Packet,
    statements,
    worker::set_all_good,
    world::{EDGE_PLACE, World},
};

/// The longest time that an engine takes for what nobody waits for any more: longer than a worker is away, mostly.
const ENGINE_GOES_ON_MS: u64 = 20_000;

impl World<'_> {
    /// Something goes wrong, and something else will.
    pub(crate) fn fault(&mut self) {
        if self.phase.is_calm {
            return;
        }
        let worker = usize::try_from(self.random.below(self.machines.len() as u64)).expect("few");
        match self.random.below(13) {
            0 | 1 => statements::arm_kill(self.random.between(1, 16)),
            2 | 3 => {
                let node = self.any_node();
                if self.program(node).is_some() {
                    self.kill_agent(node);
                }
                let slow = self.random.once_in(3);
                self.plan_in(0, if slow { 60_000 } else { 5_000 }, Event::StartAgent(node));
            }
            4 => self.take_engine_away(worker),
            5 => self.cut_store_off(),
            6 | 7 => {
                let node = self.any_node();
                self.cut_network(node);
            }
            8 => self.repeat_message(),
            9 => self.end_program(worker),
            10 => self.remove_container(worker),
            11 => self.set_clocks(),
            _ => self.drain(worker),
        }
        self.plan_in(500, 9_000, Event::Fault);
    }

    pub(crate) fn any_node(&mut self) -> NodeId {
        usize::try_from(self.random.below(EDGE_PLACE as u64 + 1)).expect("few")
    }

    fn take_engine_away(&mut self, worker: NodeId) {
        self.history.note(format!("the engine of {} is killed", Self::name(worker)));
        self.machines[worker].engine.set_away(true);
        self.plan_in(200, 15_000, Event::EngineBack(worker));
    }

    pub(crate) fn engine_is_back(&mut self, worker: NodeId) {
        if self.machines[worker].engine.is_away() {
            self.history.note(format!("the engine of {} is back", Self::name(worker)));
            self.machines[worker].engine.set_away(false);
        }
    }

    /// What an engine goes on with takes it a while.
    pub(crate) fn hear_engines(&mut self) {
        for worker in 0..self.machines.len() {
            for _ in 0..self.machines[worker].engine.newly_left() {
                self.plan_in(1, ENGINE_GOES_ON_MS, Event::EngineGoesOn(worker));
            }
        }
    }

    pub(crate) fn engine_goes_on(&mut self, worker: NodeId) {
        if let Some(what) = self.machines[worker].engine.go_on() {
            self.history.note(format!("the engine of {} {what} that nobody waits for", Self::name(worker)));
        }
    }

    /// In the middle of something that the control plane does next.
    fn cut_store_off(&mut self) {
        let statements = self.random.between(1, 12);
        self.history.note(format!("the database goes away in {statements} statements"));
        statements::arm(statements, self.site.database.cut());
        self.plan_in(1_000, 20_000, Event::StoreBack);
    }

    pub(crate) fn store_is_back(&mut self) {
        self.history.note("the database is back");
        self.site.database.mend();
    }

    /// Each side sees it at another time; what was on its way may be lost, or come very late.
    fn cut_network(&mut self, node: NodeId) {
        let place = &mut self.network.places[node];
        let Some(id) = place.link else { return };
        let lasts_ms = if self.random.once_in(2) { self.random.below(80_000) } else { 0 };
        place.cut_until_ms = self.history.now_ms + lasts_ms;
        self.history.note(format!("{} is cut off for {lasts_ms} ms", Self::name(node)));
        if let Some(link) = self.network.links.get_mut(&id) {
            link.cut(self.random.below(20));
        }
        let keeps = self.random.once_in(2);
        if !keeps {
            self.history.forget(|event| match event {
                Event::ToHub(link, _) | Event::ToAgent(link, _) => *link == id,
                _ => false,
            });
        }
        // Whoever is not told finds out by himself.
        if self.random.once_in(2) {
            self.plan_in(1, 20_000, Event::AgentNotices(id));
        }
        if self.random.once_in(2) {
            self.plan_in(1, 60_000, Event::HubNotices(id));
        }
    }

    fn repeat_message(&mut self) {
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        let Some(id) = self.random.choose(&links).copied() else { return };
        if let Some(text) = self.network.links[&id].recorded.clone() {
            self.plan_in(1, 5_000, Event::ToHub(id, Packet::Again(text)));
        }
    }

    /// A program crashes, or uses too much memory.
    fn end_program(&mut self, worker: NodeId) {
        let engine = self.machines[worker].engine.clone();
        if engine.is_away() {
            return;
        }
        let running: Vec<Container> =
            engine.all().into_iter().filter(|container| container.state == ContainerState::Running).collect();
        let Some(container) = self.random.choose(&running) else { return };
        if self.random.once_in(4) {
            self.history.note(format!("a program of {} uses too much memory", Self::name(worker)));
            engine.fake.run_out_of_memory(&container.id);
        } else {
            self.history.note(format!("a program of {} crashes", Self::name(worker)));
            engine.fake.crash(&container.id, 1);
        }
    }

    /// Somebody removes a container by hand.
    fn remove_container(&mut self, worker: NodeId) {
        let engine = self.machines[worker].engine.clone();
        if engine.is_away() {
            return;
        }
        let Some(container) = self.random.choose(&engine.all()).cloned() else { return };
        self.history.note(format!("a container of {} is removed", Self::name(worker)));
        let _ = engine.fake.remove(&container.id).now_or_never();
    }

    /// An operator empties a worker, or lets it take apps again.
    fn drain(&mut self, worker: NodeId) {
        let empties = self.random.once_in(2);
        self.set_draining(worker, empties);
    }

    fn set_draining(&mut self, worker: NodeId, empties: bool) {
        self.history.note(format!("{} is drained: {empties}", Self::name(worker)));
        let since = empties.then(|| self.site.ground.clock.now());
        let name = self.machines[worker].name.clone();
        let database = &mut self.site.database;
        // It may not be declared yet.
        let _ = self.site.ground.wait(workers::drain(&mut database.admin, &name, since));
    }

    /// No fault is left from now on.
    pub(crate) fn calm_down(&mut self) {
        self.history.note("the faults stop");
        self.phase.is_calm = true;
        statements::disarm();
        set_all_good(&self.phase.all_good, true);
        self.store_is_back();
        self.end_clock_faults();
        for worker in 0..self.machines.len() {
            self.engine_is_back(worker);
            self.set_draining(worker, false);
        }
        for node in 0..=EDGE_PLACE {
            self.start_agent(node);
        }
        for place in &mut self.network.places {
            place.cut_until_ms = 0;
        }
        self.start_control_plane();
    }
}
