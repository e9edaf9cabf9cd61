//! From a node's move to the last of thousands of nodes having been told of it.
//!
//! A real control plane with a mesh interface of its own, which hears a real proxy speak from another port. Each of the nodes
//! is a worker with its own signed channel, which is told of all proxies; none of them has an interface.

use std::{fmt::Write as _, net::UdpSocket, num::NonZeroU16, path::Path, time::Duration};

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use wisehosting_bench::{
    agent::{self, Agent},
    platform::{EDGE, Platform, crowd_member},
    report::Report,
    sample::Samples,
};
use wisehosting_network::{
    BackendChoice, InterfaceName, NamespaceRuntime, Netlink, NetworkNamespace, Peer, PrivateKey, PublicKey,
    WireGuardInterface,
    testing::{self, wire},
};

/// For a change to arrive everywhere.
const PATIENCE: Duration = Duration::from_secs(60);
const HUB: [u8; 4] = [198, 51, 100, 1];
const HUB_PORT: u16 = 51821;
/// To the proxy.
const WIRE: &str = "bench0";
/// From which the proxy speaks at first.
const FIRST_PORT: u16 = 52_000;

/// A set has come.
struct Told {
    /// Where the proxy is, by this set.
    port: Option<u16>,
    at: Instant,
    bytes: usize,
}

/// Moves the proxy `rounds` times.
pub(crate) async fn measure(crowd: u16, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let crowd = agent::at_most(crowd)?;
    let folder = TempDir::with_prefix("wisehosting-bench-")?;
    let (hub_key, proxy_key) = (PrivateKey::generate(), PrivateKey::generate());
    hub_key.write_new_file(&folder.path().join("key"))?;
    let mesh = mesh_config(folder.path(), crowd, &proxy_key.public_key())?;
    let mut proxy = Proxy::start(proxy_key, hub_key.public_key()).await?;
    let platform = Platform::start(crowd, &mesh).await?;
    let (told, mut telling) = mpsc::unbounded_channel();
    let mut agents = JoinSet::new();
    for agent in agent::connect(platform.internal(), crowd).await? {
        agents.spawn(listen(agent, told.clone()));
    }

    let [mut last, mut spread, mut bytes] = [(); 3].map(|()| Samples::new());
    let processor_before = platform.control_plane().processor_time()?;
    let begin = Instant::now();
    for port in (FIRST_PORT..).take(rounds + 1) {
        proxy.speak_from(port).await?;
        let moved = Instant::now();
        let (mut first_at, mut last_at, mut size) = (None, moved, 0);
        let mut missing = crowd;
        while missing > 0 {
            let told = timeout(PATIENCE, telling.recv()).await;
            let told: Told =
                told.with_context(|| format!("{missing} nodes are not told"))?.context("they ended")?;
            if told.port == Some(port) {
                first_at.get_or_insert(told.at);
                (last_at, size, missing) = (last_at.max(told.at), size + told.bytes, missing - 1);
            }
        }
        // The first is where it was found at all.
        if port > FIRST_PORT {
            last.push((last_at - moved).as_secs_f64() * 1e3);
            spread.push((last_at - first_at.unwrap_or(moved)).as_secs_f64() * 1e3);
            bytes.push(size as f64);
        }
    }
    Netlink::here()?.delete_link(WIRE).await?;
    let busy = (platform.control_plane().processor_time()? - processor_before).as_secs_f64();
    let each =
        |samples: &Samples| format!("p50 {:.0} ms  max {:.0} ms", samples.median(), samples.quantile(1.0));
    report.figure(format!("{crowd} nodes: move to last told"), each(&last));
    report.figure(format!("{crowd} nodes: first to last told"), each(&spread));
    report.figure(
        format!("{crowd} nodes: told, all together"),
        format!("{:.0} KB, {:.0} B each", bytes.median() / 1e3, bytes.median() / f64::from(crowd)),
    );
    report.figure(
        format!("{crowd} nodes: control plane meanwhile"),
        format!("{:.0} thousandths of a core", busy * 1e3 / begin.elapsed().as_secs_f64()),
    );
    Ok(())
}

async fn listen(mut agent: Agent, told: mpsc::UnboundedSender<Told>) -> anyhow::Result<()> {
    loop {
        let (set, at, bytes) = agent.next_peers().await?;
        let proxy = set.peers.iter().find(|peer| peer.name.as_str() == EDGE);
        let port = proxy.and_then(|proxy| Some(proxy.endpoint?.port()));
        told.send(Told { port, at, bytes })?;
    }
}

/// The control plane's own interface, with the proxy and a peer for each of the crowd.
fn mesh_config(folder: &Path, crowd: u16, proxy: &PublicKey) -> anyhow::Result<String> {
    let mut text = format!(
        "[mesh]\naddress = \"10.50.0.1/16\"\nlisten_port = {HUB_PORT}\nprivate_key_file = \"{}/key\"\n",
        folder.display()
    );
    let mut declare = |name: &str, key: &PublicKey, address: [u8; 2]| {
        let [high, low] = address;
        write!(
            text,
            "[[mesh.peers]]\nname = \"{name}\"\npublic_key = \"{key}\"\nallowed_ips = [\"10.50.{high}.{low}/32\"]\n"
        )
    };
    declare(EDGE, proxy, [0, 30])?;
    for number in 0..crowd {
        let key = PrivateKey::generate().public_key();
        declare(&crowd_member(number).0, &key, (number + 256).to_be_bytes())?;
    }
    Ok(text)
}

/// The proxy's interface, on a wire to this process's namespace.
struct Proxy {
    namespace: NetworkNamespace,
    runtime: NamespaceRuntime,
    interface: Option<WireGuardInterface>,
    key: PrivateKey,
    hub: Peer,
}

impl Proxy {
    async fn start(key: PrivateKey, hub: PublicKey) -> anyhow::Result<Self> {
        let (here, namespace) = (NetworkNamespace::current()?, NetworkNamespace::create()?);
        wire((&here, WIRE, "198.51.100.1/24"), (&namespace, "eth0", "198.51.100.30/24")).await;
        let runtime = NamespaceRuntime::new(&namespace)?;
        let name: InterfaceName = "wh0".parse()?;
        let made = runtime.run(async move { WireGuardInterface::new(name, BackendChoice::Auto) });
        let hub = Peer {
            endpoint: Some((HUB, HUB_PORT).into()),
            keepalive_s: NonZeroU16::new(1),
            ..testing::peer(hub, &["10.50.0.1/32"])
        };
        Ok(Self { interface: Some(made.await?), namespace, runtime, key, hub })
    }

    /// Goes on from another port, and says something.
    async fn speak_from(&mut self, port: u16) -> anyhow::Result<()> {
        let mut desired = testing::interface(30, self.key.clone(), vec![self.hub.clone()]);
        desired.listen_port = NonZeroU16::new(port).context("a port")?;
        let mut interface = self.interface.take().context("it is there")?;
        let reconciled = async move { interface.reconcile(&desired).await.map(|_| interface) };
        self.interface = Some(self.runtime.run(reconciled).await?);
        let socket = self.namespace.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.send_to(&[0], "10.50.0.1:9")?;
        Ok(())
    }
}
