//! The rules of the table, as expressions on the kernel's registers.

use rtnetlink::packet_core::DefaultNla;

use super::Protocol;
use super::attribute::{bytes, name, nested, number};
use super::table::{map_name, padded};

const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// The second four bytes of [`REGISTER`]: where the port is when an address and a port were loaded.
const REGISTER_PORT: u32 = 9;
/// For what is looked up and not used.
const REGISTER_UNUSED: u32 = 2;

const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_NETWORK_PROTOCOL: u32 = 15;
const META_TRANSPORT_PROTOCOL: u32 = 16;
const IPV4: u8 = 2;

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_DESTINATION_PORT: u32 = 12;
const CT_ORIGINAL: u8 = 0;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATUS_DESTINATION_CHANGED: u32 = 32;

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// A rule of one chain.
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) expressions: Vec<DefaultNla>,
}

/// All rules, in their order.
pub(super) fn rules(mesh: &str) -> Vec<Rule> {
    let rule = |chain, parts: &[&[DefaultNla]]| Rule { chain, expressions: parts.concat() };
    let (not_from_mesh, to_mesh) = (input(mesh, NOT_EQUAL), output(mesh, EQUAL));
    let changed = ct_has(CT_STATUS, STATUS_DESTINATION_CHANGED);
    let (accept, drop) = (verdict(ACCEPT), verdict(DROP));
    let mut rules = Vec::new();
    for protocol in Protocol::ALL {
        rules.push(rule("prerouting", &[&not_from_mesh, &to_this_host(), &translated(protocol)]));
    }
    for direction in [to_mesh.clone(), input(mesh, EQUAL)] {
        rules.push(rule("forward", &[&direction, &narrowed()]));
    }
    for protocol in Protocol::ALL {
        let known = forwarded(protocol);
        rules.push(rule("forward", &[&not_from_mesh, &to_mesh, &changed, &known, &accept]));
    }
    let related = ct_has(CT_STATE, STATE_RELATED);
    rules.push(rule("forward", &[&not_from_mesh, &to_mesh, &related, &accept]));
    rules.push(rule("forward", &[&not_from_mesh, &to_mesh, &drop]));
    rules.extend(leaving(mesh).map(|expressions| Rule { chain: "forward", expressions }));
    rules.push(rule("postrouting", &[&to_mesh, &changed, &[expression("masq", &[])]]));
    rules
}

/// From the mesh to elsewhere: answers, and what a forward has brought to this host's own services; nothing else.
pub(super) fn leaving(mesh: &str) -> [Vec<DefaultNla>; 3] {
    let leaves = [input(mesh, EQUAL), output(mesh, NOT_EQUAL)].concat();
    let rule = |rest: [Vec<DefaultNla>; 2]| [leaves.clone(), rest.concat()].concat();
    [
        rule([ct_has(CT_STATE, STATE_ESTABLISHED | STATE_RELATED), verdict(ACCEPT)]),
        rule([ct_has(CT_STATUS, STATUS_DESTINATION_CHANGED), verdict(ACCEPT)]),
        rule([Vec::new(), verdict(DROP)]),
    ]
}

fn input(link: &str, relation: u32) -> Vec<DefaultNla> {
    vec![meta(META_INPUT_NAME), compare(relation, &padded(link))]
}

fn output(link: &str, relation: u32) -> Vec<DefaultNla> {
    vec![meta(META_OUTPUT_NAME), compare(relation, &padded(link))]
}

/// Addressed to one of this host's IPv4 addresses, not to somebody behind it.
fn to_this_host() -> Vec<DefaultNla> {
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    const LOCAL: u32 = 2;
    vec![
        meta(META_NETWORK_PROTOCOL),
        compare(EQUAL, &[IPV4]),
        expression("fib", &[number(1, REGISTER), number(2, ADDRESS_TYPE), number(3, OF_DESTINATION)]),
        compare(EQUAL, &LOCAL.to_ne_bytes()),
    ]
}

