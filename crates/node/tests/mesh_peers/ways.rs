//! The way between a worker and a proxy: by the hub, directly, and back.

use crate::{
    hosts::{ECHO, Host, MEBIBYTE, PATIENCE, Three, echo, set, wire},
    keys::Traffic,
};
use std::time::Duration;
use tokio::{net::UdpSocket, time::timeout};
use wisehosting_network::Backend;
use wisehosting_node::{
    channel::memory::{self, FarEnd},
    mesh::{Sight, report},
};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{MeshLink, MeshPath, MeshPeer},
};

/// Long enough for an answer to a packet that nobody drops.
const SILENCE: Duration = Duration::from_millis(500);

/// Bytes of a packet.
const NARROW: u32 = 1400;

/// What a host says of the other, once it goes this way.
async fn said_of(other: MeshPeer, path: MeshPath, far_end: &mut FarEnd) -> MeshLink {
    loop {
        let sent = timeout(PATIENCE, far_end.sent.recv()).await.expect("it says nothing").unwrap();
        let AgentMessage::MeshStatus(status) = sent else { panic!("{sent:?}") };
        assert_eq!((status.generation, status.mtu), (Some(1), 1420));
        if let Some(link) = status.links.into_iter().find(|link| link.name == other.name && link.path == path)
        {
            return link;
        }
    }
}

