//! The lab's public sockets: on the machine's loopback, bound here and handed to the programs.
//!
//! Invariant: they are the only thing of the lab in the machine's own network namespace, and nobody but the machine
//! itself reaches them.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Which port a public socket gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This one, or any free one if it is taken.
    Prefer(u16),
    /// This one, or no lab.
    Exactly(u16),
}

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on 127.0.0.1:{port}; choose another port or end the program that has it")]
pub struct PortError {
    /// The port that was asked for.
    pub port: u16,
    source: io::Error,
}

impl Port {
    /// Binds it on the loopback.
    pub(crate) fn bind(self) -> Result<TcpListener, PortError> {
        let bind = |port| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| PortError { port, source })
        };
        match self {
            Self::Exactly(port) => bind(port),
            Self::Prefer(port) => bind(port).or_else(|_| bind(0)),
        }
    }
}
