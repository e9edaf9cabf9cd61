//! The way between a worker and a proxy: by the hub, directly, and back.

use crate::hosts::{ECHO, Host, MEBIBYTE, PATIENCE, Three, echo, set, wire};
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
