//! What a TCP connection carries over the mesh, by the hub and directly, beside a plain tunnel of two hosts.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use tempfile::TempDir;
use wisehosting_bench::{report::Report, sample::Samples, transfer::transfer};
use wisehosting_network::{
    Backend, NamespaceRuntime, NetworkNamespace, Peer, PrivateKey, PublicKey, WireGuardInterface,
    testing::{self, wire},
};
use wisehosting_node::{
    config,
    mesh::{Member, Mesh, MeshConfig, PathTiming, PeerSets, PeerSight, Sight},
};
use wisehosting_protocol::payload::{MeshPeer, MeshPeers};

const SETTLE: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_secs(1);
const HUB: u8 = 1;
const WORKER: u8 = 11;
const PROXY: u8 = 30;
const TARGET: &str = "10.50.0.11:7000";

/// Carries in turns, `rounds` times.
pub(crate) async fn measure(backend: Backend, rounds: usize) -> anyhow::Result<Report> {
    let bare = Bare::start(backend).await?;
    let (by_hub, direct) = (Trio::start(backend, false).await?, Trio::start(backend, true).await?);
    let [mut plain, mut hub, mut straight] = [(); 3].map(|()| Samples::new());
    for _ in 0..rounds {
        plain.push(carried(&bare.hosts[1], &bare.hosts[0]).await?);
        straight.push(carried(&direct.proxy.namespace, &direct.worker.namespace).await?);
        hub.push(carried(&by_hub.proxy.namespace, &by_hub.worker.namespace).await?);
    }
    let removed = direct.remove_proxy().await?;
    for trio in [by_hub, direct] {
        trio.end().await;
    }
    let mut report = Report::new(&format!(
        "tunnels: what they carry / what a plain tunnel of two hosts does, median of {rounds} rounds, {backend} WireGuard"
    ));
    report.figure("a plain tunnel", format!("{:.0} Mbit/s", plain.median() / 1e6));
    for (name, samples) in [("directly", &straight), ("by the hub", &hub)] {
        let (ratio, rate) = (samples.median_ratio(&plain), samples.median() / 1e6);
        report.figure(name, format!("{ratio:.2} ({rate:.0} Mbit/s)"));
    }
    let removed_ms = removed.as_secs_f64() * 1e3;
    report.goal(
        "a node is named no longer, until it is out",
        format!("{removed_ms:.1} ms"),
        "<= 1 s",
        removed_ms <= 1e3,
    );
    Ok(report)
}

/// Bits per second.
async fn carried(from: &NetworkNamespace, to: &NetworkNamespace) -> anyhow::Result<f64> {
    let (from, to) = (from.clone(), to.clone());
    tokio::task::spawn_blocking(move || transfer(&from, &to, TARGET, SETTLE, MEASURE)).await?
}

/// Two interfaces that know each other, and nothing that looks after them.
struct Bare {
    hosts: [NetworkNamespace; 2],
    _kept: Vec<(WireGuardInterface, NamespaceRuntime)>,
}

impl Bare {
    async fn start(backend: Backend) -> anyhow::Result<Self> {
        let hosts = [NetworkNamespace::create()?, NetworkNamespace::create()?];
        wire((&hosts[0], "eth0", "198.51.100.11/24"), (&hosts[1], "eth0", "198.51.100.30/24")).await;
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let mut kept = Vec::new();
        for (own, other, number, other_number) in [(0, 1, WORKER, PROXY), (1, 0, PROXY, WORKER)] {
            let peer = Peer {
                endpoint: Some(([198, 51, 100, other_number], 51821).into()),
                ..testing::peer(keys[other].public_key(), &[&format!("10.50.0.{other_number}/32")])
            };
            let desired = testing::interface(number, keys[own].clone(), vec![peer]);
            let runtime = NamespaceRuntime::new(&hosts[own])?;
            let made = runtime.run(async move {
                let mut interface = WireGuardInterface::new(desired.name.clone(), backend.into())?;
                interface.reconcile(&desired).await?;
                anyhow::Ok(interface)
            });
            kept.push((made.await?, runtime));
        }
        Ok(Self { hosts, _kept: kept })
    }
}

/// A hub, a worker and a proxy as the programs make them, the latter two with a wire of their own or without.
struct Trio {
    hub: Host,
    worker: Host,
    proxy: Host,
    _folder: TempDir,
}

