//! Nodes that the control plane names, over real WireGuard in network namespaces: by the hub, directly, and back. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use serde::Deserialize;
use std::{io, net::SocketAddr, num::NonZeroU16, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};
use wisehosting_network::{
    Backend, NamespaceRuntime, Netlink, NetworkError, NetworkNamespace, PrivateKey, PublicKey, VethEnd,
    WireGuardInterface,
};
use wisehosting_node::{
    channel::memory::{self, FarEnd},
    config,
    mesh::{Member, Mesh, MeshConfig, PathTiming, PeerSets, Sight, report},
};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{MeshLink, MeshPath, MeshPeer, MeshPeers},
};

const HUB: u8 = 1;
const WORKER: u8 = 11;
const PROXY: u8 = 30;
const ECHO: &str = "10.50.0.11:7000";
const MEBIBYTE: usize = 1 << 20;
/// Longer than any change takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Long enough for an answer to a packet that nobody drops.
const SILENCE: Duration = Duration::from_millis(500);
/// As short as keepalives can be apart.
const TIMING: PathTiming = PathTiming {
    keepalive_s: NonZeroU16::MIN,
    silence_max: Duration::from_secs(4),
    rest: Duration::from_secs(9),
};

#[derive(Deserialize)]
struct Whole {
    mesh: MeshConfig,
}

struct Host {
    number: u8,
    namespace: NetworkNamespace,
    runtime: NamespaceRuntime,
    netlink: Netlink,
    folder: tempfile::TempDir,
    public_key: PublicKey,
    sets: PeerSets,
    mesh: Option<Mesh>,
}

impl Host {
    fn new(number: u8) -> Self {
        let namespace = NetworkNamespace::create().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate();
        key.write_new_file(&folder.path().join("key")).unwrap();
        Self {
            number,
            runtime: NamespaceRuntime::new(&namespace).unwrap(),
            netlink: Netlink::inside(&namespace).unwrap(),
            namespace,
            folder,
            public_key: key.public_key(),
            sets: PeerSets::default(),
            mesh: None,
        }
    }

    /// Joins the mesh with these peers: each with its endpoint and its networks.
    async fn start(&mut self, backend: Backend, peers: &[(&Host, &str, &str)]) {
        let mut text = format!(
            "[mesh]\naddress = \"10.50.0.{}/24\"\nbackend = \"{backend}\"\nprivate_key_file = \"{}/key\"\n",
            self.number,
            self.folder.path().display()
        );
        for (peer, endpoint, networks) in peers {
            text += &format!(
                "[[mesh.peers]]\nname = \"host-{}\"\npublic_key = \"{}\"\nendpoint = \"{endpoint}:51821\"\nallowed_ips = [{networks}]\n",
                peer.number, peer.public_key
            );
        }
        let Whole { mesh } = config::parse(Path::new("x.toml"), &text, []).unwrap();
        let member = match self.number {
            HUB => Member::Hub,
            _ => Member::Node {
                state_dir: self.folder.path().to_owned(),
                sets: self.sets.clone(),
                timing: TIMING,
            },
        };
        self.mesh = Some(self.runtime.run(async move { Mesh::start(&mesh, member).await }).await.unwrap());
    }

    /// Ends as a program does, and forgets what it was told.
    async fn stop(&mut self) {
        self.runtime.run(self.mesh.take().unwrap().stop()).await;
        self.sets = PeerSets::default();
    }

    /// How the control plane names it to others, who find it on the link between them.
    fn named(&self) -> MeshPeer {
        MeshPeer {
            name: format!("host-{}", self.number).parse().unwrap(),
            public_key: self.public_key.to_string(),
            address: format!("10.50.0.{}", self.number).parse().unwrap(),
            endpoint: Some(SocketAddr::from(([203, 0, 113, self.number], 51821))),
        }
    }

