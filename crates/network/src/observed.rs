//! What a WireGuard interface looks like now. Plain data, read from the kernel and the backend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;

use crate::PublicKey;

/// After this long without a new handshake a session has ended (the protocol's REJECT_AFTER_TIME).
const SESSION_LIFETIME: Duration = Duration::from_secs(180);

/// An interface as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether it is set up.
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Own addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Networks that are routed out of it, without those that the kernel derives from the addresses.
    pub routes: BTreeSet<IpNet>,
    /// WireGuard's side.
    pub device: ObservedDevice,
}

/// The WireGuard part of an interface as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedDevice {
    /// Public half of the key in use; none before one was set.
    pub public_key: Option<PublicKey>,
    /// UDP port in use; 0 before one was set.
    pub listen_port: u16,
    /// Known peers.
    pub peers: BTreeMap<PublicKey, PeerStatus>,
}

/// A peer as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where it is: as configured, or where it last spoke from.
    pub endpoint: Option<SocketAddr>,
    /// Networks behind it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Seconds between keepalive packets.
    pub keepalive_s: Option<NonZeroU16>,
    /// Time since the last handshake; none if there was none yet, or nobody knows when.
    pub last_handshake_age: Option<Duration>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

impl PeerStatus {
    /// Whether it has spoken lately enough for its session to be alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.last_handshake_age.is_some_and(|age| age < SESSION_LIFETIME)
    }
}
