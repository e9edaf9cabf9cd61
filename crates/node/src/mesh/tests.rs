//! The mesh from its configuration, in network namespaces of its own. Needs root.

use super::*;
use crate::config;
use serde::Deserialize;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
};
use wisehosting_network::{
    BackendChoice, NamespaceRuntime, Netlink, NetworkNamespace, PrivateKey, testing::wire,
};

#[derive(Debug, Deserialize)]
struct Whole {
    mesh: MeshConfig,
}

/// A folder with the key of each host in it.
struct Keys {
    folder: tempfile::TempDir,
    public: [PublicKey; 2],
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let public = [1, 2].map(|number| {
            let key = PrivateKey::generate();
            key.write_new_file(&folder.path().join(format!("{number}.key"))).unwrap();
            key.public_key()
        });
        Self { folder, public }
    }

    /// The configuration of host 1 or 2, which knows the other.
    fn text(&self, number: usize) -> String {
        let other = 3 - number;
        format!(
            r#"
[mesh]
address = "10.50.0.{number}/24"
private_key_file = "{folder}/{number}.key"
[[mesh.peers]]
name = "host-{other}"
public_key = "{key}"
endpoint = "198.51.100.{other}:51821"
allowed_ips = ["10.50.0.{other}/32"]
"#,
            folder = self.folder.path().display(),
            key = self.public[other - 1],
        )
    }

    fn config(&self, number: usize) -> MeshConfig {
        parse(&self.text(number)).unwrap()
    }
}

fn parse(text: &str) -> Result<MeshConfig, String> {
    let whole: Whole =
        config::parse(Path::new("/etc/x.toml"), text, []).map_err(|error| error.to_string())?;
    Ok(whole.mesh)
}

#[test]
fn what_is_left_out_has_a_default() {
    let keys = Keys::new();
    let config = keys.config(1);
    config.check().unwrap();
    assert_eq!(config.interface.as_str(), "wh0");
    assert_eq!((config.listen_port.get(), config.mtu), (51821, 1420));
    assert_eq!(config.backend, BackendChoice::Auto);
    assert_eq!(config.peers[0].keepalive_s, 25);
}

