//! Hosts of a test mesh: namespaces on a bridge, a WireGuard interface in each.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;
use wisehosting_network::{
    Backend, BackendChoice, Interface, NamespaceRuntime, Netlink, NetworkError, NetworkNamespace, Observed,
    Op, Peer, PrivateKey, VethEnd, WireGuardInterface,
};

/// Longer than any handshake takes, also one whose first packet was lost (that is tried again after 5 s).
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A bridge that joins the hosts.
pub(crate) struct Underlay(NetworkNamespace);

impl Underlay {
    pub(crate) async fn new() -> Self {
        let namespace = NetworkNamespace::create().unwrap();
        Netlink::inside(&namespace).unwrap().add_bridge("br0").await.unwrap();
        Self(namespace)
    }

    /// A host with the address 198.51.100.`number`.
    pub(crate) async fn node(&self, number: u8, choice: impl Into<BackendChoice>) -> Node {
        let namespace = NetworkNamespace::create().unwrap();
        let port = format!("port{number}");
        let switch = Netlink::inside(&self.0).unwrap();
        let end = VethEnd { name: &port, namespace: &self.0 };
        switch.add_veth(end, VethEnd { name: "eth0", namespace: &namespace }).await.unwrap();
        switch.set_bridge(&port, "br0").await.unwrap();
        switch.set_up(&port).await.unwrap();
        let netlink = Netlink::inside(&namespace).unwrap();
        netlink.set_up("eth0").await.unwrap();
        let address = format!("198.51.100.{number}/24");
        netlink.add_address("eth0", address.parse().unwrap()).await.unwrap();
        let runtime = NamespaceRuntime::new(&namespace).unwrap();
        let choice = choice.into();
        let interface = runtime.run(async move { live_interface(choice) }).await;
        let private_key = PrivateKey::generate();
        let underlay = self.0.clone();
        Node { number, namespace, runtime, netlink, choice, private_key, interface, _underlay: underlay }
    }
}

/// One host.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) namespace: NetworkNamespace,
    pub(crate) runtime: NamespaceRuntime,
    pub(crate) netlink: Netlink,
    pub(crate) private_key: PrivateKey,
    choice: BackendChoice,
    interface: Arc<Mutex<Option<WireGuardInterface>>>,
    /// Keeps the bridge for as long as a host is on it.
    _underlay: NetworkNamespace,
}

impl Node {
    pub(crate) async fn reconcile(&self, desired: Interface) -> Result<Vec<Op>, NetworkError> {
        desired.check().unwrap();
        let interface = Arc::clone(&self.interface);
        let reconciled = async move { interface.lock().await.as_mut().unwrap().reconcile(&desired).await };
        self.runtime.run(reconciled).await
    }

    pub(crate) async fn observe(&self) -> Observed {
        let interface = Arc::clone(&self.interface);
        let observed = async move { interface.lock().await.as_ref().unwrap().observe().await };
        self.runtime.run(observed).await.unwrap().expect("the interface exists")
    }

    pub(crate) async fn backend(&self) -> Option<Backend> {
        self.interface.lock().await.as_ref().unwrap().backend()
    }

    /// Removes the interface, asserts that nothing is left of it, and makes the node ready to start again.
    pub(crate) async fn close(&self) {
        let interface = Arc::clone(&self.interface);
        let choice = self.choice;
        let closed = async move {
            let mut slot = interface.lock().await;
            slot.take().unwrap().close().await.unwrap();
            *slot = live_interface(choice).lock().await.take();
        };
        self.runtime.run(closed).await;
        let links = self.netlink.links().await.unwrap();
        let mut names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["eth0", "lo"]);
    }

    /// Lets go of the interface as a process does that is killed, and starts anew.
    pub(crate) async fn forget_interface(&self) {
        let interface = Arc::clone(&self.interface);
        let choice = self.choice;
        let replaced = async move {
            *interface.lock().await = live_interface(choice).lock().await.take();
        };
        self.runtime.run(replaced).await;
    }

    /// How the others see this host: as the peer with its address in the mesh.
    pub(crate) fn peer(&self) -> Peer {
        Peer {
            public_key: self.private_key.public_key(),
            endpoint: Some(SocketAddr::from(([198, 51, 100, self.number], 51821))),
            allowed_ips: vec![format!("10.50.0.{}/32", self.number).parse().unwrap()],
            keepalive_s: NonZeroU16::new(25),
        }
    }

    /// This host's interface with these peers.
    pub(crate) fn interface(&self, peers: Vec<Peer>) -> Interface {
        interface(self.number, self.private_key.clone(), peers)
    }

    /// Listens on all addresses and sends back whatever arrives, one connection after another, for ever.
    pub(crate) async fn serve_echo(&self, port: u16) {
        let listener = self.runtime.run(TcpListener::bind(("0.0.0.0", port))).await.unwrap();
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
        self.runtime.run(serve).await;
    }

    /// Connects from this host.
    pub(crate) async fn connect(&self, to: &str) -> std::io::Result<Connection> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self.runtime.run(timeout(PATIENCE, TcpStream::connect(to))).await??;
        Ok(Connection(stream))
    }
}

/// A connection to an echo server.
pub(crate) struct Connection(TcpStream);

impl Connection {
    /// Sends all of it while reading it back, and gives what came back.
    pub(crate) async fn echo(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let (mut reading, mut writing) = self.0.split();
        let mut back = vec![0; bytes.len()];
        let both = async { tokio::try_join!(writing.write_all(bytes), reading.read_exact(&mut back)) };
        timeout(PATIENCE, both).await??;
        Ok(back)
    }
}

/// The interface of host `number` in the mesh 10.50.0.0/24.
pub(crate) fn interface(number: u8, private_key: PrivateKey, peers: Vec<Peer>) -> Interface {
    Interface {
        name: "wh0".parse().unwrap(),
        addresses: vec![format!("10.50.0.{number}/24").parse().unwrap()],
        mtu: 1420,
        private_key,
        listen_port: NonZeroU16::new(51821).unwrap(),
        peers,
    }
}

fn live_interface(choice: BackendChoice) -> Arc<Mutex<Option<WireGuardInterface>>> {
    let interface = WireGuardInterface::new("wh0".parse().unwrap(), choice).unwrap();
    Arc::new(Mutex::new(Some(interface)))
}
