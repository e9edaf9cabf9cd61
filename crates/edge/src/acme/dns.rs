//! The addresses of a name as one DNS server says them, rather than as this host looks names up: its own view may be another
//! than the world's, by a line in `/etc/hosts` or by the DNS of its site.
//!
//! The server must be one that asks others, as those of hosts are: aliases are not followed here.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::UdpSocket, time::timeout};
use wisehosting_domain::name::Hostname;
use wisehosting_node::random;

/// Packets get lost.
const ATTEMPTS: u32 = 3;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 12;

/// Types of records (RFC 1035 and 3596).
const IPV4: u16 = 1;
const IPV6: u16 = 28;

/// All of both families; none if there is no such name.
pub(super) async fn lookup(server: SocketAddr, host: &Hostname) -> io::Result<Vec<IpAddr>> {
    let (ipv4, ipv6) = tokio::try_join!(ask(server, host, IPV4), ask(server, host, IPV6))?;
    Ok([ipv4, ipv6].concat())
}

async fn ask(server: SocketAddr, host: &Hostname, kind: u16) -> io::Result<Vec<IpAddr>> {
    let any = if server.is_ipv4() { [0; 4].into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let question = question(random::bytes(), host, kind);
    for _ in 0..ATTEMPTS {
        socket.send(&question).await?;
        if let Ok(answer) = timeout(ANSWER_TIMEOUT, answer_to(&socket, &question)).await {
            return read(&answer?, kind);
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, format!("the DNS server {server} does not answer")))
}

/// With the number that the question has.
async fn answer_to(socket: &UdpSocket, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= HEADER_BYTES && answer[..2] == question[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

/// One question, and the wish that the server asks others.
fn question(number: [u8; 2], host: &Hostname, kind: u16) -> Vec<u8> {
    const ASK_OTHERS_ONE_QUESTION: [u8; 10] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const INTERNET: [u8; 2] = [0, 1];
    let mut question = [&number[..], &ASK_OTHERS_ONE_QUESTION].concat();
    for label in host.as_str().split('.') {
        question.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend(INTERNET);
    question
}

fn read(answer: &[u8], kind: u16) -> io::Result<Vec<IpAddr>> {
    const CUT_SHORT: u8 = 2;
    const CODE: u8 = 0x0f;
    const NO_SUCH_NAME: u8 = 3;
    if answer[2] & CUT_SHORT != 0 {
        return Err(io::Error::other("the name has more addresses than fit a packet"));
    }
    match answer[3] & CODE {
        0 => addresses(answer, kind)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the DNS server's answer is malformed")),
        NO_SUCH_NAME => Ok(Vec::new()),
        code => Err(io::Error::other(format!("the DNS server answers with error {code}"))),
    }
}

fn addresses(answer: &[u8], kind: u16) -> Option<Vec<IpAddr>> {
    let number = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let mut at = HEADER_BYTES;
    for _ in 0..number(4)? {
        at = skip_name(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        at = skip_name(answer, at)?;
        let (of_kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if of_kind == kind {
            found.push(address(data)?);
        }
        at += 10 + length;
    }
    Some(found)
}

fn address(data: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(data).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from)).ok()
}

/// Where a name ends: with an empty label, or with a reference to an earlier name.
fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    const REFERENCE: u8 = 0xc0;
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            REFERENCE.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with an alias and two addresses.
    fn answer() -> Vec<u8> {
        let mut answer = question([7, 7], &"a.example.org".parse().unwrap(), IPV4);
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 3);
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'b', 0xc0, 14]);
        for last in [1, 2] {
            answer.extend([1, b'b', 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
        }
        answer
    }

    #[test]
    fn addresses_are_read_behind_aliases() {
        let expected = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(read(&answer(), IPV4).unwrap(), expected);
        assert_eq!(read(&answer(), IPV6).unwrap(), [] as [IpAddr; 0]);
        let with_code = |code| {
            let mut answer = answer();
            answer[3] = code;
            read(&answer, IPV4)
        };
        assert_eq!(with_code(3).unwrap(), [] as [IpAddr; 0], "there is no such name");
        with_code(2).unwrap_err();
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let whole = answer();
        for length in HEADER_BYTES..whole.len() {
            read(&whole[..length], IPV4).unwrap_err();
        }
        let mut cut_short = whole;
        cut_short[2] |= 2;
        read(&cut_short, IPV4).unwrap_err();
    }
}
