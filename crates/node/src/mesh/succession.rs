//! The declared peers, some of which have several keys: the one in use, and the one that their host changes to. Pure.
//!
//! WireGuard knows a host by its key alone, and sends what is for an address to one peer. So all keys of a host are
//! peers, and that which spoke last has the host's networks. Invariant: no network has two owners, and each has one.
//! When to change is the host's own matter: from its first handshake with another key on, it is reached by that one.
//!
//! The control plane may change to a key that no configuration has: a node is told of it, and [keeps](HubKeys) it. The key
//! that the configuration has is then tried only while the others are silent, so that joining again always helps.

use std::collections::{BTreeMap, BTreeSet};
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
    /// What the control plane has told of its own keys, if the configuration does not have them.
    pub(super) hub_keys: Option<HubKeys>,
}

/// The control plane's keys, as it has told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HubKeys {
    /// The first key that the configuration has of this peer. Another configuration, as from joining again, is right itself.
    pub(super) declared: PublicKey,
    /// The one in use.
    pub(super) hub: PublicKey,
    /// The one that it changes to.
    pub(super) next: Option<PublicKey>,
}

/// Why the control plane's word on its keys is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHubKey {
    /// Nobody knows whose it is.
    #[error("{0} is no key by which this host knows the control plane")]
    Unknown(PublicKey),
    #[error("{0} is this host's own key")]
    Own(PublicKey),
    #[error("{0} is the key of another host")]
    Anothers(PublicKey),
}

impl BadHubKey {
    /// Whether the control plane can change to the key that it has named all the same.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

impl HubKeys {
    fn all(&self) -> impl Iterator<Item = PublicKey> {
        [Some(self.hub), self.next].into_iter().flatten()
    }
}

impl Declared {
    /// The interface as it should be now. The declared peers come first, in their order, each with the key that spoke last;
    /// then the other keys, without networks, so that a handshake may succeed.
    pub(super) fn in_force(&self, shown: &Shown) -> Interface {
        let mut interface = self.interface.clone();
        let mut others = Vec::new();
        for peer in &mut interface.peers {
            let keys = self.keys_in_force(peer.public_key, shown);
            let later = |one: PublicKey, other: PublicKey| {
                if spoke_later(shown.get(&other), shown.get(&one)) { other } else { one }
            };
            peer.public_key = keys.iter().copied().reduce(later).unwrap_or(peer.public_key);
            // It changes its key where it is, which may be elsewhere than it was declared.
            let heard = shown.get(&peer.public_key).filter(|status| status.is_alive());
            let endpoint = heard.and_then(|status| status.endpoint).or(peer.endpoint);
            let unused = keys.into_iter().filter(|key| *key != peer.public_key);
            others.extend(unused.map(|public_key| Peer {
                public_key,
                endpoint,
                allowed_ips: Vec::new(),
                keepalive_s: peer.keepalive_s,
            }));
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
        let told = |peer: &Peer| self.told_of(peer.public_key);
        let has = |peer: &Peer| {
            self.declared_keys(peer.public_key).any(|own| own == key)
                || told(peer).is_some_and(|told| told.all().any(|own| own == key))
        };
        self.interface.peers.iter().position(has)
    }

    /// The keys of the control plane once it has said which it has and to which it changes; the others are those of the nodes
    /// that it names. None if the configuration has them. With a bad next key come the keys without it.
    pub(super) fn hub_keys_told(
        &self,
        hub: PublicKey,
        next: Option<PublicKey>,
        others: &BTreeSet<PublicKey>,
    ) -> (Option<HubKeys>, Option<BadHubKey>) {
        let Some(position) = self.position(hub) else {
            return (self.hub_keys, Some(BadHubKey::Unknown(hub)));
        };
        let declared = self.interface.peers[position].public_key;
        let next = next.filter(|next| *next != hub);
        let bad = next.and_then(|next| {
            let is_anothers = self.position(next).is_some_and(|of| of != position) || others.contains(&next);
            if next == self.interface.private_key.public_key() {
                Some(BadHubKey::Own(next))
            } else {
                is_anothers.then_some(BadHubKey::Anothers(next))
            }
        });
        let keys = HubKeys { declared, hub, next: next.filter(|_| bad.is_none()) };
        let is_news = keys.all().any(|key| self.declared_keys(declared).all(|own| own != key));
        (is_news.then_some(keys), bad)
    }

    /// What was kept of the control plane's keys, if the configuration is still the one that it was kept with. A next key that
    /// is somebody else's by now is left out.
    pub(super) fn hub_keys_kept(&self, kept: HubKeys) -> Result<Option<HubKeys>, BadHubKey> {
        let is_peer = |peer: &Peer| peer.public_key == kept.declared;
        let Some(position) = self.interface.peers.iter().position(is_peer) else { return Ok(None) };
        let check = |key: PublicKey| {
            if key == self.interface.private_key.public_key() {
                return Err(BadHubKey::Own(key));
            }
            match self.position(key) {
                Some(of) if of != position => Err(BadHubKey::Anothers(key)),
                _ => Ok(key),
            }
        };
        check(kept.hub)?;
        Ok(Some(HubKeys { next: kept.next.filter(|next| check(*next).is_ok()), ..kept }))
    }

    /// The keys of a peer that may speak now; the first, until one has spoken.
    fn keys_in_force(&self, declared: PublicKey, shown: &Shown) -> Vec<PublicKey> {
        let own: Vec<PublicKey> = self.declared_keys(declared).collect();
        let Some(told) = self.told_of(declared) else { return own };
        let mut keys: Vec<PublicKey> = told.all().collect();
        let speaks = keys.iter().any(|key| shown.get(key).is_some_and(PeerStatus::is_alive));
        if own.contains(&told.hub) || !speaks {
            keys.extend(own.into_iter().filter(|key| told.all().all(|told| told != *key)));
        }
        keys
    }

    fn declared_keys(&self, declared: PublicKey) -> impl Iterator<Item = PublicKey> {
        [Some(declared), self.next_keys.get(&declared).copied()].into_iter().flatten()
    }

    fn told_of(&self, declared: PublicKey) -> Option<HubKeys> {
        self.hub_keys.filter(|told| told.declared == declared)
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
            hub_keys: None,
        }
    }

