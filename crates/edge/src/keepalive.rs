//! Finds out that the other end of a quiet connection is gone, as when its machine was switched off: the kernel asks it.
//!
//! For connections that may be quiet for as long as they like: WebSockets, streams, events. Nothing else ends those.

use nix::sys::socket::{setsockopt, sockopt};
use std::{io, os::fd::AsFd};

/// Quiet for so long, it is asked,
const QUIET_S: u32 = 60;
/// so often,
const ASKED_EVERY_S: u32 = 15;
/// and so many times. Then the connection has failed.
const ASKED_MAX: u32 = 4;

/// For a connection, or for all that a listening socket will take.
pub(crate) fn keep_asking(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpKeepIdle, &QUIET_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &ASKED_EVERY_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &ASKED_MAX)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_a_socket_takes_is_as_the_socket_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        keep_asking(&listener).unwrap();
        let _visitor = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (taken, _) = listener.accept().unwrap();
        assert!(getsockopt(&taken, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&taken, sockopt::TcpKeepIdle).unwrap(), QUIET_S);
        assert_eq!(getsockopt(&taken, sockopt::TcpKeepCount).unwrap(), ASKED_MAX);
    }
}
