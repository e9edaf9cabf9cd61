//! The configuration file's sections, and the checks that need more than one of them.
//!
//! A [`Config`] is complete and consistent: whoever holds one need not check it again. Secrets are not part of it; they
//! are read into [`Secrets`] from the files that it names.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use wisehosting_domain::name::{Hostname, Label};
use wisehosting_node::{
    config::{ConfigError, LogConfig},
    mesh::{IpNet, MeshConfig, MeshPeer, PrivateKey, PublicKey},
    secret,
    tls::{self, Authorities},
};

use crate::sealing::KeyRing;

/// Everything that can be set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Dashboard and REST API.
    pub public: PublicConfig,
    /// What agents and proxies talk to, inside the mesh.
    pub internal: InternalConfig,
    /// Postgres.
    pub database: DatabaseConfig,
    /// Files that hold secrets.
    pub secrets: SecretsConfig,
    /// The apps of all users.
    #[serde(default)]
    pub apps: AppsConfig,
    /// What edges share.
    #[serde(default)]
    pub certificates: CertificatesConfig,
    /// What apps write.
    #[serde(default)]
    pub logs: LogsConfig,
    /// What is remembered of deployments.
    #[serde(default)]
    pub deployments: DeploymentsConfig,
    /// The workers that may connect.
    #[serde(default)]
    pub workers: Vec<WorkerConfig>,
    /// The edges that may connect.
    #[serde(default)]
    pub edges: Vec<EdgeConfig>,
    /// The mesh interface; without it, none is made, and `internal.listen` must be an address that exists.
    pub mesh: Option<MeshConfig>,
    /// Nodes that are not declared; without it, none can join.
    pub join: Option<JoinConfig>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogConfig,
}

impl Config {
    /// Checks what a single setting cannot show.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.mesh.as_ref().map_or(Ok(()), MeshConfig::check)?;
        self.check_nodes()?;
        self.check_join()?;
        self.database.check()
    }

    /// Addresses for those who join are a part of the mesh, and not all of it.
    fn check_join(&self) -> Result<(), ConfigError> {
        let Some(join) = &self.join else { return Ok(()) };
        let Some(mesh) = &self.mesh else {
            let message = "is set without [mesh]: nodes join where this program makes the mesh interface";
            return Err(ConfigError::invalid("join", message));
        };
        if !mesh.address.trunc().contains(&join.pool) || join.pool.contains(&mesh.address.addr()) {
            let message = format!(
                "must be a part of the mesh {} without the control plane's own address, such as its upper half",
                mesh.address.trunc()
            );
            return Err(ConfigError::invalid("join.pool", message));
        }
        let mut declared = mesh.peers.iter().flat_map(MeshPeer::keys);
        if declared.any(|key| join.next_public_key == Some(key)) {
            let message = "is the key of a host of mesh.peers: the control plane changes to a key of its own";
            return Err(ConfigError::invalid("join.next_public_key", message));
        }
        Ok(())
    }

    /// No two nodes have one name, one address or one API key.
    fn check_nodes(&self) -> Result<(), ConfigError> {
        let (mut names, mut addresses, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let workers = self.workers.iter().enumerate();
        let workers = workers.map(|(i, w)| (format!("workers[{i}]"), &w.name, w.address, w.api_key_sha256));
        let edges = self.edges.iter().enumerate();
        let edges = edges.map(|(i, e)| (format!("edges[{i}]"), &e.name, e.address, e.api_key_sha256));
        for (setting, name, address, key) in workers.chain(edges) {
            if !names.insert(name) {
                let message = format!("{name} is another node's name already");
                return Err(ConfigError::invalid(format!("{setting}.name"), message));
            }
            if !addresses.insert(address) {
                let message = format!("{address} is another node's address already");
                return Err(ConfigError::invalid(format!("{setting}.address"), message));
            }
            if !keys.insert(key.0) {
                let message = "is another node's already: each node has an API key of its own";
                return Err(ConfigError::invalid(format!("{setting}.api_key_sha256"), message));
            }
        }
        Ok(())
    }
}

/// `[public]`: where people and their programs connect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicConfig {
    /// Address to listen on; a socket named `public` that is passed in takes its place.
    pub listen: SocketAddr,
    /// How browsers reach it, for links: scheme, host and port without a path.
    pub base_url: BaseUrl,
}

/// `[internal]`: where agents connect.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InternalConfig {
    /// An address inside the mesh.
    pub listen: SocketAddr,
}