    fn spoke(age_s: Option<u64>) -> PeerStatus {
        PeerStatus { last_handshake_age: age_s.map(Duration::from_secs), ..PeerStatus::default() }
    }

    /// The keys that are peers, first that which has the hub's network, when some have spoken so long ago.
    fn of_hub(declared: &Declared, spoken: &[(u8, u64)]) -> Vec<PublicKey> {
        let shown = spoken.iter().map(|(number, age_s)| (key(*number), spoke(Some(*age_s)))).collect();
        let interface = declared.in_force(&shown);
        interface.check().unwrap();
        assert_eq!(interface.peers[0].allowed_ips, ["10.50.0.1/32".parse().unwrap()]);
        let others = interface.peers.iter().skip(2).map(|peer| peer.public_key);
        let others = others.filter(|key| declared.position(*key) == Some(0));
        std::iter::once(interface.peers[0].public_key).chain(others).collect()
    }

    #[test]
    fn the_key_that_spoke_last_has_the_networks() {
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
    fn the_other_key_is_tried_where_the_host_is() {
        let there = Some("198.51.100.7:40000".parse().unwrap());
        for (age_s, endpoint) in [(5, there), (600, None)] {
            let status = PeerStatus { endpoint: there, ..spoke(Some(age_s)) };
            let interface = declared().in_force(&Shown::from([(key(12), status)]));
            let other = interface.peers.iter().find(|peer| peer.public_key == key(112)).unwrap();
            assert_eq!(other.endpoint, endpoint);
        }
    }

    #[test]
    fn the_hub_is_followed_to_the_key_that_it_told_of_and_tried_by_the_declared_one_while_it_is_silent() {
        let mut declared = declared();
        let keys = |numbers: &[u8]| numbers.iter().map(|number| key(*number)).collect::<Vec<_>>();
        let say = |declared: &mut Declared, hub: u8, next: Option<u8>| {
            let (told, bad) = declared.hub_keys_told(key(hub), next.map(key), &BTreeSet::new());
            assert_eq!(bad, None);
            declared.hub_keys = told;
        };
        say(&mut declared, 1, None);
        assert_eq!(declared.hub_keys, None, "the configuration has it");
        say(&mut declared, 1, Some(2));
        assert_eq!(of_hub(&declared, &[]), keys(&[1, 2]));
        assert_eq!(of_hub(&declared, &[(1, 20), (2, 5)]), keys(&[2, 1]));
        // It speaks with the other one, says so, and changes once more.
        say(&mut declared, 2, None);
        assert_eq!(of_hub(&declared, &[]), keys(&[2, 1]), "nobody has spoken");
        assert_eq!(of_hub(&declared, &[(2, 5)]), keys(&[2]), "the key before may be in strange hands");
        assert_eq!(of_hub(&declared, &[(2, 600)]), keys(&[2, 1]));
        assert_eq!(of_hub(&declared, &[(2, 600), (1, 1)]), keys(&[1, 2]), "it went back and told nobody");
        say(&mut declared, 2, Some(3));
        assert_eq!(of_hub(&declared, &[(2, 20)]), keys(&[2, 3]));
        assert_eq!(of_hub(&declared, &[(2, 20), (3, 5)]), keys(&[3, 2]));
        say(&mut declared, 3, Some(1));
        assert_eq!(of_hub(&declared, &[(3, 5)]), keys(&[3, 1]));
        say(&mut declared, 1, None);
        assert_eq!(declared.hub_keys, None);
    }

    #[test]
    fn what_is_declared_of_the_hubs_keys_stays() {
        let mut declared = declared();
        declared.next_keys.insert(key(1), key(2));
        let told = |declared: &Declared, hub: u8, next: u8| {
            declared.hub_keys_told(key(hub), Some(key(next)), &BTreeSet::new())
        };
        assert_eq!(told(&declared, 1, 2), (None, None));
        declared.hub_keys = told(&declared, 2, 3).0;
        assert_eq!(of_hub(&declared, &[(2, 5)]), [key(2), key(3), key(1)]);
    }

    #[test]
    fn a_key_that_cannot_be_the_hubs_is_refused_and_it_keeps_its_own() {
        let mut declared = declared();
        let own = declared.interface.private_key.public_key();
        let (named, others) = (key(30), BTreeSet::from([key(30)]));
        declared.hub_keys = declared.hub_keys_told(key(1), Some(key(2)), &others).0;
        for (hub, next, bad, hub_keys) in [
            (key(9), None, BadHubKey::Unknown(key(9)), declared.hub_keys),
            (key(9), Some(key(3)), BadHubKey::Unknown(key(9)), declared.hub_keys),
            (key(1), Some(own), BadHubKey::Own(own), None),
            (key(1), Some(key(112)), BadHubKey::Anothers(key(112)), None),
            (key(1), Some(named), BadHubKey::Anothers(named), None),
        ] {
            assert_eq!(declared.hub_keys_told(hub, next, &others), (hub_keys, Some(bad)));
        }
        declared.hub_keys = None;
        assert_eq!(of_hub(&declared, &[]), [key(1)]);

        let kept = |declared: &Declared, of: u8, hub| {
            declared.hub_keys_kept(HubKeys { declared: key(of), hub, next: None })
        };
        assert!(kept(&declared, 1, key(2)).unwrap().is_some());
        assert_eq!(kept(&declared, 3, key(2)), Ok(None), "the configuration is another one");
        assert_eq!(kept(&declared, 1, own), Err(BadHubKey::Own(own)));
        assert_eq!(kept(&declared, 1, key(12)), Err(BadHubKey::Anothers(key(12))));
    }

    #[test]
    fn a_peer_is_found_by_either_key() {
        let found = [1, 12, 112, 13].map(|number| declared().position(key(number)));
        assert_eq!(found, [Some(0), Some(1), Some(1), None]);
    }
}
