//! The edge's configuration file.

use crate::{
    acme::config::AcmeConfig,
    forwards::{Bounds, Proto, keeper::Mesh},
};
use secrecy::SecretString;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use wisehosting_domain::{name::Word, traefik::Front};
use wisehosting_network::{InterfaceName, InvalidInterfaceName, IpNet};
use wisehosting_node::{
    channel::{Identity, Role},
    config::{ConfigError, ControlPlaneEndpoint, LogConfig},
    mesh::MeshConfig,
    program::Settings,
    secret,
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
    /// `[gateway]`; absent when this edge does only what the control plane tells it.
    pub gateway: Option<GatewayConfig>,
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
    /// Networks of load balancers, which tell their visitors' addresses in the PROXY protocol, and must.
    #[serde(default)]
    pub proxy_protocol_from: Vec<IpNet>,
    /// Largest body of a request, in bytes. Without it, apps say themselves what is too much.
    pub request_bytes_max: Option<u64>,
    /// `[ingress.tls]`.
    pub tls: Option<TlsConfig>,
    /// `[ingress.acme]`: orders a certificate for each host name that has none.
    pub acme: Option<AcmeConfig>,
    /// `[ingress.traefik]`: a Traefik on this host serves visitors, and this program tells it the routes. Then all the
    /// rest of `[ingress]` is Traefik's own concern.
    pub traefik: Option<TraefikConfig>,
}

/// `[ingress.traefik]`: by files that it watches.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraefikConfig {
    /// The directory of Traefik's file provider. This program must be able to write there.
    pub dynamic_dir: PathBuf,
    /// Entrypoint of routes; without one, Traefik's default entrypoints.
    pub entrypoint: Option<Word>,
    /// Certificate resolver of routes; without one, TLS is as the entrypoint has it.
    pub certresolver: Option<Word>,
}

impl TraefikConfig {
    /// What routes have that name nothing else.
    #[must_use]
    pub fn front(&self) -> Front {
        Front { entrypoint: self.entrypoint.clone(), certresolver: self.certresolver.clone() }
    }
}

impl IngressConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if let Some(traefik) = &self.traefik {
            let sockets = self.http.is_some() || self.https.is_some() || !self.proxy_protocol_from.is_empty();
            if sockets || self.request_bytes_max.is_some() || self.tls.is_some() || self.acme.is_some() {
                let message = "is set beside other settings of [ingress]: Traefik has its own";
                return Err(ConfigError::invalid("ingress.traefik", message));
            }
            return is_directory("ingress.traefik.dynamic_dir", &traefik.dynamic_dir);
        }
        if let Some(acme) = &self.acme {
            acme.check()?;
        } else if self.https.is_some() && self.tls.is_none() {
            let message =
                "is not set: name the directory with the certificates for ingress.https, or set ingress.acme";
            return Err(ConfigError::invalid("ingress.tls.certificates_dir", message));
        }
        let Some(tls) = &self.tls else { return Ok(()) };
        is_directory("ingress.tls.certificates_dir", &tls.certificates_dir)
    }
}

fn is_directory(setting: &str, path: &Path) -> Result<(), ConfigError> {
    if path.is_dir() {
        return Ok(());
    }
    Err(ConfigError::invalid(setting, format!("{} is not a directory", path.display())))
}

/// `[ingress.tls]`: what visitors are shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Holds pairs `NAME.crt` (the chain) and `NAME.key`, in PEM. Which host names a pair serves is read from its
    /// certificate. Changes are taken without a restart.
    pub certificates_dir: PathBuf,
}

/// `[gateway]`: what the edge is asked for by its own API, beside what the control plane tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where the API listens: this host's address in the mesh or a loopback address, and a port.
    pub listen: SocketAddr,
    /// File with the token that the API asks for; else the systemd credential `gateway.token`.
    pub token_file: Option<PathBuf>,
    /// The mesh interface, where there is no `[mesh]` to name it.
    pub interface: Option<String>,
    /// Networks behind the mesh interface that may be led to, beside the mesh of `[mesh]`.
    #[serde(default)]
    pub allowed_targets: Vec<IpNet>,
}

impl GatewayConfig {
    /// The API's token.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn token(&self) -> Result<SecretString, ConfigError> {
        secret::read("gateway.token", self.token_file.as_deref())
    }

    /// The interface behind which all targets are.
    fn interface(&self, mesh: Option<&MeshConfig>) -> Result<InterfaceName, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::invalid("gateway.interface", message));
        match (&self.interface, mesh) {
            (None, Some(mesh)) => Ok(mesh.interface.clone()),
            (Some(name), None) => {
                name.parse().or_else(|error: InvalidInterfaceName| invalid(&error.to_string()))
            }
            (Some(_), Some(_)) => invalid("is set, and [mesh] names it already"),
            (None, None) => invalid("is not set, and there is no [mesh]: name the mesh interface"),
        }
    }
}

/// `[state]`: what outlives a restart.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Holds the last good route table and the forwards.
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

    /// What the gateway may lead to.
    ///
    /// # Errors
    /// A setting is missing, or contradicts the mesh.
    pub fn gateway_mesh(&self, gateway: &GatewayConfig) -> Result<Mesh, ConfigError> {
        let (mesh, listen) = (self.mesh.as_ref(), gateway.listen.ip());
        let is_own = mesh.map_or(!listen.is_unspecified(), |mesh| mesh.address.addr() == listen);
        if !is_own && !listen.is_loopback() {
            let message = "is neither this host's address in the mesh nor a loopback address";
            return Err(ConfigError::invalid("gateway.listen", message));
        }
        let interface = gateway.interface(mesh)?;
        let targets: Vec<_> = mesh
            .map(|mesh| mesh.address)
            .into_iter()
            .chain(gateway.allowed_targets.iter().copied())
            .collect();
        if targets.is_empty() {
            let message = "is empty, and there is no [mesh]: name the networks that may be led to";
            return Err(ConfigError::invalid("gateway.allowed_targets", message));
        }
        let doors = [Some(gateway.listen), self.ingress.http, self.ingress.https];
        let tcp = doors.into_iter().flatten().map(|address| (Proto::Tcp, address.port()));
        let udp = mesh.map(|mesh| (Proto::Udp, mesh.listen_port.get()));
        let own_address = mesh.map(|mesh| mesh.address.addr()).or((!listen.is_loopback()).then_some(listen));
        let bounds = Bounds { targets, own_address, own_ports: tcp.chain(udp).collect() };
        Ok(Mesh { interface, bounds })
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
        self.ingress.check()?;
        if let Some(gateway) = &self.gateway {
            self.gateway_mesh(gateway)?;
            gateway.token()?;
        }
        self.identity().map(drop)
    }
}
