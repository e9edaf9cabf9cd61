//! Listening sockets: those that the parent process passed by name (`LISTEN_FDS`, `LISTEN_FDNAMES`), or new ones.
//!
//! A passed socket wins over the configured address, so a program can serve port 80 without the right to open it. A
//! `LISTEN_PID` of another process means that the sockets are not ours.

use listenfd::ListenFd;
use std::{
    env, io,
    net::{SocketAddr, TcpListener},
};

/// Why a listening socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A passed descriptor is not a TCP listener.
    #[error("the passed socket {name:?} is not a listening TCP socket")]
    Passed {
        /// Its name.
        name: String,
        /// What it is instead.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for {name:?}")]
    Bind {
        /// What for.
        name: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The sockets that the parent passed.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<(String, TcpListener)>);

impl PassedSockets {
    /// Takes them from the environment. Call first in `main`, while the process has one thread: it clears the variables
    /// so that no child takes the sockets for its own.
    ///
    /// # Errors
    /// One of them is not a listening TCP socket.
    pub fn from_environment() -> Result<Self, ListenError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for index in 0..descriptors.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match descriptors.take_tcp_listener(index) {
                Ok(Some(socket)) => sockets.push((name, socket)),
                Ok(None) => {}
                Err(source) => return Err(ListenError::Passed { name, source }),
            }
        }
        Ok(Self(sockets))
    }

    /// The passed socket of this name; each is given once.
    pub fn take(&mut self, name: &str) -> Option<TcpListener> {
        let index = self.0.iter().position(|(passed, _)| passed == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// The passed socket of this name, or else a new one on `address`; non-blocking either way.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn take_or_bind(&mut self, name: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
        let failed = |source| ListenError::Bind { name: name.to_owned(), address, source };
        let socket = match self.take(name) {
            Some(socket) => socket,
            None => TcpListener::bind(address).map_err(failed)?,
        };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }
}
