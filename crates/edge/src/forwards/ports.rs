//! Ports on which something on this host listens.
//!
//! Read from the kernel's tables as text: the right to bind a port, which would be the other way to ask, is not the
//! edge's for ports below 1024.

use super::Proto;
use std::{collections::BTreeSet, fs, io};

/// Those of the network namespace of the calling thread.
const DIRECTORY: &str = "/proc/thread-self/net";
/// TCP_LISTEN, and what a datagram socket that is not connected shows.
const LISTENING: [(&str, Proto, &str); 4] = [
    ("tcp", Proto::Tcp, "0A"),
    ("tcp6", Proto::Tcp, "0A"),
    ("udp", Proto::Udp, "07"),
    ("udp6", Proto::Udp, "07"),
];

/// All of them.
///
/// # Errors
/// The kernel does not show them.
pub fn listening() -> io::Result<BTreeSet<(Proto, u16)>> {
    let mut ports = BTreeSet::new();
    for (name, proto, state) in LISTENING {
        match fs::read_to_string(format!("{DIRECTORY}/{name}")) {
            Ok(table) => ports.extend(parse(&table, state).map(|port| (proto, port))),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

/// Local ports of the rows in a state: `sl local_address rem_address st …`, addresses as HEX:PORT.
fn parse<'a>(table: &'a str, state: &'a str) -> impl Iterator<Item = u16> + 'a {
    table.lines().filter_map(move |row| {
        let mut columns = row.split_ascii_whitespace().skip(1);
        let (local, _, found) = (columns.next()?, columns.next()?, columns.next()?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (found == state).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn what_listens_is_seen() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let ports = listening().unwrap();
        assert!(ports.contains(&(Proto::Tcp, tcp.local_addr().unwrap().port())));
        assert!(ports.contains(&(Proto::Udp, udp.local_addr().unwrap().port())));
    }

    #[test]
    fn connections_are_no_listeners() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000\n";
        assert_eq!(parse(table, "0A").collect::<Vec<_>>(), [8080]);
    }
}
