//! From the declared peers and the nodes that the control plane names to the interface as it should be. Pure.

use super::succession::{BadHubKey, Declared, HubKeys, Shown, spoke_later};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};
use wisehosting_domain::name::Label;
use wisehosting_network::{Interface, IpNet, KeyError, Peer, PeerPath, PeerStatus, PublicKey};
use wisehosting_protocol::payload::MeshPeers;

/// The way to each node.
pub(super) type Paths = BTreeMap<PublicKey, PeerPath>;

/// The nodes that the control plane names, as far as the configuration does not declare them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeerSet {
    pub(super) generation: u64,
    /// Which of the declared peers sends on what goes to nobody directly; none if it is not declared.
    pub(super) hub: Option<usize>,
    pub(super) nodes: Vec<Node>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) name: Label,
    pub(super) public_key: PublicKey,
    /// The key that it changes to. Only a hub is told of it.
    pub(super) next_public_key: Option<PublicKey>,
    /// Its address in the mesh, alone.
    pub(super) address: IpNet,
    pub(super) endpoint: Option<SocketAddr>,
}

impl Node {
    /// The one of its keys that it used last.
    pub(super) fn key_in_use(&self, shown: &Shown) -> PublicKey {
        let status = |key: &PublicKey| shown.get(key);
        let next = self.next_public_key.filter(|next| spoke_later(status(next), status(&self.public_key)));
        next.unwrap_or(self.public_key)
    }
}

impl PeerSet {
    /// Nodes that change their keys: both are theirs from now on. One that is somebody else's already is left out.
    pub(super) fn change_keys(&mut self, next_keys: &BTreeMap<PublicKey, PublicKey>, declared: &Declared) {
        let mut keys: BTreeSet<PublicKey> = self.nodes.iter().map(|node| node.public_key).collect();
        for node in &mut self.nodes {
            let next = next_keys.get(&node.public_key).copied();
            node.next_public_key = next.filter(|next| !declared.has_key(*next) && keys.insert(*next));
        }
    }
}

/// The control plane's keys after this set, and what is wrong with what it says of them.
///
/// # Errors
/// A key is none.
pub(super) fn hub_keys(
    set: &MeshPeers,
    declared: &Declared,
) -> Result<(Option<HubKeys>, Option<BadHubKey>), KeyError> {
    let next = set.next_hub.as_deref().map(str::parse).transpose()?;
    let others: Result<BTreeSet<PublicKey>, KeyError> =
        set.peers.iter().map(|peer| peer.public_key.parse()).collect();
    Ok(declared.hub_keys_told(set.hub.parse()?, next, &others?))
}

/// The nodes of a set that go with the declared peers: those that are no declared peer, have no declared peer's address, and
/// have an address of the mesh. Of two with one key or one address, the first.
///
/// # Errors
/// A key is none.
pub(super) fn usable(set: &MeshPeers, declared: &Declared) -> Result<PeerSet, KeyError> {
    let interface = &declared.interface;
    let mut keys = BTreeSet::new();
    let mut addresses: BTreeSet<IpNet> = interface.peers.iter().flat_map(Peer::networks).collect();
    addresses.extend(interface.addresses.iter().map(|address| alone(address.addr())));
    let is_in_mesh = |address: &IpAddr| interface.addresses.iter().any(|own| own.contains(address));
    let mut nodes = Vec::new();
    for peer in &set.peers {
        let public_key = peer.public_key.parse()?;
        let address = alone(peer.address);
        let is_free = !declared.has_key(public_key) && !addresses.contains(&address);
        if is_in_mesh(&peer.address) && is_free && keys.insert(public_key) {
            addresses.insert(address);
            let (name, endpoint) = (peer.name.clone(), peer.endpoint);
            nodes.push(Node { name, public_key, next_public_key: None, address, endpoint });
        }
    }
    Ok(PeerSet { generation: set.generation, hub: declared.position(set.hub.parse()?), nodes })
}

/// The interface with the declared peers, as they are in force, and these nodes.
pub(super) fn interface(
    in_force: &Interface,
    set: &PeerSet,
    paths: &Paths,
    keepalive_s: NonZeroU16,
) -> Interface {
    let mut interface = in_force.clone();
    let path = |node: &Node| paths.get(&node.public_key).copied();
    let by_hub = set.nodes.iter().filter(|node| !path(node).is_some_and(PeerPath::is_direct));
    if let Some(hub) = set.hub.and_then(|hub| interface.peers.get_mut(hub)) {
        hub.allowed_ips.extend(by_hub.map(|node| node.address));
    }
    let own = set.nodes.iter().filter_map(|node| {
        let path = path(node).filter(|path| path.has_peer())?;
        Some(Peer {
            public_key: node.public_key,
            endpoint: node.endpoint,
            allowed_ips: path.is_direct().then_some(node.address).into_iter().collect(),
            keepalive_s: Some(keepalive_s),
        })
    });
    interface.peers.extend(own);
    interface
}

/// A node that has joined, as a peer of the hub, or two while it changes its key, of which the one that spoke last has the address:
/// it speaks first, and keeps the way open itself.
pub(super) fn of_hub(node: &Node, shown: &Shown) -> impl Iterator<Item = Peer> {
    let in_use = node.key_in_use(shown);
    [Some(node.public_key), node.next_public_key].into_iter().flatten().map(move |key| Peer {
        public_key: key,
        endpoint: node.endpoint,
        allowed_ips: (key == in_use).then_some(node.address).into_iter().collect(),
        keepalive_s: None,
    })
}

