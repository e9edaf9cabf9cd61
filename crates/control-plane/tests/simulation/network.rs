//! Connections between agents and the control plane: signed as they are in truth, in order, slow, cut, and repeated.

use std::collections::{BTreeMap, VecDeque};

use wisehosting_control_plane::hub::{Conversation, Inbox};
use wisehosting_protocol::{
    connection::{AgentConnection, HubConnection},
    message::AgentMessage,
};

use crate::{
    control_plane::signing_key,
    history::{Event, History, LinkId, NodeId},
    random::Random,
};

/// The longest way of a message.
const LATENCY_MAX_MS: u64 = 60;
/// Messages that wait for a connection.
const BACKLOG_MAX: usize = 256;

/// One connection. Each side has its end until it sees that it is over.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) agent: Option<AgentEnd>,
    pub(crate) hub: Option<HubEnd>,
    /// Whether nothing arrives any more.
    pub(crate) is_cut: bool,
    /// When the last text of each direction arrives.
    to_hub_ms: u64,
    to_agent_ms: u64,
    /// A text that arrived, to be repeated.
    pub(crate) recorded: Option<String>,
}

pub(crate) struct AgentEnd {
    pub(crate) connection: AgentConnection,
    pub(crate) is_welcome: bool,
}

pub(crate) struct HubEnd {
    pub(crate) connection: HubConnection,
    /// From when the agent has registered.
    pub(crate) talk: Option<(Conversation, Inbox)>,
    /// What arrived and is not carried out yet.
    pub(crate) waiting: VecDeque<AgentMessage>,
    /// Whether it is to be tried again at a time.
    pub(crate) is_blocked: bool,
}

/// An agent's place in the network.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) link: Option<LinkId>,
    pub(crate) cut_until_ms: u64,
    /// What is to be sent with the next connection.
    pub(crate) backlog: VecDeque<AgentMessage>,
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

    /// A new connection of a node.
    pub(crate) fn connect(&mut self, node: NodeId, name: &str, random: &mut Random) -> LinkId {
        let (to_hub, to_agent) = (random.below(1 << 40), random.below(1 << 40));
        let key = signing_key(name);
        let agent = AgentConnection::new(key.clone(), to_hub, to_agent);
        let hub = HubConnection::new(key, to_agent, to_hub);
        self.made += 1;
        let link = Link {
            node,
            agent: Some(AgentEnd { connection: agent, is_welcome: false }),
            hub: Some(HubEnd { connection: hub, talk: None, waiting: VecDeque::new(), is_blocked: false }),
            is_cut: false,
            to_hub_ms: 0,
            to_agent_ms: 0,
            recorded: None,
        };
        self.links.insert(self.made, link);
        self.places[node].link = Some(self.made);
        self.made
    }

    /// The connection on which a node may send, if it is welcome on one.
    pub(crate) fn open_link(&mut self, node: NodeId) -> Option<(LinkId, &mut AgentConnection)> {
        let id = self.places[node].link?;
        let agent = self.links.get_mut(&id)?.agent.as_mut()?;
        agent.is_welcome.then_some((id, &mut agent.connection))
    }

    pub(crate) fn keep(&mut self, node: NodeId, message: AgentMessage) {
        let backlog = &mut self.places[node].backlog;
        if backlog.len() < BACKLOG_MAX {
            backlog.push_back(message);
        }
    }

    pub(crate) fn send_to_hub(
        &mut self,
        id: LinkId,
        text: String,
        at_ms: u64,
        history: &mut History,
        random: &mut Random,
    ) {
        let link = self.links.get_mut(&id).expect("it has an end");
        if !link.is_cut {
            link.to_hub_ms = link.to_hub_ms.max(at_ms + random.between(1, LATENCY_MAX_MS));
            history.plan(link.to_hub_ms, Event::ToHub(id, text));
        }
    }

    pub(crate) fn send_to_agent(
        &mut self,
        id: LinkId,
        text: String,
        history: &mut History,
        random: &mut Random,
    ) {
        let link = self.links.get_mut(&id).expect("it has an end");
        if !link.is_cut {
            link.to_agent_ms = link.to_agent_ms.max(history.now_ms + random.between(1, LATENCY_MAX_MS));
            history.plan(link.to_agent_ms, Event::ToAgent(id, text));
        }
    }

    /// Forgets a connection that has no end any more.
    pub(crate) fn forget_ended(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| link.agent.is_none() && link.hub.is_none()) {
            self.links.remove(&id);
        }
    }
}
