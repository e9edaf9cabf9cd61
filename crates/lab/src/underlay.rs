//! The network between the hosts, in the place of the internet: one bridge in a namespace of its own.
//!
//! Invariant: nothing is put into the machine's own network namespace. The bridge's namespace has no process and no
//! name; it ends with the lab's process.

use std::net::{IpAddr, Ipv4Addr};

use wisehosting_network::{Netlink, NetworkError, NetworkNamespace, VethEnd};

use crate::host::Host;

const BRIDGE: &str = "underlay";
/// Name of the link to the underlay in each host.
const HOST_LINK: &str = "eth0";
/// A network that is reserved for documentation, so that it is nobody's.
const NETWORK: [u8; 3] = [198, 51, 100];
const PREFIX_LENGTH: u8 = 24;

/// The bridge that joins the hosts.
#[derive(Debug)]
pub(crate) struct Underlay {
    namespace: NetworkNamespace,
    bridge: Netlink,
}

impl Underlay {
    pub(crate) async fn create() -> Result<Self, NetworkError> {
        let namespace = NetworkNamespace::create()?;
        let bridge = Netlink::inside(&namespace)?;
        bridge.set_loopback_up().await?;
        bridge.add_bridge(BRIDGE).await?;
        Ok(Self { namespace, bridge })
    }

    /// The address of the host with this number on the underlay.
    pub(crate) fn address(host_number: u8) -> Ipv4Addr {
        let [a, b, c] = NETWORK;
        Ipv4Addr::new(a, b, c, host_number)
    }

    /// Connects a host, with the address of its number, and sets its loopback up.
    pub(crate) async fn attach(&self, host: &Host, host_number: u8) -> Result<(), NetworkError> {
        let port = format!("host-{host_number}");
        let inside = Netlink::inside(host.network())?;
        inside.set_loopback_up().await?;
        self.bridge
            .add_veth(
                VethEnd { name: &port, namespace: &self.namespace },
                VethEnd { name: HOST_LINK, namespace: host.network() },
            )
            .await?;
        self.bridge.set_bridge(&port, BRIDGE).await?;
        self.bridge.set_up(&port).await?;
        let address = ipnet::IpNet::new_assert(IpAddr::V4(Self::address(host_number)), PREFIX_LENGTH);
        inside.add_address(HOST_LINK, address).await?;
        inside.set_up(HOST_LINK).await
    }
}
