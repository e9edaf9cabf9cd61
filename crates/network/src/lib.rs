//! WireGuard, links, addresses, routes, traffic shaping and port forwards over netlink: desired, observed, diff, apply.
//!
//! No program is ever run for any of this, and no runtime thread of a caller ever changes its namespace.

pub mod address;
mod desired;
mod diff;
mod error;
pub mod forwarding;
mod interface;
mod key;
pub mod link;
mod namespace;
mod netlink;
mod observed;
mod path;
pub mod route;
pub mod shaping;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wireguard;

pub use desired::{Interface, InterfaceName, InvalidInterface, InvalidInterfaceName, Peer};
pub use diff::{Op, diff};
pub use error::NetworkError;
pub use forwarding::{
    ForwardTable, Forwards, ForwardsMark, ForwardsOp, ObservedForwards, Protocol, Routing, diff_forwards,
    end_relay, relay, relays,
};
pub use interface::WireGuardInterface;
pub use ipnet::IpNet;
pub use key::{KeyError, PrivateKey, PublicKey};
pub use link::{Link, VethEnd};
pub use namespace::{NamespaceRuntime, NetworkNamespace};
pub use netlink::Netlink;
pub use observed::{Observed, ObservedDevice, PeerStatus};
pub use path::{PathTiming, PeerPath};
pub use shaping::{ShapedLink, ShapingOp, Side, TokenBucket, diff_shaping, observe_shaping, shape};
pub use wireguard::{Backend, BackendChoice, UnknownBackend};
