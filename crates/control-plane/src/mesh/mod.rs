//! The mesh as nodes are told of it: for each kind of agent those that it speaks with.
//!
//! What the control plane knows of a node is its declaration and its entry among the peers of the control plane's own
//! interface, by name; and where the node was heard from last, which that interface shows. A node whose key is not
//! declared here is told to nobody.

mod book;
pub mod get_mesh;

pub use book::MeshBook;

use std::collections::BTreeMap;

use tokio::sync::watch;
use wisehosting_domain::name::Label;
use wisehosting_node::mesh::{PeerSight, PublicKey, Sight};
use wisehosting_protocol::payload::MeshPeer;

use crate::{
    config::Config,
    nodes::{self, Role},
    state::AppState,
};

/// Tells the agents of each other, now and whenever that is another than it was.
pub async fn tell(state: AppState, hub: PublicKey, mut sight: watch::Receiver<Sight>) {
    loop {
        let seen = sight.borrow_and_update().clone();
        for (to, of) in [(Role::Worker, Role::Edge), (Role::Edge, Role::Worker)] {
            let peers = known(&state.config, of, &seen);
            let news = state.hub.name_peers(to, hub, peers, state.clock.now_ms());
            if let Some(generation) = news {
                tracing::info!(node.role = %to, generation, "telling nodes of the mesh of each other");
            }
        }
        state.hub.mesh().saw(seen);
        if sight.changed().await.is_err() {
            return;
        }
    }
}

/// What others need to know of the nodes of a role. Pure.
fn known(config: &Config, role: Role, sight: &Sight) -> Vec<MeshPeer> {
    let declared: BTreeMap<&Label, _> =
        config.mesh.iter().flat_map(|mesh| &mesh.peers).map(|peer| (&peer.name, peer)).collect();
    let seen: BTreeMap<&Label, &PeerSight> = sight.peers.iter().map(|peer| (&peer.name, peer)).collect();
    let nodes = nodes::addresses(config, role);
    let peers = nodes.filter_map(|(name, address)| {
        let (peer, seen) = (declared.get(name)?, seen.get(name));
        Some(MeshPeer {
            name: name.clone(),
            // Of a node that changes its key, the one that it uses.
            public_key: seen.map_or(peer.public_key, |seen| seen.public_key).to_string(),
            address,
            endpoint: seen.and_then(|seen| heard_from(seen)).or(peer.endpoint),
        })
    });
    peers.collect()
}

/// Where a peer is, if it has spoken lately.
fn heard_from(peer: &PeerSight) -> Option<std::net::SocketAddr> {
    peer.status.as_ref().filter(|status| status.is_alive())?.endpoint
}
