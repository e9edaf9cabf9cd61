//! What a node sees of the mesh, told to the control plane: every ten seconds, and at once when a way has changed. Round trips are
//! measured beside that, and told as they were last.
//!
//! The round trip is that of a connection to a port where nobody listens: the refusal comes from the other host's kernel, so it
//! says nothing of how busy its programs are. A firewall that drops in silence leaves it unknown.

use super::{PeerSight, Sight};
use crate::channel::ChannelHandle;
use futures_util::{StreamExt as _, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::IpAddr,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use wisehosting_domain::name::Label;
use wisehosting_protocol::payload::{MeshLink, MeshPath, MeshStatus};

const TELL_EVERY: Duration = Duration::from_secs(10);
/// A round trip that takes longer is none to speak of.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
/// As many at a time: each takes a socket, and there may be thousands of nodes.
const ROUND_TRIPS_MAX: usize = 64;
/// Discards what it gets, if anybody listens.
const DISCARD_PORT: u16 = 9;

/// The last known, by address.
type RoundTrips = BTreeMap<IpAddr, Duration>;

/// Tells the control plane for as long as there is an interface to tell of.
pub async fn report(sight: watch::Receiver<Sight>, channel: ChannelHandle) {
    report_measured_by(round_trip, sight, channel).await;
}

async fn report_measured_by<F: Future<Output = Option<Duration>>>(
    round_trip: impl Fn(IpAddr) -> F,
    sight: watch::Receiver<Sight>,
    channel: ChannelHandle,
) {
    let (measured, round_trips) = watch::channel(RoundTrips::new());
    let first_round = Notify::new();
    // Neither waits for the other: with many silent nodes, a round of measuring takes longer than anybody waits to be told.
    tokio::select! {
        () = tell(sight.clone(), round_trips, channel, &first_round) => {}
        () = measure(round_trip, sight, measured, &first_round) => {}
    }
}

async fn tell(
    mut sight: watch::Receiver<Sight>,
    round_trips: watch::Receiver<RoundTrips>,
    channel: ChannelHandle,
    first_round: &Notify,
) {
    loop {
        let seen = sight.borrow_and_update().clone();
        let status = status(&seen, &round_trips.borrow());
        // One that is not sent is followed by a newer one.
        let _ = channel.try_send(status);
        let before = ways(&seen);
        tokio::select! {
            changed = sight.wait_for(|now| ways(now) != before) => if changed.is_err() { return },
            () = first_round.notified() => {}
            () = sleep(TELL_EVERY) => {}
        }
    }
}

/// Measures for ever.
async fn measure<F: Future<Output = Option<Duration>>>(
    round_trip: impl Fn(IpAddr) -> F,
    sight: watch::Receiver<Sight>,
    measured: watch::Sender<RoundTrips>,
    first_round: &Notify,
) {
    let mut rounds = interval(TELL_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        rounds.tick().await;
        let addresses: BTreeSet<_> = sight.borrow().peers.iter().filter_map(|peer| peer.address).collect();
        measured.send_modify(|known| known.retain(|address, _| addresses.contains(address)));
        let times = addresses.into_iter().map(|address| {
            let time = round_trip(address);
            async move { (address, time.await) }
        });
        let mut times = pin!(stream::iter(times).buffer_unordered(ROUND_TRIPS_MAX));
        while let Some((address, time)) = times.next().await {
            measured.send_modify(|known| match time {
                Some(time) => drop(known.insert(address, time)),
                None => drop(known.remove(&address)),
            });
        }
        if round == 0 {
            first_round.notify_one();
        }
    }
}

fn ways(sight: &Sight) -> (Option<u64>, Vec<(Label, bool)>) {
    (sight.generation, sight.peers.iter().map(|peer| (peer.name.clone(), peer.direct)).collect())
}

fn status(sight: &Sight, round_trips: &RoundTrips) -> MeshStatus {
    let links = sight.peers.iter().map(|peer| link(peer, round_trips)).collect();
    MeshStatus { generation: sight.generation, mtu: sight.mtu, links }
}

fn link(peer: &PeerSight, round_trips: &RoundTrips) -> MeshLink {
    let round_trip = peer.address.and_then(|address| round_trips.get(&address));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::memory;
    use std::future::{pending, ready};
    use wisehosting_network::PrivateKey;
    use wisehosting_protocol::message::AgentMessage;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn sight(generation: u64, peers: u8) -> Sight {
        let peer = |number| PeerSight {
            name: format!("peer-{number}").parse().unwrap(),
            public_key: PrivateKey::generate().public_key(),
            address: Some([10, 50, 0, number].into()),
            direct: false,
            status: None,
        };
        Sight { generation: Some(generation), mtu: 1420, peers: (1..=peers).map(peer).collect() }
    }

    async fn told(far_end: &mut memory::FarEnd) -> MeshStatus {
        match timeout(PATIENCE, far_end.sent.recv()).await.expect("it says nothing").unwrap() {
            AgentMessage::MeshStatus(status) => status,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_seen_is_told_before_silent_nodes_have_answered() {
        let (see, seen) = watch::channel(sight(1, 200));
        let (channel, _events, mut far_end) = memory::channel();
        let reporting = tokio::spawn(report_measured_by(|_| pending(), seen, channel));
        assert_eq!(told(&mut far_end).await.links.len(), 200);
        see.send_replace(sight(2, 200));
        assert_eq!(told(&mut far_end).await.generation, Some(2));
        reporting.abort();
    }

    #[tokio::test]
    async fn round_trips_are_told_when_all_were_measured_once() {
        let (_see, seen) = watch::channel(sight(1, 2));
        let (channel, _events, mut far_end) = memory::channel();
        let measure =
            |address| ready((address == IpAddr::from([10, 50, 0, 1])).then_some(Duration::from_millis(3)));
        let reporting = tokio::spawn(report_measured_by(measure, seen, channel));
        let round_trips =
            |status: MeshStatus| status.links.iter().map(|link| link.round_trip_us).collect::<Vec<_>>();
        assert_eq!(round_trips(told(&mut far_end).await), [None, None]);
        assert_eq!(round_trips(told(&mut far_end).await), [Some(3_000), None]);
        reporting.abort();
    }
}
