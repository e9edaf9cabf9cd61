//! HTTP/1.1 towards the instances: one connection, one exchange on it at a time, kept for the next. (HTTP/2, where nothing else
//! will do, is in [`streams`].)
//!
//! It is spoken here rather than by a general client because it is on the path of every request: an exchange runs
//! inside the task of the visitor's connection (no second task, no queue between them), the request's head is written
//! straight from the visitor's headers, and the response's headers and body are slices of what was read.
//!
//! A connection goes back to the [`Pool`](pool::Pool) only after a response whose end is beyond doubt.

pub mod body;
pub mod exchange;
pub mod pool;
pub mod request;
pub mod response;
pub mod streams;

use crate::keepalive::keep_asking;
use bytes::BytesMut;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// For an instance to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What is asked of the kernel at once.
const READ_BYTES: usize = 16 * 1024;

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    keep_asking(&stream)?;
    Ok(stream)
}

/// A connection to an instance, between two exchanges.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was read and not yet used; empty between two exchanges.
    received: BytesMut,
    /// What is to be written; empty between two exchanges.
    unsent: BytesMut,
}

impl Connection {
    /// Connects to an instance.
    ///
    /// # Errors
    /// It does not accept the connection, or not in time.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = connect(address).await?;
        Ok(Self { stream, received: BytesMut::new(), unsent: BytesMut::new() })
    }

    /// Whether nothing came in since the last exchange. An instance that closed the connection, or speaks without being
    /// asked, makes it useless. Costs no system call on a connection that is quiet.
    fn is_quiet(&self) -> bool {
        let received = self.stream.try_read(&mut [0]);
        received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The connection as bytes both ways, for a protocol that it was upgraded to: what was read already, and the rest.
    #[must_use]
    pub fn into_parts(self) -> (BytesMut, TcpStream) {
        (self.received, self.stream)
    }
}
