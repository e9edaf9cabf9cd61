//! What the configuration gives away itself, so that nobody who joins may have it.

use std::{collections::BTreeSet, net::IpAddr};

use wisehosting_domain::name::Label;
use wisehosting_node::mesh::{IpNet, MeshPeer, PublicKey};
use wisehosting_store::joined_nodes::JoinedNode;

use super::declared;
use crate::{config::Config, state::AppState};

/// Names, keys and networks of the hosts that are declared.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) names: BTreeSet<Label>,
    pub(super) keys: BTreeSet<PublicKey>,
    pub(super) api_key_hashes: BTreeSet<[u8; 32]>,
    pub(super) networks: Vec<IpNet>,
}

impl Declared {
    /// What this configuration declares.
    pub(super) fn of(state: &AppState) -> Self {
        let config: &Config = &state.config;
        let mut all = Self::default();
        for node in declared(config) {
            all.names.insert(node.name.clone());
            all.api_key_hashes.insert(node.key_hash);
            all.networks.push(node.address.into());
        }
        for peer in config.mesh.iter().flat_map(|mesh| &mesh.peers) {
            all.names.insert(peer.name.clone());
            all.keys.extend(MeshPeer::keys(peer));
            all.networks.extend(&peer.allowed_ips);
        }
        all.keys.extend(state.secrets.mesh_key.iter().map(|key| key.public_key()));
        all.networks.extend(config.mesh.iter().map(|mesh| IpNet::from(mesh.address.addr())));
        all
    }

    /// The addresses that are hosts' own. What is behind a host is its own affair.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let is_one_host = |network: &&IpNet| network.prefix_len() == network.max_prefix_len();
        self.networks.iter().filter(is_one_host).map(IpNet::addr).collect()
    }

    /// Whether an address is a declared host's, or of a network behind one.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a node that has joined has anything of a declared host's.
    pub(super) fn collides(&self, node: &JoinedNode) -> bool {
        self.names.contains(&node.name)
            || self.keys.contains(&PublicKey::from_bytes(node.public_key))
            || self.api_key_hashes.contains(&node.api_key_sha256)
            || self.has_address(node.address)
    }
}
