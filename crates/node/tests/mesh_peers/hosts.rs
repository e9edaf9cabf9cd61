//! A hub, a worker with a container and a proxy, each a namespace with a mesh interface of its own.

use serde::Deserialize;
use std::{fs, io, net::SocketAddr, num::NonZeroU16, path::Path, time::Duration};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use wisehosting_network::{
    Backend, NamespaceRuntime, Netlink, NetworkNamespace, PrivateKey, PublicKey,
    testing::{self, pattern, serve_echo},
};
use wisehosting_node::{
    config,
    mesh::{Member, Mesh, MeshConfig, PathTiming, PeerSets, PeerStatus, Sight},
};
use wisehosting_protocol::payload::{MeshPeer, MeshPeers};

pub(crate) const HUB: u8 = 1;
pub(crate) const WORKER: u8 = 11;
pub(crate) const PROXY: u8 = 30;
/// Of the worker's container.
pub(crate) const ECHO: &str = "10.50.0.11:7000";
pub(crate) const MEBIBYTE: usize = 1 << 20;
/// Longer than any change takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
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

pub(crate) struct Host {
    number: u8,
    namespace: NetworkNamespace,
    pub(crate) runtime: NamespaceRuntime,
    pub(crate) netlink: Netlink,
    folder: tempfile::TempDir,
    pub(crate) public_key: PublicKey,
    others: OtherKeys,
    pub(crate) sets: PeerSets,
    pub(crate) mesh: Option<Mesh>,
}

/// What others know of a host's keys beside the one that it has.
#[derive(Clone, Copy, Default)]
struct OtherKeys {
    /// Declared, or told, to others as the key that it changes to.
    next: Option<PublicKey>,
    /// What others joined it by: all that their configurations ever have of its keys.
    joined_by: Option<PublicKey>,
}

