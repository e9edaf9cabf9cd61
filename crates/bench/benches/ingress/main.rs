//! Our ingress beside nginx, HAProxy, Caddy and Traefik: the same upstream, the same certificate, the same load, in turns, with
//! and without the mesh between proxy and upstream.
//!
//! Proxy, upstream and load generator share the machine, so only the ratios of one run mean anything. Steadier than
//! rates is the processor time that a proxy itself uses for a request. The edge runs as it does when its control plane
//! is away: on the route table that it finds on disk. All of it is in network namespaces of its own, which needs root.
//! Traefik takes part if `WISEHOSTING_TRAEFIK` names it.
//!
//! `cargo xtask bench`, or `cargo bench -p wisehosting-bench --bench ingress -- [rounds] [seconds a turn]`.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Context as _;
use rcgen::generate_simple_self_signed;
use uuid::Uuid;
use wisehosting_bench::{
    process::{Process, free_address, own_program},
    report::Report,
    rivals::{self, Certificate, Setup},
    sample::Samples,
    wrk::{self, Load},
};
use wisehosting_domain::{
    id::InstanceId,
    routes::{Route, RouteTable, Upstream},
};
use wisehosting_network::{
    Backend, Netlink, NetworkNamespace,
    testing::{kernel_has_wireguard, tunnel},
};

const HOST: &str = "localhost";
const CONNECTIONS: u32 = 64;

/// What is between a proxy and its upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Loopback,
    Mesh,
}

/// A running proxy and what was measured of it.
struct Contender {
    name: &'static str,
    between: Between,
    http: SocketAddr,
    https: SocketAddr,
    /// By scheme.
    measured: BTreeMap<&'static str, Measured>,
    process: Process,
}

/// One sample a turn.
#[derive(Default)]
struct Measured {
    /// Requests a second.
    rates: Samples,
    p99_ms: Samples,
    /// Processor time of the proxy for one request.
    cpu_us: Samples,
}

fn main() -> anyhow::Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(10);
    let seconds = numbers.get(1).copied().unwrap_or(2);
    let [worker, proxy] = [NetworkNamespace::create()?, NetworkNamespace::create()?];
    let runtime = tokio::runtime::Runtime::new()?;
    let backend = runtime.block_on(async {
        for host in [&worker, &proxy] {
            Netlink::inside(host)?.set_loopback_up().await?;
        }
        anyhow::Ok(if kernel_has_wireguard().await { Backend::Kernel } else { Backend::Userspace })
    })?;
    let _tunnel = runtime.block_on(tunnel(&worker, &proxy, backend.into()));
    let folder = tempfile::tempdir()?;
    let in_mesh = SocketAddr::from(([10, 50, 0, 11], 8_080));
    let _upstream = worker.run(|| rivals::upstream(&folder.path().join("mesh"), in_mesh))??;
    proxy.run(|| {
        let on_loopback = free_address()?;
        let _upstream = rivals::upstream(&folder.path().join("loopback"), on_loopback)?;
        let mut contenders =
            start(folder.path(), [(Between::Loopback, on_loopback), (Between::Mesh, in_mesh)])?;
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            for scheme in ["http", "https"] {
                // Another one begins each round, so that none always follows the same neighbour.
                contenders.rotate_left(1);
                for contender in &mut contenders {
                    contender.measure(scheme, seconds)?;
                }
            }
        }
        print!("{}", table(&contenders, Between::Loopback, "one upstream"));
        print!("{}", table(&contenders, Between::Mesh, &format!("one upstream behind {backend} WireGuard")));
        anyhow::Ok(())
    })?
}

/// All of them, once for each upstream.
fn start(folder: &Path, upstreams: [(Between, SocketAddr); 2]) -> anyhow::Result<Vec<Contender>> {
    let certificate = write_certificate(folder)?;
    let mut contenders = Vec::new();
    for (number, (between, upstream)) in upstreams.into_iter().enumerate() {
        for (name, start) in STARTERS {
            if name == "traefik" && rivals::traefik_program().is_none() {
                eprintln!("without Traefik: WISEHOSTING_TRAEFIK names none");
                continue;
            }
            let (http, https) = (free_address()?, free_address()?);
            let folder = folder.join(format!("{name}-{number}.d"));
            fs::create_dir(&folder)?;
            let setup =
                Setup { folder: &folder, http, https, upstream, host: HOST, certificate: &certificate };
            let process = start(&setup).with_context(|| format!("start {name}"))?;
            contenders.push(Contender { name, between, http, https, measured: BTreeMap::new(), process });
        }
    }
    Ok(contenders)
}

