//! A connection to the kernel's packet filter. Its calls block, for as long as the kernel works on them.
//!
//! Invariant: a batch is taken whole or not at all. All of it goes out in one call, as the kernel demands, so the socket
//! has room for the largest.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use rtnetlink::packet_core::DefaultNla;

use super::attribute::emitted;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

/// Bytes of the netlink header and of the packet filter's own.
const HEADER_BYTES: usize = 16;
const FAMILY_HEADER_BYTES: usize = 4;
/// Of a batch and of its answers; 10,000 forwards need half of it.
const BUFFER_BYTES: usize = 4 << 20;
const ANSWER_BYTES: usize = 1 << 16;

/// What a message is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// `NFNL_SUBSYS_NFTABLES`, of the family `inet`.
    Tables,
    /// `NFNL_SUBSYS_CTNETLINK`, over IPv4.
    Connections,
}

impl Part {
    fn subsystem(self) -> u16 {
        match self {
            Self::Tables => 10,
            Self::Connections => 1,
        }
    }

    fn family(self) -> u8 {
        match self {
            Self::Tables => 1,
            Self::Connections => 2,
        }
    }

    fn kind(self, kind: u16) -> u16 {
        self.subsystem() << 8 | kind
    }
}

/// One message of a batch: its kind (`NFT_MSG_*`), flags and attributes.
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) attributes: Vec<DefaultNla>,
}

/// A socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct FilterSocket(OwnedFd);

impl FilterSocket {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        // Without the right to do this, there is none to change the filter either.
        setsockopt(&fd, sockopt::SndBufForce, &BUFFER_BYTES)?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES)?;
        Ok(Self(fd))
    }

    /// Carries all messages out, or none.
    pub(super) fn commit(&self, messages: &[Message]) -> io::Result<()> {
        let mut batch = Vec::new();
        // The empty ones say which part of the packet filter the batch is for.
        let part = Part::Tables;
        let resource = part.subsystem().to_be_bytes();
        write(&mut batch, part, BATCH_BEGIN, REQUEST, 0, resource, &[]);
        for (number, message) in (1..).zip(messages) {
            let attributes = emitted(&message.attributes);
            let flags = REQUEST | ACK | message.flags;
            write(&mut batch, part, part.kind(message.kind), flags, number, [0; 2], &attributes);
        }
        write(&mut batch, part, BATCH_END, REQUEST, 0, resource, &[]);
        self.send(&batch)?;
        let (mut answered, mut refusal) = (0, None);
        while answered < messages.len() {
            for (kind, payload) in parse(&self.receive()?) {
                if kind != NLMSG_ERROR {
                    continue;
                }
                answered += 1;
                match error_of(payload) {
                    Ok(()) => {}
                    // Of a batch that is refused as a whole, no further answers come.
                    Err(error) => {
                        refusal.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = refusal {
                self.drain();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Carries out a change of its own.
    pub(super) fn request(&self, part: Part, kind: u16, attributes: &[DefaultNla]) -> io::Result<()> {
        self.ask(part, kind, REQUEST | ACK, attributes)?;
        loop {
            for (kind, payload) in parse(&self.receive()?) {
                if kind == NLMSG_ERROR {
                    return error_of(payload);
                }
            }
        }
    }

    /// The attributes of everything of a kind (`NFT_MSG_GET*`) that these ask for, one after the other.
    pub(super) fn dump(
        &self,
        part: Part,
        kind: u16,
        attributes: &[DefaultNla],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.ask(part, kind, REQUEST | DUMP, attributes)?;
        loop {
            for (kind, payload) in parse(&self.receive()?) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => error_of(payload)?,
                    _ => each(payload.get(FAMILY_HEADER_BYTES..).unwrap_or_default()),
                }
            }
        }
    }

    /// The attributes of the one answer to a question of this kind.
    pub(super) fn get(&self, part: Part, kind: u16) -> io::Result<Vec<u8>> {
        self.ask(part, kind, REQUEST, &[])?;
        loop {
            for (kind, payload) in parse(&self.receive()?) {
                if kind != NLMSG_ERROR {
                    return Ok(payload.get(FAMILY_HEADER_BYTES..).unwrap_or_default().to_vec());
                }
                error_of(payload)?;
            }
        }
    }

    fn ask(&self, part: Part, kind: u16, flags: u16, attributes: &[DefaultNla]) -> io::Result<()> {
        let mut request = Vec::new();
        write(&mut request, part, part.kind(kind), flags, 1, [0; 2], &emitted(attributes));
        self.send(&request)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; ANSWER_BYTES];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Takes what is left of the answers to a batch that was refused.
    fn drain(&self) {
        let mut buffer = vec![0; ANSWER_BYTES];
        while recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }
}

fn write(
    buffer: &mut Vec<u8>,
    part: Part,
    kind: u16,
    flags: u16,
    number: u32,
    resource: [u8; 2],
    attributes: &[u8],
) {
    let length = u32::try_from(HEADER_BYTES + FAMILY_HEADER_BYTES + attributes.len()).unwrap_or(u32::MAX);
    buffer.extend(length.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(flags.to_ne_bytes());
    buffer.extend(number.to_ne_bytes());
    buffer.extend(0_u32.to_ne_bytes());
    buffer.extend([part.family(), 0]);
    buffer.extend(resource);
    buffer.extend(attributes);
}

/// The messages in an answer: kind, and what follows the netlink header.
fn parse(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let payload = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// What an answer of the kind "error" says; an acknowledgement is one without an error.
fn error_of(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(Errno::EBADMSG.into()),
    }
}
