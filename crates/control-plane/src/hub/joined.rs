//! Who may connect beside those whom the configuration declares: the nodes that have joined.
//!
//! Invariant: who is not among them any more, or has another key there than it was to have, has no connection.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, watch};
use wisehosting_store::joined_nodes::JoinedNode;

use super::{Dismissal, Hub, Node};
use crate::nodes::join::JoinTokens;

/// None before the database has said so.
pub(crate) type Nodes = Option<Arc<Vec<JoinedNode>>>;

#[derive(Debug, Default)]
pub(super) struct Joined {
    nodes: watch::Sender<Nodes>,
    tokens: JoinTokens,
    turn: Mutex<()>,
}

/// The right to say who has joined: what its owner reads after it has it is the newest.
pub struct Admission<'a> {
    hub: &'a Hub,
    _turn: MutexGuard<'a, ()>,
}

impl Hub {
    /// The nodes that have joined; as if there were none until that is known.
    #[must_use]
    pub fn joined(&self) -> Arc<Vec<JoinedNode>> {
        self.0.joined.nodes.borrow().clone().unwrap_or_default()
    }

    /// The nodes that have joined, now and from now on; none until that is known.
    #[must_use]
    pub fn watch_joined(&self) -> watch::Receiver<Nodes> {
        self.0.joined.nodes.subscribe()
    }

    /// With what others may join.
    #[must_use]
    pub fn join_tokens(&self) -> &JoinTokens {
        &self.0.joined.tokens
    }

    /// Waits for one's turn to say who has joined.
    pub async fn admission(&self) -> Admission<'_> {
        Admission { hub: self, _turn: self.0.joined.turn.lock().await }
    }
}

impl Admission<'_> {
    /// These are the nodes that have joined from now on.
    pub fn admit(self, nodes: Vec<JoinedNode>) {
        let nodes = Arc::new(nodes);
        let before = self.hub.0.joined.nodes.send_replace(Some(nodes.clone())).unwrap_or_default();
        let identity = |node: &JoinedNode| (node.role, node.address, node.api_key_sha256);
        let stays = |node: &JoinedNode| {
            let has_key = |now: &JoinedNode| {
                [Some(node.public_key), node.approved_public_key].contains(&Some(now.public_key))
            };
            nodes.iter().any(|now| now.name == node.name && has_key(now) && identity(now) == identity(node))
        };
        let links = self.hub.links();
        for node in before.iter().filter(|node| !stays(node)) {
            if let Some(link) = links.get(&Node { role: node.role, name: node.name.clone() }) {
                link.end.send_replace(Some(Dismissal::Removed));
            }
        }
    }
}