type Starter = fn(&Setup<'_>) -> anyhow::Result<Process>;
const STARTERS: [(&str, Starter); 5] = [
    ("ours", edge),
    ("nginx", rivals::nginx),
    ("haproxy", rivals::haproxy),
    ("caddy", rivals::caddy),
    ("traefik", rivals::traefik),
];

impl Contender {
    fn measure(&mut self, scheme: &'static str, seconds: u32) -> anyhow::Result<()> {
        let address = if scheme == "http" { self.http } else { self.https };
        // By name, since Caddy chooses its certificate by the name that the client asks for.
        let url = format!("{scheme}://{HOST}:{}/", address.port());
        let load = Load { url: &url, host: HOST, connections: CONNECTIONS, seconds };
        let before = self.process.processor_time()?;
        let answer = wrk::run(&load).with_context(|| format!("load {}", self.name))?;
        let used = self.process.processor_time()? - before;
        let measured = self.measured.entry(scheme).or_default();
        measured.rates.push(answer.rate);
        measured.p99_ms.push(answer.p99_ms);
        measured.cpu_us.push(used.as_secs_f64() * 1e6 / answer.requests as f64);
        Ok(())
    }
}

fn table(contenders: &[Contender], between: Between, upstream: &str) -> Report {
    let mut report = Report::new(&format!("ingress: 1 KiB, 64 connections, {upstream}"));
    let named = |name| contenders.iter().find(|one| one.name == name && one.between == between);
    for scheme in ["http", "https"] {
        let Some(ours) = named("ours").map(|ours| &ours.measured[scheme]) else { continue };
        report.figure(format!("{scheme} ours"), ours.medians());
        let mut worst = [f64::INFINITY, 0.0, 0.0];
        for rival in STARTERS.iter().filter(|(name, _)| *name != "ours").filter_map(|(name, _)| named(name)) {
            let theirs = &rival.measured[scheme];
            let [rate, p99, cpu] = ours.ratios(theirs);
            worst = [worst[0].min(rate), worst[1].max(p99), worst[2].max(cpu)];
            let ratios = format!("ours / it: rate {rate:.2}, p99 {p99:.2}, cpu {cpu:.2}");
            report.figure(format!("{scheme} {}", rival.name), format!("{ratios}   {}", theirs.medians()));
        }
        let [rate, p99, cpu] = worst;
        let name = |what| format!("{scheme} {what}, ours / the best rival");
        report.goal(name("rate"), format!("{rate:.2}"), ">= 1.00", rate >= 1.0);
        report.goal(name("p99"), format!("{p99:.2}"), "<= 1.00", p99 <= 1.0);
        report.figure(name("processor time"), format!("{cpu:.2}"));
    }
    report
}

impl Measured {
    fn medians(&self) -> String {
        let Self { rates, p99_ms, cpu_us } = self;
        format!("{:>6.0}/s  p99 {:>6.2} ms  cpu {:>5.1} us", rates.median(), p99_ms.median(), cpu_us.median())
    }

    /// Of the rate, the p99 and the processor time, round by round.
    fn ratios(&self, other: &Self) -> [f64; 3] {
        [
            self.rates.median_ratio(&other.rates),
            self.p99_ms.median_ratio(&other.p99_ms),
            self.cpu_us.median_ratio(&other.cpu_us),
        ]
    }
}

/// Our own edge, with its control plane away.
fn edge(setup: &Setup<'_>) -> anyhow::Result<Process> {
    let folder = setup.folder;
    let upstream = Upstream { instance_id: InstanceId(Uuid::from_u128(1)), address: setup.upstream };
    let route = Route { app: "app".parse()?, upstreams: vec![upstream] };
    let table = RouteTable { generation: 1, routes: BTreeMap::from([(setup.host.parse()?, route)]) };
    fs::write(folder.join("routes.json"), serde_json::to_vec(&table)?)?;
    fs::create_dir(folder.join("certificates"))?;
    fs::copy(&setup.certificate.certificate, folder.join("certificates/app.crt"))?;
    fs::copy(&setup.certificate.key, folder.join("certificates/app.key"))?;
    fs::write(folder.join("api-key"), "unused: nobody listens where this edge calls\n")?;
    let at = folder.display();
    let config = format!(
        r#"
[log]
filter = "error"
[control_plane]
url = "http://127.0.0.1:9"
name = "bench"
api_key_file = "{at}/api-key"
[ingress]
http = "{}"
https = "{}"
[ingress.tls]
certificates_dir = "{at}/certificates"
[state]
dir = "{at}"
"#,
        setup.http, setup.https
    );
    let file = folder.join("edge.toml");
    fs::write(&file, config)?;
    let mut command = Command::new(own_program("wisehosting-edge")?);
    command.arg("--config").arg(&file);
    Process::listening(command, setup.http)
}

fn write_certificate(folder: &Path) -> anyhow::Result<Certificate> {
    let made = generate_simple_self_signed([HOST.to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let files = Certificate {
        certificate: folder.join("app.crt"),
        key: folder.join("app.key"),
        both: folder.join("app.pem"),
    };
    fs::write(&files.certificate, &certificate)?;
    fs::write(&files.key, &key)?;
    fs::write(&files.both, format!("{certificate}{key}"))?;
    Ok(files)
}