impl Host {
    pub(crate) fn new(number: u8) -> Self {
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
            others: OtherKeys::default(),
            sets: PeerSets::default(),
            mesh: None,
        }
    }

    /// Makes the key that it will change to.
    pub(crate) fn make_next_key(&mut self) {
        let key = PrivateKey::generate();
        key.write_new_file(&self.folder.path().join("next")).unwrap();
        self.others.next = Some(key.public_key());
    }

    /// Lets others have joined it: they hear of its other keys from nobody but the control plane.
    pub(crate) fn is_joined(&mut self) {
        self.others.joined_by = Some(self.public_key);
    }

    /// Takes the next key for its own, from the next start on.
    pub(crate) fn change_key(&mut self) {
        fs::rename(self.folder.path().join("next"), self.folder.path().join("key")).unwrap();
        self.public_key = self.others.next.take().unwrap();
    }

    /// Joins the mesh with these peers: each with its endpoint and its networks.
    pub(crate) async fn start(&mut self, backend: Backend, peers: &[(&Self, &str, &str)]) {
        let mut text = format!(
            "[mesh]\naddress = \"10.50.0.{}/24\"\nbackend = \"{backend}\"\nprivate_key_file = \"{}/key\"\n",
            self.number,
            self.folder.path().display()
        );
        for (peer, endpoint, networks) in peers {
            let OtherKeys { next, joined_by } = peer.others;
            let key = joined_by.unwrap_or(peer.public_key);
            text += &format!(
                "[[mesh.peers]]\nname = \"host-{}\"\npublic_key = \"{key}\"\nendpoint = \"{endpoint}:51821\"\nallowed_ips = [{networks}]\n",
                peer.number
            );
            if let Some(next) = next.filter(|_| joined_by.is_none()) {
                text += &format!("next_public_key = \"{next}\"\n");
            }
        }
        let Whole { mesh } = config::parse(Path::new("x.toml"), &text, []).unwrap();
        let member = match self.number {
            HUB => Member::Hub { joined: self.sets.clone(), pool: None },
            _ => Member::Node {
                state_dir: self.folder.path().to_owned(),
                sets: self.sets.clone(),
                timing: TIMING,
            },
        };
        self.mesh = Some(self.runtime.run(async move { Mesh::start(&mesh, member).await }).await.unwrap());
        if self.number == WORKER {
            self.netlink.set_ipv4_routing("wh0", true).await.unwrap();
        }
    }

    /// Ends as a program does, and forgets what it was told.
    pub(crate) async fn stop(&mut self) {
        self.runtime.run(self.mesh.take().unwrap().stop()).await;
        self.sets = PeerSets::default();
    }

    /// How the control plane names it to others, who find it on the link between them.
    pub(crate) fn named(&self) -> MeshPeer {
        MeshPeer {
            name: format!("host-{}", self.number).parse().unwrap(),
            public_key: self.public_key.to_string(),
            address: format!("10.50.0.{}", self.number).parse().unwrap(),
            endpoint: Some(SocketAddr::from(([203, 0, 113, self.number], 51821))),
        }
    }

    /// Waits until this host sees the other one, by the key that it has now, as asked.
    pub(crate) async fn sees(&self, other: &Self, is_so: impl Fn(Option<bool>) -> bool) -> Sight {
        let mut sight: watch::Receiver<Sight> = self.mesh.as_ref().unwrap().sight();
        let so = |sight: &Sight| {
            is_so(sight.peers.iter().find(|peer| peer.public_key == other.public_key).map(|peer| peer.direct))
        };
        let seen = timeout(PATIENCE, sight.wait_for(so)).await.expect("the way did not change").unwrap();
        seen.clone()
    }

    /// Waits until this host goes by the set of this generation.
    pub(crate) async fn goes_by(&self, generation: u64) {
        let mut sight = self.mesh.as_ref().unwrap().sight();
        let so = |sight: &Sight| sight.generation == Some(generation);
        timeout(PATIENCE, sight.wait_for(so)).await.expect("it does not take what it is told").unwrap();
    }

    /// Waits until this host goes by something that it cannot follow in full.
    pub(crate) async fn does_not_say_that_it_knows(&self) {
        let mut sight = self.mesh.as_ref().unwrap().sight();
        let so = |sight: &Sight| sight.generation.is_none();
        timeout(PATIENCE, sight.wait_for(so)).await.expect("it takes what it must not").unwrap();
    }

    /// Waits until this host has heard the other one, who speaks first.
    pub(crate) async fn hears(&self, other: &Self) {
        let mut sight = self.mesh.as_ref().unwrap().sight();
        let is_alive = |sight: &Sight| {
            let peer = sight.peers.iter().find(|peer| peer.public_key == other.public_key);
            peer.and_then(|peer| peer.status.as_ref()).is_some_and(PeerStatus::is_alive)
        };
        timeout(PATIENCE, sight.wait_for(is_alive)).await.expect("it says nothing").unwrap();
    }

    /// Waits until all that this host looks after was looked at once more.
    pub(crate) async fn looks_again(&self) {
        let mut sight = self.mesh.as_ref().unwrap().sight();
        sight.mark_unchanged();
        // A look that is under way may have passed what has just changed, and tells of itself before it is done.
        for _ in 0..3 {
            timeout(PATIENCE, sight.changed()).await.expect("it looks no longer").unwrap();
        }
    }

    pub(crate) async fn connect(&self, to: &str, patience: Duration) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.runtime.run(async move { timeout(patience, TcpStream::connect(to)).await }).await?
    }

    pub(crate) fn nft(&self, command: &str) -> String {
        testing::nft(&self.namespace, command)
    }

    /// A container that sends back what it gets, published as engines do it. Its link is wider than the mesh.
    async fn publish_echo(&self) -> NamespaceRuntime {
        let container = NetworkNamespace::create().unwrap();
        testing::wire((&self.namespace, "ctr0", "10.88.0.1/24"), (&container, "eth0", "10.88.0.2/24")).await;
        let inside = Netlink::inside(&container).unwrap();
        inside.add_default_route("10.88.0.1".parse().unwrap()).await.unwrap();
        self.netlink.set_ipv4_routing("ctr0", true).await.unwrap();
        self.nft("add table ip published");
        self.nft("add chain ip published in { type nat hook prerouting priority dstnat; }");
        self.nft("add rule ip published in ip daddr 10.50.0.11 tcp dport 7000 dnat to 10.88.0.2");
        let runtime = NamespaceRuntime::new(&container).unwrap();
        serve_echo(&runtime, 7000).await;
        runtime
    }
}

/// Sends a mebibyte and reads it back.
pub(crate) async fn echo(stream: &mut TcpStream) {
    let sent = pattern(MEBIBYTE);
    let back =
        testing::echo(stream, &sent).await.expect("the connection breaks, or a transfer takes too long");
    assert!(back == sent, "the bytes that came back are others");
}

/// A wire between two hosts, with their addresses in this network.
pub(crate) async fn wire(a: &Host, b: &Host, name: &str, network: &str) {
    let addresses = [a, b].map(|host| format!("{network}.{}/24", host.number));
    testing::wire((&a.namespace, name, &addresses[0]), (&b.namespace, name, &addresses[1])).await;
}

pub(crate) fn set(generation: u64, hub: &Host, peers: &[&Host]) -> MeshPeers {
    let peers = peers.iter().map(|peer| peer.named()).collect();
    MeshPeers { generation, hub: hub.public_key.to_string(), next_hub: next_of(hub), peers }
}

fn next_of(hub: &Host) -> Option<String> {
    hub.others.next.map(|key| key.to_string())
}

