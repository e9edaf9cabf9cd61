//! The sections `[mesh]` and `[[mesh.peers]]`: this host's interface, and the hosts that it talks to whatever the control
//! plane says.

use super::{succession::Declared, with_causes};
use crate::{config::ConfigError, secret};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::BTreeMap, fmt::Display, net::SocketAddr, num::NonZeroU16, path::PathBuf, str::FromStr,
};
use wisehosting_domain::name::Label;
use wisehosting_network::{
    BackendChoice, Interface, InterfaceName, InvalidInterface, IpNet, Peer, PrivateKey, PublicKey,
};

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
    /// The key that it changes to: it is reached by the one of the two that it used last.
    #[serde(default, deserialize_with = "some_from_text")]
    pub next_public_key: Option<PublicKey>,
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
        self.declared().map(drop)
    }

    /// The interface that is described here.
    pub(super) fn declared(&self) -> Result<Declared, ConfigError> {
        let interface = Interface {
            name: self.interface.clone(),
            addresses: vec![self.address],
            mtu: self.mtu,
            private_key: self.private_key()?,
            listen_port: self.listen_port,
            peers: self.peers.iter().map(MeshPeer::to_peer).collect(),
        };
        let names = self.peers.iter().map(|peer| peer.name.clone()).collect();
        let next_keys = self.peers.iter().filter_map(|peer| Some((peer.public_key, peer.next_public_key?)));
        let declared = Declared { interface, names, next_keys: next_keys.collect(), hub_keys: None };
        declared
            .in_force(&BTreeMap::new())
            .check()
            .map_err(|error| ConfigError::invalid(self.setting_of(&error), error.to_string()))?;
        Ok(declared)
    }

    /// The private key.
    ///
    /// # Errors
    /// It cannot be read; the error names the setting.
    pub fn private_key(&self) -> Result<PrivateKey, ConfigError> {
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
            let next = self.peers.iter().rposition(|peer| peer.next_public_key == Some(*key));
            if let Some(position) = next {
                return format!("mesh.peers[{position}].next_public_key");
            }
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
    /// Its keys: the one in use, and the one that it changes to.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        [Some(self.public_key), self.next_public_key].into_iter().flatten()
    }

    fn to_peer(&self) -> Peer {
        Peer {
            public_key: self.public_key,
            endpoint: self.endpoint,
            allowed_ips: self.allowed_ips.clone(),
            keepalive_s: NonZeroU16::new(self.keepalive_s),
        }
    }
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

fn some_from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    from_text(deserializer).map(Some)
}
