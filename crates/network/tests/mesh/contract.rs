//! What every backend does, told as what its user sees.

use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;
use wisehosting_network::testing::{nft, pattern, wire};
use wisehosting_network::{Backend, Interface, Netlink, NetworkError, NetworkNamespace, Op, diff};

use crate::node::{Node, Underlay};

const MEBIBYTE: usize = 1 << 20;

/// Two hosts that know each other.
async fn pair(backend: Backend) -> (Node, Node) {
    let underlay = Underlay::new().await;
    let (a, b) = (underlay.node(1, backend).await, underlay.node(2, backend).await);
    a.reconcile(a.interface(vec![b.peer()])).await.unwrap();
    b.reconcile(b.interface(vec![a.peer()])).await.unwrap();
    b.serve_echo(7000).await;
    (a, b)
}

pub(crate) async fn carries_a_transfer(backend: Backend) {
    let (a, b) = pair(backend).await;
    assert_eq!(a.backend().await, Some(backend));
    let sent = pattern(MEBIBYTE);

    let back = a.connect("10.50.0.2:7000").await.unwrap().echo(&sent).await.unwrap();

    assert!(back == sent, "the bytes that came back are others");
    let status = &a.observe().await.device.peers[&b.private_key.public_key()];
    assert!(status.is_alive());
    assert_eq!(status.endpoint, b.peer().endpoint);
    assert!(status.rx_bytes > MEBIBYTE as u64 && status.tx_bytes > MEBIBYTE as u64, "{status:?}");
    a.close().await;
    b.close().await;
}

pub(crate) async fn routes_a_network_behind_a_peer(backend: Backend) {
    let underlay = Underlay::new().await;
    let nodes =
        [underlay.node(1, backend).await, underlay.node(2, backend).await, underlay.node(3, backend).await];
    let [a, b, c] = &nodes;
    let mut gateway = c.peer();
    gateway.allowed_ips.push("10.60.0.0/16".parse().unwrap());
    a.reconcile(a.interface(vec![b.peer(), gateway.clone()])).await.unwrap();
    b.reconcile(b.interface(vec![a.peer(), gateway])).await.unwrap();
    let mut desired = c.interface(vec![a.peer(), b.peer()]);
    desired.addresses.push("10.60.0.1/16".parse().unwrap());
    c.reconcile(desired).await.unwrap();
    c.serve_echo(7000).await;

    for node in [a, b] {
        for address in ["10.60.0.1:7000", "10.50.0.3:7000"] {
            let back = node.connect(address).await.unwrap().echo(b"hello").await.unwrap();
            assert_eq!(back, b"hello", "{address}");
        }
    }
    for node in &nodes {
        node.close().await;
    }
}

pub(crate) async fn keeps_a_connection_while_its_peer_is_updated(backend: Backend) {
    let (a, b) = pair(backend).await;
    let mut connection = a.connect("10.50.0.2:7000").await.unwrap();
    connection.echo(b"before").await.unwrap();
    let key = b.private_key.public_key();
    let before = a.observe().await.device.peers[&key].clone();

    for number in 0..10 {
        let mut peer = b.peer();
        peer.allowed_ips.push(format!("10.61.{number}.0/24").parse().unwrap());
        peer.keepalive_s = NonZeroU16::new(30 + number);
        let done = a.reconcile(a.interface(vec![peer])).await.unwrap();
        assert!(done.iter().any(|op| matches!(op, Op::SetPeer(_))), "{done:?}");
        assert_eq!(connection.echo(b"between").await.unwrap(), b"between");
    }

    let after = &a.observe().await.device.peers[&key];
    assert_eq!(after.keepalive_s, NonZeroU16::new(39));
    assert!(after.last_handshake_age >= before.last_handshake_age, "there was no new handshake");
    assert!(after.rx_bytes > before.rx_bytes);
    a.close().await;
    b.close().await;
}

