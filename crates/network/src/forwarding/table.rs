//! The table `inet wisehosting` as messages to the kernel, and back.
//!
//! The rules are the same whatever is forwarded; what is, stands in two maps from a public port to a target. So a packet
//! costs the same with one forward as with a thousand. As `nft` would print the table:
//!
//! ```text
//! map tcp_forwards { type inet_service : ipv4_addr . inet_service }        (and udp_forwards)
//! set routed { type ifname }                                               (links on which we turned routing on)
//! chain prerouting { type nat hook prerouting priority dstnat
//!   iifname != MESH fib daddr type local meta nfproto ipv4 dnat ip to tcp dport map @tcp_forwards    (and udp) }
//! chain forward { type filter hook forward priority filter
//!   oifname MESH tcp flags syn tcp option maxseg size set rt mtu                           (and iifname)
//!   iifname != MESH oifname MESH ct status dnat ct original proto-dst @tcp_forwards accept           (and udp)
//!   iifname != MESH oifname MESH ct state related accept
//!   iifname != MESH oifname MESH drop
//!   iifname MESH oifname != MESH ct state established,related accept
//!   iifname MESH oifname != MESH ct status dnat accept
//!   iifname MESH oifname != MESH drop }
//! chain postrouting { type nat hook postrouting priority srcnat
//!   oifname MESH ct status dnat masquerade }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::errno::Errno;
use rtnetlink::packet_core::DefaultNla;

use super::attribute::{bytes, find, name, nested, number, parse};
use super::rule::{Rule, rules};
use super::socket::{APPEND, CREATE, FilterSocket, Message, Part};
use super::{Forwards, ObservedForwards, Protocol};

/// Nobody else's.
const TABLE: &str = "wisehosting";
const ROUTED: &str = "routed";

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const GET_GENERATION: u16 = 16;

const SET_FLAG_MAP: u32 = 8;
/// How `nft` numbers types; the kernel only keeps them.
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_PORT: u32 = 13;
const TYPE_INTERFACE_NAME: u32 = 41;
const TYPE_BITS: u32 = 6;
/// A note for `nft`, which would print names backwards without it.
const KEY_IN_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
pub(super) const INTERFACE_NAME_BYTES: usize = 16;

/// Chains: name, type, hook, priority.
const CHAINS: [(&str, &str, u32, i32); 3] =
    [("prerouting", "nat", 0, -100), ("forward", "filter", 2, 0), ("postrouting", "nat", 4, 100)];

/// The map of a protocol.
pub(super) fn map_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp_forwards",
        Protocol::Udp => "udp_forwards",
    }
}

/// Puts the table in the place of the one that was there.
pub(super) fn replace(
    socket: &FilterSocket,
    forwards: &Forwards,
    routed: &BTreeSet<String>,
) -> io::Result<()> {
    let table = || name(1, TABLE);
    // One that is not there cannot be deleted, so it is made first.
    let mut batch = vec![
        message(NEW_TABLE, CREATE, vec![table()]),
        message(DELETE_TABLE, 0, vec![table()]),
        message(NEW_TABLE, CREATE, vec![table()]),
    ];
    for protocol in Protocol::ALL {
        let data_type = TYPE_IPV4_ADDRESS << TYPE_BITS | TYPE_PORT;
        let data = [number(6, data_type), number(7, 8)];
        batch.push(set(map_name(protocol), SET_FLAG_MAP, TYPE_PORT, 2, &data));
        batch.extend(new_targets(protocol, forwards.targets.iter()));
    }
    let userdata = [bytes(13, &KEY_IN_HOST_ORDER)];
    batch.push(set(ROUTED, 0, TYPE_INTERFACE_NAME, INTERFACE_NAME_BYTES, &userdata));
    batch.extend(links(NEW_ELEMENT, routed.iter()));
    for (chain, kind, hook, priority) in CHAINS {
        let hook = nested(4, &[number(1, hook), bytes(2, &priority.to_be_bytes())]);
        batch.push(message(NEW_CHAIN, CREATE, vec![table(), name(3, chain), hook, name(7, kind)]));
    }
    for Rule { chain, expressions } in rules(forwards.mesh.as_str()) {
        let attributes = vec![table(), name(2, chain), nested(4, &expressions)];
        batch.push(message(NEW_RULE, CREATE | APPEND, attributes));
    }
    socket.commit(&batch)
}

/// Turns what is in the table into what should be; what is in both stays in force all the while.
pub(super) fn update(
    socket: &FilterSocket,
    table: &ObservedForwards,
    forwards: &Forwards,
    routed: &BTreeSet<String>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    let (old, new) = (&table.targets, &forwards.targets);
    for protocol in Protocol::ALL {
        let gone = old.iter().filter(|(of, target)| of.0 == protocol && new.get(of) != Some(target));
        let gone = gone.map(|((_, port), _)| vec![key(&port.to_be_bytes())]);
        batch.extend(elements(DELETE_ELEMENT, map_name(protocol), gone));
        let added = new.iter().filter(|(of, target)| old.get(of) != Some(target));
        batch.extend(new_targets(protocol, added));
    }
    batch.extend(links(DELETE_ELEMENT, table.routed.difference(routed)));
    batch.extend(links(NEW_ELEMENT, routed.difference(&table.routed)));
    socket.commit(&batch)
}