    /// Waits until this host sees the other one as asked.
    async fn sees(&self, other: &Host, is_so: impl Fn(Option<bool>) -> bool) -> Sight {
        let mut sight: watch::Receiver<Sight> = self.mesh.as_ref().unwrap().sight();
        let so = |sight: &Sight| {
            is_so(sight.peers.iter().find(|peer| peer.public_key == other.public_key).map(|peer| peer.direct))
        };
        let seen = timeout(PATIENCE, sight.wait_for(so)).await.expect("the way did not change").unwrap();
        seen.clone()
    }

    async fn serve_echo(&self) {
        let listener = self.runtime.run(TcpListener::bind("0.0.0.0:7000")).await.unwrap();
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

    async fn connect(&self, to: &str, patience: Duration) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.runtime.run(async move { timeout(patience, TcpStream::connect(to)).await }).await?
    }
}

/// Sends a mebibyte and reads it back.
async fn echo(stream: &mut TcpStream) {
    let sent: Vec<u8> = (0..MEBIBYTE).map(|position| (position % 251) as u8).collect();
    let mut back = vec![0; sent.len()];
    let (mut reading, mut writing) = stream.split();
    let both = async { tokio::try_join!(writing.write_all(&sent), reading.read_exact(&mut back)) };
    timeout(PATIENCE, both).await.expect("a transfer took too long").unwrap();
    assert!(back == sent, "the bytes that came back are others");
}

/// A wire between two hosts, with their addresses in this network.
async fn wire(a: &Host, b: &Host, name: &str, network: &str) {
    let ends = [a, b].map(|host| VethEnd { name, namespace: &host.namespace });
    a.netlink.add_veth(ends[0], ends[1]).await.unwrap();
    for host in [a, b] {
        host.netlink.set_up(name).await.unwrap();
        let address = format!("{network}.{}/24", host.number);
        host.netlink.add_address(name, address.parse().unwrap()).await.unwrap();
    }
}

/// What a host says of the other, once it goes this way.
async fn said_of(other: &Host, path: MeshPath, far_end: &mut FarEnd) -> MeshLink {
    let name = other.named().name;
    loop {
        let sent = timeout(PATIENCE, far_end.sent.recv()).await.expect("it says nothing").unwrap();
        let AgentMessage::MeshStatus(status) = sent else { panic!("{sent:?}") };
        assert_eq!((status.generation, status.mtu), (Some(1), 1420));
        if let Some(link) = status.links.into_iter().find(|link| link.name == name && link.path == path) {
            return link;
        }
    }
}

fn set(generation: u64, hub: &Host, peers: &[&Host]) -> MeshPeers {
    let peers = peers.iter().map(|peer| peer.named()).collect();
    MeshPeers { generation, hub: hub.public_key.to_string(), peers }
}

/// A hub, a worker and a proxy that each know the hub alone, and are wired to the hub alone.
async fn three(backend: Backend) -> [Host; 3] {
    let [mut hub, mut worker, mut proxy] = [HUB, WORKER, PROXY].map(Host::new);
    wire(&hub, &worker, "to-worker", "198.51.100").await;
    wire(&hub, &proxy, "to-proxy", "198.51.101").await;
    let known =
        [(&worker, "198.51.100.11", "\"10.50.0.11/32\""), (&proxy, "198.51.101.30", "\"10.50.0.30/32\"")];
    hub.start(backend, &known).await;
    worker.start(backend, &[(&hub, "198.51.100.1", "\"10.50.0.1/32\"")]).await;
    // It would go anywhere by the hub.
    proxy.start(backend, &[(&hub, "198.51.101.1", "\"10.50.0.1/32\", \"198.51.100.0/24\"")]).await;
    worker.serve_echo().await;
    [hub, worker, proxy]
}