/// `[database]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user@host/name`, without a password.
    pub url: String,
    /// File with the password, if one is needed.
    pub password_file: Option<PathBuf>,
}

impl DatabaseConfig {
    /// The configuration is no place for a password.
    fn check(&self) -> Result<(), ConfigError> {
        let authority =
            self.url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest));
        let in_authority = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        let query = self.url.split_once('?').map_or("", |(_, query)| query);
        if in_authority || query.split('&').any(|pair| pair.starts_with("password=")) {
            let message = "must not contain a password: put it into database.password_file";
            return Err(ConfigError::invalid("database.url", message));
        }
        Ok(())
    }
}

/// `[secrets]`: each is a file, or a systemd credential of the setting's name without `_file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsConfig {
    /// Signs the tokens that agents connect with.
    pub jwt_secret_file: Option<PathBuf>,
    /// What a Traefik proxy must send to read its configuration.
    pub traefik_token_file: Option<PathBuf>,
    /// What users' secrets are sealed with in the database: a key each line, the one that seals first.
    pub master_key_file: Option<PathBuf>,
}

/// `[apps]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppsConfig {
    /// Apps are reached as `<name>.<domain>`.
    pub domain: Hostname,
    /// Port at which visitors reach the edges without TLS.
    pub public_http_port: u16,
    /// Port at which visitors reach the edges with TLS.
    pub public_https_port: u16,
    /// Whether a repository may be a folder of the worker itself.
    pub allow_local_repositories: bool,
}

/// `[certificates]`: which certificates of edges are kept, and given to the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// In PEM, the only authorities whose certificates are; those that the host trusts, if absent.
    pub authorities_file: Option<PathBuf>,
    /// What is in that file, once it is read; nobody before.
    #[serde(skip, default = "tls::nobody")]
    pub authorities: Authorities,
}

impl Default for CertificatesConfig {
    fn default() -> Self {
        Self { authorities_file: None, authorities: tls::nobody() }
    }
}

/// `[join]`: how machines become nodes that nothing declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinConfig {
    /// Their addresses: a part of the mesh. What of it a declared node has is not given to others.
    pub pool: IpNet,
    /// Where they reach the control plane's mesh interface.
    pub endpoint: SocketAddr,
    /// For how long the address of a removed node is nobody else's.
    #[serde(default = "default_address_rest_days")]
    pub address_rest_days: u16,
    /// The key in the mesh that the control plane changes to: all nodes are told of it, and follow. Once it has it, this says
    /// nothing any more.
    #[serde(default, deserialize_with = "some_key")]
    pub next_public_key: Option<PublicKey>,
}

fn some_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PublicKey>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

fn default_address_rest_days() -> u16 {
    30
}

/// `[logs]`: how much of what apps and their builds write is stored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// For how long.
    pub age_max_days: u16,
    /// How much of what each app writes: the oldest goes first.
    pub bytes_max_per_app: u64,
    /// Of how many of its deployments that are over the builds' logs are kept. That of the last one always is.
    pub builds_max_per_app: u32,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { age_max_days: 14, bytes_max_per_app: 256 * 1024 * 1024, builds_max_per_app: 50 }
    }
}

/// `[deployments]`: how many that are over are remembered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeploymentsConfig {
    /// Of each app, of those that were in service; and as many of those that were not. There is always something to roll back to.
    pub kept_per_app: NonZeroU32,
}

impl Default for DeploymentsConfig {
    fn default() -> Self {
        Self { kept_per_app: NonZeroU32::new(100).expect("it is more than zero") }
    }
}

/// `[[workers]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Its name.
    pub name: Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// SHA-256 of its API key.
    pub api_key_sha256: KeyHash,
    /// Memory for instances; what the worker reports, if absent.
    pub memory_bytes: Option<u64>,
    /// Processor time for instances in thousandths of a core; what the worker reports, if absent.
    pub cpu_millis: Option<u32>,
}

/// `[[edges]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    /// Its name.
    pub name: Label,
    /// Its address inside the mesh.
    pub address: IpAddr,
    /// SHA-256 of its API key.
    pub api_key_sha256: KeyHash,
}

/// The hash of a node's API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyHash(pub [u8; 32]);

impl TryFrom<String> for KeyHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| "must be 64 hexadecimal digits, the SHA-256 of the node's API key")?;
        Ok(Self(bytes))
    }
}

/// Scheme, host and port of a URL, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseUrl(String);

