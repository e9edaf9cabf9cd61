//! The mesh: a thousand peers in one go, a change told to thousands of nodes, and what tunnels carry.
//!
//! All of it in network namespaces of its own, with the kernel's WireGuard where there is one and the userspace backend where
//! not; each table says which. What is compared is done in turns.
//!
//! Needs root, and `wg` (wireguard-tools). `cargo xtask bench`, or
//! `cargo bench -p wisehosting-bench --bench mesh -- [rounds] [nodes...]`.

mod change;
mod peers;
mod tunnels;

use wisehosting_bench::report::Report;
use wisehosting_network::{Backend, Netlink, NetworkNamespace, testing::kernel_has_wireguard};

const NODES: [u16; 2] = [500, 5_000];

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u16>().ok());
    let rounds = numbers.next().unwrap_or(10).into();
    let mut nodes: Vec<u16> = numbers.collect();
    if nodes.is_empty() {
        nodes.extend(NODES);
    }
    // What this process starts is in it, too.
    let namespace = NetworkNamespace::create()?;
    namespace.run(|| tokio::runtime::Runtime::new()?.block_on(run(rounds, &nodes)))?
}

async fn run(rounds: usize, nodes: &[u16]) -> anyhow::Result<()> {
    Netlink::here()?.set_loopback_up().await?;
    let backend = if kernel_has_wireguard().await { Backend::Kernel } else { Backend::Userspace };
    print!("{}", peers::measure(backend, rounds).await?);
    print!("{}", tunnels::measure(backend, rounds).await?);
    let mut report = Report::new(&format!("a node has moved: {rounds} times, {backend} WireGuard"));
    for crowd in nodes {
        change::measure(*crowd, rounds, &mut report).await?;
    }
    print!("{report}");
    Ok(())
}
