//! Can this edge reach an instance? Asked from where its visitors' requests will come from, before it is served.

use futures_util::{StreamExt, stream};
use std::{collections::BTreeMap, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use wisehosting_domain::{id::InstanceId, routes::Upstream};

/// For one instance to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that are tried at the same time.
const PARALLEL: usize = 64;

/// Those that do not accept a TCP connection, and why.
pub async fn unreachable(upstreams: impl IntoIterator<Item = Upstream>) -> BTreeMap<InstanceId, String> {
    stream::iter(upstreams)
        .map(|upstream| async move { try_connect(&upstream).await.err().map(|why| (upstream.instance_id, why)) })
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn try_connect(upstream: &Upstream) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(upstream.address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{}: {error}", upstream.address)),
        Err(_) => Err(format!("{}: no answer within {} s", upstream.address, CONNECT_TIMEOUT.as_secs())),
    }
}