/// The peers of an interface that are in this network alone, and in the way of no declared one.
pub(super) fn adopted(shown: &Shown, pool: IpNet, declared: &Declared) -> Vec<Peer> {
    let peers = &declared.interface.peers;
    let declared_networks: BTreeSet<IpNet> = peers.iter().flat_map(Peer::networks).collect();
    let is_joined = |(key, status): &(&PublicKey, &PeerStatus)| {
        let networks = &status.allowed_ips;
        declared.position(**key).is_none()
            && networks.iter().all(|network| pool.contains(network))
            && networks.is_disjoint(&declared_networks)
    };
    let peer = |(key, status): (&PublicKey, &PeerStatus)| Peer {
        public_key: *key,
        endpoint: status.endpoint,
        allowed_ips: status.allowed_ips.iter().copied().collect(),
        keepalive_s: status.keepalive_s,
    };
    shown.iter().filter(is_joined).map(peer).collect()
}

fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use wisehosting_network::{PrivateKey, testing};
    use wisehosting_protocol::payload::MeshPeer;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    /// 10.50.0.11, which declares the hub, 10.50.0.1 with key 1, and 10.50.0.12 with key 12 and then key 112.
    fn declared() -> Declared {
        let peer = |number: u8| testing::peer(key(number), &[&format!("10.50.0.{number}/32")]);
        Declared {
            interface: testing::interface(11, PrivateKey::generate(), vec![peer(1), peer(12)]),
            names: Vec::new(),
            next_keys: BTreeMap::from([(key(12), key(112))]),
            hub_keys: None,
        }
    }

    fn told(number: u8, address: &str) -> MeshPeer {
        MeshPeer {
            name: format!("node-{number}").parse().unwrap(),
            public_key: key(number).to_string(),
            address: address.parse().unwrap(),
            endpoint: Some(SocketAddr::from(([198, 51, 100, number], 51821))),
        }
    }

    fn set(peers: Vec<MeshPeer>) -> MeshPeers {
        MeshPeers { generation: 7, hub: key(1).to_string(), next_hub: None, peers }
    }

    #[test]
    fn what_is_declared_wins_and_the_rest_is_of_the_mesh() {
        let declared = declared();
        let mut own = told(0, "10.50.0.40");
        own.public_key = declared.interface.private_key.public_key().to_string();
        let peers = vec![
            own,
            told(12, "10.50.0.41"),
            told(42, "10.50.0.12"),
            told(43, "10.50.0.11"),
            told(44, "10.60.0.1"),
            told(112, "10.50.0.45"),
            told(30, "10.50.0.30"),
            told(30, "10.50.0.31"),
            told(31, "10.50.0.30"),
        ];
        let usable = usable(&set(peers), &declared).unwrap();
        let names: Vec<_> = usable.nodes.iter().map(|node| (node.name.as_str(), node.address)).collect();
        assert_eq!(names, [("node-30", "10.50.0.30/32".parse().unwrap())]);
    }

    #[test]
    fn a_hub_lets_stay_what_may_have_joined() {
        let status = |network: &str| PeerStatus {
            allowed_ips: [network.parse().unwrap()].into(),
            ..PeerStatus::default()
        };
        let shown = BTreeMap::from([
            (key(1), status("10.50.0.130/32")),
            (key(2), status("10.50.0.131/32")),
            (key(3), status("10.50.0.40/32")),
            (key(4), status("10.50.0.0/24")),
            (key(5), status("10.50.0.132/32")),
        ]);
        let mut declared = declared();
        declared.interface.peers[1].allowed_ips = vec!["10.50.0.131/32".parse().unwrap()];
        let adopted = adopted(&shown, "10.50.0.128/25".parse().unwrap(), &declared);
        let keys: Vec<_> = adopted.iter().map(|peer| peer.public_key).collect();
        assert_eq!(keys, [key(5)]);
    }

    #[test]
    fn a_set_with_something_that_is_no_key_is_refused_whole() {
        let mut bad = told(30, "10.50.0.30");
        bad.public_key = "x".to_owned();
        assert!(usable(&set(vec![told(31, "10.50.0.31"), bad]), &declared()).is_err());
        let bad = MeshPeers { hub: String::new(), ..set(Vec::new()) };
        assert!(usable(&bad, &declared()).is_err());
        let bad = MeshPeers { next_hub: Some("x".to_owned()), ..set(Vec::new()) };
        assert!(hub_keys(&bad, &declared()).is_err());
    }

    #[test]
    fn an_address_is_the_hubs_or_the_nodes_own_and_never_both() {
        let declared = declared();
        let now = Instant::now();
        let nodes = [30, 31, 32].map(|number| told(number, &format!("10.50.0.{number}")));
        let usable = usable(&set(nodes.to_vec()), &declared).unwrap();
        let paths = Paths::from([
            (key(30), PeerPath::Trying { since: now }),
            (key(31), PeerPath::Direct { rx_bytes: 1, heard_at: now }),
            (key(32), PeerPath::Resting { until: now }),
        ]);
        let in_force = declared.in_force(&BTreeMap::new());
        let interface = interface(&in_force, &usable, &paths, NonZeroU16::new(5).unwrap());
        interface.check().unwrap();
        let peers: Vec<(PublicKey, Vec<String>)> = interface
            .peers
            .iter()
            .map(|peer| (peer.public_key, peer.allowed_ips.iter().map(IpNet::to_string).collect()))
            .collect();
        let networks = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let expected = [
            (key(1), networks(&["10.50.0.1/32", "10.50.0.30/32", "10.50.0.32/32"])),
            (key(12), networks(&["10.50.0.12/32"])),
            (key(112), networks(&[])),
            (key(30), networks(&[])),
            (key(31), networks(&["10.50.0.31/32"])),
        ];
        assert_eq!(peers, expected);
        assert_eq!(interface.peers[3].endpoint, Some("198.51.100.30:51821".parse().unwrap()));
    }
}