#[test]
fn a_setting_that_cannot_be_read_is_named() {
    let text = Keys::new().text(1);
    for (from, to, expected) in [
        (
            "[mesh]",
            "[mesh]\ninterface = \"0123456789abcdef\"",
            "mesh.interface: an interface name has 1 to 15",
        ),
        ("[mesh]", "[mesh]\nbackend = \"wg\"", "mesh.backend: choose auto, kernel or userspace"),
        ("[mesh]", "[mesh]\nlisten_port = 0", "mesh.listen_port: invalid value"),
        ("[mesh]", "[mesh]\nadress = \"\"", "mesh.adress: unknown field `adress`"),
        ("10.50.0.1/24", "10.50.0.1/33", "mesh.address: "),
        ("public_key = \"", "public_key = \"A", "mesh.peers[0].public_key: not a WireGuard key"),
        ("198.51.100.2:51821", "198.51.100.2", "mesh.peers[0].endpoint: "),
        ("host-2", "Host 2", "mesh.peers[0].name: "),
    ] {
        let error = parse(&text.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{error}\n  {expected}");
    }
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    let keys = Keys::new();
    let text = keys.text(1);
    let (own, other) = (keys.public[0].to_string(), keys.public[1].to_string());
    let twice =
        format!("{text}\n[[mesh.peers]]\nname = \"host-3\"\nallowed_ips = []\npublic_key = \"{other}\"");
    let third = PrivateKey::generate().public_key();
    let same_network = format!(
        "{text}\n[[mesh.peers]]\nname = \"host-3\"\nallowed_ips = [\"10.50.0.2/32\"]\npublic_key = \"{third}\""
    );
    for (text, expected) in [
        (text.replace(&other, &own), "mesh.peers[0].public_key: the public key "),
        (twice, "mesh.peers[1].public_key: the public key "),
        (same_network, "mesh.peers[1].allowed_ips: the network 10.50.0.2/32 "),
        (text.replace("10.50.0.2/32", "0.0.0.0/0"), "mesh.peers[0].allowed_ips: the network 0.0.0.0/0 "),
        (text.replace("10.50.0.1/24", "127.0.0.1/8"), "mesh.address: 127.0.0.1/8 is no address of a host"),
        (text.replace("[mesh]", "[mesh]\nmtu = 100"), "mesh.mtu: 100 is no packet size"),
        (text.replace("1.key", "3.key"), "mesh.private_key_file: cannot read key file "),
    ] {
        let error = parse(&text).unwrap().check().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\n  {expected}");
    }
}

#[test]
fn a_key_file_with_something_else_is_refused_without_showing_it() {
    let keys = Keys::new();
    std::fs::write(keys.folder.path().join("1.key"), "hunter2\n").unwrap();
    let error = keys.config(1).check().unwrap_err().to_string();
    assert!(error.starts_with("mesh.private_key_file: not a WireGuard key"), "{error}");
    assert!(!error.contains("hunter2"));
}

/// Two hosts on one wire.
async fn hosts() -> [NetworkNamespace; 2] {
    let hosts = [NetworkNamespace::create().unwrap(), NetworkNamespace::create().unwrap()];
    wire((&hosts[0], "eth0", "198.51.100.1/24"), (&hosts[1], "eth0", "198.51.100.2/24")).await;
    hosts
}

async fn start(host: &NetworkNamespace, config: MeshConfig) -> (NamespaceRuntime, Mesh) {
    let runtime = NamespaceRuntime::new(host).unwrap();
    let mesh = runtime.run(async move { Mesh::start(&config, Member::hub()).await }).await.unwrap();
    (runtime, mesh)
}

#[tokio::test]
async fn two_hosts_speak_over_the_mesh_and_the_kernels_outlives_them() {
    let keys = Keys::new();
    let hosts = hosts().await;
    let (first_runtime, first) = start(&hosts[0], keys.config(1)).await;
    let (second_runtime, second) = start(&hosts[1], keys.config(2)).await;

    let listener = hosts[0].run(|| TcpListener::bind("10.50.0.1:8081").unwrap()).unwrap();
    let mut out = hosts[1].run(|| TcpStream::connect("10.50.0.1:8081").unwrap()).unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "10.50.0.2");
    out.write_all(b"over the mesh").unwrap();
    drop(out);
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over the mesh");

    let stays = first.backend() == Backend::Kernel;
    first_runtime.run(first.stop()).await;
    second_runtime.run(second.stop()).await;
    for host in &hosts {
        assert_eq!(Netlink::inside(host).unwrap().link("wh0").await.unwrap().is_some(), stays);
    }
}

#[tokio::test]
async fn a_tunnel_in_userspace_ends_when_it_is_dropped() {
    let keys = Keys::new();
    let hosts = hosts().await;
    let mut config = keys.config(1);
    config.backend = Backend::Userspace.into();
    let (_runtime, mesh) = start(&hosts[0], config).await;
    let Mesh { stop, keeper, .. } = mesh;
    drop(stop);
    keeper.await.unwrap();
    assert_eq!(Netlink::inside(&hosts[0]).unwrap().link("wh0").await.unwrap(), None);
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_and_says_why() {
    let keys = Keys::new();
    let hosts = hosts().await;
    let _occupant = hosts[0].run(|| std::net::UdpSocket::bind("[::]:51821").unwrap()).unwrap();
    let config = keys.config(1);
    let runtime = NamespaceRuntime::new(&hosts[0]).unwrap();
    let error = runtime.run(async move { Mesh::start(&config, Member::hub()).await }).await.unwrap_err();
    let text = with_causes(&error);
    assert!(text.starts_with("cannot bring up the mesh interface: cannot "), "{text}");
    assert!(text.contains("ddress already in use") || text.contains("os error 98"), "{text}");
    assert_eq!(Netlink::inside(&hosts[0]).unwrap().link("wh0").await.unwrap(), None);
}
