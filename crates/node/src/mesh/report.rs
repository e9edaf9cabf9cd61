//! What a node sees of the mesh, told to the control plane: every ten seconds, and when a way has changed.
//!
//! The round trip is that of a connection to a port where nobody listens: the refusal comes from the other host's kernel, so it
//! says nothing of how busy its programs are. A firewall that drops in silence leaves it unknown.

use super::{PeerSight, Sight};
use crate::channel::ChannelHandle;
use futures_util::{StreamExt as _, stream};
use std::{
    io::ErrorKind,
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use wisehosting_domain::name::Label;
use wisehosting_protocol::payload::{MeshLink, MeshPath, MeshStatus};

const TELL_EVERY: Duration = Duration::from_secs(10);
/// A round trip that takes longer is none to speak of.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
/// As many at a time: each takes a socket, and there may be thousands of nodes.
const ROUND_TRIPS_MAX: usize = 64;
/// Discards what it gets, if anybody listens.
const DISCARD_PORT: u16 = 9;

/// Tells the control plane for as long as there is an interface to tell of.
pub async fn report(mut sight: watch::Receiver<Sight>, channel: ChannelHandle) {
    loop {
        let seen = sight.borrow_and_update().clone();
        // One that is not sent is followed by a newer one.
        let _ = channel.try_send(status(&seen).await);
        let before = ways(&seen);
        let changed = timeout(TELL_EVERY, sight.wait_for(|now| ways(now) != before));
        if let Ok(Err(_)) = changed.await {
            return;
        }
    }
}

fn ways(sight: &Sight) -> (Option<u64>, Vec<(Label, bool)>) {
    (sight.generation, sight.peers.iter().map(|peer| (peer.name.clone(), peer.direct)).collect())
}

async fn status(sight: &Sight) -> MeshStatus {
    let links = stream::iter(&sight.peers).map(link).buffered(ROUND_TRIPS_MAX).collect().await;
    MeshStatus { generation: sight.generation, mtu: sight.mtu, links }
}

async fn link(peer: &PeerSight) -> MeshLink {
    let round_trip = match peer.address {
        Some(address) => round_trip(address).await,
        None => None,
    };
    let status = peer.status.clone().unwrap_or_default();
    MeshLink {
        name: peer.name.clone(),
        path: if peer.direct { MeshPath::Direct } else { MeshPath::Hub },
        handshake_age_ms: status.last_handshake_age.map(milliseconds),
        round_trip_us: round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        received_bytes: status.rx_bytes,
        sent_bytes: status.tx_bytes,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn round_trip(address: IpAddr) -> Option<Duration> {
    let began = Instant::now();
    match timeout(ROUND_TRIP_MAX, TcpStream::connect((address, DISCARD_PORT))).await.ok()? {
        Ok(_) => Some(began.elapsed()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(began.elapsed()),
        Err(_) => None,
    }
}
