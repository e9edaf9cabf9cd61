//! The worker's configuration file.

use serde::{Deserialize, Deserializer, de};
use std::{
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};
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
    /// `[podman]`.
    #[serde(default)]
    pub podman: PodmanConfig,
    /// `[worker]`.
    pub worker: WorkerConfig,
}

/// `[podman]`: where the engine is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodmanConfig {
    /// Its API socket.
    pub socket: PathBuf,
}

impl Default for PodmanConfig {
    fn default() -> Self {
        Self { socket: "/run/podman/podman.sock".into() }
    }
}

/// `[worker]`: what apps are given on this host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// This host's address in the mesh: the only one at which apps are reachable.
    pub address: IpAddr,
    /// Ports at that address that apps are given, such as `20000-29999`.
    #[serde(default = "default_ports", deserialize_with = "ports")]
    pub ports: RangeInclusive<u16>,
    /// Holds repositories while they are built. Emptied at start.
    #[serde(default = "default_work_dir")]
    pub work_dir: PathBuf,
    /// Holds results until the control plane has them.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Whether folders of this host may be deployed: for a lab on one machine only.
    #[serde(default)]
    pub allow_local_repositories: bool,
    /// Certificates of authorities that repositories' hosts are trusted by, in the place of the system's.
    pub git_ca_file: Option<PathBuf>,
    /// Builds at a time.
    #[serde(default = "default_builds")]
    pub builds: usize,
    /// Instances that deploys start at a time, and wait for until they answer.
    #[serde(default = "default_starts")]
    pub starts: usize,
    /// Memory of one build step, in bytes.
    #[serde(default = "default_build_memory_bytes")]
    pub build_memory_bytes: u64,
    /// Processor time of one build, in thousandths of a core.
    #[serde(default = "default_build_cpu_millis")]
    pub build_cpu_millis: u32,
    /// How long one build may take, in seconds.
    #[serde(default = "default_build_timeout_s")]
    pub build_timeout_s: u64,
    /// Images of each app that are kept for a return to them, the newest ones.
    #[serde(default = "default_images_kept")]
    pub images_kept: usize,
    /// Least free space on the disk of images and containers for a build to begin, in bytes. Below half of it, a build ends.
    #[serde(default = "default_disk_free_min_bytes")]
    pub disk_free_min_bytes: u64,
    /// Space of that disk that is kept for collecting when it is full, in bytes.
    #[serde(default = "default_disk_reserve_bytes")]
    pub disk_reserve_bytes: u64,
}

impl Config {
    /// Who this worker is for the control plane.
    ///
    /// # Errors
    /// The API key cannot be read.
    pub fn identity(&self) -> Result<Identity, ConfigError> {
        Identity::read(Role::Worker, self.control_plane.clone(), env!("CARGO_PKG_VERSION"))
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
        let worker = &self.worker;
        if worker.address.is_unspecified() {
            let message = "must be this host's address in the mesh: apps are never open to every network";
            return Err(ConfigError::invalid("worker.address", message));
        }
        absolute("worker.work_dir", &worker.work_dir)?;
        absolute("worker.state_dir", &worker.state_dir)?;
        worker.git_ca_file.as_deref().map_or(Ok(()), |file| absolute("worker.git_ca_file", file))?;
        if worker.work_dir.starts_with(&worker.state_dir) || worker.state_dir.starts_with(&worker.work_dir) {
            return Err(ConfigError::invalid(
                "worker.work_dir",
                "must not contain or be in worker.state_dir",
            ));
        }
        if !(1..=64).contains(&worker.builds) {
            return Err(ConfigError::invalid("worker.builds", "must be 1 to 64"));
        }
        if !(1..=256).contains(&worker.starts) {
            return Err(ConfigError::invalid("worker.starts", "must be 1 to 256"));
        }
        if worker.build_memory_bytes < BUILD_MEMORY_BYTES_MIN {
            return Err(ConfigError::invalid(
                "worker.build_memory_bytes",
                "must be 64 MiB (67108864) or more",
            ));
        }
        if !(100..=64_000).contains(&worker.build_cpu_millis) {
            return Err(ConfigError::invalid("worker.build_cpu_millis", "must be 100 to 64000"));
        }
        if !(1..=86_400).contains(&worker.build_timeout_s) {
            return Err(ConfigError::invalid("worker.build_timeout_s", "must be 1 to 86400"));
        }
        if !(1..=100).contains(&worker.images_kept) {
            return Err(ConfigError::invalid("worker.images_kept", "must be 1 to 100"));
        }
        if worker.disk_reserve_bytes > DISK_RESERVE_BYTES_MAX {
            return Err(ConfigError::invalid(
                "worker.disk_reserve_bytes",
                "must be 16 GiB (17179869184) or less",
            ));
        }
        self.identity().map(drop)
    }
}