/// Removes the table; one that is not there is no error.
pub(super) fn remove(socket: &FilterSocket) -> io::Result<()> {
    match socket.commit(&[message(DELETE_TABLE, 0, vec![name(1, TABLE)])]) {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

/// Reads the table; none if there is none.
pub(super) fn observe(socket: &FilterSocket) -> io::Result<Option<ObservedForwards>> {
    let mut targets = BTreeMap::new();
    for protocol in Protocol::ALL {
        let Some(elements) = read_elements(socket, map_name(protocol))? else { return Ok(None) };
        let read = elements.iter().filter_map(|element| read_pair(element));
        targets.extend(read.map(|(port, target)| ((protocol, port), target)));
    }
    let Some(elements) = read_elements(socket, ROUTED)? else { return Ok(None) };
    let routed = elements.iter().filter_map(|element| read_link(element)).collect();
    let mut rules = 0;
    socket.dump(Part::Tables, GET_RULE, &[name(1, TABLE)], |_| rules += 1)?;
    Ok(Some(ObservedForwards { targets, routed, rules }))
}

/// A number that is another one after each change of the packet filter of this network.
pub(super) fn generation(socket: &FilterSocket) -> io::Result<u32> {
    let answer = socket.get(Part::Tables, GET_GENERATION)?;
    let number = find(&answer, 1).and_then(|number| number.get(..4)?.try_into().ok());
    number.map(u32::from_be_bytes).ok_or_else(|| Errno::EBADMSG.into())
}

pub(super) fn message(kind: u16, flags: u16, attributes: Vec<DefaultNla>) -> Message {
    Message { kind, flags, attributes }
}

fn set(set: &str, flags: u32, key_type: u32, key_bytes: usize, data: &[DefaultNla]) -> Message {
    let mut attributes = vec![name(1, TABLE), name(2, set), number(3, flags), number(4, key_type)];
    attributes.push(number(5, u32::try_from(key_bytes).unwrap_or(u32::MAX)));
    attributes.extend_from_slice(data);
    // A number by which rules of the same batch may name it; we name it by its name.
    attributes.push(number(10, 1));
    message(NEW_SET, CREATE, attributes)
}

/// Those of one protocol.
fn new_targets<'a>(
    protocol: Protocol,
    targets: impl Iterator<Item = (&'a (Protocol, u16), &'a SocketAddrV4)>,
) -> Vec<Message> {
    let targets = targets.filter(|((of, _), _)| *of == protocol);
    elements(NEW_ELEMENT, map_name(protocol), targets.map(|((_, port), target)| pair(*port, *target)))
}

fn links<'a>(kind: u16, links: impl Iterator<Item = &'a String>) -> Vec<Message> {
    elements(kind, ROUTED, links.map(|link| vec![key(&padded(link))]))
}

/// So few in a message that they fit the 16 bits of an attribute's length.
fn elements(kind: u16, set: &str, elements: impl Iterator<Item = Vec<DefaultNla>>) -> Vec<Message> {
    const IN_ONE_MESSAGE: usize = 1_000;
    let list: Vec<DefaultNla> = elements.map(|element| nested(1, &element)).collect();
    let message_of =
        |list: &[DefaultNla]| message(kind, CREATE, vec![name(1, TABLE), name(2, set), nested(3, list)]);
    list.chunks(IN_ONE_MESSAGE).map(message_of).collect()
}

fn key(value: &[u8]) -> DefaultNla {
    nested(1, &[bytes(1, value)])
}

/// A port, and where it leads: each part of a concatenation begins at a multiple of four bytes.
fn pair(port: u16, target: SocketAddrV4) -> Vec<DefaultNla> {
    let target = [&target.ip().octets()[..], &target.port().to_be_bytes(), &[0, 0]].concat();
    vec![key(&port.to_be_bytes()), nested(2, &[bytes(1, &target)])]
}

fn read_elements(socket: &FilterSocket, set: &str) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut elements = Vec::new();
    let read = socket.dump(Part::Tables, GET_ELEMENT, &[name(1, TABLE), name(2, set)], |message| {
        let list = find(message, 3).into_iter().flat_map(parse);
        elements.extend(list.map(|(_, element)| element.to_vec()));
    });
    match read {
        Ok(()) => Ok(Some(elements)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_pair(element: &[u8]) -> Option<(u16, SocketAddrV4)> {
    let port = u16::from_be_bytes(find(find(element, 1)?, 1)?.get(..2)?.try_into().ok()?);
    let target = find(find(element, 2)?, 1)?;
    let address: [u8; 4] = target.get(..4)?.try_into().ok()?;
    let target_port = u16::from_be_bytes(target.get(4..6)?.try_into().ok()?);
    Some((port, SocketAddrV4::new(Ipv4Addr::from(address), target_port)))
}

fn read_link(element: &[u8]) -> Option<String> {
    Some(text(find(find(element, 1)?, 1)?))
}

/// Up to the first zero byte.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An interface's name as the kernel compares it.
pub(super) fn padded(link: &str) -> Vec<u8> {
    let mut value = link.as_bytes().to_vec();
    value.resize(INTERFACE_NAME_BYTES, 0);
    value
}

/// What is asked for is not there.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}
