//! From what is and what should be to what must be done. Pure.
//!
//! Invariant: once the operations have been carried out, the difference is empty. A difference never touches what
//! is already right, so that a peer whose networks change keeps its session.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::{Interface, Observed, Peer, PeerStatus, PublicKey};

/// One change to an interface. None holds the private key, so all can be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Set the largest packet, in bytes.
    SetMtu(u32),
    /// Set the private key and the UDP port of the desired interface. May forget peers, addresses and routes.
    SetIdentity,
    /// Forget a peer.
    RemovePeer(PublicKey),
    /// Add a peer or change it in place; without an endpoint the one in use is kept.
    SetPeer(Peer),
    /// Take an address away.
    RemoveAddress(IpNet),
    /// Give an address.
    AddAddress(IpNet),
    /// Set the link up.
    SetUp,
    /// Stop sending a network to the interface.
    RemoveRoute(IpNet),
    /// Send a network to the interface.
    AddRoute(IpNet),
}

/// The changes that turn `observed` into `desired`, in an order in which each of them is possible.
#[must_use]
pub fn diff(observed: &Observed, desired: &Interface) -> Vec<Op> {
    let mut ops = Vec::new();
    if observed.mtu != desired.mtu {
        ops.push(Op::SetMtu(desired.mtu));
    }
    ops.extend(device_ops(observed, desired));

    let addresses: BTreeSet<IpNet> = desired.addresses.iter().copied().collect();
    ops.extend(observed.addresses.difference(&addresses).copied().map(Op::RemoveAddress));
    ops.extend(addresses.difference(&observed.addresses).copied().map(Op::AddAddress));
    if !observed.up {
        ops.push(Op::SetUp);
    }

    let routes = desired.routes();
    ops.extend(observed.routes.difference(&routes).copied().map(Op::RemoveRoute));
    ops.extend(routes.difference(&observed.routes).copied().map(Op::AddRoute));
    ops
}

/// The key comes before the peers: neither backend takes a peer without one.
fn device_ops(observed: &Observed, desired: &Interface) -> Vec<Op> {
    let device = &observed.device;
    let mut ops = Vec::new();
    let right_key = device.public_key == Some(desired.private_key.public_key());
    if !right_key || device.listen_port != desired.listen_port.get() {
        ops.push(Op::SetIdentity);
    }
    let wanted: BTreeSet<PublicKey> = desired.peers.iter().map(|peer| peer.public_key).collect();
    ops.extend(device.peers.keys().filter(|key| !wanted.contains(key)).copied().map(Op::RemovePeer));
    let changes = desired.peers.iter().filter_map(|peer| peer_op(device.peers.get(&peer.public_key), peer));
    ops.extend(changes);
    ops
}

fn peer_op(status: Option<&PeerStatus>, desired: &Peer) -> Option<Op> {
    let Some(status) = status else { return Some(Op::SetPeer(desired.clone())) };
    let endpoint = endpoint_to_set(status, desired);
    let unchanged = endpoint.is_none()
        && status.allowed_ips == desired.networks()
        && status.keepalive_s == desired.keepalive_s;
    if unchanged { None } else { Some(Op::SetPeer(Peer { endpoint, ..desired.clone() })) }
}

/// The configured endpoint is where to begin. While the peer is alive, the place it speaks from is the truth;
/// once it has fallen silent, the configured one is tried again.
fn endpoint_to_set(status: &PeerStatus, desired: &Peer) -> Option<SocketAddr> {
    if status.endpoint == desired.endpoint || status.is_alive() { None } else { desired.endpoint }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
