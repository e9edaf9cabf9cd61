//! What joining gave, as settings: a file beside the program's configuration, whose settings win over it.
//!
//! It holds no secret. The next join replaces it whole.

use super::Joined;
use anyhow::Context as _;
use serde::Serialize;
use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use wisehosting_domain::{name::Label, role::Role};
use wisehosting_network::IpNet;

/// The file that belongs to a configuration file: `worker.joined.toml` beside `worker.toml`.
pub(crate) fn beside(configuration: &Path) -> PathBuf {
    configuration.with_extension("joined.toml")
}

/// Sections of a program's configuration, as far as joining decides them.
#[derive(Serialize)]
struct Settings<'a> {
    control_plane: ControlPlane<'a>,
    mesh: Mesh<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<Worker>,
}

#[derive(Serialize)]
struct ControlPlane<'a> {
    url: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_file: Option<&'a Path>,
}

#[derive(Serialize)]
struct Mesh<'a> {
    address: String,
    mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_file: Option<&'a Path>,
    peers: [Peer; 1],
}

#[derive(Serialize)]
struct Peer {
    name: &'static str,
    public_key: String,
    endpoint: SocketAddr,
    allowed_ips: [String; 1],
}

#[derive(Serialize)]
struct Worker {
    address: IpAddr,
}

/// Where the program finds its keys, if not by the credentials of its unit.
pub(super) struct KeyFiles {
    pub(super) mesh: PathBuf,
    pub(super) api: PathBuf,
}

/// Writes the file.
pub(super) fn write(
    path: &Path,
    role: Role,
    name: &Label,
    joined: &Joined,
    keys: Option<&KeyFiles>,
) -> anyhow::Result<()> {
    let text = text(role, name, joined, keys).context("write down the settings")?;
    replace(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn text(
    role: Role,
    name: &Label,
    joined: &Joined,
    keys: Option<&KeyFiles>,
) -> Result<String, toml::ser::Error> {
    let answer = &joined.answer;
    let settings = Settings {
        control_plane: ControlPlane {
            url: &answer.url,
            name: name.as_str(),
            api_key_file: keys.map(|keys| &*keys.api),
        },
        mesh: Mesh {
            address: answer.address.to_string(),
            mtu: answer.mtu,
            private_key_file: keys.map(|keys| &*keys.mesh),
            peers: [Peer {
                name: "control-plane",
                public_key: joined.hub.to_string(),
                endpoint: answer.hub_endpoint,
                allowed_ips: [IpNet::from(answer.hub_address).to_string()],
            }],
        },
        worker: (role == Role::Worker).then(|| Worker { address: answer.address.addr() }),
    };
    let text = toml::to_string(&settings)?;
    Ok(format!(
        "# What `wisehosting-{role} join` was told. The next one replaces it; write your own settings beside it.\n{text}"
    ))
}

/// A crash leaves the old file or the new one. Others may read it: the program may run as another user.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("toml.new");
    let mut file = File::create(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, config::ControlPlaneEndpoint, join::messages::JoinAnswer, mesh::MeshConfig};
    use serde::Deserialize;
    use wisehosting_network::PublicKey;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        control_plane: ControlPlaneEndpoint,
        mesh: MeshConfig,
        worker: Address,
    }

    #[derive(Debug, Deserialize)]
    struct Address {
        address: IpAddr,
        ports: Option<String>,
    }

    fn joined() -> Joined {
        let answer = JoinAnswer {
            address: "10.50.0.128/24".parse().unwrap(),
            hub_address: "10.50.0.1".parse().unwrap(),
            hub_endpoint: "198.51.100.1:51821".parse().unwrap(),
            url: "http://10.50.0.1:8081".to_owned(),
            mtu: 1380,
            proof: [0; 32],
        };
        Joined { answer, hub: PublicKey::from_bytes([7; 32]) }
    }

    #[test]
    fn a_program_starts_with_what_joining_gave_and_its_own_settings_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.toml");
        let keys = KeyFiles { mesh: "/k/mesh.key".into(), api: "/k/api.key".into() };
        let name = "worker-3".parse().unwrap();
        write(&beside(&file), Role::Worker, &name, &joined(), Some(&keys)).unwrap();

        // Without a file of its own.
        let config: Whole = config::load(&file).unwrap();
        assert_eq!(config.control_plane.name, name);
        assert_eq!(config.control_plane.api_key_file, Some(keys.api));
        assert_eq!(config.mesh.address.to_string(), "10.50.0.128/24");
        assert_eq!(config.mesh.private_key_file, Some(keys.mesh));
        let [hub] = &config.mesh.peers[..] else { panic!("{config:?}") };
        assert_eq!(hub.allowed_ips[0].to_string(), "10.50.0.1/32");
        assert_eq!((hub.public_key, hub.keepalive_s), (joined().hub, 25));
        assert_eq!(config.worker.address.to_string(), "10.50.0.128");

        fs::write(&file, "[mesh]\nmtu = 1400\n[worker]\nports = \"1-2\"\n").unwrap();
        let config: Whole = config::load(&file).unwrap();
        assert_eq!((config.mesh.mtu, config.mesh.peers.len()), (1400, 1));
        assert_eq!(config.worker.ports.as_deref(), Some("1-2"));

        fs::write(&file, "[worker]\nadress = 1\naddress = true\n").unwrap();
        let error = config::load::<Whole>(&file).unwrap_err().to_string();
        assert!(error.contains("worker.toml:3: worker.address: "), "{error}");
        fs::remove_file(beside(&file)).unwrap();
        fs::remove_file(&file).unwrap();
        let error = config::load::<Whole>(&file).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the configuration file"), "{error}");
    }

    #[test]
    fn a_fault_of_what_joining_gave_is_told_of_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.toml");
        fs::write(beside(&file), "[mesh]\nmtu = \"x\"\n").unwrap();
        let error = config::load::<Whole>(&file).unwrap_err().to_string();
        assert!(error.contains("edge.joined.toml: mesh.mtu: "), "{error}");
    }

    #[test]
    fn a_proxy_has_no_section_of_a_worker_and_its_unit_hands_it_the_keys() {
        let text = text(Role::Edge, &"proxy-2".parse().unwrap(), &joined(), None).unwrap();
        assert!(!text.contains("[worker]") && !text.contains("_file"), "{text}");
        assert!(text.starts_with("# What `wisehosting-edge join` was told."), "{text}");
    }
}
