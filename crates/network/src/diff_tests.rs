//! The difference against a model of an interface.

use std::num::NonZeroU16;
use std::time::Duration;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::observed::ObservedDevice;
use crate::{PrivateKey, testing};

const PRIVATE_KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u8>(), 8_u8..=32).prop_map(|(third, prefix)| ([10, 50, third, 1].into(), prefix));
    let v6 = (any::<u16>(), 16_u8..=128)
        .prop_map(|(part, prefix)| ([0x2001, part, 0, 0, 0, 0, 0, 1].into(), prefix));
    prop_oneof![v4, v6].prop_map(|(address, prefix)| IpNet::new(address, prefix).unwrap())
}

fn keepalive() -> impl Strategy<Value = Option<NonZeroU16>> {
    proptest::option::of((1_u16..60).prop_map(|seconds| NonZeroU16::new(seconds).unwrap()))
}

fn endpoint() -> impl Strategy<Value = Option<SocketAddr>> {
    proptest::option::of((1_u8..4).prop_map(|host| SocketAddr::from(([198, 51, 100, host], 51821))))
}

fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let one = (1_u8..6, endpoint(), vec(network(), 0..4), keepalive());
    vec(one, 0..5).prop_map(|peers| {
        let mut seen = BTreeSet::new();
        let described = peers.into_iter().filter(|(number, ..)| seen.insert(*number));
        described
            .map(|(number, endpoint, allowed_ips, keepalive_s)| Peer {
                public_key: key(number),
                endpoint,
                allowed_ips,
                keepalive_s,
            })
            .collect()
    })
}

fn desired() -> impl Strategy<Value = Interface> {
    (btree_set(network(), 1..3), 1280_u32..1500, 1_u16..4, peers()).prop_map(
        |(addresses, mtu, listen_port, peers)| Interface {
            name: "wh0".parse().unwrap(),
            addresses: addresses.into_iter().collect(),
            mtu,
            private_key: PRIVATE_KEY.parse().unwrap(),
            listen_port: NonZeroU16::new(listen_port).unwrap(),
            peers,
        },
    )
}

fn observed() -> impl Strategy<Value = Observed> {
    let status = (endpoint(), btree_set(network(), 0..4), keepalive(), proptest::option::of(0_u64..400))
        .prop_map(|(endpoint, allowed_ips, keepalive_s, age_s)| PeerStatus {
            endpoint,
            allowed_ips,
            keepalive_s,
            last_handshake_age: age_s.map(Duration::from_secs),
            rx_bytes: 0,
            tx_bytes: 0,
        });
    let peers = proptest::collection::btree_map((1_u8..6).prop_map(key), status, 0..5);
    let device = (any::<bool>(), 0_u16..4, peers).prop_map(|(keyed, listen_port, peers)| ObservedDevice {
        public_key: keyed.then(|| PRIVATE_KEY.parse::<PrivateKey>().unwrap().public_key()),
        listen_port,
        peers,
    });
    (any::<bool>(), 1280_u32..1500, btree_set(network(), 0..3), btree_set(network(), 0..3), device)
        .prop_map(|(up, mtu, addresses, routes, device)| Observed { up, mtu, addresses, routes, device })
}

/// What an operation does, in the words of the documentation of [`Op`].
fn carry_out(model: &mut Observed, op: Op, desired: &Interface) {
    match op {
        Op::SetMtu(mtu) => model.mtu = mtu,
        Op::SetIdentity => {
            model.device.public_key = Some(desired.private_key.public_key());
            model.device.listen_port = desired.listen_port.get();
        }
        Op::RemovePeer(key) => {
            assert!(model.device.peers.remove(&key).is_some());
        }
        Op::SetPeer(peer) => {
            assert!(model.device.public_key.is_some(), "no peer before the key");
            let networks = peer.networks();
            for other in model.device.peers.values_mut() {
                other.allowed_ips.retain(|network| !networks.contains(network));
            }
            let status = model.device.peers.entry(peer.public_key).or_default();
            status.allowed_ips = networks;
            status.keepalive_s = peer.keepalive_s;
            status.endpoint = peer.endpoint.or(status.endpoint);
        }
        Op::RemoveAddress(address) => assert!(model.addresses.remove(&address)),
        Op::AddAddress(address) => assert!(model.addresses.insert(address)),
        Op::SetUp => model.up = true,
        Op::RemoveRoute(route) => assert!(model.routes.remove(&route)),
        Op::AddRoute(route) => {
            assert!(model.up, "no route through a link that is down");
            assert!(model.routes.insert(route));
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_left_to_do_afterwards(mut model in observed(), desired in desired()) {
        prop_assume!(desired.check().is_ok());
        for op in diff(&model, &desired) {
            carry_out(&mut model, op, &desired);
        }
        prop_assert_eq!(diff(&model, &desired), []);
    }
}

fn interface(peers: Vec<Peer>) -> Interface {
    testing::interface(11, PRIVATE_KEY.parse().unwrap(), peers)
}

fn built(desired: &Interface) -> Observed {
    let mut model = Observed::default();
    for op in diff(&model, desired) {
        carry_out(&mut model, op, desired);
    }
    model
}

fn control_plane() -> Peer {
    Peer {
        endpoint: Some("198.51.100.1:51821".parse().unwrap()),
        keepalive_s: NonZeroU16::new(25),
        ..testing::peer(key(1), &["10.50.0.1/32"])
    }
}

#[test]
fn a_new_interface_is_built_in_a_possible_order() {
    let mut peer = control_plane();
    peer.allowed_ips.push("10.60.0.0/16".parse().unwrap());
    let ops = diff(&Observed::default(), &interface(vec![peer.clone()]));
    let expected = [
        Op::SetMtu(1420),
        Op::SetIdentity,
        Op::SetPeer(peer),
        Op::AddAddress("10.50.0.11/24".parse().unwrap()),
        Op::SetUp,
        Op::AddRoute("10.60.0.0/16".parse().unwrap()),
    ];
    assert_eq!(ops, expected);
}

#[test]
fn a_peer_that_moved_is_followed_while_it_lives_and_sought_again_when_it_falls_silent() {
    let desired = interface(vec![control_plane()]);
    let mut observed = built(&desired);
    let status = observed.device.peers.get_mut(&key(1)).unwrap();
    status.endpoint = Some("198.51.100.77:40000".parse().unwrap());
    status.last_handshake_age = Some(Duration::from_secs(100));
    assert_eq!(diff(&observed, &desired), []);

    let status = observed.device.peers.get_mut(&key(1)).unwrap();
    status.last_handshake_age = Some(Duration::from_secs(200));
    assert_eq!(diff(&observed, &desired), [Op::SetPeer(control_plane())]);
}

#[test]
fn a_change_of_networks_keeps_the_endpoint_in_use() {
    let mut desired = interface(vec![control_plane()]);
    let mut observed = built(&desired);
    observed.device.peers.get_mut(&key(1)).unwrap().last_handshake_age = Some(Duration::from_secs(1));
    desired.peers[0].allowed_ips.push("10.50.0.2/32".parse().unwrap());
    let expected = Peer { endpoint: None, ..desired.peers[0].clone() };
    assert_eq!(diff(&observed, &desired), [Op::SetPeer(expected)]);
}
