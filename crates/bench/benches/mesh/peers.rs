//! Many peers set by us, and by `wg` from a file.
//!
//! Each has an interface of the same backend. Ours begins with what is desired and ends when the interface was seen to be
//! so; the program's side is its start, its work and its end. Who has the file beforehand is not asked to write it.

use std::{
    fmt::Write as _,
    fs,
    num::NonZeroU16,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use wisehosting_bench::{report::Report, sample::Samples};
use wisehosting_network::{
    Backend, Interface, InterfaceName, NamespaceRuntime, NetworkNamespace, Peer, PrivateKey,
    WireGuardInterface, testing,
};

const PEERS: u16 = 1_000;
/// As long as `wg` can tell it from an interface of somebody else.
const NAME: &str = "whbench0";

/// Sets them `rounds` times on both sides.
pub(crate) async fn measure(backend: Backend, rounds: usize) -> anyhow::Result<Report> {
    let folder = TempDir::with_prefix("wisehosting-bench-")?;
    let mut ours = Ours::start(backend).await?;
    let program = Program::start(backend).await?;
    let none = testing::interface(1, PrivateKey::generate(), Vec::new());
    let all = Interface { peers: (0..PEERS).map(peer).collect(), ..none.clone() };
    let mut changed = all.clone();
    changed.peers[0].allowed_ips.push("10.61.0.0/16".parse()?);
    let files = ["none", "all", "changed"].map(|name| folder.path().join(name));
    for (file, interface) in files.iter().zip([&none, &all, &changed]) {
        fs::write(file, config_of(interface))?;
    }
    let [none_file, all_file, changed_file] = files.each_ref().map(|file| file.to_string_lossy());
    let key = changed.peers[0].public_key.to_string();
    let set_one = ["set", NAME, "peer", &key, "allowed-ips", "10.60.0.0/32,10.61.0.0/16"];

    let [mut set, mut one] = [(); 2].map(|()| Samples::new());
    let [mut setconf, mut syncconf, mut set_alone] = [(); 3].map(|()| Samples::new());
    for _ in 0..rounds {
        ours.reconcile(&none).await?;
        set.push(ours.reconcile(&all).await?);
        one.push(ours.reconcile(&changed).await?);

        program.wg(&["setconf", NAME, &none_file])?;
        setconf.push(program.wg(&["setconf", NAME, &all_file])?);
        syncconf.push(program.wg(&["syncconf", NAME, &changed_file])?);
        program.wg(&["setconf", NAME, &all_file])?;
        set_alone.push(program.wg(&set_one)?);
    }
    ours.interface.take().context("it is there")?.close().await?;

    let mut report = Report::new(&format!(
        "{PEERS} peers: wg's time / ours, median of {rounds} rounds in turns, {backend} WireGuard"
    ));
    for (name, ours, program) in [
        ("all of them (wg setconf)", &set, &setconf),
        ("one changes, of all (wg syncconf)", &one, &syncconf),
        ("one changes, and is known (wg set)", &one, &set_alone),
    ] {
        let (ratio, ours, program) =
            (program.median_ratio(ours), ours.median() * 1e3, program.median() * 1e3);
        report.figure(name, format!("{ratio:.1} ({ours:.1} ms, {program:.1} ms)"));
    }
    Ok(report)
}

fn peer(number: u16) -> Peer {
    let [high, low] = number.to_be_bytes();
    Peer {
        endpoint: Some(([198, 51, 100, 1], 1_024 + number).into()),
        keepalive_s: NonZeroU16::new(25),
        ..testing::peer(PrivateKey::generate().public_key(), &[&format!("10.60.{high}.{low}/32")])
    }
}

/// As `wg` reads it.
fn config_of(interface: &Interface) -> String {
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {}\n",
        interface.private_key.to_base64().as_str(),
        interface.listen_port
    );
    for peer in &interface.peers {
        let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let _ =
            write!(text, "[Peer]\nPublicKey = {}\nAllowedIPs = {}\n", peer.public_key, networks.join(", "));
        if let (Some(endpoint), Some(keepalive)) = (peer.endpoint, peer.keepalive_s) {
            let _ = write!(text, "Endpoint = {endpoint}\nPersistentKeepalive = {keepalive}\n");
        }
    }
    text
}

struct Ours {
    runtime: NamespaceRuntime,
    interface: Option<WireGuardInterface>,
}

impl Ours {
    async fn start(backend: Backend) -> anyhow::Result<Self> {
        let runtime = NamespaceRuntime::new(&NetworkNamespace::create()?)?;
        let name: InterfaceName = "wh0".parse()?;
        let made = runtime.run(async move { WireGuardInterface::new(name, backend.into()) });
        Ok(Self { interface: Some(made.await?), runtime })
    }

    /// Seconds until the interface is so.
    async fn reconcile(&mut self, desired: &Interface) -> anyhow::Result<f64> {
        let (mut interface, desired) = (self.interface.take().context("it is there")?, desired.clone());
        let reconciled = async move {
            let begin = Instant::now();
            let done = interface.reconcile(&desired).await;
            (interface, done, begin.elapsed())
        };
        let (interface, done, took) = self.runtime.run(reconciled).await;
        self.interface = Some(interface);
        done?;
        Ok(took.as_secs_f64())
    }
}

/// An interface that `wg` sets.
struct Program {
    namespace: NetworkNamespace,
    _interface: Box<dyn Send>,
    _runtime: NamespaceRuntime,
}

impl Program {
    async fn start(backend: Backend) -> anyhow::Result<Self> {
        let namespace = NetworkNamespace::create()?;
        let runtime = NamespaceRuntime::new(&namespace)?;
        let made = runtime.run(async move {
            let interface: Box<dyn Send> = match backend {
                Backend::Userspace => Box::new(testing::TunnelForWg::start(NAME).await),
                Backend::Kernel => {
                    let mut interface = WireGuardInterface::new(NAME.parse()?, backend.into())?;
                    interface.open().await?;
                    Box::new(interface)
                }
            };
            anyhow::Ok(interface)
        });
        Ok(Self { _interface: made.await?, namespace, _runtime: runtime })
    }

    /// Seconds from before its start until after its end.
    fn wg(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        self.namespace.run(|| {
            let mut command = Command::new("wg");
            command.args(arguments).stdin(Stdio::null());
            let begin = Instant::now();
            let status = command.status().context("run wg (wireguard-tools)")?;
            let elapsed = begin.elapsed();
            ensure!(status.success(), "wg {arguments:?} failed: {status}");
            Ok(elapsed.as_secs_f64())
        })?
    }
}
