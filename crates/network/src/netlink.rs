//! The connection to the kernel over which links, addresses and routes are read and changed.
//!
//! A netlink socket belongs for its whole life to the namespace in which it was opened, whichever thread uses it.
//! So only the opening happens inside the namespace; every request then runs on the caller's own runtime.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::{NetworkError, NetworkNamespace};

/// A netlink connection into one network namespace. Clones share it.
///
/// Its operations are in the modules [`link`](crate::link), [`address`](crate::address), [`route`](crate::route) and
/// [`shaping`](crate::shaping).
#[derive(Debug, Clone)]
pub struct Netlink {
    pub(crate) handle: rtnetlink::Handle,
    /// Of the same namespace. The kernel tells the number of a link by any socket, in one call; over netlink it takes several, and
    /// gives all that there is to say of the link.
    names: Arc<UnixDatagram>,
    _driver: Arc<Driver>,
}

impl Netlink {
    /// Connects in the namespace of the calling thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Failed` if the kernel gives no socket.
    pub fn here() -> Result<Self, NetworkError> {
        let (connection, handle, _messages) = rtnetlink::new_connection()
            .map_err(|source| NetworkError::from_io("open", "netlink socket", source))?;
        let driver = Arc::new(Driver(tokio::spawn(connection).abort_handle()));
        let names = UnixDatagram::unbound()
            .map_err(|source| NetworkError::from_io("open", "socket for the names of links", source))?;
        Ok(Self { handle, names: Arc::new(names), _driver: driver })
    }

    /// Connects in the given namespace. Must be called within a tokio runtime, which serves the connection.
    ///
    /// # Errors
    /// As [`here`](Self::here), and `NotPermitted` if the namespace may not be entered.
    pub fn inside(namespace: &NetworkNamespace) -> Result<Self, NetworkError> {
        let runtime = Handle::current();
        namespace.run(move || {
            let _guard = runtime.enter();
            Self::here()
        })?
    }

    /// The number of a link.
    pub(crate) fn index(&self, operation: &'static str, name: &str) -> Result<u32, NetworkError> {
        name_to_index(&*self.names, name).map_err(|errno| match errno {
            Errno::NODEV => NetworkError::NoSuchInterface { operation, interface: name.to_owned() },
            other => NetworkError::from_io(operation, name, other.into()),
        })
    }
}

/// Ends the task that serves the socket when the last clone is gone.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
