//! Connections that the kernel tracks: those which a change of the forwards makes stale are forgotten.
//!
//! The kernel decides on the first packet of a connection where it leads, and remembers. So what a removed forward began
//! would go on wherever something else lets it, and a flow of datagrams that came before its forward would never take it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::errno::Errno;
use rtnetlink::packet_core::DefaultNla;

use super::Protocol;
use super::attribute::{bytes, find};
use super::socket::{FilterSocket, Part};
use super::table::is_missing;

const GET: u16 = 1;
const DELETE: u16 = 2;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;

const STATUS_ANSWERED: u32 = 2;
const STATUS_DESTINATION_CHANGED: u32 = 32;

type Targets = BTreeMap<(Protocol, u16), SocketAddrV4>;

/// A connection as its two ends see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    /// What was asked for.
    public: (Protocol, u16),
    /// Who answers.
    server: SocketAddrV4,
    status: u32,
}

/// Forgets the connections to which the change from `old` to `new` matters. A kernel that shows none is no error.
pub(super) fn forget_stale(socket: &FilterSocket, old: &Targets, new: &Targets) -> io::Result<()> {
    if !may_be_stale(old, new) {
        return Ok(());
    }
    let mut stale = Vec::new();
    let read = socket.dump(Part::Connections, GET, &[], |message| {
        if read_connection(message).is_some_and(|connection| is_stale(connection, old, new)) {
            stale.push(identity(message));
        }
    });
    match read {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => return Ok(()),
        read => read?,
    }
    for connection in stale {
        match socket.request(Part::Connections, DELETE, &connection) {
            // It ended by itself.
            Err(error) if is_missing(&error) => {}
            forgotten => forgotten?,
        }
    }
    Ok(())
}

/// Whether any connection can be stale after a change. To look takes the kernel some 20 ms, however few there are: it walks a
/// table with room for all of the machine's.
fn may_be_stale(old: &Targets, new: &Targets) -> bool {
    let has_ended = |(public, target): (&_, &_)| new.get(public) != Some(target);
    let takes_datagrams = |public: &(Protocol, u16)| public.0 == Protocol::Udp && !old.contains_key(public);
    old.iter().any(has_ended) || new.keys().any(takes_datagrams)
}

/// Whether it began by a forward that is no more, or is a flow of datagrams, answered by nobody, that a new one would take.
fn is_stale(connection: Connection, old: &Targets, new: &Targets) -> bool {
    let has = |status| connection.status & status != 0;
    let (was, is) = (old.get(&connection.public), new.get(&connection.public));
    if was == is {
        false
    } else if has(STATUS_DESTINATION_CHANGED) {
        was == Some(&connection.server)
    } else {
        connection.public.0 == Protocol::Udp && is.is_some() && !has(STATUS_ANSWERED)
    }
}

fn read_connection(message: &[u8]) -> Option<Connection> {
    let (original, reply) = (find(message, ORIGINAL)?, find(message, REPLY)?);
    let number = *find(find(original, 2)?, 1)?.first()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    let port = |tuple, kind| Some(u16::from_be_bytes(find(find(tuple, 2)?, kind)?.try_into().ok()?));
    let server: [u8; 4] = find(find(reply, 1)?, 1)?.try_into().ok()?;
    Some(Connection {
        public: (protocol, port(original, 3)?),
        server: SocketAddrV4::new(Ipv4Addr::from(server), port(reply, 2)?),
        status: u32::from_be_bytes(find(message, STATUS)?.try_into().ok()?),
    })
}

/// What names a connection, and no other that took its place meanwhile.
fn identity(message: &[u8]) -> Vec<DefaultNla> {
    let part = |(kind, nested)| Some(bytes(kind | nested, find(message, kind)?));
    [(ORIGINAL, NESTED), (ID, 0), (ZONE, 0)].into_iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_change_is_about_is_stale() {
        let targets = |list: &[(Protocol, u16, &str)]| -> Targets {
            list.iter().map(|(protocol, port, to)| ((*protocol, *port), to.parse().unwrap())).collect()
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let old = targets(&[(tcp, 1, "10.50.0.2:80"), (udp, 2, "10.50.0.2:53"), (tcp, 3, "10.50.0.2:80")]);
        let new = targets(&[(tcp, 1, "10.50.0.2:80"), (udp, 2, "10.50.0.3:53"), (udp, 4, "10.50.0.2:53")]);
        let translated = STATUS_DESTINATION_CHANGED | STATUS_ANSWERED;
        for (protocol, port, server, status, stale) in [
            (tcp, 1, "10.50.0.2:80", translated, false),
            (udp, 2, "10.50.0.2:53", translated, true),
            (tcp, 3, "10.50.0.2:80", translated, true),
            (tcp, 3, "192.0.2.1:80", translated, false),
            (udp, 3, "10.50.0.2:80", translated, false),
            (udp, 4, "203.0.113.1:4", 0, true),
            (udp, 4, "192.0.2.1:4", STATUS_ANSWERED, false),
            (tcp, 4, "203.0.113.1:4", 0, false),
        ] {
            let connection = Connection { public: (protocol, port), server: server.parse().unwrap(), status };
            assert_eq!(is_stale(connection, &old, &new), stale, "{connection:?}");
        }
    }

    #[test]
    fn nobody_looks_where_nothing_can_be_stale() {
        let targets = |list: &[(Protocol, u16, &str)]| -> Targets {
            list.iter().map(|(protocol, port, to)| ((*protocol, *port), to.parse().unwrap())).collect()
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let one = [(tcp, 1, "10.50.0.2:80"), (udp, 2, "10.50.0.2:53")];
        for (more, looks) in [
            (vec![], false),
            (vec![(tcp, 3, "10.50.0.2:80")], false),
            (vec![(udp, 3, "10.50.0.2:80")], true),
            (vec![(tcp, 1, "10.50.0.3:80")], true),
            (vec![(udp, 2, "10.50.0.3:53")], true),
        ] {
            let new = targets(&[&one[..], &more[..]].concat());
            assert_eq!(may_be_stale(&targets(&one), &new), looks, "{more:?}");
        }
        assert!(
            may_be_stale(&targets(&one), &targets(&one[..1]))
                && may_be_stale(&targets(&one), &targets(&one[1..]))
        );
    }
}
