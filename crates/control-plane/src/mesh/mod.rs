//! The mesh as nodes are told of it: for each kind of agent those that it speaks with.
//!
//! What the control plane knows of a declared node is its declaration and its entry among the peers of the control plane's own
//! interface, by name; of one that has joined, what it joined with; and where the node was heard from last, which that interface
//! shows. A node whose key is not known here is told to nobody.

mod book;
pub mod get_mesh;

pub use book::MeshBook;

use std::collections::BTreeMap;

use tokio::sync::watch;
use wisehosting_domain::name::Label;
use wisehosting_node::mesh::{PeerSets, PeerSight, PublicKey, Sight};
use wisehosting_protocol::payload::{MeshPeer, MeshPeers};
use wisehosting_store::joined_nodes::JoinedNode;

use crate::{
    config::Config,
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
            interface.put(MeshPeers { generation: state.clock.now_ms(), hub: hub.to_string(), peers });
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
            let news = state.hub.name_peers(to, hub, peers, state.clock.now_ms());
            if let Some(generation) = news {
                tracing::info!(node.role = %to, generation, "telling nodes of the mesh of each other");
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

/// What others need to know of the nodes of a role. Pure.
fn known(config: &Config, joined: &[JoinedNode], role: Role, sight: &Sight) -> Vec<MeshPeer> {
    let declared: BTreeMap<&Label, _> =
        config.mesh.iter().flat_map(|mesh| &mesh.peers).map(|peer| (&peer.name, peer)).collect();
    let seen: BTreeMap<&Label, &PeerSight> = sight.peers.iter().map(|peer| (&peer.name, peer)).collect();
    let peers = nodes::known(config, joined, role).filter_map(|node| {
        let (peer, seen) = (declared.get(node.name), seen.get(node.name));
        // Of a declared node that changes its key, the one that it uses.
        let in_use = peer.map(|peer| seen.map_or(peer.public_key, |seen| seen.public_key));
        let public_key = node.public_key.or(in_use)?;
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
