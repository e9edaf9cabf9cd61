//! The host's place in the mesh: a WireGuard interface, brought up from `[mesh]` and kept as it should be.
//!
//! The interface is in the network namespace of the process. Whom it talks to stands in the configuration; a node
//! also talks to those that the control plane names, by the hub or [directly](PeerPath), and goes on with the last that
//! were named. Invariants: a declared peer is as declared, whatever the control plane says, but for its word on its own
//! keys (`succession`). An interface of the kernel outlives the process, however that ends, so that apps stay reachable while a
//! program is restarted; the next one takes it over. With the userspace backend the tunnel runs inside this process and ends with it.

mod config;
mod file;
mod keeper;
mod peers;
mod report;
mod succession;

pub use config::{MeshConfig, MeshPeer};
pub use report::report;
pub use wisehosting_network::{IpNet, KeyError, PathTiming, PeerPath, PeerStatus, PrivateKey, PublicKey};

use crate::config::ConfigError;
use keeper::Keeper;
use std::{collections::BTreeMap, error::Error, iter, net::IpAddr, path::PathBuf, sync::Arc};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use wisehosting_domain::name::Label;
use wisehosting_network::{Backend, NetworkError};
use wisehosting_protocol::payload::MeshPeers;

/// Why a host did not join the mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The configuration cannot be used.
    #[error("the mesh is not configured rightly")]
    Config(#[from] ConfigError),
    /// The kernel refused.
    #[error("cannot bring up the mesh interface")]
    Network(#[from] NetworkError),
}

/// What a host is in the mesh.
#[derive(Clone, Debug)]
pub enum Member {
    /// The control plane's: sends packets between nodes on.
    Hub {
        /// Where it is told which nodes have joined, beside the declared ones.
        joined: PeerSets,
        /// Until then, peers of an earlier process in this network stay.
        pool: Option<IpNet>,
    },
    /// A worker's or an edge's.
    Node {
        /// Where to keep the nodes that were named last.
        state_dir: PathBuf,
        /// Where the control plane names them.
        sets: PeerSets,
        /// How long to wait for a direct way.
        timing: PathTiming,
    },
}

impl Member {
    /// A hub that talks to declared peers alone.
    #[must_use]
    pub fn hub() -> Self {
        Self::Hub { joined: PeerSets::default(), pool: None }
    }
}

/// Where the control plane's word on the nodes of the mesh arrives; a clone is the same place. Only the newest matters.
#[derive(Clone, Debug, Default)]
pub struct PeerSets(Arc<watch::Sender<Option<Told>>>);

/// What is told: nodes, and the keys that some of them change to, by the keys that they have.
#[derive(Clone, Debug)]
struct Told {
    set: MeshPeers,
    next_keys: BTreeMap<PublicKey, PublicKey>,
}

impl PeerSets {
    /// These are the nodes from now on.
    pub fn put(&self, set: MeshPeers) {
        self.put_with_next_keys(set, BTreeMap::new());
    }

    /// These are the nodes from now on; to a hub some are known by two keys, the one that they have and then the one that they change to.
    pub fn put_with_next_keys(&self, set: MeshPeers, next_keys: BTreeMap<PublicKey, PublicKey>) {
        self.0.send_replace(Some(Told { set, next_keys }));
    }

    fn subscribe(&self) -> watch::Receiver<Option<Told>> {
        self.0.subscribe()
    }
}

/// What a host sees of the mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// Of the set of nodes in force; none before the first.
    pub generation: Option<u64>,
    /// Largest packet inside the tunnels, in bytes.
    pub mtu: u32,
    /// Everybody it talks to.
    pub peers: Vec<PeerSight>,
}

/// What a host sees of another one.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSight {
    /// What it is called.
    pub name: Label,
    /// Who it is.
    pub public_key: PublicKey,
    /// Its address in the mesh, if it has one of its own.
    pub address: Option<IpAddr>,
    /// Whether packets to it go to it, not to the hub.
    pub direct: bool,
    /// What the interface shows of its own peer; none if that is not there.
    pub status: Option<PeerStatus>,
}

/// The live mesh interface, kept as it should be until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Mesh {
    backend: Backend,
    public_key: PublicKey,
    sight: watch::Receiver<Sight>,
    stop: DropGuard,
    keeper: JoinHandle<()>,
}

impl Mesh {
    /// Brings the interface up and keeps it from then on. When this returns, addresses of the mesh can be bound.
    /// All threads of the runtime must be in the same network namespace.
    ///
    /// # Errors
    /// `Config` as [`MeshConfig::check`]; `Network` if the interface cannot be made.
    pub async fn start(config: &MeshConfig, member: Member) -> Result<Self, MeshError> {
        let (keeper, sight) = Keeper::bring_up(config, member).await?;
        let (backend, public_key) = (keeper.backend(), keeper.public_key());
        let peers: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        tracing::info!(
            interface = %config.interface,
            address = %config.address,
            listen_port = config.listen_port,
            %backend,
            peers = peers.join(","),
            "the mesh interface is up"
        );
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keeper.run(stop.clone()));
        Ok(Self { backend, public_key, sight, stop: stop.drop_guard(), keeper })
    }

    /// What carried the tunnel when it was brought up.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Who this host is.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// What this host sees, now and from now on.
    #[must_use]
    pub fn sight(&self) -> watch::Receiver<Sight> {
        self.sight.clone()
    }

    /// Ends what this process does for the interface, and waits for it. The kernel's carries on without; one in userspace
    /// is gone afterwards.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the task that keeps the mesh interface failed");
        }
    }
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
