//! WireGuard inside this process, on a tun device.
//!
//! The library opens its UDP socket when a key or a port is set, from whichever runtime thread happens to run it:
//! all threads of the runtime must be in the same namespace. It panics when a peer is added before the key, and after
//! failing to open the socket it takes a second attempt for done; so the key always comes first, and a device that
//! could not listen is thrown away by its owner.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gotatun::device::configure::{DeviceWrite, PeerMut, PeerStats};
use gotatun::device::{DefaultDeviceTransports, Device as Tunnel, DeviceBuilder, Peer as TunnelPeer};
use gotatun::x25519;
use ipnet::IpNet;
use ipnetwork::IpNetwork;
use tokio::time::sleep;

use super::{Backend, Device, name_taken};
use crate::observed::{ObservedDevice, PeerStatus};
use crate::{Interface, InterfaceName, Netlink, NetworkError, Peer, PublicKey};

/// The library closes a socket from tasks that it does not wait for; so long the port may still be its own.
const SOCKET_LINGERS: Duration = Duration::from_millis(500);
const RETRY_EVERY: Duration = Duration::from_millis(10);

pub(super) struct UserspaceDevice {
    name: String,
    tunnel: Tunnel<DefaultDeviceTransports>,
}

impl UserspaceDevice {
    pub(super) async fn open(netlink: &Netlink, name: &InterfaceName) -> Result<Self, NetworkError> {
        const OPERATION: &str = "create userspace WireGuard interface";
        if let Some(link) = netlink.link(name.as_str()).await? {
            return Err(name_taken(name, link.kind));
        }
        netlink.require_right_to_change(OPERATION, name.as_str()).await?;
        let failed = |source: gotatun::device::Error| NetworkError::Failed {
            operation: OPERATION,
            subject: name.to_string(),
            source: source.into(),
        };
        let builder = DeviceBuilder::new().with_default_udp().create_tun(name.as_str()).map_err(failed)?;
        let tunnel = builder.build().await.map_err(failed)?;
        Ok(Self { name: name.to_string(), tunnel })
    }

    /// Changes the device under its lock.
    async fn write<T>(
        &self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut DeviceWrite<'_, DefaultDeviceTransports>) -> T,
    ) -> Result<T, NetworkError> {
        self.tunnel.write(work).await.map_err(|source| self.failed(operation, source))
    }

    fn failed(&self, operation: &'static str, source: gotatun::device::Error) -> NetworkError {
        NetworkError::Failed { operation, subject: self.name.clone(), source: source.into() }
    }
}

impl Device for UserspaceDevice {
    fn backend(&self) -> Backend {
        Backend::Userspace
    }

    fn observe(&self) -> BoxFuture<'_, Result<ObservedDevice, NetworkError>> {
        async {
            let observed = self.tunnel.read(async |device| ObservedDevice {
                public_key: device.private_key().map(|key| public_key(&x25519::PublicKey::from(key))),
                listen_port: device.listen_port(),
                peers: device.peers().await.into_iter().map(peer_status).collect(),
            });
            Ok(observed.await)
        }
        .boxed()
    }

    fn set_identity<'a>(&'a self, desired: &'a Interface) -> BoxFuture<'a, Result<(), NetworkError>> {
        let key = x25519::StaticSecret::from(*desired.private_key.expose_bytes());
        let port = desired.listen_port.get();
        async move {
            let written = self.tunnel.write(async move |device| {
                device.set_private_key(key).await;
                device.set_listen_port(port);
            });
            let mut opened = written.await;
            let give_up = Instant::now() + SOCKET_LINGERS;
            while port_in_use(&opened) && Instant::now() < give_up {
                sleep(RETRY_EVERY).await;
                // Of all changes only this one makes the library open its socket whatever it believes.
                opened = self.tunnel.clear_peers().await.map(drop);
            }
            opened.map_err(|source| self.failed("open the UDP port of", source))
        }
        .boxed()
    }

    fn set_peers(&self, peers: Vec<Peer>) -> BoxFuture<'_, Result<(), NetworkError>> {
        let written = self.write("set peers of", async move |device| {
            for peer in &peers {
                let key = x25519::PublicKey::from(*peer.public_key.as_bytes());
                if !device.modify_peer(&key, |existing| change(existing, peer)).await {
                    device.add_peer(new_peer(key, peer));
                }
            }
        });
        written.boxed()
    }

    fn remove_peer(&self, key: PublicKey) -> BoxFuture<'_, Result<(), NetworkError>> {
        let key = x25519::PublicKey::from(*key.as_bytes());
        let written = self.write("remove a peer of", async move |device| {
            device.remove_peer(&key).await;
        });
        written.boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.tunnel.stop().boxed()
    }
}

fn port_in_use(opened: &Result<(), gotatun::device::Error>) -> bool {
    matches!(opened, Err(gotatun::device::Error::Bind(source, _)) if source.kind() == ErrorKind::AddrInUse)
}

fn change(existing: &mut PeerMut, peer: &Peer) {
    existing.clear_allowed_ips();
    existing.add_allowed_ips(networks(peer));
    existing.set_keepalive(peer.keepalive_s.map(NonZeroU16::get));
    if peer.endpoint.is_some() {
        existing.set_endpoint(peer.endpoint);
    }
}

fn new_peer(key: x25519::PublicKey, peer: &Peer) -> TunnelPeer {
    let mut new = TunnelPeer::new(key).with_allowed_ips(networks(peer));
    new.endpoint = peer.endpoint;
    new.keepalive = peer.keepalive_s.map(NonZeroU16::get);
    new
}

fn networks(peer: &Peer) -> Vec<IpNetwork> {
    let networks = peer.networks();
    networks.iter().filter_map(|net| IpNetwork::new(net.addr(), net.prefix_len()).ok()).collect()
}

fn peer_status(PeerStats { peer, stats, .. }: PeerStats) -> (PublicKey, PeerStatus) {
    let networks = peer.allowed_ips.iter().filter_map(|net| IpNet::new(net.network(), net.prefix()).ok());
    let status = PeerStatus {
        endpoint: peer.endpoint.map(canonical),
        allowed_ips: networks.collect(),
        keepalive_s: peer.keepalive.and_then(NonZeroU16::new),
        last_handshake_age: stats.last_handshake,
        rx_bytes: stats.rx_bytes as u64,
        tx_bytes: stats.tx_bytes as u64,
    };
    (public_key(&peer.public_key), status)
}

/// The socket speaks both protocols, and may show an IPv4 address as an IPv6 one.
fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}

fn public_key(key: &x25519::PublicKey) -> PublicKey {
    PublicKey::from_bytes(key.to_bytes())
}
