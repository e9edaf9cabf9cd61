//! What is said on one connection, whatever carries it: each message of a node that has registered is carried out.
//!
//! A message is carried out wholly or, if the database is away, not at all: then it is to be handled again.

use wisehosting_protocol::{message::AgentMessage, payload::Registered};
use wisehosting_store::StoreError;

use super::{Inbox, Node, edge::EdgeAgent, worker::WorkerAgent};
use crate::{nodes::Role, scheduler::leases, state::AppState};

/// What an agent's message could not do.
#[derive(Debug)]
pub enum Unhandled {
    /// It is not this kind of agent's.
    WrongRole,
    /// It could not be stored.
    Store(StoreError),
}

impl From<StoreError> for Unhandled {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The hub's answer to `register`.
#[must_use]
pub fn welcome() -> Registered {
    Registered {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat_interval_ms: leases::HEARTBEAT_INTERVAL.whole_milliseconds().try_into().unwrap_or(u64::MAX),
    }
}

/// One connection of a node. While it is there, the node is connected.
pub struct Conversation(Agent);

enum Agent {
    Worker(WorkerAgent),
    Edge(EdgeAgent),
}

impl Conversation {
    /// Makes this the node's only connection. Its `register` is still to be [handled](Self::handle), first of all.
    #[must_use]
    pub fn begin(state: &AppState, node: Node) -> (Self, Inbox) {
        let role = node.role;
        let (membership, inbox) = state.hub.join(node);
        let agent = match role {
            Role::Worker => Agent::Worker(WorkerAgent::new(state.clone(), membership)),
            Role::Edge => Agent::Edge(EdgeAgent::new(state.clone(), membership)),
        };
        (Self(agent), inbox)
    }

    /// Carries out a message.
    ///
    /// # Errors
    /// It could not be stored, or is not one of this kind of node.
    pub async fn handle(&mut self, message: &AgentMessage) -> Result<(), Unhandled> {
        match &mut self.0 {
            Agent::Worker(agent) => agent.handle(message).await,
            Agent::Edge(agent) => agent.handle(message).await,
        }
    }
}
