//! Visitors who come by a load balancer: it tells their address first, in the PROXY protocol (version 1 or 2, as HAProxy
//! defines it).
//!
//! Invariants: only who is declared is believed, and must tell an address or that there is none; no byte behind the header is
//! taken.

use ppp::{v1, v2};
use std::{io, net::IpAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};
use wisehosting_network::IpNet;

use super::connection::HANDSHAKE_TIMEOUT;

/// Every header is at least as long: `PROXY UNKNOWN` and the end of the line.
const BYTES_MIN: usize = 15;
/// Of version 1, as its definition says.
const LINE_BYTES_MAX: usize = 107;
/// Of version 2, up to its length.
const FIXED_BYTES: usize = 16;
/// Of version 2, behind that: far more than the addresses and what balancers add to them.
const REST_BYTES_MAX: usize = 2_048;

/// Load balancers in front of this host.
#[derive(Clone, Debug, Default)]
pub struct Balancers(pub Vec<IpNet>);

impl Balancers {
    /// The address of whoever has connected: what a load balancer says, or else `peer` itself.
    ///
    /// # Errors
    /// A load balancer says nothing, or something else.
    pub(super) async fn visitor<S>(&self, stream: &mut S, peer: IpAddr) -> io::Result<IpAddr>
    where
        S: AsyncRead + Unpin,
    {
        let peer = peer.to_canonical();
        if !self.0.iter().any(|network| network.contains(&peer)) {
            return Ok(peer);
        }
        let told = timeout(HANDSHAKE_TIMEOUT, read(stream)).await??;
        Ok(told.map_or(peer, |told| told.to_canonical()))
    }
}

/// What a header tells; none if the balancer speaks for itself, as to see whether this host lives.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; BYTES_MIN];
    stream.read_exact(&mut header).await?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        header.push(stream.read_u8().await?);
        let rest = usize::from(u16::from_be_bytes([header[FIXED_BYTES - 2], header[FIXED_BYTES - 1]]));
        if rest > REST_BYTES_MAX {
            return Err(invalid("it is too long"));
        }
        header.resize(FIXED_BYTES + rest, 0);
        stream.read_exact(&mut header[FIXED_BYTES..]).await?;
        return v2::Header::try_from(&header[..]).map(|header| told_in_2(&header)).map_err(invalid);
    }
    while !header.ends_with(b"\n") && header.len() < LINE_BYTES_MAX {
        header.push(stream.read_u8().await?);
    }
    v1::Header::try_from(&header[..]).map(|header| told_in_1(header.addresses)).map_err(invalid)
}

fn told_in_1(addresses: v1::Addresses) -> Option<IpAddr> {
    match addresses {
        v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Unknown => None,
    }
}

fn told_in_2(header: &v2::Header<'_>) -> Option<IpAddr> {
    match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(addresses.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(addresses.source_address.into()),
        _ => None,
    }
}

fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no header of the PROXY protocol: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// What is found out of these bytes, and how many of them are left.
    fn take(mut bytes: &[u8]) -> (io::Result<IpAddr>, usize) {
        let balancers = Balancers(vec!["192.0.2.0/24".parse().expect("a network")]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let told = runtime.block_on(balancers.visitor(&mut bytes, BALANCER));
        (told, bytes.len())
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short").to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, addresses, b"GET /"].concat()
    }

    #[test]
    fn a_header_tells_the_address_and_nothing_behind_it_is_taken() {
        let visitor: IpAddr = "198.51.100.7".parse().expect("an address");
        let mut in_4 = vec![198, 51, 100, 7, 192, 0, 2, 9, 0x30, 0x39, 1, 187];
        let mut with_more = in_4.clone();
        with_more.extend([0x04, 0, 2, 0, 0]);
        let mapped = [&[0; 10][..], &[255, 255, 198, 51, 100, 7], &[0; 16], &[1, 1, 2, 2]].concat();
        for header in [
            b"PROXY TCP4 198.51.100.7 192.0.2.9 12345 443\r\nGET /".to_vec(),
            b"PROXY TCP6 ::ffff:198.51.100.7 ::1 12345 443\r\nGET /".to_vec(),
            version_2(0x21, 0x11, &in_4),
            version_2(0x21, 0x11, &with_more),
            version_2(0x21, 0x21, &mapped),
        ] {
            let (told, left) = take(&header);
            assert_eq!((told.expect("taken"), left), (visitor, 5), "{header:?}");
        }
        in_4.fill(0);
        for header in
            [b"PROXY UNKNOWN\r\nGET /".to_vec(), version_2(0x20, 0, &[]), version_2(0x20, 0x11, &in_4)]
        {
            let (told, left) = take(&header);
            assert_eq!((told.expect("taken"), left), (BALANCER, 5), "{header:?}");
        }
    }

    #[test]
    fn a_balancer_must_say_something() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a.localhost\r\n\r\n".to_owned(),
            "PROXY TCP4 198.51.100.7\r\n".to_owned(),
            "PROXY TCP4 198.51.100.777 192.0.2.9 12345 443\r\n".to_owned(),
            format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)),
            "PROXY".to_owned(),
        ] {
            take(text.as_bytes()).0.expect_err(&text);
        }
        take(&version_2(0x31, 0x11, &[0; 12])).0.expect_err("version 3");
        take(&version_2(0x21, 0x11, &[0; 4])).0.expect_err("too short");
        take(&version_2(0x21, 0x11, &[0; 4_000])).0.expect_err("too long");
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            let prefix = [&b""[..], b"PROXY TCP4 ", v2::PROTOCOL_PREFIX][kind as usize];
            bytes.splice(0..0, prefix.iter().copied());
            let _ = take(&bytes);
        }
    }
}
