//! The declared peers, some of which have two keys: the one in use, and the one that their host changes to. Pure.
//!
//! WireGuard knows a host by its key alone, and sends what is for an address to one peer. So both keys of a host are
//! peers, and that which spoke last has the host's networks. Invariant: no network has two owners, and each has one.
//! When to change is the host's own matter: from its first handshake with another key on, it is reached by that one.

use std::collections::BTreeMap;
use wisehosting_domain::name::Label;
use wisehosting_network::{Interface, Peer, PeerStatus, PublicKey};

/// What the interface shows of each peer.
pub(super) type Shown = BTreeMap<PublicKey, PeerStatus>;

/// The interface as the configuration declares it.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// With the first key of each peer.
    pub(super) interface: Interface,
    /// What the peers are called, in their order.
    pub(super) names: Vec<Label>,
    /// The second key of those that have one, by the first.
    pub(super) next_keys: BTreeMap<PublicKey, PublicKey>,
}

impl Declared {
    /// The interface as it should be now. The declared peers come first, in their order, each with the key that spoke last;
    /// then the other keys, without networks, so that a handshake may succeed.
    pub(super) fn in_force(&self, shown: &Shown) -> Interface {
        let mut interface = self.interface.clone();
        let mut others = Vec::new();
        for peer in &mut interface.peers {
            let Some(next) = self.next_keys.get(&peer.public_key) else { continue };
            let mut other = Peer { public_key: *next, allowed_ips: Vec::new(), ..peer.clone() };
            if spoke_later(shown.get(next), shown.get(&peer.public_key)) {
                std::mem::swap(&mut peer.public_key, &mut other.public_key);
            }
            others.push(other);
        }
        interface.peers.extend(others);
        interface
    }

    /// Whether a key is this host's own, or one of those of a peer.
    pub(super) fn has_key(&self, key: PublicKey) -> bool {
        self.position(key).is_some() || self.interface.private_key.public_key() == key
    }

    /// Which of the peers has this key as one of its keys.
    pub(super) fn position(&self, key: PublicKey) -> Option<usize> {
        let has = |peer: &Peer| {
            peer.public_key == key || self.next_keys.get(&peer.public_key).is_some_and(|next| *next == key)
        };
        self.interface.peers.iter().position(has)
    }
}

/// Whether the last handshake of one was later than that of the other.
pub(super) fn spoke_later(one: Option<&PeerStatus>, other: Option<&PeerStatus>) -> bool {
    let age = |status: Option<&PeerStatus>| status.and_then(|status| status.last_handshake_age);
    match (age(one), age(other)) {
        (Some(one), Some(other)) => one < other,
        (one, _) => one.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use wisehosting_network::{PrivateKey, testing};

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    /// A hub with key 1, and a host 10.50.0.12 with key 12 that changes to key 112.
    fn declared() -> Declared {
        let peers =
            vec![testing::peer(key(1), &["10.50.0.1/32"]), testing::peer(key(12), &["10.50.0.12/32"])];
        Declared {
            interface: testing::interface(11, PrivateKey::generate(), peers),
            names: ["hub", "host"].map(|name| name.parse().unwrap()).to_vec(),
            next_keys: BTreeMap::from([(key(12), key(112))]),
        }
    }

    #[test]
    fn the_key_that_spoke_last_has_the_networks() {
        let spoke = |age_s: Option<u64>| PeerStatus {
            last_handshake_age: age_s.map(Duration::from_secs),
            ..PeerStatus::default()
        };
        for (first, next, owner) in [
            (None, None, 12),
            (Some(170), None, 12),
            (None, Some(1), 112),
            (Some(5), Some(4), 112),
            (Some(170), Some(1), 112),
            // It went back.
            (Some(1), Some(30), 12),
        ] {
            let shown = Shown::from([(key(12), spoke(first)), (key(112), spoke(next))]);
            let interface = declared().in_force(&shown);
            interface.check().unwrap();
            let keys: Vec<_> = interface.peers.iter().map(|peer| peer.public_key).collect();
            assert_eq!(keys, [key(1), key(owner), key(124 - owner)], "{first:?} {next:?}");
            let networks: Vec<_> = interface.peers.iter().map(|peer| peer.allowed_ips.len()).collect();
            assert_eq!(networks, [1, 1, 0]);
        }
    }

    #[test]
    fn a_peer_is_found_by_either_key() {
        let found = [1, 12, 112, 13].map(|number| declared().position(key(number)));
        assert_eq!(found, [Some(0), Some(1), Some(1), None]);
    }
}
