//! The mesh as nodes are told of it: for each kind of agent those that it speaks with.
//!
//! What the control plane knows of a declared node is its declaration and its entry among the peers of the control plane's own
//! interface, by name; of one that has joined, what it joined with; and where the node was heard from last, which that interface
//! shows. A node whose key is not known here is told to nobody. Of one that changes its key, the key is told that it used last; from
//! then on one that has joined has no other.

mod book;
pub mod get_mesh;

pub use book::MeshBook;

use std::collections::BTreeMap;

use tokio::sync::watch;
use wisehosting_domain::name::Label;
use wisehosting_node::mesh::{PeerSets, PeerSight, PublicKey, Sight};
use wisehosting_protocol::payload::{MeshPeer, MeshPeers};
use wisehosting_store::{
    changes::NODES,
    joined_nodes::{self, JoinedNode},
    pool,
};

use crate::{
    config::Config,
    error::Problem,
    nodes::{self, Role},
    state::AppState,
};

/// Tells the control plane's own interface which nodes have joined, from when that is known.
pub async fn admit(state: AppState, hub: PublicKey, interface: PeerSets) {
    let mut joined = state.hub.watch_joined();
    loop {
        let nodes = joined.borrow_and_update().clone();
        if let Some(nodes) = nodes {
            let peer = |node: &JoinedNode| MeshPeer {
                name: node.name.clone(),
                public_key: PublicKey::from_bytes(node.public_key).to_string(),
                address: node.address,
                endpoint: None,
            };
            let peers = nodes.iter().map(peer).collect();
            let (generation, hub) = (state.clock.now_ms(), hub.to_string());
            let set = MeshPeers { generation, hub, next_hub: None, peers };
            let next = |node: &JoinedNode| Some((node.public_key, node.approved_public_key?));
            let keys = nodes.iter().filter_map(next);
            let keys = keys.map(|(key, next)| (PublicKey::from_bytes(key), PublicKey::from_bytes(next)));
            interface.put_with_next_keys(set, keys.collect());
        }
        if joined.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the agents of each other, now and whenever that is another than it was.
pub async fn tell(state: AppState, hub: PublicKey, mut sight: watch::Receiver<Sight>) {
    let mut joined = state.hub.watch_joined();
    loop {
        let seen = sight.borrow_and_update().clone();
        // Before the database has said who has joined, agents go on with those whom they know.
        let nodes = joined.borrow_and_update().clone();
        let ways = [(Role::Worker, Role::Edge), (Role::Edge, Role::Worker)];
        for (nodes, (to, of)) in nodes.iter().flat_map(|nodes| ways.map(|way| (nodes, way))) {
            let peers = known(&state.config, nodes, of, &seen);
            let next = next_key(&state.config, nodes, hub);
            let keys = (hub, next.unwrap_or_default());
            let news = state.hub.name_peers(to, keys, peers, state.clock.now_ms());
            if let Some(generation) = news {
                let next_key = keys.1.map(tracing::field::display);
                tracing::info!(node.role = %to, generation, next_key, "telling nodes of the mesh of each other");
                if let Err(key) = next {
                    tracing::error!(%key, "join.next_public_key is the key of a node that has joined: nobody is told of it");
                }
            }
        }
        for node in nodes.iter().flat_map(|nodes| nodes.iter()).filter(|node| has_changed_key(node, &seen)) {
            if let Err(error) = settle_key(&state, node).await {
                tracing::debug!(node.name = %node.name, ?error, "cannot store a node's other key yet");
            }
        }
        state.hub.mesh().saw(seen);
        tokio::select! {
            seen = sight.changed() => if seen.is_err() {
                return;
            },
            // The state, and so the sender, is here.
            _ = joined.changed() => {}
        }
    }
}

/// The key that the control plane changes to. One that a node has joined with is not its own. Pure.
fn next_key(config: &Config, joined: &[JoinedNode], hub: PublicKey) -> Result<Option<PublicKey>, PublicKey> {
    let next = config.join.as_ref().and_then(|join| join.next_public_key).filter(|next| *next != hub);
    let is_nodes = |next: &PublicKey| {
        let mut keys = joined.iter().flat_map(|node| [Some(node.public_key), node.approved_public_key]);
        keys.any(|key| key.as_ref() == Some(next.as_bytes()))
    };
    next.map(|next| if is_nodes(&next) { Err(next) } else { Ok(next) }).transpose()
}

/// Whether a node that has joined speaks with the key that an operator lets it change to.
fn has_changed_key(node: &JoinedNode, sight: &Sight) -> bool {
    let mut seen = sight.peers.iter().filter(|peer| peer.name == node.name);
    node.approved_public_key.is_some_and(|next| seen.any(|peer| *peer.public_key.as_bytes() == next))
}

/// Ends the key that it had before. Looked for at every change of what is seen, so a failure is made good.
async fn settle_key(state: &AppState, node: &JoinedNode) -> Result<(), Problem> {
    let Some(next) = &node.approved_public_key else { return Ok(()) };
    let mut db = state.begin().await?;
    joined_nodes::take_approved(&mut db, &node.name, next).await?;
    pool::notify(&mut db, NODES).await?;
    pool::commit(db).await?;
    tracing::info!(node.name = %node.name, "a node that has joined speaks with its other key, and has no other now");
    Ok(())
}

/// What others need to know of the nodes of a role. Pure.
fn known(config: &Config, joined: &[JoinedNode], role: Role, sight: &Sight) -> Vec<MeshPeer> {
    let declared: BTreeMap<&Label, _> =
        config.mesh.iter().flat_map(|mesh| &mesh.peers).map(|peer| (&peer.name, peer)).collect();
    let seen: BTreeMap<&Label, &PeerSight> = sight.peers.iter().map(|peer| (&peer.name, peer)).collect();
    let peers = nodes::known(config, joined, role).filter_map(|node| {
        let (peer, seen) = (declared.get(node.name), seen.get(node.name));
        // Of one that changes its key, the one that it uses.
        let public_key = match node.public_key {
            Some(key) => seen
                .map(|seen| seen.public_key)
                .filter(|seen| node.next_public_key == Some(*seen))
                .unwrap_or(key),
            None => peer.map(|peer| seen.map_or(peer.public_key, |seen| seen.public_key))?,
        };
        let heard = seen.filter(|seen| seen.public_key == public_key).and_then(|seen| heard_from(seen));
        Some(MeshPeer {
            name: node.name.clone(),
            public_key: public_key.to_string(),
            address: node.address,
            endpoint: heard.or(peer.and_then(|peer| peer.endpoint)),
        })
    });
    peers.collect()
}

/// Where a peer is, if it has spoken lately.
fn heard_from(peer: &PeerSight) -> Option<std::net::SocketAddr> {
    peer.status.as_ref().filter(|status| status.is_alive())?.endpoint
}
