//! Links: bridges, veth pairs, their state, their removal.
//!
//! Every operation names the link by its name in the connection's namespace. Creating one that exists is an error;
//! removing one that does not is none, so that cleaning up can be repeated.

use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_core::{DefaultNla, Emitable};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::{Netlink, NetworkError, NetworkNamespace};

/// What the kernel calls one end of a pair.
const VETH: &str = "veth";
const NLA_F_NESTED: u16 = 0x8000;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;

/// What the kernel says about one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Number of the link in its namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Driver of a virtual link as the kernel spells it, such as "bridge", "veth", "tun" or "wireguard".
    pub kind: Option<String>,
    /// Number of the link that it is one of a pair with, or stands on; it may be in another namespace.
    pub peer: Option<u32>,
    /// Whether IPv4 packets that come in by it are routed on; unknown where the link has no IPv4.
    pub routes_ipv4: Option<bool>,
    /// What came in by it since it was made.
    pub received_bytes: u64,
    /// What went out.
    pub sent_bytes: u64,
}

impl Link {
    /// Whether these are the two ends of a veth pair, each in its own namespace: each knows the number of the other.
    #[must_use]
    pub fn is_pair_with(&self, other: &Self) -> bool {
        let is_veth = |link: &Self| link.kind.as_deref() == Some(VETH);
        is_veth(self) && is_veth(other) && self.peer == Some(other.index) && other.peer == Some(self.index)
    }
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Name of the link in that namespace, at most 15 bytes.
    pub name: &'a str,
    /// Where the end is put.
    pub namespace: &'a NetworkNamespace,
}

impl Netlink {
    /// Makes a bridge and sets it up.
    ///
    /// # Errors
    /// `NotPermitted`, or `Failed` if the name is taken.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetworkError> {
        self.add_link("create bridge", name, LinkBridge::new(name).build()).await
    }

    /// Makes a veth pair, each end in its own namespace; both are down and without an address.
    /// The connection's own namespace need be neither of them.
    ///
    /// # Errors
    /// `NotPermitted`, or `Failed` if a name is taken.
    pub async fn add_veth(&self, end: VethEnd<'_>, peer: VethEnd<'_>) -> Result<(), NetworkError> {
        let peer_message = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.name)
            .setns_by_fd(peer.namespace.as_fd().as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(end.name)
            .setns_by_fd(end.namespace.as_fd().as_raw_fd())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
            .build();
        self.add_link("create veth pair", end.name, message).await
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// `NoSuchInterface` if either is missing.
    pub async fn set_bridge(&self, name: &str, bridge: &str) -> Result<(), NetworkError> {
        let bridge_index = self.index("find bridge", bridge)?;
        self.change_link("add to the bridge", name, |change| change.controller(bridge_index)).await
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn set_up(&self, name: &str) -> Result<(), NetworkError> {
        self.change_link("set up", name, LinkMessageBuilder::up).await
    }

    /// Sets the loopback up, which a new namespace has down.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub async fn set_loopback_up(&self) -> Result<(), NetworkError> {
        self.set_up("lo").await
    }

    /// Sets the largest packet that a link carries, in bytes.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`, or `Failed` if the driver refuses the size.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetworkError> {
        self.change_link("set the mtu of", name, |change| change.mtu(mtu)).await
    }

    /// Sets whether IPv4 packets that come in by a link are routed on. Unlike the host-wide setting, this needs no access
    /// to /proc/sys.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn set_ipv4_routing(&self, name: &str, routes: bool) -> Result<(), NetworkError> {
        let setting = DefaultNla::new(IPV4_DEVCONF_FORWARDING, u32::from(routes).to_ne_bytes().to_vec());
        let mut settings = vec![0; setting.buffer_len()];
        setting.emit(&mut settings);
        let ipv4 = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings));
        let families = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![ipv4])]);
        self.change_link("set the routing of", name, |change| change.append_extra_attribute(families)).await
    }

    /// Removes a link (of a veth pair: both ends). One that is not there is no error.
    ///
    /// # Errors
    /// `NotPermitted`.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetworkError> {
        let deleted = match self.index("delete", name) {
            Ok(index) => self.handle.link().del(index).execute().await,
            Err(NetworkError::NoSuchInterface { .. }) => return Ok(()),
            Err(other) => return Err(other),
        };
        match deleted.map_err(|error| NetworkError::from_netlink("delete", name, error)) {
            Err(NetworkError::NoSuchInterface { .. }) => Ok(()),
            other => other,
        }
    }

    /// The link of that name, if there is one.
    ///
    /// # Errors
    /// `Failed` if the kernel does not answer.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut answers = Box::pin(self.handle.link().get().match_name(name).execute());
        match answers.try_next().await {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) => match NetworkError::from_netlink("read", name, error) {
                NetworkError::NoSuchInterface { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// `Failed` if the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let answers = self.handle.link().get().execute().map_ok(Link::from);
        answers.try_collect().await.map_err(|error| NetworkError::from_netlink("list", "links", error))
    }

    /// Fails if this process may not change links, without changing one: it asks to delete what is not there.
    pub(crate) async fn require_right_to_change(
        &self,
        operation: &'static str,
        absent: &str,
    ) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(absent).build();
        let Err(error) = self.handle.link().del_with_message(message).execute().await else { return Ok(()) };
        match NetworkError::from_netlink(operation, absent, error) {
            NetworkError::NoSuchInterface { .. } => Ok(()),
            other => Err(other),
        }
    }

    pub(crate) async fn add_link(
        &self,
        operation: &'static str,
        name: &str,
        message: LinkMessage,
    ) -> Result<(), NetworkError> {
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|error| NetworkError::from_netlink(operation, name, error))
    }

    async fn change_link(
        &self,
        operation: &'static str,
        name: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetworkError> {
        let message = change(LinkUnspec::new_with_index(self.index(operation, name)?)).build();
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(|error| NetworkError::from_netlink(operation, name, error))
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            kind: None,
            peer: None,
            routes_ipv4: None,
            received_bytes: 0,
            sent_bytes: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::AfSpecUnspec(families) => link.routes_ipv4 = routes_ipv4(&families),
                LinkAttribute::Stats64(stats) => {
                    (link.received_bytes, link.sent_bytes) = (stats.rx_bytes, stats.tx_bytes);
                }
                LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind),
                _ => {}
            }
        }
        link
    }
}

fn routes_ipv4(families: &[AfSpecUnspec]) -> Option<bool> {
    let inet = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(inet) => Some(inet),
        _ => None,
    });
    inet?.iter().find_map(|attribute| match attribute {
        AfSpecInet::DevConf(settings) => Some(settings.forwarding != 0),
        _ => None,
    })
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}
