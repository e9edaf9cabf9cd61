//! The seam above the two implementations of WireGuard.
//!
//! A device is the WireGuard part of an interface: its key, its port, its peers. Everything that is the same for any
//! link (addresses, packet size, routes, up) is done over netlink by the interface and is not part of the seam.

mod handshakes;
mod kernel;
mod userspace;

use std::fmt;
use std::str::FromStr;

use futures_util::future::BoxFuture;

use crate::observed::ObservedDevice;
use crate::{Interface, InterfaceName, Netlink, NetworkError, Peer, PublicKey};

use kernel::KernelDevice;
use userspace::UserspaceDevice;

/// What carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's own WireGuard. The tunnel outlives the process.
    Kernel,
    /// WireGuard inside this process, on a tun device. The tunnel ends with the process.
    Userspace,
}

/// Which backend is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The kernel's where the kernel has one, else the userspace one.
    #[default]
    Auto,
    /// This one or none.
    Only(Backend),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// The text names no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("choose auto, kernel or userspace")]
pub struct UnknownBackend;

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        Self::Only(backend)
    }
}

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Only(Backend::Kernel)),
            "userspace" => Ok(Self::Only(Backend::Userspace)),
            _ => Err(UnknownBackend),
        }
    }
}

/// One WireGuard device of either backend.
pub(crate) trait Device: Send + Sync {
    /// Which backend this is.
    fn backend(&self) -> Backend;

    /// Reads key, port and peers with their counters.
    fn observe(&self) -> BoxFuture<'_, Result<ObservedDevice, NetworkError>>;

    /// Takes key and port from the description. May forget everything else; after an error the device is unusable.
    fn set_identity<'a>(&'a self, desired: &'a Interface) -> BoxFuture<'a, Result<(), NetworkError>>;

    /// Adds peers, or changes them in place without ending their sessions. Without an endpoint the one in use is kept.
    fn set_peers(&self, peers: Vec<Peer>) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Forgets a peer.
    fn remove_peer(&self, key: PublicKey) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Ends the device. The link may still be there afterwards.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Makes the device and its link, or takes over a link that an earlier process left in the kernel.
pub(crate) async fn open(
    netlink: &Netlink,
    name: &InterfaceName,
    choice: BackendChoice,
) -> Result<Box<dyn Device>, NetworkError> {
    match choice {
        BackendChoice::Only(Backend::Kernel) => open_kernel(netlink, name).await,
        BackendChoice::Only(Backend::Userspace) => open_userspace(netlink, name).await,
        BackendChoice::Auto => match open_kernel(netlink, name).await {
            Err(NetworkError::NotSupported { .. }) => open_userspace(netlink, name).await,
            opened => opened,
        },
    }
}

async fn open_kernel(netlink: &Netlink, name: &InterfaceName) -> Result<Box<dyn Device>, NetworkError> {
    Ok(Box::new(KernelDevice::open(netlink, name).await?))
}

async fn open_userspace(netlink: &Netlink, name: &InterfaceName) -> Result<Box<dyn Device>, NetworkError> {
    Ok(Box::new(UserspaceDevice::open(netlink, name).await?))
}

/// The error for a name that something else has taken.
fn name_taken(name: &InterfaceName, kind: Option<String>) -> NetworkError {
    NetworkError::NameTaken {
        interface: name.to_string(),
        kind: kind.unwrap_or_else(|| "hardware".to_owned()),
    }
}
