//! Which way to another node: directly, or by the hub. Pure.
//!
//! WireGuard sends to, and takes from, the one peer that has an address among its networks; so the way is which of two
//! peers has the node's address: its own, or the hub's. Invariants: the address goes to the node's own peer only after
//! a handshake with it, which takes both directions of the underlay; and back to the hub's as soon as nothing was heard for
//! longer than keepalives can be apart.
//!
//! Both ends must choose alike, since an end drops what comes by the peer that it did not choose. Each decides for itself;
//! what they share is the handshake, of which both know. An end that falls back removes the node's own peer for so
//! long that the other one hears nothing either, and falls back too.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::PeerStatus;

/// How long an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTiming {
    /// Between packets to a node that is, or may be, reached directly.
    pub keepalive_s: NonZeroU16,
    /// For the next packet of a node that is reached directly. Some may be lost.
    pub silence_max: Duration,
    /// Until a direct way that fell silent is tried again: longer than the other end waits for a packet.
    pub rest: Duration,
}

impl Default for PathTiming {
    fn default() -> Self {
        Self {
            keepalive_s: const { NonZeroU16::new(5).expect("it is not 0") },
            silence_max: Duration::from_secs(16),
            rest: Duration::from_secs(40),
        }
    }
}

/// The way to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerPath {
    /// By the hub. The node's own peer is there, without networks, so that a handshake may succeed.
    Trying {
        /// From when on a handshake counts.
        since: Instant,
    },
    /// By the node's own peer.
    Direct {
        /// How much had come from it in all,
        rx_bytes: u64,
        /// when that last grew.
        heard_at: Instant,
    },
    /// By the hub. The node's own peer is not there, so that the other end hears nothing.
    Resting {
        /// When to try again.
        until: Instant,
    },
}

impl PeerPath {
    /// The way to a node of which nothing is known but what the interface shows of its own peer: as before if an earlier
    /// process has left it in use.
    #[must_use]
    pub fn begin(address: IpNet, status: Option<&PeerStatus>, now: Instant) -> Self {
        match status {
            Some(status) if status.is_alive() && status.allowed_ips.contains(&address) => {
                Self::Direct { rx_bytes: status.rx_bytes, heard_at: now }
            }
            _ => Self::Trying { since: now },
        }
    }

    /// The way from now on, by what the interface shows of the node's own peer.
    #[must_use]
    pub fn next(self, status: Option<&PeerStatus>, now: Instant, timing: PathTiming) -> Self {
        match (self, status) {
            (Self::Trying { since }, Some(status)) => match status.last_handshake_age {
                Some(age) if age <= now.duration_since(since) => {
                    Self::Direct { rx_bytes: status.rx_bytes, heard_at: now }
                }
                _ => self,
            },
            // Somebody has removed it; it will be made again.
            (Self::Direct { .. }, None) => Self::Trying { since: now },
            (Self::Direct { rx_bytes, heard_at }, Some(status)) => {
                if status.rx_bytes != rx_bytes {
                    Self::Direct { rx_bytes: status.rx_bytes, heard_at: now }
                } else if now.duration_since(heard_at) > timing.silence_max {
                    Self::Resting { until: now + timing.rest }
                } else {
                    self
                }
            }
            (Self::Resting { until }, _) if now >= until => Self::Trying { since: now },
            (Self::Trying { .. } | Self::Resting { .. }, _) => self,
        }
    }

    /// Whether the node's own peer has its address.
    #[must_use]
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct { .. })
    }

    /// Whether the node's own peer is to be there.
    #[must_use]
    pub fn has_peer(self) -> bool {
        !matches!(self, Self::Resting { .. })
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
