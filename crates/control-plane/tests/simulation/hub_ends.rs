//! The hub's ends of connections: what the real hub does over a socket, done over the simulated network.

use futures_util::FutureExt as _;
use wisehosting_control_plane::{
    hub::{Conversation, Dismissal, Node, Unhandled},
    nodes::Role,
};
use wisehosting_node::random;
use wisehosting_protocol::{
    message::AgentMessage,
    session::{End, Frame, Received, Status},
};

use crate::{
    agent_ends::HANG_UP_MS,
    control_plane::chain,
    history::{Event, LinkId},
    network::{HubEnd, Packet},
    words::{describe_agent, describe_hub},
    world::{EDGE_PLACE, World},
};

/// What a message that finds the database away waits.
const STORE_RETRY_MS: u64 = 500;

impl World<'_> {
    /// Sends what the hub has for its nodes, as far as their network takes it.
    pub(crate) fn take_from_hub(&mut self) {
        let links: Vec<LinkId> = self.network.links.keys().copied().collect();
        let now = self.hub_moment();
        for id in links {
            while let Some(hub) = self.hub_end(id).filter(|hub| hub.side.session.can_send())
                && let Some((_, inbox)) = &mut hub.talk
            {
                match inbox.next().now_or_never() {
                    None => break,
                    Some(Ok(message)) => {
                        let frame = hub.side.session.send(&message, random::bytes(), now);
                        let node = self.network.links[&id].node;
                        self.history.note(format!("hub to {}: {}", Self::name(node), describe_hub(&message)));
                        self.history.clocks.hub_speaks(&message, self.history.now_ms);
                        self.hub_writes(id, frame.expect("it can be sent"));
                    }
                    Some(Err(dismissal)) => {
                        let status =
                            if dismissal == Dismissal::Replaced { Status::Replaced } else { Status::Again };
                        self.hub_closes(id, status, dismissal.to_string());
                    }
                }
            }
            self.plan_hub_look(id);
        }
    }

    pub(crate) fn hub_end(&mut self, id: LinkId) -> Option<&mut HubEnd> {
        self.network.links.get_mut(&id)?.hub.as_mut()
    }

    fn hub_writes(&mut self, id: LinkId, frame: Frame) {
        let (now_ms, now) = (self.history.now_ms, self.hub_moment());
        let Some(link) = self.network.links.get_mut(&id) else { return };
        let event = || Event::ToAgent(id, frame.into());
        if link.to_agent.send(now_ms, event, &mut self.history, &mut self.random)
            && let Some(hub) = &mut link.hub
        {
            hub.side.session.written(now);
        }
    }

    /// Sends what the session itself has to say.
    fn hub_flushes(&mut self, id: LinkId) {
        let now = self.hub_moment();
        while let Some(hub) = self.hub_end(id)
            && let Some(frame) = hub.side.session.transmit(random::bytes(), now)
        {
            self.hub_writes(id, frame);
        }
        self.plan_hub_look(id);
    }

    pub(crate) fn plan_hub_look(&mut self, id: LinkId) {
        if let Some(hub) = self.network.links.get_mut(&id).and_then(|link| link.hub.as_mut()) {
            hub.side.plan_look(&mut self.history, Event::HubLooks(id));
        }
    }

    /// The hub looks at the time.
    pub(crate) fn hub_looks(&mut self, id: LinkId) {
        let (now_ms, now) = (self.history.now_ms, self.hub_moment());
        let Some(hub) = self.hub_end(id).filter(|hub| hub.side.look_ms == Some(now_ms)) else { return };
        hub.side.look_ms = None;
        match hub.side.session.tick(now) {
            Ok(()) => self.hub_flushes(id),
            Err(end) => self.hub_ends(id, &end),
        }
    }

    pub(crate) fn arrives_at_hub(&mut self, id: LinkId, packet: Packet) -> Result<(), String> {
        let Some(hub) = self.hub_end(id) else { return Ok(()) };
        hub.came.push_back(packet);
        self.hub_goes_on(id)
    }

    /// Reads what has arrived on a connection and carries it out, as far as the database is there.
    pub(crate) fn hub_goes_on(&mut self, id: LinkId) -> Result<(), String> {
        while let Some(hub) = self.hub_end(id).filter(|hub| !hub.is_blocked) {
            let went_on = match hub.in_hand.clone() {
                Some(message) => self.hub_carries_out(id, &message)?,
                None => self.hub_reads(id)?,
            };
            if !went_on {
                break;
            }
        }
        self.plan_hub_look(id);
        Ok(())
    }

    /// Whether there was something to read.
    fn hub_reads(&mut self, id: LinkId) -> Result<bool, String> {
        let (now_ms, now) = (self.history.now_ms, self.hub_moment());
        let Some(link) = self.network.links.get_mut(&id) else { return Ok(false) };
        let Some(hub) = &mut link.hub else { return Ok(false) };
        let session = &mut hub.side.session;
        session.listen(now);
        let Some(packet) = hub.came.pop_front() else { return Ok(false) };
        let received = match &packet {
            Packet::Text(text) | Packet::Again(text) => Received::Text(text),
            Packet::Close(close) => Received::Closed(close.clone()),
            Packet::Pong => Received::Sign,
            Packet::Ping => {
                let event = || Event::ToAgent(id, Packet::Pong);
                link.to_agent.send(now_ms, event, &mut self.history, &mut self.random);
                Received::Sign
            }
        };
        match (session.receive(received, now), packet) {
            (Ok(Some(_)), Packet::Again(_)) => Err(format!("link {id}: a repeated message is taken")),
            (Ok(Some(message)), Packet::Text(text)) => {
                hub.in_hand = Some(message);
                link.recorded = Some(text);
                Ok(true)
            }
            (Ok(_), _) => Ok(true),
            (Err(end @ End::Refused { .. }), Packet::Text(_)) if !self.may_end(&end) => {
                Err(format!("link {id}: {}", chain(&end)))
            }
            (Err(end @ (End::Unopened(_) | End::Reopened(_) | End::NotText(_))), _) => {
                Err(format!("link {id}: {end}"))
            }
            (Err(end), _) => {
                self.hub_ends(id, &end);
                Ok(false)
            }
        }
    }

    /// Whether it is done.
    fn hub_carries_out(&mut self, id: LinkId, message: &AgentMessage) -> Result<bool, String> {
        if self.hub_end(id).is_some_and(|hub| hub.talk.is_none()) {
            self.begin_talk(id);
        }
        let is_ready = self.control_plane.as_ref().is_some_and(|control_plane| control_plane.is_ready);
        let Some(link) = self.network.links.get_mut(&id) else { return Ok(false) };
        let Some(hub) = &mut link.hub else { return Ok(false) };
        let Some((talk, _)) = &mut hub.talk else { return Ok(false) };
        let handled = match is_ready {
            true => self.site.ground.step(talk.handle(message)),
            false => Some(Err(Unhandled::Store(not_reached_yet()))),
        };
        let name = Self::name(link.node);
        match handled {
            None => {
                self.control_plane_was_killed();
                Ok(false)
            }
            Some(Ok(())) => {
                hub.in_hand = None;
                self.history.clocks.hub_hears(message, self.history.now_ms);
                self.history.note(format!("{name} to hub: {}", describe_agent(message)));
                Ok(true)
            }
            Some(Err(Unhandled::Store(error))) if error.is_unavailable() => {
                hub.is_blocked = true;
                self.history.plan_in(STORE_RETRY_MS, Event::HubGoesOn(id));
                Ok(false)
            }
            Some(Err(Unhandled::Store(error))) => {
                Err(format!("{name} to hub: {}: {}", describe_agent(message), chain(&error)))
            }
            Some(Err(Unhandled::WrongRole)) => Err(format!("{name}: wrong role")),
        }
    }

    fn begin_talk(&mut self, id: LinkId) {
        self.hub_flushes(id);
        let node = self.network.links[&id].node;
        let role = if node == EDGE_PLACE { Role::Edge } else { Role::Worker };
        let name = Self::name(node).parse().expect("a label");
        if let (Some(control_plane), Some(link)) = (&self.control_plane, self.network.links.get_mut(&id))
            && let Some(hub) = &mut link.hub
        {
            hub.talk = Some(Conversation::begin(&control_plane.state, Node { role, name }));
        }
    }

    fn hub_ends(&mut self, id: LinkId, end: &End) {
        match end.status() {
            Some(status) => self.hub_closes(id, status, end.to_string()),
            None => {
                self.history.note(format!("the hub leaves link {id}: {end}"));
                self.drop_hub_end(id);
            }
        }
    }

    /// The hub closes a connection and says why.
    fn hub_closes(&mut self, id: LinkId, status: Status, reason: String) {
        self.history.note(format!("the hub closes link {id}: {reason}"));
        if let Some(hub) = self.hub_end(id) {
            hub.side.session.close(status, reason);
        }
        self.hub_flushes(id);
        self.drop_hub_end(id);
    }

    /// The network tells the hub that the connection is over.
    pub(crate) fn hub_notices(&mut self, id: LinkId) -> Result<(), String> {
        self.arrives_at_hub(id, Packet::Close(None))
    }

    /// The hub's side of a connection is over; the agent sees that soon, if the network is there.
    pub(crate) fn drop_hub_end(&mut self, id: LinkId) {
        let Some(link) = self.network.links.get_mut(&id) else { return };
        if link.hub.take().is_none() {
            return;
        }
        let was_cut = link.is_cut();
        link.cut(0);
        if let Some(control_plane) = &self.control_plane {
            control_plane.state.signals.rollout.notify_one();
        }
        if !was_cut {
            self.plan_in(100, HANG_UP_MS, Event::AgentNotices(id));
        }
        self.network.forget_ended(id);
    }
}

/// A database that was not reached yet.
fn not_reached_yet() -> wisehosting_store::StoreError {
    wisehosting_store::StoreError::Unavailable { operation: "wait", source: sqlx::Error::PoolTimedOut }
}