impl BaseUrl {
    /// The text, such as `https://hosting.example.org`: also the value of a browser's `Origin` header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether browsers reach it with TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let text = text.strip_suffix('/').unwrap_or(&text);
        let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match authority {
            Some(authority) if !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ']) => {
                Ok(Self(text.to_ascii_lowercase()))
            }
            _ => Err("must be http:// or https://, a host and perhaps a port, without a path"),
        }
    }
}

impl Default for AppsConfig {
    fn default() -> Self {
        Self {
            domain: "localhost".parse().expect("a host name"),
            public_http_port: 80,
            public_https_port: 443,
            allow_local_repositories: false,
        }
    }
}

/// The secrets of the control plane.
#[derive(Debug)]
pub struct Secrets {
    /// Signs the tokens that agents connect with.
    pub jwt: SecretString,
    /// What a Traefik proxy must send.
    pub traefik_token: SecretString,
    /// Seal users' secrets in the database.
    pub keys: KeyRing,
    /// The key in the mesh, where nodes can join: proves it to them.
    pub mesh_key: Option<PrivateKey>,
    /// Of the database user, if it needs one.
    pub database_password: Option<SecretString>,
}

impl Secrets {
    /// Reads them from their files.
    ///
    /// # Errors
    /// Names the setting.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let files = &config.secrets;
        Ok(Self {
            jwt: secret::read("secrets.jwt_secret", files.jwt_secret_file.as_deref())?,
            traefik_token: secret::read("secrets.traefik_token", files.traefik_token_file.as_deref())?,
            keys: KeyRing::read(files.master_key_file.as_deref())?,
            mesh_key: Self::read_mesh_key(config)?,
            database_password: Self::read_database_password(config)?,
        })
    }

    fn read_mesh_key(config: &Config) -> Result<Option<PrivateKey>, ConfigError> {
        let mesh = config.mesh.as_ref().filter(|_| config.join.is_some());
        mesh.map(MeshConfig::private_key).transpose()
    }

    /// Reads the only one that a command needs which just talks to the database.
    ///
    /// # Errors
    /// Names the setting.
    pub fn read_database_password(config: &Config) -> Result<Option<SecretString>, ConfigError> {
        let file = config.database.password_file.as_deref();
        file.map(|file| secret::read("database.password", Some(file))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wisehosting_node::config::parse;

    use super::*;

    const TEXT: &str = r#"
[public]
listen = "127.0.0.1:8081"
base_url = "https://hosting.example.org/"
[internal]
listen = "10.50.0.1:8081"
[database]
url = "postgres:///wisehosting?host=/run/postgresql"
[secrets]
jwt_secret_file = "/run/secrets/jwt"
[[workers]]
name = "worker-1"
address = "10.50.0.11"
api_key_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
[[edges]]
name = "proxy-1"
address = "10.50.0.30"
api_key_sha256 = "f3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"#;

    fn read(text: &str) -> Result<Config, String> {
        let config: Config = parse(Path::new("x.toml"), text, []).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_good_configuration_is_read() {
        let config = read(TEXT).expect("good");
        assert_eq!(config.public.base_url.as_str(), "https://hosting.example.org");
        assert_eq!(config.apps.domain.as_str(), "localhost");
    }

    #[test]
    fn an_error_names_the_setting() {
        for (from, to, setting) in [
            ("https://hosting.example.org/", "hosting.example.org", "public.base_url"),
            ("https://hosting.example.org/", "https://a/b", "public.base_url"),
            ("\"worker-1\"", "\"Worker 1\"", "workers[0].name"),
            ("\"proxy-1\"", "\"worker-1\"", "edges[0].name"),
            ("10.50.0.30", "10.50.0.11", "edges[0].address"),
            ("e3b0", "x3b0", "workers[0].api_key_sha256"),
            ("e3b0", "f3b0", "edges[0].api_key_sha256"),
            ("postgres:///", "postgres://me:secret@db/", "database.url"),
            ("?host=", "?password=me:secret&host=", "database.url"),
            ("jwt_secret_file", "jwt_secret", "secrets"),
            (
                "[secrets]",
                "[join]\npool = \"10.50.0.128/25\"\nendpoint = \"198.51.100.1:1\"\n[secrets]",
                "join: is set",
            ),
            (
                "[secrets]",
                "[join]\npool = \"10.50.0.128/25\"\nendpoint = \"198.51.100.1:1\"\nnext_public_key = \"x\"\n[secrets]",
                "join.next_public_key: not a WireGuard key",
            ),
        ] {
            let error = read(&TEXT.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(setting), "{error}");
            assert!(!error.contains("me:secret"), "{error}");
        }
    }
}