const DISK_RESERVE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
const BUILD_MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

fn absolute(setting: &str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() { Ok(()) } else { Err(ConfigError::invalid(setting, "must be an absolute path")) }
}

fn default_ports() -> RangeInclusive<u16> {
    20_000..=29_999
}

fn default_work_dir() -> PathBuf {
    "/var/cache/wisehosting-worker".into()
}

fn default_state_dir() -> PathBuf {
    "/var/lib/wisehosting-worker".into()
}

fn default_builds() -> usize {
    2
}

fn default_starts() -> usize {
    8
}

fn default_build_cpu_millis() -> u32 {
    2_000
}

fn default_build_timeout_s() -> u64 {
    600
}

fn default_images_kept() -> usize {
    3
}

fn default_disk_free_min_bytes() -> u64 {
    1024 * 1024 * 1024
}

fn default_disk_reserve_bytes() -> u64 {
    128 * 1024 * 1024
}

fn default_build_memory_bytes() -> u64 {
    2 * 1024 * 1024 * 1024
}

fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RangeInclusive<u16>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bounds = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match bounds {
        Some((low, high)) if 1024 <= low && low <= high => Ok(low..=high),
        _ => Err(de::Error::custom("write two ports from 1024 up, such as 20000-29999")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn check(worker: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let key = dir.path().join("key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").expect("written");
        let key = key.display();
        let text = format!(
            "[control_plane]\nurl = \"http://10.50.0.1:8081\"\nname = \"worker-1\"\napi_key_file = \"{key}\"\n\
             [worker]\naddress = \"10.50.0.11\"\n{worker}"
        );
        let config: Config = wisehosting_node::config::parse(Path::new("/etc/w.toml"), &text, [])
            .map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn the_defaults_are_those_of_a_worker() {
        let config = check("").expect("a good configuration");
        assert_eq!(config.podman.socket, Path::new("/run/podman/podman.sock"));
        assert_eq!(config.worker.ports, 20_000..=29_999);
        assert_eq!(config.worker.builds, 2);
        assert!(!config.worker.allow_local_repositories);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (line, expected) in [
            ("ports = \"29999-20000\"", "worker.ports: write two ports"),
            ("ports = \"80-90\"", "worker.ports: write two ports"),
            ("builds = 0", "worker.builds: must be 1 to 64"),
            ("starts = 0", "worker.starts: must be 1 to 256"),
            ("build_cpu_millis = 0", "worker.build_cpu_millis: must be 100 to 64000"),
            ("build_timeout_s = 0", "worker.build_timeout_s: must be 1 to 86400"),
            ("images_kept = 0", "worker.images_kept: must be 1 to 100"),
            ("disk_reserve_bytes = 99999999999", "worker.disk_reserve_bytes: must be 16 GiB"),
            ("work_dir = \"work\"", "worker.work_dir: must be an absolute path"),
            ("state_dir = \"/var/cache/wisehosting-worker/state\"", "worker.work_dir: must not contain"),
            ("build_memory_bytes = 1", "worker.build_memory_bytes: must be 64 MiB"),
            ("port = 1", "worker.port: unknown field"),
        ] {
            let error = check(line).expect_err(line);
            assert!(error.contains(expected), "{error}");
        }
    }
}
