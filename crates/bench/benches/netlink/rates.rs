//! How much passes under a limit, in each direction, by one TCP connection.

use std::time::Duration;

use wisehosting_bench::transfer::transfer;
use wisehosting_network::{Netlink, NetworkNamespace, TokenBucket, shape, testing::wire};

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
    let outside = Netlink::inside(&host)?;
    wire((&host, "veth0", "192.0.2.1/24"), (&container, "eth0", "192.0.2.2/24")).await;
    let mut rates = Vec::new();
    for bits_per_s in LIMITS_BITS_PER_S {
        shape(&container, &outside, Some(TokenBucket::for_rate(bits_per_s))).await?;
        rates.push(Rate {
            asked: bits_per_s as f64,
            from_container: transfer(&container, &host, "192.0.2.1:7000", SETTLE, MEASURE)?,
            to_container: transfer(&host, &container, "192.0.2.2:7000", SETTLE, MEASURE)?,
        });
    }
    Ok(rates)
}
