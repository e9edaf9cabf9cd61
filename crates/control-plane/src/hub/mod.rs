//! The live connections of workers and edges, and what is only true while they live.
//!
//! A node has one connection; a newer one ends the older. Queues are bounded: a node that takes nothing is cut off, and
//! gets what it missed when it connects again, because what must arrive is in Postgres. How a message waits is its type's
//! [`Queueing`](wisehosting_protocol::message::Queueing); what nodes send waits nowhere here, but in their own queues.

mod conversation;
mod edge;
mod endpoint;
mod job;
mod job_result;
mod joined;
mod roll_call;
mod session;
mod worker;

pub use conversation::{Conversation, Unhandled, welcome};
pub use endpoint::{edge_channel, worker_channel};
pub use job::{Unreadable, message as job_message};
pub use job_result::fail as job_failed;
pub use joined::Admission;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};
use wisehosting_domain::{
    id::InstanceId,
    name::Label,
    rollout::{self, Edges},
    routes::RouteTable,
};
use wisehosting_node::mesh::PublicKey;
use wisehosting_protocol::{
    message::HubMessage,
    payload::{Certificates, MeshPeer, MeshPeers, Routes},
    timing::Timing,
};

use crate::{mesh::MeshBook, nodes::Role, stats::Stats};
use joined::Joined;

/// Messages that wait for one node.
const QUEUE_LEN: usize = 256;

/// The node is not connected, or takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is not connected")]
pub struct NotConnected;

/// All live connections; a clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    timing: Timing,
    links: Mutex<BTreeMap<Node, Link>>,
    table: watch::Sender<Option<Arc<RouteTable>>>,
    certificates: watch::Sender<Option<Arc<Certificates>>>,
    /// What workers are told of the mesh, and what edges are.
    peers: [PeersOut; 2],
    mesh: MeshBook,
    stats: Stats,
    joined: Joined,
}

/// Where a set of nodes of the mesh is handed out.
type PeersOut = watch::Sender<Option<Arc<MeshPeers>>>;

/// A worker or an edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Which of the two.
    pub role: Role,
    /// As it is declared.
    pub name: Label,
}

/// The hub's end of one connection.
#[derive(Debug)]
struct Link {
    queue: mpsc::Sender<HubMessage>,
    /// Why the connection is to end, once it is.
    end: watch::Sender<Option<Dismissal>>,
    edge: EdgeView,
}

/// Why the hub ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dismissal {
    /// For a newer one.
    #[error("a newer connection of this node took its place")]
    Replaced,
    /// Its queue is full.
    #[error("it takes no messages")]
    Full,
    /// It may not connect any more, or not with the key that it has.
    #[error("this node was removed")]
    Removed,
    /// The hub has gone.
    #[error("the hub let it go")]
    LetGo,
}

/// What an edge said on this connection.
#[derive(Clone, Debug, Default, PartialEq)]
struct EdgeView {
    acked_generation: u64,
    drained_generation: u64,
    problems: Vec<(InstanceId, String)>,
    /// Challenges that it shows, by their tokens.
    shows: BTreeSet<String>,
}

/// The session's end of one connection; when it is dropped, the node is not connected any more.
#[derive(Debug)]
struct Membership {
    hub: Hub,
    node: Node,
    queue: mpsc::Sender<HubMessage>,
}

/// What the hub has for one connection.
#[derive(Debug)]
pub struct Inbox {
    role: Role,
    queue: mpsc::Receiver<HubMessage>,
    end: watch::Receiver<Option<Dismissal>>,
    table: watch::Receiver<Option<Arc<RouteTable>>>,
    certificates: watch::Receiver<Option<Arc<Certificates>>>,
    peers: watch::Receiver<Option<Arc<MeshPeers>>>,
}

