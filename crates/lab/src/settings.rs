//! The configuration files of the three programs, as an operator would write them for three machines.
//!
//! Invariant: the programs learn nothing about the lab except through these files and the sockets that they are handed.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use wisehosting_network::{PrivateKey, PublicKey};

use crate::{secrets::SecretFile, underlay::Underlay};

/// The mesh interface in every host, and the port of its tunnel on the underlay.
pub(crate) const MESH_INTERFACE: &str = "wh0";
const MESH_PORT: u16 = 51821;
/// Where agents reach the control plane, inside the mesh.
const INTERNAL_PORT: u16 = 8081;

/// One of the three hosts: what it is called and what runs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostName {
    pub(crate) name: &'static str,
    /// Last part of its addresses, on the underlay and in the mesh.
    pub(crate) number: u8,
    /// The platform's program that runs there.
    pub(crate) program: &'static str,
}

pub(crate) const CONTROL_PLANE: HostName =
    HostName { name: "control-plane-1", number: 1, program: "wisehosting-control-plane" };
pub(crate) const WORKER: HostName = HostName { name: "worker-1", number: 11, program: "wisehosting-worker" };
pub(crate) const PROXY: HostName = HostName { name: "proxy-1", number: 30, program: "wisehosting-edge" };

impl HostName {
    /// Its address inside the mesh.
    pub(crate) fn mesh_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 50, 0, self.number)
    }
}

/// A host with the keys that it was given.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    /// The host's files on the machine.
    pub(crate) directory: PathBuf,
    pub(crate) mesh_key_file: PathBuf,
    pub(crate) mesh_public_key: PublicKey,
    /// Opens the control plane's hub; the control plane itself has none.
    pub(crate) api_key: SecretFile,
}

impl Identity {
    /// Makes the host's folder and its keys.
    pub(crate) fn create(host: HostName, directory: &Path) -> io::Result<Self> {
        let secrets = directory.join("secrets");
        let api_key = SecretFile::create(&secrets, "api.key")?;
        let mesh_key = PrivateKey::generate();
        let mesh_key_file = secrets.join("mesh.key");
        mesh_key.write_new_file(&mesh_key_file).map_err(io::Error::other)?;
        let mesh_public_key = mesh_key.public_key();
        Ok(Self { host, directory: directory.to_owned(), mesh_key_file, mesh_public_key, api_key })
    }

    fn secrets(&self) -> PathBuf {
        self.directory.join("secrets")
    }

    fn write(&self, settings: &Value) -> io::Result<PathBuf> {
        let path = self.directory.join("config.toml");
        fs::write(&path, toml::to_string_pretty(settings).map_err(io::Error::other)?)?;
        Ok(path)
    }
}

/// What the three files have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) control_plane: Identity,
    pub(crate) worker: Identity,
    pub(crate) proxy: Identity,
    pub(crate) ports: PublicPorts,
}

/// The ports of the lab's public sockets on the loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicPorts {
    /// The control plane's dashboard and API.
    pub control_plane: u16,
    /// The proxy without TLS.
    pub http: u16,
    /// The proxy with TLS.
    pub https: u16,
}

impl Settings {
    /// Writes the control plane's file and answers where it is.
    pub(crate) fn write_control_plane(&self, database_url: &str) -> io::Result<PathBuf> {
        let secrets = self.control_plane.secrets();
        let jwt = SecretFile::create(&secrets, "jwt.key")?;
        let traefik = SecretFile::create(&secrets, "traefik.token")?;
        let master = SecretFile::create_key(&secrets, "master.key")?;
        let PublicPorts { control_plane, http, https } = self.ports;
        self.control_plane.write(&json!({
            "mesh": self.mesh(&self.control_plane),
            "public": {
                "listen": format!("127.0.0.1:{control_plane}"),
                "base_url": format!("http://127.0.0.1:{control_plane}"),
            },
            "internal": { "listen": format!("{}:{INTERNAL_PORT}", CONTROL_PLANE.mesh_address()) },
            "database": { "url": database_url },
            "secrets": {
                "jwt_secret_file": jwt.path,
                "traefik_token_file": traefik.path,
                "master_key_file": master.path,
            },
            "apps": {
                "domain": "localhost",
                "public_http_port": http,
                "public_https_port": https,
                "allow_local_repositories": true,
            },
            "workers": [node(&self.worker)],
            "edges": [node(&self.proxy)],
        }))
    }

    /// Writes the worker's file and answers where it is.
    pub(crate) fn write_worker(&self, podman_socket: &str) -> io::Result<PathBuf> {
        let directory = &self.worker.directory;
        self.worker.write(&json!({
            "mesh": self.mesh(&self.worker),
            "control_plane": control_plane(&self.worker),
            "podman": { "socket": podman_socket },
            "worker": {
                "address": WORKER.mesh_address(),
                "work_dir": directory.join("work"),
                "state_dir": directory.join("state"),
                "allow_local_repositories": true,
            },
        }))
    }

    /// Writes the proxy's file and answers where it is.
    pub(crate) fn write_proxy(&self, certificates: &Path) -> io::Result<PathBuf> {
        self.proxy.write(&json!({
            "mesh": self.mesh(&self.proxy),
            "control_plane": control_plane(&self.proxy),
            "ingress": {
                "http": "0.0.0.0:80",
                "https": "0.0.0.0:443",
                "tls": { "certificates_dir": certificates },
            },
            "state": { "dir": self.proxy.directory.join("state") },
        }))
    }

    /// Every host has a tunnel to each of the others: traffic from proxy to worker takes no detour.
    fn mesh(&self, of: &Identity) -> Value {
        let peers: Vec<Value> = [&self.control_plane, &self.worker, &self.proxy]
            .into_iter()
            .filter(|peer| peer.host != of.host)
            .map(|peer| {
                json!({
                    "name": peer.host.name,
                    "public_key": peer.mesh_public_key.to_string(),
                    "endpoint": format!("{}:{MESH_PORT}", Underlay::address(peer.host.number)),
                    "allowed_ips": [format!("{}/32", peer.host.mesh_address())],
                    "keepalive_s": 25,
                })
            })
            .collect();
        json!({
            "interface": MESH_INTERFACE,
            "address": format!("{}/24", of.host.mesh_address()),
            "listen_port": MESH_PORT,
            "private_key_file": of.mesh_key_file,
            "peers": peers,
        })
    }
}

/// How the control plane knows a worker or a proxy.
fn node(identity: &Identity) -> Value {
    json!({
        "name": identity.host.name,
        "address": identity.host.mesh_address(),
        "api_key_sha256": identity.api_key.sha256(),
    })
}

/// How a worker or a proxy finds the control plane.
fn control_plane(of: &Identity) -> Value {
    json!({
        "url": format!("http://{}:{INTERNAL_PORT}", CONTROL_PLANE.mesh_address()),
        "name": of.host.name,
        "api_key_file": of.api_key.path,
    })
}
