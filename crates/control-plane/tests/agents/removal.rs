//! A node that has joined, by a tunnel of its own to the control plane's interface, until it is removed. Needs root.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use sqlx::PgPool;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use wisehosting_control_plane::{mesh, nodes::Role};
use wisehosting_network::{Backend, NamespaceRuntime, Netlink, NetworkNamespace, VethEnd};
use wisehosting_node::{
    config,
    mesh::{Member, Mesh, MeshConfig, PathTiming, PeerSets, PrivateKey, PublicKey, Sight},
};
use wisehosting_protocol::key::SigningKey;
use wisehosting_store::{
    MIGRATOR, PgConnection, changes,
    joined_nodes::{self, JoinedNode},
    pool,
};

use crate::platform::{PATIENCE, Platform, api_key, label};

/// Behind the control plane's interface.
const INSIDE: &str = "10.50.0.1:7000";
/// Long enough for an answer to a packet that nobody drops.
const SILENCE: Duration = Duration::from_millis(500);

/// A machine with an interface in the mesh.
struct Host {
    namespace: NetworkNamespace,
    runtime: NamespaceRuntime,
    folder: tempfile::TempDir,
    key: PublicKey,
}

impl Host {
    fn new() -> Self {
        let (namespace, folder) = (NetworkNamespace::create().unwrap(), tempfile::tempdir().unwrap());
        let key = PrivateKey::generate();
        key.write_new_file(&folder.path().join("key")).unwrap();
        let runtime = NamespaceRuntime::new(&namespace).unwrap();
        Self { namespace, runtime, folder, key: key.public_key() }
    }

    async fn start(&self, address: &str, peers: &str, member: Member) -> Mesh {
        #[derive(Deserialize)]
        struct Whole {
            mesh: MeshConfig,
        }
        let folder = self.folder.path().display();
        let text =
            format!("[mesh]\naddress = \"{address}/24\"\nprivate_key_file = \"{folder}/key\"\n{peers}");
        let Whole { mesh } = config::parse(Path::new("test.toml"), &text, []).unwrap();
        self.runtime.run(async move { Mesh::start(&mesh, member).await }).await.unwrap()
    }

    /// As a node that knows the hub alone.
    async fn start_node(&self, address: &str, hub: &Self) -> Mesh {
        let peer = format!(
            "[[mesh.peers]]\nname = \"hub\"\npublic_key = \"{}\"\nendpoint = \"198.51.100.1:51821\"\n\
             allowed_ips = [\"10.50.0.1/32\"]\n",
            hub.key
        );
        let (state_dir, sets) = (self.folder.path().to_owned(), PeerSets::default());
        self.start(address, &peer, Member::Node { state_dir, sets, timing: PathTiming::default() }).await
    }

    async fn reaches_inside(&self, patience: Duration) -> bool {
        let connect = async move { timeout(patience, TcpStream::connect(INSIDE)).await };
        matches!(self.runtime.run(connect).await, Ok(Ok(_)))
    }

    async fn stop(&self, mesh: Mesh) {
        let is_userspace = mesh.backend() == Backend::Userspace;
        self.runtime.run(mesh.stop()).await;
        let left = Netlink::inside(&self.namespace).unwrap().link("wh0").await.unwrap();
        assert!(!is_userspace || left.is_none(), "{left:?}");
    }
}

async fn wire(hub: &Host, node: &Host) {
    let ends = [hub, node].map(|host| VethEnd { name: "eth0", namespace: &host.namespace });
    Netlink::inside(&hub.namespace).unwrap().add_veth(ends[0], ends[1]).await.unwrap();
    for (host, address) in [(hub, "198.51.100.1/24"), (node, "198.51.100.9/24")] {
        let netlink = Netlink::inside(&host.namespace).unwrap();
        netlink.set_up("eth0").await.unwrap();
        netlink.add_address("eth0", address.parse().unwrap()).await.unwrap();
    }
}

fn node(platform: &Platform, name: &str, address: &str, public_key: [u8; 32]) -> JoinedNode {
    JoinedNode {
        name: label(name),
        role: Role::Worker,
        address: address.parse().unwrap(),
        public_key,
        api_key_sha256: *SigningKey::derive(&api_key(name)).as_bytes(),
        approved_public_key: None,
        joined_at: platform.state.clock.now(),
        removed_at: None,
    }
}

/// Changes who has joined, as an operator's command beside the program does.
async fn change(platform: &Platform, change: impl AsyncFnOnce(&mut PgConnection)) {
    let mut db = pool::begin(&platform.state.pool).await.unwrap();
    change(&mut db).await;
    pool::notify(&mut db, changes::NODES).await.unwrap();
    pool::commit(db).await.unwrap();
}

/// Of three removals the fastest counts: the machine may be busy, and a look now and then would be too slow for each.
#[sqlx::test(migrator = "MIGRATOR")]
async fn the_tunnel_of_a_node_that_is_removed_is_closed_within_a_second(pool: PgPool) {
    let platform = Platform::start(pool).await;
    let (hub, machine) = (Host::new(), Host::new());
    wire(&hub, &machine).await;
    let joined = PeerSets::default();
    let member = Member::Hub { joined: joined.clone(), pool: None };
    let of_hub = hub.start("10.50.0.1", "", member).await;
    let admitting = tokio::spawn(mesh::admit(platform.state.clone(), hub.key, joined));
    let nodes = [
        node(&platform, "worker-7", "10.50.0.131", [7; 32]),
        node(&platform, "worker-8", "10.50.0.132", [8; 32]),
        node(&platform, "worker-9", "10.50.0.130", *machine.key.as_bytes()),
    ];
    change(&platform, async |db| {
        for node in &nodes {
            joined_nodes::put(db, node).await.unwrap();
        }
    })
    .await;
    let mut sight = of_hub.sight();
    timeout(PATIENCE, sight.wait_for(|sight| sight.peers.len() == nodes.len())).await.unwrap().unwrap();
    let of_machine = machine.start_node("10.50.0.130", &hub).await;
    let _listener = hub.runtime.run(TcpListener::bind(INSIDE)).await.unwrap();
    assert!(machine.reaches_inside(PATIENCE).await);

    let mut took = Vec::new();
    for node in &nodes {
        let (begun, now) = (Instant::now(), platform.state.clock.now());
        change(&platform, async |db| joined_nodes::remove(db, &node.name, now).await.unwrap()).await;
        let is_gone = |sight: &Sight| sight.peers.iter().all(|peer| peer.name != node.name);
        timeout(PATIENCE, sight.wait_for(is_gone)).await.expect("it is in the mesh still").unwrap();
        took.push(begun.elapsed());
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "{took:?}");
    assert!(!machine.reaches_inside(SILENCE).await, "the tunnel is open");
    admitting.abort();
    machine.stop(of_machine).await;
    hub.stop(of_hub).await;
    platform.stop().await;
}
