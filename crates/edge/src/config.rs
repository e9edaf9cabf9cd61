//! The edge's configuration file.

use crate::acme::config::AcmeConfig;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};
use wisehosting_node::{
    channel::{Identity, Role},
    config::{ConfigError, ControlPlaneEndpoint, LogConfig},
    mesh::MeshConfig,
    program::Settings,
};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[mesh]`; absent when something else brought the host into the mesh.
    pub mesh: Option<MeshConfig>,
    /// `[log]`.
    #[serde(default)]
    pub log: LogConfig,
    /// `[control_plane]`.
    pub control_plane: ControlPlaneEndpoint,
    /// `[ingress]`.
    #[serde(default)]
    pub ingress: IngressConfig,
    /// `[state]`.
    pub state: StateConfig,
}

/// `[ingress]`: where visitors come in. Sockets named `http` and `https` that the parent process passes win.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressConfig {
    /// Address for plain HTTP.
    pub http: Option<SocketAddr>,
    /// Address for HTTP over TLS.
    pub https: Option<SocketAddr>,
    /// `[ingress.tls]`.
    pub tls: Option<TlsConfig>,
    /// `[ingress.acme]`: orders a certificate for each host name that has none.
    pub acme: Option<AcmeConfig>,
}

/// `[ingress.tls]`: what visitors are shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Holds pairs `NAME.crt` (the chain) and `NAME.key`, in PEM. Which host names a pair serves is read from its
    /// certificate. Changes are taken without a restart.
    pub certificates_dir: PathBuf,
}

/// `[state]`: what outlives a restart.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Holds the last good route table.
    pub dir: PathBuf,
}

impl Config {
    /// Who this edge is for the control plane.
    ///
    /// # Errors
    /// The API key cannot be read.
    pub fn identity(&self) -> Result<Identity, ConfigError> {
        Identity::read(Role::Edge, self.control_plane.clone(), env!("CARGO_PKG_VERSION"))
    }
}

impl Settings for Config {
    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(mesh) = &self.mesh {
            mesh.check()?;
        }
        if let Some(acme) = &self.ingress.acme {
            acme.check()?;
        } else if self.ingress.https.is_some() && self.ingress.tls.is_none() {
            let message =
                "is not set: name the directory with the certificates for ingress.https, or set ingress.acme";
            return Err(ConfigError::invalid("ingress.tls.certificates_dir", message));
        }
        if let Some(tls) = &self.ingress.tls
            && !tls.certificates_dir.is_dir()
        {
            let message = format!("{} is not a directory", tls.certificates_dir.display());
            return Err(ConfigError::invalid("ingress.tls.certificates_dir", message));
        }
        self.identity().map(drop)
    }
}
