//! Connections between agents and the control plane: the real sessions on both sides, and a network between them that is
//! slow, keeps what it carries in order, fills up, is cut, and repeats.

use std::collections::{BTreeMap, VecDeque};

use wisehosting_control_plane::hub::{Conversation, Inbox, welcome};
use wisehosting_node::channel::backoff::Backoff;
use wisehosting_protocol::{
    VERSION,
    connection::AgentConnection,
    handshake::Request,
    message::{AgentMessage, HubMessage},
    payload::Register,
    session::{AgentSession, Close, Frame, HubSession, Moment, Session, Speech},
    timing::Timing,
};

use crate::{
    control_plane::signing_key,
    history::{Event, History, LinkId, NodeId},
    random::Random,
};

/// The longest way of a frame.
const LATENCY_MAX_MS: u64 = 60;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Text(String),
    /// A text that somebody has recorded and sends once more.
    Again(String),
    Ping,
    Pong,
    /// The end, and what is said of it, if anything is.
    Close(Option<Close>),
}

impl From<Frame> for Packet {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Ping => Self::Ping,
            Frame::Close(close) => Self::Close(Some(close)),
        }
    }
}

/// One connection. Each side has its end until it knows that it is over.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) agent: Option<AgentEnd>,
    pub(crate) hub: Option<HubEnd>,
    pub(crate) to_hub: Way,
    pub(crate) to_agent: Way,
    /// A text that arrived, to be repeated.
    pub(crate) recorded: Option<String>,
}

/// One direction of a connection.
#[derive(Default)]
pub(crate) struct Way {
    /// When the last packet arrives.
    last_ms: u64,
    /// Once it is cut: how much more is taken, of which nothing arrives.
    room: Option<u64>,
}

pub(crate) struct AgentEnd {
    pub(crate) side: Side<AgentMessage, HubMessage>,
    /// Since when it is welcome.
    pub(crate) welcome_ms: Option<u64>,
}

pub(crate) struct HubEnd {
    pub(crate) side: Side<HubMessage, AgentMessage>,
    /// From when the agent has registered.
    pub(crate) talk: Option<(Conversation, Inbox)>,
    /// What arrived and is not read yet.
    pub(crate) came: VecDeque<Packet>,
    /// What is read and not carried out yet.
    pub(crate) in_hand: Option<AgentMessage>,
    /// Whether that is to be tried again at a time.
    pub(crate) is_blocked: bool,
}

/// A session, and when its time is looked at next.
pub(crate) struct Side<Out, In> {
    pub(crate) session: Session<Out, In>,
    pub(crate) look_ms: Option<u64>,
}

impl<Out: Speech, In: Speech> Side<Out, In> {
    /// Plans to look at the time, unless that is planned early enough.
    pub(crate) fn plan_look(&mut self, history: &mut History, event: Event) {
        let deadline =
            self.session.deadline().map(|due| u64::try_from(due.as_millis()).expect("not that long"));
        if let Some(due_ms) = deadline.filter(|due_ms| self.look_ms.is_none_or(|look_ms| *due_ms < look_ms)) {
            self.look_ms = Some(due_ms);
            history.plan(due_ms, event);
        }
    }
}

/// An agent's place in the network.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) link: Option<LinkId>,
    pub(crate) cut_until_ms: u64,
    pub(crate) backoff: Backoff,
}

#[derive(Default)]
pub(crate) struct Network {
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) places: Vec<Place>,
    made: usize,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { places: (0..nodes).map(|_| Place::default()).collect(), ..Self::default() }
    }

    /// A new connection of a node, on which it registers; now, as the agent is told it, and the hub.
    pub(crate) fn connect(
        &mut self,
        node: NodeId,
        name: &str,
        register: Register,
        (agent_now, hub_now): (Moment, Moment),
        random: &mut Random,
    ) -> LinkId {
        let (to_hub, to_agent) = (random.below(1 << 40), random.below(1 << 40));
        let (key, timing) = (signing_key(name), Timing::default());
        let request = Request { version: Some(VERSION.into()), start: Some(to_agent) };
        let accepted = request.accept(key.clone(), to_hub).expect("it is of this version");
        let agent = AgentConnection::new(key, to_hub, to_agent);
        let agent = AgentSession::registering(agent, timing, register, agent_now);
        let hub = HubSession::welcoming(accepted, timing, welcome(), hub_now);
        self.made += 1;
        let link = Link {
            node,
            agent: Some(AgentEnd { side: Side { session: agent, look_ms: None }, welcome_ms: None }),
            hub: Some(HubEnd {
                side: Side { session: hub, look_ms: None },
                talk: None,
                came: VecDeque::new(),
                in_hand: None,
                is_blocked: false,
            }),
            to_hub: Way::default(),
            to_agent: Way::default(),
            recorded: None,
        };
        self.links.insert(self.made, link);
        self.places[node].link = Some(self.made);
        self.made
    }

    /// The connection on which a node is welcome, if there is one.
    pub(crate) fn open_link(&self, node: NodeId) -> Option<LinkId> {
        let id = self.places[node].link?;
        let agent = self.links.get(&id)?.agent.as_ref()?;
        agent.side.session.is_open().then_some(id)
    }

    /// Whether a node can send something now.
    pub(crate) fn can_send(&self, node: NodeId) -> bool {
        let link = self.places[node].link.and_then(|id| self.links.get(&id));
        link.and_then(|link| link.agent.as_ref()).is_some_and(|agent| agent.side.session.can_send())
    }

    /// Forgets a connection that has no end any more.
    pub(crate) fn forget_ended(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| link.agent.is_none() && link.hub.is_none()) {
            self.links.remove(&id);
        }
    }
}

impl Link {
    /// From now on nothing arrives; so much is still taken, in each direction.
    pub(crate) fn cut(&mut self, room: u64) {
        for way in [&mut self.to_hub, &mut self.to_agent] {
            way.room.get_or_insert(room);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.to_hub.room.is_some()
    }
}

impl Way {
    /// When a packet that is sent now arrives, which may be never; none if the network does not even take it.
    fn carry(&mut self, at_ms: u64, random: &mut Random) -> Option<Option<u64>> {
        match &mut self.room {
            None => {
                self.last_ms = self.last_ms.max(at_ms + random.between(1, LATENCY_MAX_MS));
                Some(Some(self.last_ms))
            }
            Some(0) => None,
            Some(room) => {
                *room -= 1;
                Some(None)
            }
        }
    }

    /// Sends a packet; whether the network takes it.
    pub(crate) fn send(
        &mut self,
        at_ms: u64,
        event: impl FnOnce() -> Event,
        history: &mut History,
        random: &mut Random,
    ) -> bool {
        let carried = self.carry(at_ms, random);
        if let Some(Some(arrives_ms)) = carried {
            history.plan(arrives_ms, event());
        }
        carried.is_some()
    }
}
