//! What a WireGuard interface should look like. Plain data, checked before it reaches the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;

use crate::{PrivateKey, PublicKey};

/// The least that IPv6 demands of a link.
const SMALLEST_MTU: u32 = 1280;
/// The largest IP packet.
const LARGEST_MTU: u32 = 65_535;

/// Name of a network interface: 1 to 15 bytes that the kernel accepts and that stay readable in logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no interface name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an interface name has 1 to 15 letters, digits, '-', '_' or '.', and a letter or digit first")]
pub struct InvalidInterfaceName;

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, InvalidInterfaceName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts_well && text.len() <= 15 && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInterfaceName)
        }
    }
}

/// A WireGuard interface as it should be.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name, in the namespace of the process.
    pub name: InterfaceName,
    /// Own addresses, each with the prefix of its network.
    pub addresses: Vec<IpNet>,
    /// Largest packet inside the tunnel, in bytes.
    pub mtu: u32,
    /// Who this host is.
    pub private_key: PrivateKey,
    /// UDP port that peers send to.
    pub listen_port: NonZeroU16,
    /// Everybody this host talks to.
    pub peers: Vec<Peer>,
}

/// Another host of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where to find it at first. A peer that speaks from somewhere else is followed there.
    pub endpoint: Option<SocketAddr>,
    /// Networks behind it: what is sent to it, and what it may send from.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between packets that keep the path through a NAT open.
    pub keepalive_s: Option<NonZeroU16>,
}

/// Why an interface cannot be made as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInterface {
    /// Nothing could be sent from it.
    #[error("an interface needs at least one address")]
    NoAddress,
    /// Not an address of one host in a network.
    #[error("{0} is no address of a host in the mesh")]
    Address(IpNet),
    /// Not a packet size for a tunnel.
    #[error("{0} is no packet size for the mesh: use {SMALLEST_MTU} to {LARGEST_MTU}")]
    Mtu(u32),
    /// The same peer twice.
    #[error("the public key {0} is given to more than one peer")]
    PeerTwice(PublicKey),
    /// A peer with this host's own key.
    #[error("the public key {0} is this host's own")]
    PeerIsSelf(PublicKey),
    /// A network that would have to be sent to two peers.
    #[error("the network {network} is given to more than one peer, the second time to {peer}")]
    AllowedIpTwice {
        /// The network.
        network: IpNet,
        /// The later of the two peers.
        peer: PublicKey,
    },
    /// Taking all traffic, the tunnel's own included.
    #[error(
        "the network {network} of peer {peer} is everything: a mesh peer has a part of the address space"
    )]
    AllowedIpIsEverything {
        /// The network.
        network: IpNet,
        /// The peer.
        peer: PublicKey,
    },
}

impl Interface {
    /// Checks what the types cannot: that peers and their networks do not collide.
    ///
    /// # Errors
    /// The first collision found.
    pub fn check(&self) -> Result<(), InvalidInterface> {
        if self.addresses.is_empty() {
            return Err(InvalidInterface::NoAddress);
        }
        if let Some(address) = self.addresses.iter().find(|address| !is_host_address(address.addr())) {
            return Err(InvalidInterface::Address(*address));
        }
        if !(SMALLEST_MTU..=LARGEST_MTU).contains(&self.mtu) {
            return Err(InvalidInterface::Mtu(self.mtu));
        }
        let own_key = self.private_key.public_key();
        let mut keys = BTreeSet::new();
        let mut owners = BTreeMap::new();
        for peer in &self.peers {
            let key = peer.public_key;
            if key == own_key {
                return Err(InvalidInterface::PeerIsSelf(key));
            }
            if !keys.insert(key) {
                return Err(InvalidInterface::PeerTwice(key));
            }
            for network in peer.networks() {
                if network.prefix_len() == 0 {
                    return Err(InvalidInterface::AllowedIpIsEverything { network, peer: key });
                }
                if owners.insert(network, key).is_some() {
                    return Err(InvalidInterface::AllowedIpTwice { network, peer: key });
                }
            }
        }
        Ok(())
    }