/// A mebibyte each time, from and to a container whose link is wider than the tunnel.
pub(crate) async fn goes_by_the_hub_then_directly_and_back(backend: Backend) {
    let mut three = Three::start(backend, |_| ()).await;
    three.introduce(1);
    three.go(false).await;
    let Three { worker, proxy, .. } = &three;
    let mut connection = proxy.connect(ECHO, PATIENCE).await.unwrap();
    echo(&mut connection).await;
    let (channel, _events, mut far_end) = memory::channel();
    proxy
        .runtime
        .run({
            let sight = proxy.mesh.as_ref().unwrap().sight();
            async move { drop(tokio::spawn(report(sight, channel))) }
        })
        .await;
    let said = said_of(worker.named(), MeshPath::Hub, &mut far_end).await;
    assert_eq!(said.handshake_age_ms, None, "there is no wire between them");
    let measured =
        async { while said_of(worker.named(), MeshPath::Hub, &mut far_end).await.round_trip_us.is_none() {} };
    timeout(PATIENCE, measured).await.expect("the worker is there");

    wire(worker, proxy, "direct", "203.0.113").await;
    three.go(true).await;
    echo(&mut connection).await;
    let said = said_of(worker.named(), MeshPath::Direct, &mut far_end).await;
    assert!(said.handshake_age_ms.is_some() && said.received_bytes > 0, "{said:?}");
    let own_peer = |sight: &Sight| {
        let peer = sight.peers.iter().find(|peer| peer.public_key == worker.public_key);
        peer.and_then(|peer| peer.status.clone()).is_some_and(|status| status.rx_bytes > MEBIBYTE as u64)
    };
    let mut sight = proxy.mesh.as_ref().unwrap().sight();
    timeout(PATIENCE, sight.wait_for(own_peer)).await.expect("the transfer went another way").unwrap();

    worker.netlink.delete_link("direct").await.unwrap();
    three.go(false).await;
    echo(&mut connection).await;
    drop(connection);

    // Nobody says anything from now on.
    three.worker.stop().await;
    three.start_worker().await;
    assert_eq!(three.worker.mesh.as_ref().unwrap().sight().borrow().generation, Some(1));
    echo(&mut three.proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    three.end().await;
}

/// What the worker is asked for goes on coming, directly, while nobody but the proxy can tell where it went.
pub(crate) async fn a_node_that_moves_is_followed_without_the_hub(backend: Backend) {
    let three = Three::start(backend, |_| ()).await;
    let Three { hub, worker, proxy, .. } = &three;
    wire(worker, proxy, "direct", "203.0.113").await;
    three.introduce(1);
    three.go(true).await;
    let traffic = Traffic::start(proxy.connect(ECHO, PATIENCE).await.unwrap());
    for link in ["to-worker", "to-proxy"] {
        hub.netlink.delete_link(link).await.unwrap();
    }

    let endpoint = |sight: &Sight| {
        let peer = sight.peers.iter().find(|peer| peer.public_key == worker.public_key).unwrap();
        assert!(peer.direct, "it went by the hub");
        peer.status.as_ref().and_then(|status| status.endpoint).map(|endpoint| endpoint.to_string())
    };
    let mut sight = proxy.mesh.as_ref().unwrap().sight();
    assert_eq!(endpoint(&sight.borrow_and_update()).as_deref(), Some("203.0.113.11:51821"));
    worker.netlink.delete_address("direct", "203.0.113.11/24".parse().unwrap()).await.unwrap();
    worker.netlink.add_address("direct", "203.0.113.111/24".parse().unwrap()).await.unwrap();
    let moved = |sight: &Sight| endpoint(sight).as_deref() == Some("203.0.113.111:51821");
    timeout(PATIENCE, sight.wait_for(moved)).await.expect("nobody follows it").unwrap();
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    traffic.end().await;
    three.end().await;
}

/// A mebibyte each way, by the hub and directly, over links and a router that take 1,400 bytes: WireGuard's packets are 1,480.
pub(crate) async fn large_transfers_go_over_a_network_that_is_narrower_than_the_tunnel(backend: Backend) {
    let three = Three::start(backend, |_| ()).await;
    let Three { hub, worker, proxy, .. } = &three;
    for (host, link) in [(hub, "to-worker"), (worker, "to-worker"), (hub, "to-proxy"), (proxy, "to-proxy")] {
        host.netlink.set_mtu(link, NARROW).await.unwrap();
    }
    three.introduce(1);
    three.go(false).await;
    let mut connection = proxy.connect(ECHO, PATIENCE).await.unwrap();
    echo(&mut connection).await;

    let _router = three.route_between(NARROW).await;
    three.go(true).await;
    echo(&mut connection).await;
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    three.end().await;
}

pub(crate) async fn a_way_that_fails_in_one_direction_is_left_by_both_ends(backend: Backend) {
    let three = Three::start(backend, |_| ()).await;
    let Three { worker, proxy, .. } = &three;
    wire(worker, proxy, "direct", "203.0.113").await;
    three.introduce(1);
    three.go(true).await;
    let mut connection = proxy.connect(ECHO, PATIENCE).await.unwrap();
    echo(&mut connection).await;

    // The proxy goes on hearing the worker, which hears nothing.
    worker.nft("add table inet cut");
    worker.nft("add chain inet cut in { type filter hook input priority 0; }");
    worker.nft("add rule inet cut in iifname direct drop");
    three.go(false).await;
    echo(&mut connection).await;

    worker.nft("delete table inet cut");
    three.go(true).await;
    echo(&mut connection).await;
    three.end().await;
}

pub(crate) async fn a_node_that_is_named_no_longer_is_gone(backend: Backend) {
    let three = Three::start(backend, |_| ()).await;
    three.introduce(1);
    let Three { hub, worker, proxy, .. } = &three;
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    worker.sets.put(set(2, hub, &[]));
    worker.sees(proxy, |direct| direct.is_none()).await;
    proxy.connect(ECHO, SILENCE).await.unwrap_err();
    three.end().await;
}

pub(crate) async fn a_hub_leads_into_the_mesh_only(backend: Backend) {
    let three = Three::start(backend, |_| ()).await;
    let Three { hub, worker, proxy, .. } = &three;
    three.introduce(1);
    three.go(false).await;
    let outside = worker.runtime.run(UdpSocket::bind("198.51.100.11:7001")).await.unwrap();
    assert!(arrives(hub, &outside, PATIENCE).await);
    assert!(!arrives(proxy, &outside, SILENCE).await, "a way out of the mesh is open");

    // As a reload of a firewall does.
    hub.nft("flush ruleset");
    hub.looks_again().await;
    assert!(!arrives(proxy, &outside, SILENCE).await, "a way out of the mesh is open again");
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;

    // As a change of net.ipv4.ip_forward does.
    hub.netlink.set_ipv4_routing("wh0", false).await.unwrap();
    hub.looks_again().await;
    echo(&mut proxy.connect(ECHO, PATIENCE).await.unwrap()).await;
    assert!(!arrives(proxy, &outside, SILENCE).await);
    three.end().await;
}

/// Whether a packet of this host comes out of the mesh.
async fn arrives(from: &Host, outside: &UdpSocket, patience: Duration) -> bool {
    let socket = from.runtime.run(UdpSocket::bind("0.0.0.0:0")).await.unwrap();
    socket.send_to(b"leaked", "198.51.100.11:7001").await.unwrap();
    timeout(patience, outside.recv(&mut [0; 8])).await.is_ok()
}