pub(crate) async fn stops_when_a_peer_is_removed(backend: Backend) {
    let (a, b) = pair(backend).await;
    let mut connection = a.connect("10.50.0.2:7000").await.unwrap();
    connection.echo(b"before").await.unwrap();

    let done = b.reconcile(b.interface(vec![])).await.unwrap();

    assert_eq!(done, [Op::RemovePeer(a.private_key.public_key())]);
    let answer = timeout(Duration::from_secs(1), connection.echo(b"after")).await;
    assert!(!matches!(answer, Ok(Ok(_))), "a removed peer was answered");
    assert!(b.observe().await.device.peers.is_empty());
    a.close().await;
    b.close().await;
}

pub(crate) async fn carries_again_after_a_restart(backend: Backend) {
    let (a, b) = pair(backend).await;
    a.connect("10.50.0.2:7000").await.unwrap().echo(b"before").await.unwrap();

    a.close().await;
    a.reconcile(a.interface(vec![b.peer()])).await.unwrap();

    let back = a.connect("10.50.0.2:7000").await.unwrap().echo(b"after").await.unwrap();
    assert_eq!(back, b"after");
    a.close().await;
    b.close().await;
}

pub(crate) async fn settles_on_whatever_is_desired(backend: Backend) {
    let underlay = Underlay::new().await;
    let (a, b, c) =
        (underlay.node(1, backend).await, underlay.node(2, backend).await, underlay.node(3, backend).await);
    let mut greedy = b.peer();
    greedy.allowed_ips.extend(["10.60.0.7/16", "2001:db8:7::/48"].map(network));
    let mut modest = greedy.clone();
    modest.allowed_ips.truncate(1);
    let mut heir = c.peer();
    heir.allowed_ips = greedy.allowed_ips[1..].to_vec();
    let mut silent = b.peer();
    (silent.endpoint, silent.keepalive_s) = (None, None);
    let mut renumbered = a.interface(vec![silent]);
    renumbered.addresses = ["10.70.0.1/24", "2001:db8:9::1/64"].map(network).to_vec();
    renumbered.mtu = 1380;
    let mut moved = a.interface(vec![modest.clone(), c.peer()]);
    moved.listen_port = NonZeroU16::new(51999).unwrap();
    let mut rekeyed = a.interface(vec![modest.clone()]);
    rekeyed.private_key = c.private_key.clone();

    let sequence = [
        a.interface(vec![]),
        a.interface(vec![greedy.clone(), c.peer()]),
        a.interface(vec![modest, heir]),
        a.interface(vec![greedy, c.peer()]),
        renumbered,
        moved,
        rekeyed,
        a.interface(vec![]),
    ];
    for desired in sequence {
        settle(&a, desired).await;
    }
    a.close().await;
}

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

async fn settle(node: &Node, desired: Interface) {
    let done = node.reconcile(desired.clone()).await.unwrap();
    assert_ne!(done, []);
    assert_eq!(diff(&node.observe().await, &desired), []);
    assert_eq!(node.reconcile(desired).await.unwrap(), []);
}

pub(crate) async fn repairs_what_others_changed(backend: Backend) {
    let (a, b) = pair(backend).await;
    a.connect("10.50.0.2:7000").await.unwrap();
    let desired = a.interface(vec![b.peer()]);
    let address = desired.addresses[0];

    a.netlink.delete_address("wh0", address).await.unwrap();
    a.netlink.add_address("wh0", "192.0.2.1/24".parse().unwrap()).await.unwrap();
    let stray = "192.0.2.1/24".parse().unwrap();
    let repairs = [Op::RemoveAddress(stray), Op::AddAddress(address)];
    assert_eq!(a.reconcile(desired.clone()).await.unwrap(), repairs);

    a.netlink.delete_link("wh0").await.unwrap();
    a.reconcile(desired).await.unwrap();
    a.connect("10.50.0.2:7000").await.unwrap().echo(b"again").await.unwrap();
    a.close().await;
    b.close().await;
}

pub(crate) async fn refuses_a_name_that_is_taken(backend: Backend) {
    let underlay = Underlay::new().await;
    let node = underlay.node(1, backend).await;
    node.netlink.add_bridge("wh0").await.unwrap();

    let error = node.reconcile(node.interface(vec![])).await.unwrap_err();

    assert!(matches!(&error, NetworkError::NameTaken { kind, .. } if kind == "bridge"), "{error}");
    node.netlink.delete_link("wh0").await.unwrap();
    node.reconcile(node.interface(vec![])).await.unwrap();
    node.close().await;
}

