//! Operations, each done over netlink and by the program that it replaces.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use wisehosting_bench::sample::Samples;
use wisehosting_network::{ForwardTable, Forwards, IpNet, Netlink, NetworkNamespace, Protocol, TokenBucket};

const LINK: &str = "br0";

/// Seconds of both ways of one operation.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) ours: Samples,
    pub(crate) program: Samples,
}

impl Operation {
    fn new(name: &'static str) -> Self {
        Self { name, ours: Samples::new(), program: Samples::new() }
    }
}

/// Measures all of them in a namespace of their own.
pub(crate) async fn measure(rounds: usize) -> anyhow::Result<Vec<Operation>> {
    let namespace = NetworkNamespace::create()?;
    let netlink = Netlink::inside(&namespace)?;
    netlink.add_bridge(LINK).await?;
    let host = Host { namespace, netlink };
    let [forward_add, forward_remove] = host.forward(rounds)?;
    Ok(vec![
        host.address(rounds).await?,
        host.route(rounds).await?,
        host.mtu(rounds).await?,
        host.bridge(rounds).await?,
        host.token_bucket(rounds).await?,
        forward_add,
        forward_remove,
        host.table(rounds)?,
    ])
}

/// From these ports to one place.
fn forwards(ports: &[u16]) -> anyhow::Result<Forwards> {
    let target = "10.50.0.11:80".parse()?;
    let targets = ports.iter().map(|port| ((Protocol::Tcp, *port), target)).collect();
    Ok(Forwards { mesh: LINK.parse()?, targets })
}

struct Host {
    namespace: NetworkNamespace,
    netlink: Netlink,
}

impl Host {
    async fn address(&self, rounds: usize) -> anyhow::Result<Operation> {
        let (mut ours, mut program) = (Samples::new(), Samples::new());
        let address: IpNet = "192.0.2.1/24".parse()?;
        for _ in 0..rounds {
            let begin = Instant::now();
            self.netlink.add_address(LINK, address).await?;
            ours.push(begin.elapsed().as_secs_f64());
            self.netlink.delete_address(LINK, address).await?;
            program.push(self.run(&["ip", "address", "add", "192.0.2.1/24", "dev", LINK])?);
            self.netlink.delete_address(LINK, address).await?;
        }
        Ok(Operation { name: "address add (ip)", ours, program })
    }

    async fn route(&self, rounds: usize) -> anyhow::Result<Operation> {
        let (mut ours, mut program) = (Samples::new(), Samples::new());
        let network: IpNet = "198.51.100.0/24".parse()?;
        for _ in 0..rounds {
            let begin = Instant::now();
            self.netlink.add_route(LINK, network).await?;
            ours.push(begin.elapsed().as_secs_f64());
            self.netlink.delete_route(LINK, network).await?;
            program.push(self.run(&["ip", "route", "add", "198.51.100.0/24", "dev", LINK])?);
            self.netlink.delete_route(LINK, network).await?;
        }
        Ok(Operation { name: "route add (ip)", ours, program })
    }

    async fn mtu(&self, rounds: usize) -> anyhow::Result<Operation> {
        let (mut ours, mut program) = (Samples::new(), Samples::new());
        for _ in 0..rounds {
            let begin = Instant::now();
            self.netlink.set_mtu(LINK, 1_400).await?;
            ours.push(begin.elapsed().as_secs_f64());
            program.push(self.run(&["ip", "link", "set", "dev", LINK, "mtu", "1420"])?);
        }
        Ok(Operation { name: "mtu set (ip)", ours, program })
    }

    async fn bridge(&self, rounds: usize) -> anyhow::Result<Operation> {
        const OTHER: &str = "br1";
        let (mut ours, mut program) = (Samples::new(), Samples::new());
        for _ in 0..rounds {
            let begin = Instant::now();
            self.netlink.add_bridge(OTHER).await?;
            ours.push(begin.elapsed().as_secs_f64());
            self.netlink.delete_link(OTHER).await?;
            program.push(self.run(&["ip", "link", "add", OTHER, "up", "type", "bridge"])?);
            self.netlink.delete_link(OTHER).await?;
        }
        Ok(Operation { name: "bridge add (ip)", ours, program })
    }

