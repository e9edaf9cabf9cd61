//! The agents' ends of connections: what the real channel does over a socket, done over the simulated network.

use wisehosting_node::{channel::Event as ChannelEvent, random};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    session::{End, Frame, Received},
};

use crate::{
    control_plane::chain,
    history::{Event, LinkId, NodeId},
    network::Packet,
    program::Program,
    world::World,
};

/// Longest time until a side sees that the program of the other one has ended.
pub(crate) const HANG_UP_MS: u64 = 3_000;

impl World<'_> {
    pub(crate) fn dial(&mut self, node: NodeId) {
        if self.network.places[node].link.is_some() {
            return;
        }
        let Some(program) = self.program(node) else { return };
        let register = program.register();
        let now_ms = self.history.now_ms;
        let is_open = self.network.places[node].cut_until_ms <= now_ms && self.control_plane.is_some();
        let Some(register) = register.filter(|_| is_open) else {
            self.dial_again(node, 0);
            return;
        };
        let now = (self.moment_of(node, now_ms), self.hub_moment());
        let id = self.network.connect(node, Self::name(node), register, now, &mut self.random);
        self.history.note(format!("{} connects: link {id}", Self::name(node)));
        self.agent_flushes(id);
        self.plan_hub_look(id);
    }

    /// After the wait of the real agents.
    fn dial_again(&mut self, node: NodeId, served_ms: u64) {
        let served = std::time::Duration::from_millis(served_ms);
        let wait = self.network.places[node].backoff.next(served, random::fraction());
        self.history.plan_in(u64::try_from(wait.as_millis()).expect("short"), Event::Dial(node));
    }

    /// Something that an agent says to the control plane, which can be sent.
    pub(crate) fn said(&mut self, node: NodeId, ms: u64, message: &AgentMessage) {
        let id = self.network.open_link(node).expect("it can be sent");
        let now = self.moment_of(node, ms);
        let link = self.network.links.get_mut(&id).expect("it is open");
        let agent = link.agent.as_mut().expect("it is open");
        let frame = agent.side.session.send(message, random::bytes(), now).expect("it can be sent");
        self.agent_writes(id, ms, frame);
        self.plan_agent_look(id);
    }

    fn agent_writes(&mut self, id: LinkId, ms: u64, frame: Frame) {
        let now = self.agent_moment(id, ms);
        let Some(link) = self.network.links.get_mut(&id) else { return };
        let event = || Event::ToHub(id, frame.into());
        if link.to_hub.send(ms, event, &mut self.history, &mut self.random)
            && let Some(agent) = &mut link.agent
        {
            agent.side.session.written(now);
        }
    }

    /// Sends what the session itself has to say.
    fn agent_flushes(&mut self, id: LinkId) {
        let now_ms = self.history.now_ms;
        let now = self.agent_moment(id, now_ms);
        while let Some(agent) = self.agent_end(id)
            && let Some(frame) = agent.side.session.transmit(random::bytes(), now)
        {
            self.agent_writes(id, now_ms, frame);
        }
        self.plan_agent_look(id);
    }

    fn agent_end(&mut self, id: LinkId) -> Option<&mut crate::network::AgentEnd> {
        self.network.links.get_mut(&id)?.agent.as_mut()
    }

    fn plan_agent_look(&mut self, id: LinkId) {
        if let Some(agent) = self.network.links.get_mut(&id).and_then(|link| link.agent.as_mut()) {
            agent.side.plan_look(&mut self.history, Event::AgentLooks(id));
        }
    }

    /// The agent looks at the time.
    pub(crate) fn agent_looks(&mut self, id: LinkId) {
        let now_ms = self.history.now_ms;
        let now = self.agent_moment(id, now_ms);
        let Some(agent) = self.agent_end(id).filter(|agent| agent.side.look_ms == Some(now_ms)) else {
            return;
        };
        agent.side.look_ms = None;
        match agent.side.session.tick(now) {
            Ok(()) => self.agent_flushes(id),
            Err(end) => self.agent_ends(id, &end),
        }
    }

    pub(crate) fn arrives_at_agent(&mut self, id: LinkId, packet: &Packet) -> Result<(), String> {
        let now_ms = self.history.now_ms;
        let now = self.agent_moment(id, now_ms);
        let Some(link) = self.network.links.get_mut(&id) else { return Ok(()) };
        let Some(agent) = &mut link.agent else { return Ok(()) };
        let received = match packet {
            Packet::Text(text) | Packet::Again(text) => Received::Text(text),
            Packet::Close(close) => Received::Closed(close.clone()),
            Packet::Pong => Received::Sign,
            Packet::Ping => {
                // By the WebSocket itself, as all pings.
                link.to_hub.send(
                    now_ms,
                    || Event::ToHub(id, Packet::Pong),
                    &mut self.history,
                    &mut self.random,
                );
                Received::Sign
            }
        };
        let (node, session) = (link.node, &mut agent.side.session);
        session.listen(now);
        let taken = session.receive(received, now);
        // It is never busy for long with what it is told.
        session.listen(now);
        let message = match taken {
            Ok(message) => message,
            Err(end @ End::Refused { .. }) if !self.may_end(&end) => {
                return Err(format!("link {id}: {}", chain(&end)));
            }
            Err(end) => {
                self.agent_ends(id, &end);
                return Ok(());
            }
        };
        match message {
            None => {}
            Some(HubMessage::Registered(registered)) => {
                agent.welcome_ms = Some(now_ms);
                // What is true at its moment only waits from now on.
                self.program(node).into_iter().for_each(|program| program.waiting.open());
                self.tell_agent(node, ChannelEvent::Connected(registered));
            }
            Some(message) => self.tell_agent(node, ChannelEvent::Message(message)),
        }
        self.agent_flushes(id);
        Ok(())
    }

    fn tell_agent(&mut self, node: NodeId, event: ChannelEvent) {
        if let Some(program) = self.program(node) {
            program.events.try_send(event).expect("it takes what it is told");
        }
    }

    /// The network tells the agent that the connection is over.
    pub(crate) fn agent_notices(&mut self, id: LinkId) -> Result<(), String> {
        self.arrives_at_agent(id, &Packet::Close(None))
    }

    fn agent_ends(&mut self, id: LinkId, end: &End) {
        let Some(link) = self.network.links.get_mut(&id) else { return };
        let Some(agent) = link.agent.take() else { return };
        let (node, was_cut) = (link.node, link.is_cut());
        link.cut(0);
        self.history.note(format!("{} leaves link {id}: {end}", Self::name(node)));
        if !was_cut {
            self.plan_in(1, HANG_UP_MS, Event::HubNotices(id));
        }
        if self.network.places[node].link == Some(id) {
            self.network.places[node].link = None;
        }
        self.program(node).into_iter().for_each(|program| program.waiting.close());
        if agent.welcome_ms.is_some() {
            self.tell_agent(node, ChannelEvent::Disconnected);
        }
        let served_ms = agent.welcome_ms.map_or(0, |since_ms| self.history.now_ms - since_ms);
        self.dial_again(node, served_ms);
        self.network.forget_ended(id);
    }

    pub(crate) fn program(&mut self, node: NodeId) -> Option<&mut Program> {
        match self.machines.get_mut(node) {
            Some(machine) => machine.program.as_mut(),
            None => self.edge.program.as_mut(),
        }
    }

    pub(crate) fn start_agent(&mut self, node: NodeId) {
        if self.program(node).is_some() {
            return;
        }
        self.history.note(format!("{} starts", Self::name(node)));
        match self.machines.get_mut(node) {
            Some(machine) => machine.start(self.history.now_ms),
            None => self.edge.start(self.history.now_ms),
        }
        self.network.places[node].backoff = Default::default();
        self.plan_in(100, 1_000, Event::Dial(node));
    }

    /// The hub is told that its connection is over, unless the machine has died with the program.
    pub(crate) fn kill_agent(&mut self, node: NodeId) {
        self.history.note(format!("{} is killed", Self::name(node)));
        match self.machines.get_mut(node) {
            Some(machine) => machine.kill(),
            None => self.edge.kill(),
        }
        if let Some(id) = self.network.places[node].link.take()
            && let Some(link) = self.network.links.get_mut(&id)
        {
            link.agent = None;
            let is_silent = link.is_cut() || self.random.once_in(4);
            link.cut(self.random.below(20));
            if !is_silent {
                self.plan_in(1, HANG_UP_MS, Event::HubNotices(id));
            }
            self.network.forget_ended(id);
        }
    }
}