/// Sent on to where its port leads, if it leads anywhere.
fn translated(protocol: Protocol) -> Vec<DefaultNla> {
    const TRANSPORT_HEADER: u32 = 2;
    const DESTINATION_OFFSET: u32 = 2;
    const DESTINATION_BYTES: u32 = 2;
    const TO_ANOTHER_DESTINATION: u32 = 1;
    let destination_port = [
        number(1, REGISTER),
        number(2, TRANSPORT_HEADER),
        number(3, DESTINATION_OFFSET),
        number(4, DESTINATION_BYTES),
    ];
    let target = [
        number(1, TO_ANOTHER_DESTINATION),
        number(2, u32::from(IPV4)),
        number(3, REGISTER),
        number(5, REGISTER_PORT),
    ];
    vec![
        meta(META_TRANSPORT_PROTOCOL),
        compare(EQUAL, &[protocol.number()]),
        expression("payload", &destination_port),
        lookup(protocol, REGISTER),
        expression("nat", &target),
    ]
}

/// Of a connection that came in by a port which is forwarded still.
fn forwarded(protocol: Protocol) -> Vec<DefaultNla> {
    let port = [number(1, REGISTER), number(2, CT_DESTINATION_PORT), bytes(3, &[CT_ORIGINAL])];
    vec![
        meta(META_TRANSPORT_PROTOCOL),
        compare(EQUAL, &[protocol.number()]),
        expression("ct", &port),
        lookup(protocol, REGISTER_UNUSED),
    ]
}

/// A connection that begins, told to send no larger segments than its narrower link takes. Both ends would learn that by
/// ICMP, which gets lost often.
fn narrowed() -> Vec<DefaultNla> {
    const TCP_FLAGS: [u32; 3] = [2, 13, 1];
    const SYN: u8 = 2;
    const ROUTES_SEGMENT_BYTES: u32 = 3;
    const TO_NETWORK_ORDER: u32 = 1;
    const OPTION: u32 = 1;
    const OPTION_SEGMENT_BYTES: u8 = 2;
    let [header, offset, length] = TCP_FLAGS;
    let flags = [number(1, REGISTER), number(2, header), number(3, offset), number(4, length)];
    let order =
        [number(1, REGISTER), number(2, REGISTER), number(3, TO_NETWORK_ORDER), number(4, 2), number(5, 2)];
    let write = [
        bytes(2, &[OPTION_SEGMENT_BYTES]),
        number(3, 2),
        number(4, 2),
        number(6, OPTION),
        number(7, REGISTER),
    ];
    let mut expressions = vec![
        meta(META_TRANSPORT_PROTOCOL),
        compare(EQUAL, &[Protocol::Tcp.number()]),
        expression("payload", &flags),
    ];
    expressions.extend(has_any(&[SYN]));
    expressions.push(expression("rt", &[number(1, REGISTER), number(2, ROUTES_SEGMENT_BYTES)]));
    expressions.push(expression("byteorder", &order));
    expressions.push(expression("exthdr", &write));
    expressions
}

/// Of a connection that has any of these bits.
fn ct_has(key: u32, bits: u32) -> Vec<DefaultNla> {
    let [masked, compared] = has_any(&bits.to_ne_bytes());
    vec![expression("ct", &[number(1, REGISTER), number(2, key)]), masked, compared]
}

/// What was loaded has any of these bits.
fn has_any(bits: &[u8]) -> [DefaultNla; 2] {
    let (length, none) = (u32::try_from(bits.len()).unwrap_or(u32::MAX), vec![0; bits.len()]);
    let data = |kind, value| nested(kind, &[bytes(1, value)]);
    let mask = [number(1, REGISTER), number(2, REGISTER), number(3, length), data(4, bits), data(5, &none)];
    [expression("bitwise", &mask), compare(NOT_EQUAL, &none)]
}

fn verdict(code: u32) -> Vec<DefaultNla> {
    let data = nested(2, &[nested(2, &[number(1, code)])]);
    vec![expression("immediate", &[number(1, REGISTER_VERDICT), data])]
}

fn meta(key: u32) -> DefaultNla {
    expression("meta", &[number(1, REGISTER), number(2, key)])
}

fn compare(relation: u32, value: &[u8]) -> DefaultNla {
    expression("cmp", &[number(1, REGISTER), number(2, relation), nested(3, &[bytes(1, value)])])
}

fn lookup(protocol: Protocol, result: u32) -> DefaultNla {
    expression("lookup", &[name(1, map_name(protocol)), number(2, REGISTER), number(3, result)])
}

fn expression(kind: &str, attributes: &[DefaultNla]) -> DefaultNla {
    nested(1, &[name(1, kind), nested(2, attributes)])
}