impl Hub {
    /// A hub without connections that waits for nodes this long.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self(Arc::new(Inner { timing, ..Inner::default() }))
    }

    fn timing(&self) -> Timing {
        self.0.timing
    }

    /// What workers say that they and their instances use.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// What nodes say of the mesh.
    #[must_use]
    pub fn mesh(&self) -> &MeshBook {
        &self.0.mesh
    }

    /// Queues a message for a worker. One whose queue is full is cut off.
    ///
    /// # Errors
    /// It is not connected.
    pub fn send(&self, worker: &Label, message: impl Into<HubMessage>) -> Result<(), NotConnected> {
        let node = Node { role: Role::Worker, name: worker.clone() };
        let links = self.links();
        let link = links.get(&node).ok_or(NotConnected)?;
        link.queue.try_send(message.into()).map_err(|_| {
            link.end.send_replace(Some(Dismissal::Full));
            NotConnected
        })
    }

    /// The workers that are connected.
    #[must_use]
    pub fn workers(&self) -> Vec<Label> {
        let links = self.links();
        links.keys().filter(|node| node.role == Role::Worker).map(|node| node.name.clone()).collect()
    }

    /// Whether the worker or edge of this name is connected.
    #[must_use]
    pub fn is_connected(&self, name: &Label) -> bool {
        let links = self.links();
        [Role::Worker, Role::Edge]
            .into_iter()
            .any(|role| links.contains_key(&Node { role, name: name.clone() }))
    }

    /// The edges that are connected and what they serve; `declared` is how many there should be.
    #[must_use]
    pub fn edges(&self, declared: usize) -> Edges {
        let links = self.links();
        let edges = links.iter().filter(|(node, _)| node.role == Role::Edge);
        let connected = edges.map(|(node, link)| rollout::Edge {
            name: node.name.to_string(),
            acked_generation: link.edge.acked_generation,
            drained_generation: link.edge.drained_generation,
            problems: link.edge.problems.clone(),
        });
        Edges { declared, connected: connected.collect() }
    }

    /// The generation of the newest table; none before the first.
    #[must_use]
    pub fn published(&self) -> Option<u64> {
        self.0.table.borrow().as_ref().map(|table| table.generation)
    }

    /// Hands a table to every edge; says whether it is news.
    pub fn publish(&self, table: RouteTable) -> bool {
        self.0.table.send_if_modified(|current| {
            let news = current.as_ref().is_none_or(|current| **current != table);
            if news {
                *current = Some(Arc::new(table));
            }
            news
        })
    }

    /// Tells every edge what is known of certificates, if this is news.
    pub fn tell_of_certificates(&self, certificates: Certificates) {
        self.0.certificates.send_if_modified(|current| {
            let news = current.as_ref().is_none_or(|current| **current != certificates);
            if news {
                *current = Some(Arc::new(certificates));
            }
            news
        });
    }

    /// Whether all edges that are connected show a challenge.
    #[must_use]
    pub fn is_shown(&self, token: &str) -> bool {
        let links = self.links();
        let mut edges = links.iter().filter(|(node, _)| node.role == Role::Edge);
        edges.all(|(_, link)| link.edge.shows.contains(token))
    }

    /// Tells every agent of a role whom it speaks with, by way of the key that the control plane has and of the one that it changes
    /// to; says in which generation, if this is news.
    pub fn name_peers(
        &self,
        role: Role,
        (hub, next_hub): (PublicKey, Option<PublicKey>),
        peers: Vec<MeshPeer>,
        now_ms: u64,
    ) -> Option<u64> {
        let (hub, next_hub) = (hub.to_string(), next_hub.map(|key| key.to_string()));
        let mut news = None;
        self.peers_of(role).send_if_modified(|current| {
            let last = current.as_ref().map(|current| current.generation);
            let generation = last.unwrap_or_default();
            let mut set = MeshPeers { generation, hub, next_hub, peers };
            if current.as_deref() == Some(&set) {
                return false;
            }
            // Later than all of an earlier process, too.
            set.generation = now_ms.max(last.map_or(0, |last| last + 1));
            news = Some(set.generation);
            *current = Some(Arc::new(set));
            true
        });
        news
    }

    /// The generation of what agents of a role were told last; none before the first.
    #[must_use]
    pub fn named(&self, role: Role) -> Option<u64> {
        self.peers_of(role).borrow().as_ref().map(|peers| peers.generation)
    }

    fn peers_of(&self, role: Role) -> &PeersOut {
        let [workers, edges] = &self.0.peers;
        match role {
            Role::Worker => workers,
            Role::Edge => edges,
        }
    }

    /// Makes a connection the node's only one.
    fn join(&self, node: Node) -> (Membership, Inbox) {
        let (queue, queue_out) = mpsc::channel(QUEUE_LEN);
        let (end, end_out) = watch::channel(None);
        let link = Link { queue: queue.clone(), end, edge: EdgeView::default() };
        let older = self.links().insert(node.clone(), link);
        if let Some(older) = older {
            older.end.send_replace(Some(Dismissal::Replaced));
        }
        let mut inbox = Inbox {
            role: node.role,
            queue: queue_out,
            end: end_out,
            table: self.0.table.subscribe(),
            certificates: self.0.certificates.subscribe(),
            peers: self.peers_of(node.role).subscribe(),
        };
        inbox.table.mark_changed();
        inbox.certificates.mark_changed();
        inbox.peers.mark_changed();
        (Membership { hub: self.clone(), node, queue }, inbox)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<Node, Link>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// The next message for the node. Of route tables, of sets of peers and of what is known of certificates, there is none
    /// but the newest.
    ///
    /// # Errors
    /// Why the connection is to end.
    pub async fn next(&mut self) -> Result<HubMessage, Dismissal> {
        loop {
            tokio::select! {
                biased;
                _ = self.end.changed() => {
                    let dismissal = *self.end.borrow_and_update();
                    return Err(dismissal.unwrap_or(Dismissal::LetGo));
                }
                _ = self.peers.changed() => {
                    let peers = self.peers.borrow_and_update().clone();
                    if let Some(peers) = peers {
                        return Ok((*peers).clone().into());
                    }
                }
                _ = self.table.changed(), if self.role == Role::Edge => {
                    let table = self.table.borrow_and_update().clone();
                    if let Some(table) = table {
                        return Ok(Routes { table: (*table).clone() }.into());
                    }
                }
                _ = self.certificates.changed(), if self.role == Role::Edge => {
                    let certificates = self.certificates.borrow_and_update().clone();
                    if let Some(certificates) = certificates {
                        return Ok((*certificates).clone().into());
                    }
                }
                message = self.queue.recv() => return message.ok_or(Dismissal::LetGo),
            }
        }
    }
}

impl Membership {
    /// Queues a message for this connection; waits while its queue is full. One that has ended drops it.
    async fn send(&self, message: impl Into<HubMessage>) {
        let _ = self.queue.send(message.into()).await;
    }

    /// Notes what the edge of this connection serves; says what it served before, if this is news.
    fn update_edge(&self, update: impl FnOnce(&mut EdgeView)) -> Option<EdgeView> {
        let mut links = self.hub.links();
        let link = links.get_mut(&self.node).filter(|link| link.queue.same_channel(&self.queue))?;
        let before = link.edge.clone();
        update(&mut link.edge);
        (link.edge != before).then_some(before)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut links = self.hub.links();
        if links.get(&self.node).is_some_and(|link| link.queue.same_channel(&self.queue)) {
            links.remove(&self.node);
        }
    }
}
