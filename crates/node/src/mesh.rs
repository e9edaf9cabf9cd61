//! The host's place in the mesh: a WireGuard interface, brought up from `[mesh]` and kept as configured.
//!
//! The interface is in the network namespace of the process. It is looked at every half minute and repaired if somebody
//! changed it. Invariant: an interface of the kernel outlives the process, however that ends, so that apps stay reachable
//! while a program is restarted; the next one takes it over. With the userspace backend the tunnel runs inside this
//! process and ends with it.

use crate::{config::ConfigError, secret};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, de};
use std::{
    error::Error, fmt::Display, iter, net::SocketAddr, num::NonZeroU16, path::PathBuf, str::FromStr,
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use wisehosting_domain::name::Label;
use wisehosting_network::{
    Backend, BackendChoice, Interface, InterfaceName, InvalidInterface, IpNet, NetworkError, Peer,
    PrivateKey, PublicKey, WireGuardInterface,
};

const RECONCILE_EVERY: Duration = Duration::from_secs(30);

/// `[mesh]`: this host's own interface and everybody it talks to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshConfig {
    /// Name of the interface.
    #[serde(default = "default_interface", deserialize_with = "from_text")]
    pub interface: InterfaceName,
    /// This host's address in the mesh, with the prefix of the mesh.
    pub address: IpNet,
    /// UDP port that the other hosts send to.
    #[serde(default = "default_listen_port")]
    pub listen_port: NonZeroU16,
    /// File with the private key in base64, mode 0600; else the systemd credential `mesh.private_key`.
    pub private_key_file: Option<PathBuf>,
    /// Largest packet inside the tunnel, in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// What carries the tunnel: `auto`, `kernel` or `userspace`.
    #[serde(default, deserialize_with = "from_text")]
    pub backend: BackendChoice,
    /// The other hosts.
    #[serde(default)]
    pub peers: Vec<MeshPeer>,
}

/// `[[mesh.peers]]`: another host of the mesh.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshPeer {
    /// What it is called, in this host's log.
    pub name: Label,
    /// Its public key in base64.
    #[serde(deserialize_with = "from_text")]
    pub public_key: PublicKey,
    /// Address and port where it can be reached; without one it must speak first.
    pub endpoint: Option<SocketAddr>,
    /// Networks behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between packets that keep the path to it open; 0 for none.
    #[serde(default = "default_keepalive_s")]
    pub keepalive_s: u16,
}

impl MeshConfig {
    /// Checks all that can be known before the interface is made, the key file included.
    ///
    /// # Errors
    /// What is wrong, naming the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.desired().map(drop)
    }

    /// The interface that is described here.
    fn desired(&self) -> Result<Interface, ConfigError> {
        let interface = Interface {
            name: self.interface.clone(),
            addresses: vec![self.address],
            mtu: self.mtu,
            private_key: self.private_key()?,
            listen_port: self.listen_port,
            peers: self.peers.iter().map(MeshPeer::to_peer).collect(),
        };
        interface
            .check()
            .map_err(|error| ConfigError::invalid(self.setting_of(&error), error.to_string()))?;
        Ok(interface)
    }

    fn private_key(&self) -> Result<PrivateKey, ConfigError> {
        const SETTING: &str = "mesh.private_key";
        let key = match &self.private_key_file {
            Some(file) => PrivateKey::read_file(file),
            None => secret::read(SETTING, None)?.expose_secret().trim().parse(),
        };
        key.map_err(|error| ConfigError::invalid(format!("{SETTING}_file"), with_causes(&error)))
    }

    /// The setting that an error is about. Of two peers that collide it is the later one.
    fn setting_of(&self, error: &InvalidInterface) -> String {
        let peer = |key: &PublicKey, field: &str| {
            let position = self.peers.iter().rposition(|peer| peer.public_key == *key).unwrap_or_default();
            format!("mesh.peers[{position}].{field}")
        };
        match error {
            InvalidInterface::NoAddress | InvalidInterface::Address(_) => "mesh.address".to_owned(),
            InvalidInterface::Mtu(_) => "mesh.mtu".to_owned(),
            InvalidInterface::PeerTwice(key) | InvalidInterface::PeerIsSelf(key) => peer(key, "public_key"),
            InvalidInterface::AllowedIpTwice { peer: key, .. }
            | InvalidInterface::AllowedIpIsEverything { peer: key, .. } => peer(key, "allowed_ips"),
        }
    }
}

impl MeshPeer {
    fn to_peer(&self) -> Peer {
        Peer {
            public_key: self.public_key,
            endpoint: self.endpoint,
            allowed_ips: self.allowed_ips.clone(),
            keepalive_s: NonZeroU16::new(self.keepalive_s),
        }
    }
}

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

/// The live mesh interface, kept as configured until [`stop`](Self::stop).
#[derive(Debug)]
pub struct Mesh {
    backend: Backend,
    stop: DropGuard,
    keeper: JoinHandle<()>,
}

impl Mesh {
    /// Brings the interface up and keeps it from then on. When this returns, addresses of the mesh can be bound.
    /// All threads of the runtime must be in the same network namespace.
    ///
    /// # Errors
    /// `Config` as [`MeshConfig::check`]; `Network` if the interface cannot be made.
    pub async fn start(config: &MeshConfig) -> Result<Self, MeshError> {
        let desired = config.desired()?;
        let mut interface = WireGuardInterface::new(config.interface.clone(), config.backend)?;
        if let Err(error) = interface.reconcile(&desired).await {
            remove(interface).await;
            return Err(error.into());
        }
        let backend = interface.backend().expect("an interface that was reconciled has a backend");
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
        let keeper = tokio::spawn(keep(interface, desired, stop.clone()));
        Ok(Self { backend, stop: stop.drop_guard(), keeper })
    }

    /// What carried the tunnel when it was brought up.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
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

async fn keep(mut interface: WireGuardInterface, desired: Interface, stop: CancellationToken) {
    let mut ticks = interval_at(Instant::now() + RECONCILE_EVERY, RECONCILE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match interface.reconcile(&desired).await {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => tracing::warn!(
                interface = %desired.name,
                changes = changes.len(),
                "the mesh interface was not as configured and was repaired"
            ),
            Err(error) => tracing::error!(
                interface = %desired.name,
                error = with_causes(&error),
                "cannot keep the mesh interface as configured, trying again"
            ),
        }
    }
    if let Err(error) = interface.release().await {
        tracing::error!(error = with_causes(&error), "cannot remove the mesh interface");
    }
}

async fn remove(interface: WireGuardInterface) {
    if let Err(error) = interface.close().await {
        tracing::error!(error = with_causes(&error), "cannot remove the mesh interface");
    }
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn default_interface() -> InterfaceName {
    "wh0".parse().expect("wh0 is an interface name")
}

fn default_listen_port() -> NonZeroU16 {
    const { NonZeroU16::new(51821).expect("it is not 0") }
}

fn default_mtu() -> u32 {
    1420
}

fn default_keepalive_s() -> u16 {
    25
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
