//! A live WireGuard interface: observe, diff, apply.
//!
//! Invariant: when `reconcile` has returned without an error, the difference to what was desired is empty; when
//! `close` has, nothing of the interface is left. All work happens in the namespace that the interface was made in:
//! every thread of the runtime must be there.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::diff::{Op, diff};
use crate::wireguard::{self, Backend, BackendChoice, Device};
use crate::{Interface, InterfaceName, Netlink, NetworkError, Observed};

/// One round makes the interface, one sets it, one repairs what setting the key undid, one finds it right.
const MAX_ROUNDS: usize = 5;

/// A WireGuard interface that this process keeps as it should be.
pub struct WireGuardInterface {
    netlink: Netlink,
    name: InterfaceName,
    choice: BackendChoice,
    device: Option<Box<dyn Device>>,
}

impl WireGuardInterface {
    /// Prepares an interface in the namespace of the calling thread. Nothing is made before the first `reconcile`.
    ///
    /// # Errors
    /// `Failed` if the kernel gives no netlink socket.
    pub fn new(name: InterfaceName, choice: BackendChoice) -> Result<Self, NetworkError> {
        Ok(Self { netlink: Netlink::here()?, name, choice, device: None })
    }

    /// What carries the tunnel; none before the first `reconcile`.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.device.as_ref().map(|device| device.backend())
    }

    /// Makes the interface, or takes over what an earlier process left of it in the kernel, and changes nothing about it.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile).
    pub async fn open(&mut self) -> Result<(), NetworkError> {
        if self.device.is_none() { self.create().await } else { Ok(()) }
    }

    /// Reads the interface; none if it does not exist.
    ///
    /// # Errors
    /// Any refusal of the kernel.
    pub async fn observe(&self) -> Result<Option<Observed>, NetworkError> {
        let Some(device) = &self.device else { return Ok(None) };
        let name = self.name.as_str();
        let Some(link) = self.netlink.link(name).await? else { return Ok(None) };
        let addresses: BTreeSet<IpNet> = self.netlink.addresses(name).await?.into_iter().collect();
        let routes = self.netlink.routes(name).await?.into_iter().collect();
        Ok(Some(Observed { up: link.up, mtu: link.mtu, addresses, routes, device: device.observe().await? }))
    }

    /// Makes the interface be as desired, creating it if it is not there, and says what had to be done.
    /// The name in `desired` must be the one that this was made with.
    ///
    /// # Errors
    /// `NotPermitted`, `NotSupported` if only the kernel's WireGuard was allowed and there is none, `NameTaken`,
    /// `Unsettled` if the interface does not stay as it was set, or any other refusal. It may be called again after
    /// an error.
    pub async fn reconcile(&mut self, desired: &Interface) -> Result<Vec<Op>, NetworkError> {
        let mut done = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let Some(observed) = self.observe().await? else {
                self.create().await?;
                continue;
            };
            let ops = diff(&observed, desired);
            if ops.is_empty() {
                return Ok(done);
            }
            for alike in ops.chunk_by(|a, b| matches!((a, b), (Op::SetPeer(_), Op::SetPeer(_)))) {
                self.apply(alike, desired).await?;
            }
            done.extend(ops);
        }
        Err(NetworkError::Unsettled { interface: self.name.to_string() })
    }

    /// Removes the interface. One that is not there is no error.
    ///
    /// # Errors
    /// `NotPermitted`, or any other refusal to delete the link.
    pub async fn close(mut self) -> Result<(), NetworkError> {
        self.discard().await
    }

    /// Lets go of the interface. The kernel's stays as it is and carries on, until a later process takes it over; one in
    /// userspace cannot live without its process and is removed.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn release(self) -> Result<(), NetworkError> {
        match self.backend() {
            Some(Backend::Userspace) => self.close().await,
            Some(Backend::Kernel) | None => Ok(()),
        }
    }

    async fn discard(&mut self) -> Result<(), NetworkError> {
        let Some(device) = self.device.take() else { return Ok(()) };
        device.close().await;
        self.netlink.delete_link(self.name.as_str()).await
    }

    async fn create(&mut self) -> Result<(), NetworkError> {
        // A device whose link somebody removed cannot be used again.
        self.discard().await?;
        self.device = Some(wireguard::open(&self.netlink, &self.name, self.choice).await?);
        Ok(())
    }

    /// Carries out one operation, or any number that set peers in one go.
    async fn apply(&mut self, ops: &[Op], desired: &Interface) -> Result<(), NetworkError> {
        let name = self.name.as_str();
        match &ops[0] {
            Op::SetMtu(mtu) => self.netlink.set_mtu(name, *mtu).await,
            Op::RemoveAddress(address) => self.netlink.delete_address(name, *address).await,
            Op::AddAddress(address) => self.netlink.add_address(name, *address).await,
            Op::SetUp => self.netlink.set_up(name).await,
            Op::RemoveRoute(network) => self.netlink.delete_route(name, *network).await,
            Op::AddRoute(network) => self.netlink.add_route(name, *network).await,
            Op::RemovePeer(key) => self.device()?.remove_peer(*key).await,
            Op::SetPeer(_) => {
                let peers = ops.iter().filter_map(|op| match op {
                    Op::SetPeer(peer) => Some(peer.clone()),
                    _ => None,
                });
                self.device()?.set_peers(peers.collect()).await
            }
            Op::SetIdentity => {
                let set = self.device()?.set_identity(desired).await;
                if set.is_err() {
                    // It is unusable; the next call begins with a new one.
                    self.discard().await?;
                }
                set
            }
        }
    }

    fn device(&self) -> Result<&dyn Device, NetworkError> {
        self.device.as_deref().ok_or_else(|| NetworkError::NoSuchInterface {
            operation: "configure",
            interface: self.name.to_string(),
        })
    }
}
