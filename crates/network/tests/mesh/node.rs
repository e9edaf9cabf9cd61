//! Hosts of a test mesh: namespaces on a bridge, a WireGuard interface in each.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use wisehosting_network::testing::{self, PATIENCE};
use wisehosting_network::{
    Backend, BackendChoice, Interface, NamespaceRuntime, Netlink, NetworkError, NetworkNamespace, Observed,
    Op, Peer, PrivateKey, VethEnd, WireGuardInterface,
};

/// A bridge that joins the hosts.
pub(crate) struct Underlay(NetworkNamespace);

impl Underlay {
    pub(crate) async fn new() -> Self {
        let namespace = NetworkNamespace::create().unwrap();
        Netlink::inside(&namespace).unwrap().add_bridge("br0").await.unwrap();
        Self(namespace)
    }

    /// A namespace with the address 198.51.100.`number`.
    pub(crate) async fn host(&self, number: u8) -> NetworkNamespace {
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
        namespace
    }

    /// A host with the address 198.51.100.`number`.
    pub(crate) async fn node(&self, number: u8, choice: impl Into<BackendChoice>) -> Node {
        self.node_in(self.host(number).await, number, choice).await
    }

    /// A host in a namespace, whose way to the others is the namespace's own matter.
    pub(crate) async fn node_in(
        &self,
        namespace: NetworkNamespace,
        number: u8,
        choice: impl Into<BackendChoice>,
    ) -> Node {
        let netlink = Netlink::inside(&namespace).unwrap();
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
        let address = format!("10.50.0.{}/32", self.number);
        Peer {
            endpoint: Some(SocketAddr::from(([198, 51, 100, self.number], 51821))),
            keepalive_s: NonZeroU16::new(25),
            ..testing::peer(self.private_key.public_key(), &[&address])
        }
    }

    /// This host's interface with these peers.
    pub(crate) fn interface(&self, peers: Vec<Peer>) -> Interface {
        testing::interface(self.number, self.private_key.clone(), peers)
    }

    /// Sends back whatever arrives.
    pub(crate) async fn serve_echo(&self, port: u16) {
        testing::serve_echo(&self.runtime, port).await;
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
        testing::echo(&mut self.0, bytes).await
    }
}

fn live_interface(choice: BackendChoice) -> Arc<Mutex<Option<WireGuardInterface>>> {
    let interface = WireGuardInterface::new("wh0".parse().unwrap(), choice).unwrap();
    Arc::new(Mutex::new(Some(interface)))
}