/// A hub, a worker and a proxy that each know the hub alone, and are wired to the hub alone.
pub(crate) struct Three {
    pub(crate) hub: Host,
    pub(crate) worker: Host,
    pub(crate) proxy: Host,
    /// Whether the worker has joined; else the hub's configuration has it.
    worker_has_joined: bool,
    backend: Backend,
    _container: NamespaceRuntime,
}

impl Three {
    /// `prepare` is done before anybody knows anybody.
    pub(crate) async fn start(backend: Backend, prepare: impl FnOnce([&mut Host; 3])) -> Self {
        Self::start_with(backend, false, prepare).await
    }

    /// The same, with a worker that may have joined.
    pub(crate) async fn start_with(
        backend: Backend,
        worker_has_joined: bool,
        prepare: impl FnOnce([&mut Host; 3]),
    ) -> Self {
        let [mut hub, mut worker, mut proxy] = [HUB, WORKER, PROXY].map(Host::new);
        prepare([&mut hub, &mut worker, &mut proxy]);
        wire(&hub, &worker, "to-worker", "198.51.100").await;
        wire(&hub, &proxy, "to-proxy", "198.51.101").await;
        let container = worker.publish_echo().await;
        let mut three = Self { hub, worker, proxy, worker_has_joined, backend, _container: container };
        three.start_hub().await;
        three.start_worker().await;
        three.start_proxy().await;
        three
    }

    pub(crate) async fn start_hub(&mut self) {
        let known = [
            (&self.worker, "198.51.100.11", "\"10.50.0.11/32\""),
            (&self.proxy, "198.51.101.30", "\"10.50.0.30/32\""),
        ];
        let declared = &known[usize::from(self.worker_has_joined)..];
        self.hub.start(self.backend, declared).await;
    }

    /// Names the worker to the hub, as one that has joined and speaks first, with the key that it changes to.
    pub(crate) fn admit_worker(&self, generation: u64) {
        let worker = &self.worker;
        let peers = vec![MeshPeer { endpoint: None, ..worker.named() }];
        let told = MeshPeers { generation, hub: self.hub.public_key.to_string(), next_hub: None, peers };
        let next = worker.others.next.map(|next| (worker.public_key, next));
        self.hub.sets.put_with_next_keys(told, next.into_iter().collect());
    }

    pub(crate) async fn start_worker(&mut self) {
        self.worker.start(self.backend, &[(&self.hub, "198.51.100.1", "\"10.50.0.1/32\"")]).await;
    }

    pub(crate) async fn start_proxy(&mut self) {
        // It would go anywhere by the hub.
        let networks = "\"10.50.0.1/32\", \"198.51.100.0/24\"";
        self.proxy.start(self.backend, &[(&self.hub, "198.51.101.1", networks)]).await;
    }

    /// Ends the control plane's program and starts it with its next key, which nobody is told anew.
    pub(crate) async fn change_key_of_hub(&mut self) {
        self.hub.stop().await;
        self.hub.change_key();
        self.start_hub().await;
    }

    /// Names the worker and the proxy to each other.
    pub(crate) fn introduce(&self, generation: u64) {
        self.worker.sets.put(set(generation, &self.hub, &[&self.proxy]));
        self.proxy.sets.put(set(generation, &self.hub, &[&self.worker]));
    }

    /// Lays a network between worker and proxy, with a router that has a link of so many bytes to the proxy and says so to who
    /// sends more.
    pub(crate) async fn route_between(&self, mtu: u32) -> NetworkNamespace {
        let router = NetworkNamespace::create().unwrap();
        let of_router = Netlink::inside(&router).unwrap();
        for (host, gateway) in [(&self.worker, 1), (&self.proxy, 17)] {
            let (name, own) = (format!("to-{}", host.number), format!("203.0.113.{}/28", host.number));
            let other = format!("203.0.113.{gateway}/28");
            testing::wire((&host.namespace, "direct", &own), (&router, &name, &other)).await;
            host.netlink.add_default_route(format!("203.0.113.{gateway}").parse().unwrap()).await.unwrap();
            of_router.set_ipv4_routing(&name, true).await.unwrap();
        }
        of_router.set_mtu("to-30", mtu).await.unwrap();
        self.proxy.netlink.set_mtu("direct", mtu).await.unwrap();
        router
    }

    /// Waits until both see each other, directly or by the hub.
    pub(crate) async fn go(&self, directly: bool) {
        self.proxy.sees(&self.worker, |direct| direct == Some(directly)).await;
        self.worker.sees(&self.proxy, |direct| direct == Some(directly)).await;
    }

    /// Ends all three, and asserts that nothing of theirs is left but what the kernel is to keep.
    pub(crate) async fn end(mut self) {
        for host in [&mut self.hub, &mut self.worker, &mut self.proxy] {
            host.stop().await;
            if self.backend == Backend::Userspace {
                assert_eq!(host.netlink.link("wh0").await.unwrap(), None);
                assert!(!host.nft("list tables").contains("wisehosting"));
            }
        }
    }
}
