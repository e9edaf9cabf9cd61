//! How much passes under a limit, in each direction, by one TCP connection.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use wisehosting_network::{IpNet, Netlink, NetworkNamespace, TokenBucket, VethEnd, shape};

const LIMITS_BITS_PER_S: [u64; 4] = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
/// A connection's beginning, and the first burst, are not counted.
const SETTLE: Duration = Duration::from_millis(1_500);
const MEASURE: Duration = Duration::from_secs(3);

/// What passed, in bits per second.
pub(crate) struct Rate {
    pub(crate) asked: f64,
    pub(crate) from_container: f64,
    pub(crate) to_container: f64,
}

/// Measures all limits between a host and a container of it.
pub(crate) async fn measure() -> anyhow::Result<Vec<Rate>> {
    let (host, container) = (NetworkNamespace::create()?, NetworkNamespace::create()?);
    let (outside, inside) = (Netlink::inside(&host)?, Netlink::inside(&container)?);
    let ends = ["veth0", "eth0"];
    let end = VethEnd { name: ends[0], namespace: &host };
    outside.add_veth(end, VethEnd { name: ends[1], namespace: &container }).await?;
    for (netlink, name, address) in [(&outside, ends[0], "192.0.2.1/24"), (&inside, ends[1], "192.0.2.2/24")]
    {
        netlink.add_address(name, address.parse::<IpNet>()?).await?;
        netlink.set_up(name).await?;
    }
    let mut rates = Vec::new();
    for bits_per_s in LIMITS_BITS_PER_S {
        shape(&container, &outside, Some(TokenBucket::for_rate(bits_per_s))).await?;
        rates.push(Rate {
            asked: bits_per_s as f64,
            from_container: transfer(&container, &host, "192.0.2.1:7000")?,
            to_container: transfer(&host, &container, "192.0.2.2:7000")?,
        });
    }
    Ok(rates)
}

/// Sends for a while; answers the bits per second that the other side has read.
fn transfer(from: &NetworkNamespace, to: &NetworkNamespace, address: &str) -> anyhow::Result<f64> {
    let listener = to.run(|| TcpListener::bind(address))??;
    let mut sending = from.run(|| TcpStream::connect(address))??;
    let (mut receiving, _) = listener.accept()?;
    let sender = thread::spawn(move || while sending.write_all(&[0; 1 << 16]).is_ok() {});

    let mut buffer = vec![0; 1 << 20];
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled {
        let _ = receiving.read(&mut buffer)?;
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < MEASURE {
        bytes += receiving.read(&mut buffer)?;
    }
    let seconds = begin.elapsed().as_secs_f64();

    receiving.shutdown(Shutdown::Both)?;
    drop(receiving);
    // It ends when what it sends is refused.
    let _ = sender.join();
    Ok(bytes as f64 * 8.0 / seconds)
}
