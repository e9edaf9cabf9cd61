//! Links, addresses, routes and namespaces against the real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::RouteProtocol;
use wisehosting_network::{NamespaceRuntime, Netlink, NetworkError, NetworkNamespace, VethEnd};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A host: a namespace with one veth end `eth0` that is up and has an address.
async fn host(switch: &NetworkNamespace, port: &str, address: &str) -> NetworkNamespace {
    let namespace = NetworkNamespace::create().unwrap();
    let underlay = Netlink::inside(switch).unwrap();
    underlay
        .add_veth(VethEnd { name: port, namespace: switch }, VethEnd { name: "eth0", namespace: &namespace })
        .await
        .unwrap();
    underlay.set_bridge(port, "br0").await.unwrap();
    underlay.set_up(port).await.unwrap();
    let netlink = Netlink::inside(&namespace).unwrap();
    netlink.set_loopback_up().await.unwrap();
    netlink.set_up("eth0").await.unwrap();
    netlink.add_address("eth0", net(address)).await.unwrap();
    namespace
}

#[tokio::test]
async fn two_hosts_on_a_bridge_reach_each_other() {
    let switch = NetworkNamespace::create().unwrap();
    Netlink::inside(&switch).unwrap().add_bridge("br0").await.unwrap();
    let server = host(&switch, "p1", "198.51.100.1/24").await;
    let client = host(&switch, "p2", "198.51.100.2/24").await;

    let listener = server.run(|| TcpListener::bind("198.51.100.1:7000").unwrap()).unwrap();
    let mut out = client.run(|| TcpStream::connect("198.51.100.1:7000").unwrap()).unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();

    assert_eq!(peer.ip(), Ipv4Addr::new(198, 51, 100, 2));
    out.write_all(b"over the bridge").unwrap();
    drop(out);
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over the bridge");
}

#[tokio::test]
async fn a_new_namespace_has_only_a_loopback_that_is_down() {
    let netlink = Netlink::inside(&NetworkNamespace::create().unwrap()).unwrap();
    let links = netlink.links().await.unwrap();
    assert_eq!(links.len(), 1);
    assert_eq!((links[0].name.as_str(), links[0].up), ("lo", false));
    netlink.set_loopback_up().await.unwrap();
    assert!(netlink.link("lo").await.unwrap().unwrap().up);
}

#[tokio::test]
async fn addresses_and_routes_can_be_set_twice_and_removed_twice() {
    let netlink = Netlink::inside(&NetworkNamespace::create().unwrap()).unwrap();
    netlink.add_bridge("br0").await.unwrap();
    netlink.set_mtu("br0", 1400).await.unwrap();
    for _ in 0..2 {
        netlink.add_address("br0", net("192.0.2.1/24")).await.unwrap();
        netlink.add_address("br0", net("2001:db8::1/64")).await.unwrap();
        netlink.add_route("br0", net("203.0.113.0/24")).await.unwrap();
        netlink.add_route("br0", net("2001:db8:1::/48")).await.unwrap();
        netlink.add_default_route("192.0.2.254".parse().unwrap()).await.unwrap();
    }
    assert_eq!(netlink.link("br0").await.unwrap().unwrap().mtu, 1400);
    assert_eq!(netlink.addresses("br0").await.unwrap(), [net("192.0.2.1/24"), net("2001:db8::1/64")]);
    assert_eq!(netlink.routes("br0").await.unwrap(), [net("203.0.113.0/24"), net("2001:db8:1::/48")]);

    for _ in 0..2 {
        netlink.delete_route("br0", net("203.0.113.0/24")).await.unwrap();
        netlink.delete_route("br0", net("2001:db8:1::/48")).await.unwrap();
        netlink.delete_address("br0", net("192.0.2.1/24")).await.unwrap();
        netlink.delete_address("br0", net("2001:db8::1/64")).await.unwrap();
    }
    assert_eq!(netlink.addresses("br0").await.unwrap(), []);
    assert_eq!(netlink.routes("br0").await.unwrap(), []);

    for _ in 0..2 {
        netlink.delete_link("br0").await.unwrap();
    }
    assert_eq!(netlink.link("br0").await.unwrap(), None);
}

#[tokio::test]
async fn routes_of_others_are_seen_and_removed_but_not_taken_over() {
    let namespace = NetworkNamespace::create().unwrap();
    let netlink = Netlink::inside(&namespace).unwrap();
    for (name, address) in [("br0", "192.0.2.1/24"), ("br1", "198.51.100.1/24")] {
        netlink.add_bridge(name).await.unwrap();
        netlink.add_address(name, net(address)).await.unwrap();
    }
    let index = netlink.link("br0").await.unwrap().unwrap().index;
    NamespaceRuntime::new(&namespace).unwrap().run(add_route_as_a_person_would(index)).await;
    assert_eq!(netlink.routes("br0").await.unwrap(), [net("203.0.113.0/24")]);

    let error = netlink.add_route("br1", net("203.0.113.0/24")).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot add a route to br1");
    assert_eq!(netlink.routes("br0").await.unwrap(), [net("203.0.113.0/24")]);

    netlink.delete_route("br0", net("203.0.113.0/24")).await.unwrap();
    assert_eq!(netlink.routes("br0").await.unwrap(), []);
    netlink.add_route("br1", net("203.0.113.0/24")).await.unwrap();
}

/// 203.0.113.0/24, marked as made by hand.
async fn add_route_as_a_person_would(index: u32) {
    let (connection, handle, _messages) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(203, 0, 113, 0), 24)
        .output_interface(index)
        .protocol(RouteProtocol::Boot)
        .build();
    handle.route().add(route).execute().await.unwrap();
}

#[tokio::test]
async fn an_error_names_the_operation_and_the_interface() {
    let netlink = Netlink::inside(&NetworkNamespace::create().unwrap()).unwrap();
    let error = netlink.set_up("wh0").await.unwrap_err();
    assert!(matches!(error, NetworkError::NoSuchInterface { .. }));
    assert_eq!(error.to_string(), "cannot set up wh0: there is no such interface");
    netlink.add_bridge("br0").await.unwrap();
    let error = netlink.add_bridge("br0").await.unwrap_err();
    assert_eq!(error.to_string(), "cannot create bridge br0");
}

#[tokio::test]
async fn work_inside_a_namespace_leaves_the_caller_where_it_was() {
    let here = NetworkNamespace::current().unwrap();
    let inside = NetworkNamespace::create().unwrap();
    let names = |namespace: &NetworkNamespace| namespace.block_on(async || link_names().await).unwrap();
    let before = names(&here);
    Netlink::inside(&inside).unwrap().add_bridge("br0").await.unwrap();
    assert_eq!(names(&inside), ["lo", "br0"]);
    assert_eq!(link_names().await, before);

    let runtime = NamespaceRuntime::new(&inside).unwrap();
    assert_eq!(runtime.run(link_names()).await, ["lo", "br0"]);
    let from_blocking = runtime.run(async {
        tokio::task::spawn_blocking(|| NetworkNamespace::current().unwrap().block_on(link_names).unwrap())
            .await
            .unwrap()
    });
    assert_eq!(from_blocking.await, ["lo", "br0"]);
}

async fn link_names() -> Vec<String> {
    let links = Netlink::here().unwrap().links().await.unwrap();
    links.into_iter().map(|link| link.name).collect()
}
