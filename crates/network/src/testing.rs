//! What tests and benchmarks of several crates build their networks of.
//!
//! Invariant: everything is in namespaces of the test's own and ends with them. What fails panics, as the test would.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::io::{self, Write};
use std::num::NonZeroU16;
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use gotatun::device::uapi::UapiServer;
use gotatun::device::{DefaultDeviceTransports, Device, DeviceBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{
    Backend, BackendChoice, Interface, NamespaceRuntime, Netlink, NetworkError, NetworkNamespace, Peer,
    PrivateKey, PublicKey, VethEnd, WireGuardInterface,
};

/// Longer than any handshake or transfer takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where a wire ends: the host, the link's name there, and its address with the prefix of the network.
pub type End<'a> = (&'a NetworkNamespace, &'a str, &'a str);

/// Lays a wire between two hosts; both ends are up.
///
/// # Panics
/// The kernel refuses.
pub async fn wire(a: End<'_>, b: End<'_>) {
    let ends = [a, b].map(|(namespace, name, _)| VethEnd { name, namespace });
    Netlink::inside(a.0).unwrap().add_veth(ends[0], ends[1]).await.unwrap();
    for (namespace, name, address) in [a, b] {
        let netlink = Netlink::inside(namespace).unwrap();
        netlink.set_up(name).await.unwrap();
        netlink.add_address(name, address.parse().unwrap()).await.unwrap();
    }
}

/// A peer without an endpoint that has these networks.
///
/// # Panics
/// One of them is none.
#[must_use]
pub fn peer(public_key: PublicKey, networks: &[&str]) -> Peer {
    let allowed_ips = networks.iter().map(|text| text.parse().unwrap()).collect();
    Peer { public_key, endpoint: None, allowed_ips, keepalive_s: None }
}

/// The interface `wh0` of host 10.50.0.`number` in the mesh 10.50.0.0/24.
///
/// # Panics
/// Never.
#[must_use]
pub fn interface(number: u8, private_key: PrivateKey, peers: Vec<Peer>) -> Interface {
    Interface {
        name: "wh0".parse().unwrap(),
        addresses: vec![format!("10.50.0.{number}/24").parse().unwrap()],
        mtu: 1420,
        private_key,
        listen_port: NonZeroU16::new(51821).unwrap(),
        peers,
    }
}

/// One end of a tunnel, and what carries it there: both end with the value.
pub type TunnelEnd = (WireGuardInterface, NamespaceRuntime);

/// Lays a wire between two hosts and WireGuard over it: they are 10.50.0.11 and 10.50.0.30 to each other.
///
/// # Panics
/// The kernel refuses, or has no such backend.
pub async fn tunnel(
    worker: &NetworkNamespace,
    proxy: &NetworkNamespace,
    choice: BackendChoice,
) -> [TunnelEnd; 2] {
    wire((worker, "eth1", "198.51.100.11/24"), (proxy, "eth1", "198.51.100.30/24")).await;
    let [of_worker, of_proxy] = [PrivateKey::generate(), PrivateKey::generate()];
    let keys = [of_worker.public_key(), of_proxy.public_key()];
    [
        tunnel_end(worker, choice, (11, of_worker), (30, keys[1])).await,
        tunnel_end(proxy, choice, (30, of_proxy), (11, keys[0])).await,
    ]
}

async fn tunnel_end(
    host: &NetworkNamespace,
    choice: BackendChoice,
    (number, key): (u8, PrivateKey),
    (other, of_other): (u8, PublicKey),
) -> TunnelEnd {
    let endpoint = Some(([198, 51, 100, other], 51821).into());
    let desired =
        interface(number, key, vec![Peer { endpoint, ..peer(of_other, &[&format!("10.50.0.{other}/32")]) }]);
    let runtime = NamespaceRuntime::new(host).unwrap();
    let opened = runtime.run(async move {
        let mut interface = WireGuardInterface::new(desired.name.clone(), choice).unwrap();
        interface.reconcile(&desired).await.unwrap();
        interface
    });
    (opened.await, runtime)
}

/// Listens on all of a host's addresses and sends back whatever arrives, for as long as the host's runtime lives.
///
/// # Panics
/// The port is taken.
pub async fn serve_echo(host: &NamespaceRuntime, port: u16) {
    let listener = host.run(TcpListener::bind(("0.0.0.0", port))).await.unwrap();
    let serve = async move {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reading, mut writing) = stream.into_split();
                    let _ = tokio::io::copy(&mut reading, &mut writing).await;
                });
            }
        });
    };
    host.run(serve).await;
}

/// Sends bytes to an echo server, all of them while reading them back, and gives what came back.
///
/// # Errors
/// The connection breaks, or nothing comes for a minute.
pub async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reading, mut writing) = stream.split();
    let mut back = vec![0; bytes.len()];
    let both = async { tokio::try_join!(writing.write_all(bytes), reading.read_exact(&mut back)) };
    timeout(PATIENCE, both).await??;
    Ok(back)
}

/// So many bytes, among which a lost or a swapped packet is noticed.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251) as u8).collect()
}

/// Has the program `nft` do this to a host, and gives what it prints.
///
/// # Panics
/// It fails.
pub fn nft(host: &NetworkNamespace, command: &str) -> String {
    let output = host.run(|| Command::new("nft").arg(command).output().unwrap()).unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A tunnel of the userspace backend that the program `wg` configures, by a socket of the machine's; both end with the value.
pub struct TunnelForWg {
    name: String,
    _tunnel: Device<DefaultDeviceTransports>,
}

impl TunnelForWg {
    /// Makes it. All threads of the runtime must be in its namespace.
    ///
    /// # Panics
    /// It cannot be made.
    pub async fn start(name: &str) -> Self {
        let socket = UapiServer::default_unix_socket(name, None, None).unwrap();
        let builder = DeviceBuilder::new().with_default_udp().create_tun(name).unwrap();
        let tunnel = builder.with_uapi(socket).build().await.unwrap();
        Self { name: name.to_owned(), _tunnel: tunnel }
    }
}

impl Drop for TunnelForWg {
    fn drop(&mut self) {
        // The library leaves it.
        let _ = std::fs::remove_file(format!("/run/wireguard/{}.sock", self.name));
    }
}

/// Whether this kernel has WireGuard. If not, says so past the test runner: it is the one thing that may go untested, since
/// a test cannot give a kernel what it was built without.
///
/// # Panics
/// It cannot be found out.
pub async fn kernel_has_wireguard() -> bool {
    static SAID: Once = Once::new();
    let namespace = NetworkNamespace::create().unwrap();
    let runtime = NamespaceRuntime::new(&namespace).unwrap();
    let opened = runtime.run(async {
        let mut interface = WireGuardInterface::new("wh0".parse().unwrap(), Backend::Kernel.into())?;
        interface.open().await?;
        interface.close().await
    });
    match opened.await {
        Ok(()) => true,
        Err(NetworkError::NotSupported { .. }) => {
            SAID.call_once(|| {
                let _ = writeln!(
                    io::stderr(),
                    "kernel backend not tested: this kernel has no WireGuard (the userspace one is)"
                );
            });
            false
        }
        Err(error) => panic!("{error}"),
    }
}