pub(crate) async fn recovers_when_a_port_becomes_free(backend: Backend) {
    let underlay = Underlay::new().await;
    let (a, b) = (underlay.node(1, backend).await, underlay.node(2, backend).await);
    let occupant = a.namespace.run(|| UdpSocket::bind("[::]:51821").unwrap()).unwrap();
    let desired = a.interface(vec![b.peer()]);
    a.reconcile(desired.clone()).await.unwrap_err();

    drop(occupant);
    a.reconcile(desired).await.unwrap();

    b.reconcile(b.interface(vec![a.peer()])).await.unwrap();
    b.serve_echo(7000).await;
    a.connect("10.50.0.2:7000").await.unwrap().echo(b"hello").await.unwrap();
    a.close().await;
    b.close().await;
}

pub(crate) async fn follows_a_peer_that_moves(backend: Backend) {
    let (a, b) = pair(backend).await;
    a.serve_echo(7000).await;
    let mut connection = a.connect("10.50.0.2:7000").await.unwrap();
    connection.echo(b"before").await.unwrap();

    b.netlink.delete_address("eth0", network("198.51.100.2/24")).await.unwrap();
    b.netlink.add_address("eth0", network("198.51.100.77/24")).await.unwrap();
    let mut moved = b.interface(vec![a.peer()]);
    moved.listen_port = NonZeroU16::new(51999).unwrap();
    b.reconcile(moved).await.unwrap();

    b.connect("10.50.0.1:7000").await.unwrap().echo(b"from elsewhere").await.unwrap();
    assert_eq!(connection.echo(b"after").await.unwrap(), b"after");
    let endpoint = a.observe().await.device.peers[&b.private_key.public_key()].endpoint;
    assert_eq!(endpoint, Some("198.51.100.77:51999".parse().unwrap()));
    a.close().await;
    b.close().await;
}

/// Of a masquerading gateway, which forgets a flow after two seconds of silence and lets nobody in from outside.
pub(crate) async fn stays_reachable_behind_a_gateway_that_forgets(backend: Backend) {
    let underlay = Underlay::new().await;
    let a = underlay.node(1, backend).await;
    let (gateway, inside) = (underlay.host(9).await, NetworkNamespace::create().unwrap());
    wire((&gateway, "inner", "192.0.2.1/24"), (&inside, "eth0", "192.0.2.2/24")).await;
    let b = underlay.node_in(inside, 2, backend).await;
    b.netlink.add_default_route("192.0.2.1".parse().unwrap()).await.unwrap();
    for link in ["inner", "eth0"] {
        Netlink::inside(&gateway).unwrap().set_ipv4_routing(link, true).await.unwrap();
    }
    nft(&gateway, "add table ip nat");
    nft(&gateway, "add chain ip nat out { type nat hook postrouting priority srcnat; }");
    nft(&gateway, "add rule ip nat out oifname eth0 masquerade");
    nft(&gateway, "add chain ip nat through { type filter hook forward priority filter; }");
    nft(&gateway, "add rule ip nat through iifname inner udp dport 51821 counter");
    for setting in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        let path = format!("/proc/sys/net/netfilter/{setting}");
        gateway.run(|| std::fs::write(path, "2").unwrap()).unwrap();
    }
    let mut hidden = b.peer();
    (hidden.endpoint, hidden.keepalive_s) = (None, None);
    a.reconcile(a.interface(vec![hidden])).await.unwrap();
    a.serve_echo(7000).await;
    let mut outside = a.peer();
    outside.keepalive_s = NonZeroU16::new(1);
    b.reconcile(b.interface(vec![outside])).await.unwrap();
    b.serve_echo(7000).await;
    b.connect("10.50.0.1:7000").await.unwrap().echo(b"before").await.unwrap();

    // Nobody says anything but that he is there, for several times as long as the gateway remembers.
    let packets = || {
        let listed = nft(&gateway, "list chain ip nat through");
        let (_, rest) = listed.split_once("packets ").unwrap();
        rest.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = packets();
    while packets() < before + 6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    a.connect("10.50.0.2:7000").await.unwrap().echo(b"after").await.unwrap();
    a.close().await;
    b.close().await;
}
