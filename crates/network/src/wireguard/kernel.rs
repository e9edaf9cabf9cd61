//! The kernel's WireGuard.
//!
//! The link is made and removed over rtnetlink, since that tells a kernel without WireGuard apart from a missing
//! right, and since removing it by the library would run a program. Key, port and peers go over generic netlink by
//! the library, whose calls block and use the namespace of the thread that they run on.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use defguard_wireguard_rs::error::WireguardInterfaceError;
use defguard_wireguard_rs::host::Host;
use defguard_wireguard_rs::key::Key;
use defguard_wireguard_rs::net::IpAddrMask;
use defguard_wireguard_rs::peer::Peer as WirePeer;
use defguard_wireguard_rs::{InterfaceConfiguration, Kernel, WGApi, WireguardInterfaceApi};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use rtnetlink::LinkWireguard;

use super::handshakes::Handshakes;
use super::{Backend, Device, name_taken};
use crate::observed::{ObservedDevice, PeerStatus};
use crate::{Interface, InterfaceName, Netlink, NetworkError, Peer, PublicKey};

/// What the kernel calls this kind of link.
const LINK_KIND: &str = "wireguard";

pub(super) struct KernelDevice {
    name: String,
    handshakes: Mutex<Handshakes>,
}

impl KernelDevice {
    pub(super) async fn open(netlink: &Netlink, name: &InterfaceName) -> Result<Self, NetworkError> {
        match netlink.link(name.as_str()).await? {
            Some(link) if link.kind.as_deref() == Some(LINK_KIND) => {}
            Some(link) => return Err(name_taken(name, link.kind)),
            None => {
                let message = LinkWireguard::new(name.as_str()).build();
                netlink.add_link("create WireGuard interface", name.as_str(), message).await?;
            }
        }
        Ok(Self { name: name.to_string(), handshakes: Mutex::default() })
    }

    /// Calls the library on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&WGApi<Kernel>) -> Result<T, WireguardInterfaceError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let name = self.name.clone();
        let called = tokio::task::spawn_blocking(move || work(&WGApi::<Kernel>::new(name)?));
        match called.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(source)) => Err(self.failed(operation, source)),
            Err(source) => Err(self.failed(operation, source)),
        }
    }

    /// Of the last handshakes with peers.
    fn ages(&self, host: &Host) -> BTreeMap<PublicKey, Duration> {
        // The kernel reports the epoch for "never".
        let told = |peer: &WirePeer| peer.last_handshake.filter(|at| *at != SystemTime::UNIX_EPOCH);
        let told = host.peers.iter().filter_map(|(key, peer)| Some((public_key(key), told(peer)?)));
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        handshakes.look(told, |at| at.elapsed().ok(), Instant::now())
    }

    fn failed(
        &self,
        operation: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> NetworkError {
        NetworkError::Failed { operation, subject: self.name.clone(), source: source.into() }
    }
}

impl Device for KernelDevice {
    fn backend(&self) -> Backend {
        Backend::Kernel
    }

    fn observe(&self) -> BoxFuture<'_, Result<ObservedDevice, NetworkError>> {
        let read = self.call("read WireGuard state of", |api| api.read_interface_data());
        async move {
            let host = read.await?;
            let ages = self.ages(&host);
            Ok(observed(&host, &ages))
        }
        .boxed()
    }

    fn set_identity<'a>(&'a self, desired: &'a Interface) -> BoxFuture<'a, Result<(), NetworkError>> {
        // Also removes all addresses and peers, which the next look at the interface notices.
        let configuration = InterfaceConfiguration {
            name: self.name.clone(),
            prvkey: desired.private_key.to_base64().to_string(),
            addresses: Vec::new(),
            port: desired.listen_port.get(),
            peers: Vec::new(),
            mtu: None,
            fwmark: None,
        };
        self.call("set key and port of", move |api| api.configure_interface(&configuration)).boxed()
    }

    fn set_peers(&self, peers: Vec<Peer>) -> BoxFuture<'_, Result<(), NetworkError>> {
        let set =
            move |api: &WGApi<Kernel>| peers.iter().try_for_each(|peer| api.configure_peer(&wire_peer(peer)));
        self.call("set peers of", set).boxed()
    }

    fn remove_peer(&self, key: PublicKey) -> BoxFuture<'_, Result<(), NetworkError>> {
        let key = Key::new(*key.as_bytes());
        self.call("remove a peer of", move |api| api.remove_peer(&key)).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        // The device is the link, and the interface removes that.
        async {}.boxed()
    }
}

fn wire_peer(peer: &Peer) -> WirePeer {
    let mut wire = WirePeer::new(Key::new(*peer.public_key.as_bytes()));
    wire.endpoint = peer.endpoint;
    // 0 turns it off; leaving it out would leave the old interval.
    wire.persistent_keepalive_interval = Some(peer.keepalive_s.map_or(0, NonZeroU16::get));
    let networks = peer.networks();
    wire.allowed_ips = networks.iter().map(|net| IpAddrMask::new(net.addr(), net.prefix_len())).collect();
    wire
}

fn observed(host: &Host, ages: &BTreeMap<PublicKey, Duration>) -> ObservedDevice {
    // A device without a key reports one of zeros.
    let private_key = host.private_key.as_ref().filter(|key| key.as_slice().iter().any(|byte| *byte != 0));
    let peers = host.peers.iter().map(|(key, peer)| {
        let key = public_key(key);
        (key, peer_status(peer, ages.get(&key).copied()))
    });
    ObservedDevice {
        public_key: private_key.map(|key| public_key(&key.public_key())),
        listen_port: host.listen_port,
        peers: peers.collect(),
    }
}

fn public_key(key: &Key) -> PublicKey {
    PublicKey::from_bytes(key.as_array())
}

fn peer_status(peer: &WirePeer, last_handshake_age: Option<Duration>) -> PeerStatus {
    let networks = peer.allowed_ips.iter().filter_map(|net| IpNet::new(net.address, net.cidr).ok());
    PeerStatus {
        endpoint: peer.endpoint,
        allowed_ips: networks.collect(),
        keepalive_s: peer.persistent_keepalive_interval.and_then(NonZeroU16::new),
        last_handshake_age,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}