async fn goes_by_the_hub_then_directly_and_back(backend: Backend) {
    let [hub, mut worker, proxy] = three(backend).await;
    worker.sets.put(set(1, &hub, &[&proxy]));
    proxy.sets.put(set(1, &hub, &[&worker]));
    proxy.sees(&worker, |direct| direct == Some(false)).await;
    worker.sees(&proxy, |direct| direct == Some(false)).await;
    let mut connection = proxy.connect(ECHO, PATIENCE).await.unwrap();
    echo(&mut connection).await;
    let (channel, _events, mut far_end) = memory::channel();
    proxy
        .runtime
        .run({
            let sight = proxy.mesh.as_ref().unwrap().sight();
            async move { drop(tokio::spawn(report(sight, channel))) }
        })
        .await;
    let said = said_of(&worker, MeshPath::Hub, &mut far_end).await;
    assert_eq!(said.handshake_age_ms, None, "there is no wire between them");
    assert!(said.round_trip_us.is_some(), "the worker is there");

    wire(&worker, &proxy, "direct", "203.0.113").await;
    proxy.sees(&worker, |direct| direct == Some(true)).await;
    worker.sees(&proxy, |direct| direct == Some(true)).await;
    echo(&mut connection).await;
    let said = said_of(&worker, MeshPath::Direct, &mut far_end).await;
    assert!(said.handshake_age_ms.is_some() && said.received_bytes > 0, "{said:?}");
    let own_peer = |sight: &Sight| {
        let peer = sight.peers.iter().find(|peer| peer.public_key == worker.public_key);
        peer.and_then(|peer| peer.status.clone()).is_some_and(|status| status.rx_bytes > MEBIBYTE as u64)
    };
    let mut sight = proxy.mesh.as_ref().unwrap().sight();
    timeout(PATIENCE, sight.wait_for(own_peer)).await.expect("the transfer went another way").unwrap();

    worker.netlink.delete_link("direct").await.unwrap();
    proxy.sees(&worker, |direct| direct == Some(false)).await;
    worker.sees(&proxy, |direct| direct == Some(false)).await;
    echo(&mut connection).await;
    drop(connection);

    // Nobody says anything from now on.
    worker.stop().await;
    worker.start(backend, &[(&hub, "198.51.100.1", "\"10.50.0.1/32\"")]).await;
    assert_eq!(worker.mesh.as_ref().unwrap().sight().borrow().generation, Some(1));
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
}

async fn a_node_that_is_named_no_longer_is_gone(backend: Backend) {
    let [hub, worker, proxy] = three(backend).await;
    worker.sets.put(set(1, &hub, &[&proxy]));
    proxy.sets.put(set(1, &hub, &[&worker]));
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    worker.sets.put(set(2, &hub, &[]));
    worker.sees(&proxy, |direct| direct.is_none()).await;
    proxy.connect(ECHO, SILENCE).await.unwrap_err();
}

async fn a_hub_leads_into_the_mesh_only(backend: Backend) {
    let [hub, worker, proxy] = three(backend).await;
    let outside = worker.runtime.run(UdpSocket::bind("198.51.100.11:7001")).await.unwrap();
    let mut taken = [0; 8];
    for (from, arrives) in [(&hub, true), (&proxy, false)] {
        let socket = from.runtime.run(UdpSocket::bind("0.0.0.0:0")).await.unwrap();
        socket.send_to(b"leaked", "198.51.100.11:7001").await.unwrap();
        let patience = if arrives { PATIENCE } else { SILENCE };
        assert_eq!(timeout(patience, outside.recv(&mut taken)).await.is_ok(), arrives);
    }
}

macro_rules! on_both_backends {
    ($($name:ident),+) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn userspace() {
                super::$name(Backend::Userspace).await;
            }

            #[tokio::test]
            async fn kernel() {
                if kernel_has_wireguard().await {
                    super::$name(Backend::Kernel).await;
                }
            }
        }
    )+};
}

on_both_backends!(
    goes_by_the_hub_then_directly_and_back,
    a_node_that_is_named_no_longer_is_gone,
    a_hub_leads_into_the_mesh_only
);

async fn kernel_has_wireguard() -> bool {
    let host = Host::new(99);
    let opened = host.runtime.run(async {
        let mut interface = WireGuardInterface::new("wh0".parse().unwrap(), Backend::Kernel.into())?;
        interface.open().await?;
        interface.close().await
    });
    match opened.await {
        Ok(()) => true,
        Err(NetworkError::NotSupported { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}