    /// The routes that the peers' networks need. A network inside one of the interface's own is reached by the
    /// route that the kernel makes for the address.
    #[must_use]
    pub fn routes(&self) -> BTreeSet<IpNet> {
        let own: Vec<IpNet> = self.addresses.iter().map(IpNet::trunc).collect();
        let networks = self.peers.iter().flat_map(Peer::networks);
        networks.filter(|network| !own.iter().any(|net| net.contains(network))).collect()
    }
}

impl Peer {
    /// The allowed networks without host bits, each once.
    #[must_use]
    pub fn networks(&self) -> BTreeSet<IpNet> {
        self.allowed_ips.iter().map(IpNet::trunc).collect()
    }
}

/// Link-local IPv6 addresses belong to the kernel, which makes and removes them by itself.
fn is_host_address(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !special && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn peer(number: u8, networks: &[&str]) -> Peer {
        testing::peer(PublicKey::from_bytes([number; 32]), networks)
    }

    fn interface(peers: Vec<Peer>) -> Interface {
        testing::interface(11, PrivateKey::generate(), peers)
    }

    #[test]
    fn names() {
        for good in ["wh0", "a", "wise-hosting_0.", "123456789012345"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in ["", "1234567890123456", "a b", "a/b", ".", "..", "-x", "a%d", "é", "a\n"] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InvalidInterfaceName), "{bad:?}");
        }
    }

    #[test]
    fn a_route_is_needed_only_outside_the_own_network() {
        let interface = interface(vec![
            peer(1, &["10.50.0.1/32"]),
            peer(2, &["10.50.0.12/32", "10.60.0.0/16", "2001:db8::7/64"]),
            peer(3, &["10.0.0.0/8"]),
        ]);
        let routes: Vec<String> = interface.routes().iter().map(IpNet::to_string).collect();
        assert_eq!(routes, ["10.0.0.0/8", "10.60.0.0/16", "2001:db8::/64"]);
    }

    #[test]
    fn collisions_are_refused() {
        interface(vec![peer(1, &["10.50.0.1/32"]), peer(2, &["10.50.0.0/24"])]).check().unwrap();

        let key = PublicKey::from_bytes([2; 32]);
        let network: IpNet = "10.50.0.0/24".parse().unwrap();
        let twice = interface(vec![peer(1, &["10.50.0.3/24"]), peer(2, &["10.50.0.0/24"])]);
        assert_eq!(twice.check(), Err(InvalidInterface::AllowedIpTwice { network, peer: key }));
        let same = interface(vec![peer(2, &[]), peer(2, &[])]);
        assert_eq!(same.check(), Err(InvalidInterface::PeerTwice(key)));
        let network = "0.0.0.0/0".parse().unwrap();
        let everything = interface(vec![peer(2, &["0.0.0.0/0"])]);
        assert_eq!(everything.check(), Err(InvalidInterface::AllowedIpIsEverything { network, peer: key }));

        let mut own = interface(vec![peer(2, &[])]);
        own.peers[0].public_key = own.private_key.public_key();
        assert_eq!(own.check(), Err(InvalidInterface::PeerIsSelf(own.private_key.public_key())));
        for text in ["0.0.0.0/8", "127.0.0.1/8", "224.0.0.1/4", "fe80::1/64", "::1/128"] {
            let mut odd = interface(vec![]);
            odd.addresses.push(text.parse().unwrap());
            assert_eq!(odd.check(), Err(InvalidInterface::Address(odd.addresses[1])));
        }
        let mut small = interface(vec![]);
        small.mtu = 576;
        assert_eq!(small.check(), Err(InvalidInterface::Mtu(576)));
        small.addresses.clear();
        assert_eq!(small.check(), Err(InvalidInterface::NoAddress));
    }
}