    /// One forward beside another, put into the table and taken out. Ours looks at the table before and after, and ends the
    /// connections of what is taken out; `nft` changes one element of a map.
    fn forward(&self, rounds: usize) -> anyhow::Result<[Operation; 2]> {
        let (one, two) = (forwards(&[8_000])?, forwards(&[8_000, 8_001])?);
        let add = ["nft", "add element ip bench forwards { 8001 : 10.50.0.11 . 80 }"];
        let delete = ["nft", "delete element ip bench forwards { 8001 }"];
        self.run(&["nft", "add table ip bench"])?;
        self.run(&[
            "nft",
            "add map ip bench forwards { type inet_service : ipv4_addr . inet_service; elements = { 8000 : 10.50.0.11 . 80 } }",
        ])?;
        let [mut adding, mut removing] = ["forward add (nft)", "forward remove (nft)"].map(Operation::new);
        self.namespace.block_on(async || {
            let table = ForwardTable::open()?;
            table.reconcile(&one).await?;
            for _ in 0..rounds {
                for (operation, desired, arguments) in
                    [(&mut adding, &two, &add), (&mut removing, &one, &delete)]
                {
                    let begin = Instant::now();
                    table.reconcile(desired).await?;
                    operation.ours.push(begin.elapsed().as_secs_f64());
                    operation.program.push(self.run(arguments)?);
                }
            }
            anyhow::Ok(())
        })??;
        Ok([adding, removing])
    }

    /// The whole table in the place of one that is there, beside the same rules in a file for `nft`.
    fn table(&self, rounds: usize) -> anyhow::Result<Operation> {
        let mut operation = Operation::new("table of forwards replace (nft -f)");
        let desired = forwards(&[8_000, 8_001])?;
        let file = tempfile::NamedTempFile::new()?;
        self.namespace.block_on(async || {
            let table = ForwardTable::open()?;
            table.reconcile(&desired).await?;
            let listed = self
                .namespace
                .run(|| Command::new("nft").args(["list", "table", "inet", "wisehosting"]).output())??;
            let rules = String::from_utf8(listed.stdout)?.replace("inet wisehosting", "inet bench");
            std::fs::write(file.path(), format!("table inet bench\ndelete table inet bench\n{rules}"))?;
            let arguments = ["nft", "-f", &file.path().to_string_lossy()];
            for _ in 0..rounds {
                let begin = Instant::now();
                table.replace(&desired).await?;
                operation.ours.push(begin.elapsed().as_secs_f64());
                operation.program.push(self.run(&arguments)?);
            }
            anyhow::Ok(())
        })??;
        Ok(operation)
    }

    async fn token_bucket(&self, rounds: usize) -> anyhow::Result<Operation> {
        let (mut ours, mut program) = (Samples::new(), Samples::new());
        for round in 0..rounds {
            let megabits = 10 + round as u64 % 10;
            let begin = Instant::now();
            self.netlink.set_token_bucket(LINK, TokenBucket::for_rate(megabits * 1_000_000)).await?;
            ours.push(begin.elapsed().as_secs_f64());
            let rate = format!("{}mbit", megabits + 1);
            let arguments = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", "50ms"];
            program.push(
                self.run(
                    &[&["tc", "qdisc", "replace", "dev", LINK, "handle", "1:"], &arguments[..]].concat(),
                )?,
            );
        }
        Ok(Operation { name: "token bucket replace (tc)", ours, program })
    }

    /// Seconds that a program takes inside the namespace, from before its start until after its end.
    fn run(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        self.namespace.run(|| {
            let mut command = Command::new(arguments[0]);
            command.args(&arguments[1..]).stdin(Stdio::null());
            let begin = Instant::now();
            let status = command.status().with_context(|| format!("run {}", arguments[0]))?;
            let elapsed = begin.elapsed();
            ensure!(status.success(), "{arguments:?} failed: {status}");
            Ok(elapsed.as_secs_f64())
        })?
    }
}