impl Trio {
    async fn start(backend: Backend, directly: bool) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("wisehosting-bench-")?;
        let [mut hub, mut worker, mut proxy] = [
            Host::new(HUB, folder.path())?,
            Host::new(WORKER, folder.path())?,
            Host::new(PROXY, folder.path())?,
        ];
        lay(&hub, &worker, "hub", "198.51.100").await;
        lay(&hub, &proxy, "hub2", "198.51.101").await;
        if directly {
            lay(&worker, &proxy, "direct", "203.0.113").await;
        }
        hub.start(backend, folder.path(), &[(&worker, "198.51.100"), (&proxy, "198.51.101")]).await?;
        worker.start(backend, folder.path(), &[(&hub, "198.51.100")]).await?;
        proxy.start(backend, folder.path(), &[(&hub, "198.51.101")]).await?;
        for (to, of) in [(&worker, &proxy), (&proxy, &worker)] {
            let (hub, peers) = (hub.public_key.to_string(), vec![of.named()?]);
            to.sets.put(MeshPeers { generation: 1, hub, next_hub: None, peers });
        }
        for (from, to) in [(&worker, &proxy), (&proxy, &worker)] {
            let Some(mesh) = &from.mesh else { continue };
            let goes_so = |peer: &PeerSight| peer.public_key == to.public_key && peer.direct == directly;
            mesh.sight().wait_for(|sight| sight.peers.iter().any(goes_so)).await?;
        }
        Ok(Self { hub, worker, proxy, _folder: folder })
    }

    /// How long the worker takes to have nothing to do with the proxy, once it is told.
    async fn remove_proxy(&self) -> anyhow::Result<Duration> {
        let mesh = self.worker.mesh.as_ref().context("it is in the mesh")?;
        let begin = Instant::now();
        let hub = self.hub.public_key.to_string();
        self.worker.sets.put(MeshPeers { generation: 2, hub, next_hub: None, peers: Vec::new() });
        let knows = |sight: &Sight| sight.peers.iter().any(|peer| peer.public_key == self.proxy.public_key);
        mesh.sight().wait_for(|sight| !knows(sight)).await?;
        Ok(begin.elapsed())
    }

    async fn end(self) {
        for host in [self.hub, self.worker, self.proxy] {
            if let Some(mesh) = host.mesh {
                host.runtime.run(mesh.stop()).await;
            }
        }
    }
}

async fn lay(a: &Host, b: &Host, name: &str, network: &str) {
    let [at_a, at_b] = [a, b].map(|host| format!("{network}.{}/24", host.number));
    wire((&a.namespace, name, &at_a), (&b.namespace, name, &at_b)).await;
}

struct Host {
    number: u8,
    namespace: NetworkNamespace,
    runtime: NamespaceRuntime,
    public_key: PublicKey,
    sets: PeerSets,
    mesh: Option<Mesh>,
}

#[derive(Deserialize)]
struct Whole {
    mesh: MeshConfig,
}

impl Host {
    fn new(number: u8, folder: &Path) -> anyhow::Result<Self> {
        let (namespace, key) = (NetworkNamespace::create()?, PrivateKey::generate());
        key.write_new_file(&folder.join(format!("key-{number}")))?;
        let runtime = NamespaceRuntime::new(&namespace)?;
        let (public_key, sets) = (key.public_key(), PeerSets::default());
        Ok(Self { number, namespace, runtime, public_key, sets, mesh: None })
    }

    /// Joins the mesh with these peers, each in the network of the wire to it.
    async fn start(
        &mut self,
        backend: Backend,
        folder: &Path,
        peers: &[(&Self, &str)],
    ) -> anyhow::Result<()> {
        let (number, folder) = (self.number, folder.display());
        let mut text = format!(
            "[mesh]\naddress = \"10.50.0.{number}/24\"\nbackend = \"{backend}\"\nprivate_key_file = \"{folder}/key-{number}\"\n"
        );
        for (Self { number, public_key, .. }, network) in peers {
            write!(
                text,
                "[[mesh.peers]]\nname = \"host-{number}\"\npublic_key = \"{public_key}\"\n\
                 endpoint = \"{network}.{number}:51821\"\nallowed_ips = [\"10.50.0.{number}/32\"]\n"
            )?;
        }
        let Whole { mesh } = config::parse(Path::new("mesh.toml"), &text, [])?;
        let state_dir = Path::new(&folder.to_string()).join(format!("state-{number}"));
        fs::create_dir_all(&state_dir)?;
        let member = match number {
            HUB => Member::hub(),
            _ => Member::Node { state_dir, sets: self.sets.clone(), timing: PathTiming::default() },
        };
        self.mesh = Some(self.runtime.run(async move { Mesh::start(&mesh, member).await }).await?);
        Ok(())
    }

    fn named(&self) -> anyhow::Result<MeshPeer> {
        Ok(MeshPeer {
            name: format!("host-{}", self.number).parse()?,
            public_key: self.public_key.to_string(),
            address: [10, 50, 0, self.number].into(),
            endpoint: Some(([203, 0, 113, self.number], 51821).into()),
        })
    }
}
